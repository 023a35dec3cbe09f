package apply

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

// once keeps one number for each lease. All that ask for the same at the same
// time share one request and its error, so that they do not wait for each
// other's timeouts one after another.
type once struct {
	mu    sync.Mutex
	known map[int64]int64
	asked map[int64]*asking
}

type asking struct {
	over   chan struct{}
	number int64
	err    error
}

func (o *once) get(lease int64, ask func() (int64, error)) (int64, error) {
	o.mu.Lock()
	if number, ok := o.known[lease]; ok {
		o.mu.Unlock()
		return number, nil
	}
	if a := o.asked[lease]; a != nil {
		o.mu.Unlock()
		<-a.over
		return a.number, a.err
	}
	if o.known == nil {
		o.known, o.asked = map[int64]int64{}, map[int64]*asking{}
	}
	a := &asking{over: make(chan struct{})}
	o.asked[lease] = a
	o.mu.Unlock()
	a.number, a.err = ask()
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.asked, lease)
	if a.err == nil {
		o.known[lease] = a.number
	}
	close(a.over)
	return a.number, a.err
}

// forget drops a number that does not hold any more.
func (o *once) forget(lease, number int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known[lease] == number {
		delete(o.known, lease)
	}
}

// LiveLeases looks leases up in a running etcd.
type LiveLeases struct{ Client clientv3.Lease }

// GrantedTTL implements Leases.
func (l LiveLeases) GrantedTTL(ctx context.Context, id int64) (int64, error) {
	resp, err := l.Client.TimeToLive(ctx, clientv3.LeaseID(id))
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return max(resp.GrantedTTL, 0), nil
}

// ttl looks up a lease, also after an interrupt: a step that is begun is
// finished.
func (e *engine) ttl(lease int64) (int64, error) {
	if e.Leases == nil {
		return 0, nil
	}
	ttl, err := e.ttls.get(lease, func() (ttl int64, err error) {
		err = e.persist(context.WithoutCancel(e.ctx), func() error {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), e.Timeout)
			defer cancel()
			ttl, err = e.Leases.GrantedTTL(ctx, lease)
			return err
		})
		return ttl, err
	})
	if err != nil {
		return 0, fmt.Errorf("look up lease %x: %w", lease, err)
	}
	return ttl, nil
}

// lease grants a new lease, once for all objects that shared one. It is a
// change like the puts: without answers to it the run is stopped as well.
func (e *engine) lease(ctx context.Context, s plan.Step) (clientv3.LeaseID, error) {
	if s.Lease == 0 || s.LeaseTTL == 0 { // etcd would take 0 for its shortest
		return clientv3.NoLease, nil
	}
	id, err := e.granted.get(s.Lease, func() (int64, error) {
		ctx, cancel := context.WithTimeout(ctx, e.Timeout)
		defer cancel()
		began := e.Now()
		resp, err := e.Store.Grant(ctx, s.LeaseTTL)
		e.answered(began, err)
		if err != nil {
			return 0, fmt.Errorf("grant a lease of %d s: %w", s.LeaseTTL, err)
		}
		return int64(resp.ID), nil
	})
	return clientv3.LeaseID(id), err
}
