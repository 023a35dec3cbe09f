package members

import (
	"context"
	"io"
	"sync"
	"time"
)

// TellQuotas fills in the quota of the members whose status does not tell it, as before etcd 3.6: from their own metrics,
// which open opens at an endpoint. All are asked at once, within timeout (zero means 3 s); where that fails the quota stays
// unknown.
func TellQuotas(ctx context.Context, members []Member, open func(ctx context.Context, endpoint string) (io.ReadCloser, error), timeout time.Duration) {
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var all sync.WaitGroup
	for i := range members {
		m := &members[i]
		if m.Quota != 0 || !m.Answers() {
			continue
		}
		all.Go(func() {
			if disk, err := askMetrics(ctx, open, m.Endpoint, m.ID); err == nil {
				m.Quota = disk.Quota
			}
		})
	}
	all.Wait()
}
