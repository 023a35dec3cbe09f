package app

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

// makeRoom is the way out of NOSPACE.
const makeRoom = "make room first: etcd-rescue reclaim, which compacts, defragments one member after the other and takes the alarm back; given a selection, it deletes what fills etcd before that"

// corruptHint is what to do about CORRUPT.
const corruptHint = "find out which member is right before anything is changed: stop the apiservers, compare the members (etcdctl endpoint hashkv --cluster), replace the bad ones from a good one or from a snapshot"

// health is what the members of an etcd say of themselves before it is
// changed.
type health struct {
	corrupt    []string // members that raised CORRUPT
	noSpace    []string // members that raised NOSPACE
	leaderless []string // endpoints that know no leader
	answered   int
	// refusing is the version of a member that refuses guarded deletes as
	// well while NOSPACE is raised, "" if none is that old.
	refusing string
}

// unguardedFlag is the one exception to guarded writes.
func unguardedFlag() cli.Flag {
	return &cli.Int64Flag{Name: flagUnsafeUnguarded, Category: catPace,
		Usage: "on an etcd before 3.4.20 or 3.5.7 that has raised NOSPACE, delete up to `COUNT` objects each by a fresh look and a plain delete, which a change in between would not stop"}
}

// healthOf asks every member. Those that do not answer are no reason to stop:
// what a run needs is a quorum.
func (s *session) healthOf(ctx context.Context, conn *connect.Conn) *health {
	h := &health{}
	if conn == nil || conn.Kine {
		return h
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, endpoint := range conn.Endpoints {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, min(s.timeout, 5*time.Second))
			defer cancel()
			status, err := conn.Client.Status(ctx, endpoint)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			h.add(endpoint, status)
		})
	}
	all.Wait()
	slices.Sort(h.leaderless)
	return h
}

// add notes what one member says. Alarms are the whole cluster's; each names
// its member (api/etcdserverpb: AlarmMember).
func (h *health) add(endpoint string, status *clientv3.StatusResponse) {
	h.answered++
	if status.Leader == 0 {
		h.leaderless = append(h.leaderless, endpoint)
	}
	for _, text := range status.Errors {
		alarm, _ := etcdmembers.ParseAlarm(text)
		list := &h.corrupt
		switch alarm.Type {
		case etcdserverpb.AlarmType_CORRUPT.String():
		case etcdserverpb.AlarmType_NOSPACE.String():
			list = &h.noSpace
		default:
			continue
		}
		if member := strconv.FormatUint(alarm.Member, 10); !slices.Contains(*list, member) {
			*list = append(*list, member)
		}
	}
	if refusesDeletes(status.Version) {
		h.refusing = status.Version
	}
}

// refusesDeletes tells the releases that refuse every transaction under
// NOSPACE, also one that only deletes: before 3.4.20, and 3.5.0 to 3.5.6
// (etcd PRs 14254 and 14884, v3rpc/quota.go).
func refusesDeletes(version string) bool {
	var major, minor, patch int
	if n, _ := fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch); n < 2 || major != 3 {
		return false
	}
	switch minor {
	case 4:
		return patch < 20
	case 5:
		return patch < 7
	}
	return minor < 4
}

// frozen is why nobody can renew a lease, "" if everybody can.
func (h *health) frozen() string {
	if len(h.noSpace) > 0 {
		return "etcd takes no writes (NOSPACE)"
	}
	return ""
}

// check refuses to change an etcd that cannot take it: n deletes, or puts.
func (h *health) check(puts bool, n, unguarded int64) error {
	switch {
	case len(h.corrupt) > 0:
		return refuse(corruptHint, "etcd has raised the alarm CORRUPT (member %s): its members disagree, and it takes no changes", joinWords(h.corrupt))
	case h.answered > 0 && len(h.leaderless) == h.answered:
		return refuse("bring a majority of the members back first", "etcd has no leader (%s), so that it takes no changes", joinWords(h.leaderless))
	case len(h.noSpace) == 0:
		return nil
	case puts:
		return refuse(makeRoom, "etcd has raised the alarm NOSPACE: it takes no puts, and nothing could be put back")
	case h.refusing == "":
		return nil
	case unguarded == 0:
		return refuse(fmt.Sprintf("make room first (etcd-rescue reclaim), or delete each by a fresh look and a plain delete: --%s %d", flagUnsafeUnguarded, n),
			"etcd has raised the alarm NOSPACE, and its release %s then refuses guarded deletes as well", h.refusing)
	case unguarded < n:
		return refuse("look at the preview again; if the number is right, raise it", "--%s allows %s, and there are %s", flagUnsafeUnguarded, objects(unguarded), objects(n))
	}
	return nil
}

// notes is what a preview says of it.
func (h *health) notes(puts bool) []string {
	var notes []string
	if len(h.corrupt) > 0 {
		notes = append(notes, "etcd has raised the alarm CORRUPT (member "+joinWords(h.corrupt)+"): nothing can be changed")
	}
	switch {
	case len(h.noSpace) == 0:
	case puts:
		notes = append(notes, "etcd has raised the alarm NOSPACE, so that it takes no puts: "+makeRoom)
	case h.refusing != "":
		notes = append(notes, fmt.Sprintf("etcd has raised the alarm NOSPACE, and its release %s then refuses guarded deletes as well: --%s COUNT, or room first (etcd-rescue reclaim without a selection)", h.refusing, flagUnsafeUnguarded))
	default:
		notes = append(notes, "etcd has raised the alarm NOSPACE: deletes work, but give no room back before compaction and defragmentation: etcd-rescue reclaim with the same selection does all of it")
	}
	return notes
}
