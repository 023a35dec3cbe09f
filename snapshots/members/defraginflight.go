package members

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
)

// ErrInflight says that a member is being defragmented already, by somebody else.
var ErrInflight = errors.New("is being defragmented already")

// inflightMetric is 1 while the member's db file is copied (etcd 3.5 and newer, server/storage/backend/metrics.go).
const inflightMetric = "etcd_disk_defrag_inflight"

// inflight returns a member whose metrics say that it is being defragmented; nil if none says so. They are a favour: a
// member that is at it does not answer its status either, so that it never passes for well.
func (d *defragmenter) inflight(ctx context.Context, members []Member) *Member {
	if d.Metrics == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	busy := make([]bool, len(members))
	var all sync.WaitGroup
	for i, m := range members {
		all.Go(func() { busy[i] = d.says(ctx, m) })
	}
	all.Wait()
	for i := range members {
		if busy[i] {
			return &members[i]
		}
	}
	return nil
}

// says asks the member where it answered, else where it advertises to be.
func (d *defragmenter) says(ctx context.Context, m Member) bool {
	endpoint := m.Endpoint
	if endpoint == "" && len(m.ClientURLs) > 0 {
		endpoint = m.ClientURLs[0]
	}
	if endpoint == "" {
		return false
	}
	r, err := d.Metrics(ctx, endpoint)
	if err != nil {
		return false
	}
	defer r.Close()
	return saysInflight(r)
}

// saysInflight looks for the metric in at most 4 MiB; etcd's are some 200 KiB.
func saysInflight(r io.Reader) bool {
	const most, longestLine = 4 << 20, 64 << 10
	lines := bufio.NewScanner(io.LimitReader(r, most))
	lines.Buffer(nil, longestLine)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), inflightMetric+" "); ok {
			fields := strings.Fields(rest)
			return len(fields) > 0 && fields[0] != "0"
		}
	}
	return false
}
