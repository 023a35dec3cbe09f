package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

// verdict is what an error says about a transaction.
type verdict int

const (
	ambiguous  verdict = iota // it may have been applied: read
	notApplied                // it was refused before it could be: try again
	fatal                     // trying again cannot help
)

// classify follows what etcd does with a proposal (server/etcdserver/v3_server.go,
// v3rpc/util.go): errors that are raised before it are certain, all others may
// come after it was applied.
func classify(err error) verdict {
	err = rpctypes.Error(err)
	for _, e := range []error{rpctypes.ErrTooManyRequests, rpctypes.ErrNoLeader, rpctypes.ErrNotCapable} {
		if errors.Is(err, e) {
			return notApplied
		}
	}
	for _, e := range []error{
		rpctypes.ErrPermissionDenied, rpctypes.ErrUserEmpty, rpctypes.ErrAuthFailed, rpctypes.ErrInvalidAuthToken,
		rpctypes.ErrRequestTooLarge, rpctypes.ErrCorrupt, rpctypes.ErrEmptyKey, rpctypes.ErrDuplicateKey,
		rpctypes.ErrTooManyOps, rpctypes.ErrNoSpace, rpctypes.ErrLeaseNotFound, rpctypes.ErrLeaseTTLTooLarge,
	} {
		if errors.Is(err, e) {
			return fatal
		}
	}
	return ambiguous
}

// Backoff waits longer from attempt to attempt, from 50 ms to about 3 s, with
// jitter so that many waiters do not come back together.
func Backoff(ctx context.Context, attempt int) error {
	d := min(50*time.Millisecond<<min(attempt, 6), 3*time.Second)
	d = d/2 + rand.N(d)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// execute carries out one step until its outcome is known. It goes on after
// an interrupt: a transaction in flight is always finished.
func (e *engine) execute(it item) (Outcome, string) {
	ctx := context.WithoutCancel(e.ctx)
	if it.step.Action == plan.Put {
		return e.put(ctx, it)
	}
	return e.delete(ctx, it)
}

// delete removes one key that still has the bytes that were archived. One
// changed key per etcd revision: a watch that is resumed in the middle of a
// revision misses the rest of it.
func (e *engine) delete(ctx context.Context, it item) (Outcome, string) {
	key := it.step.Key
	unsure := false
	var last error
	for attempt := 0; attempt <= e.Retries; attempt++ {
		now, done, err := e.guarded(ctx, key, it.kv.ModRevision, clientv3.OpDelete(key))
		if err != nil {
			last = err
			switch classify(err) {
			case fatal:
				return Failed, err.Error()
			case ambiguous:
				unsure = true
			}
			if !e.again(ctx, attempt) {
				return Failed, e.gaveUp(last)
			}
			continue
		}
		switch {
		case done || (now == nil && unsure):
			return Deleted, ""
		case now == nil:
			return Gone, ""
		}
		// The guard held: somebody changed the key meanwhile. Its new
		// bytes are judged and archived like the ones before.
		if outcome, why := e.judge(it.step, now); outcome != Deleted {
			return outcome, why
		}
		it.kv = now
		if err := e.archive(it.stage, []item{it}); err != nil {
			e.stop(err)
			return Failed, err.Error()
		}
	}
	return Failed, e.gaveUp(last)
}

// put writes one key that does not exist.
func (e *engine) put(ctx context.Context, it item) (Outcome, string) {
	key := it.step.Key
	kv, err := e.bytesOf(it.step)
	if err != nil {
		return Failed, e.fatal(err).Error()
	}
	unsure := false
	var last error
	for attempt := 0; attempt <= e.Retries; attempt++ {
		lease, err := e.lease(ctx, it.step)
		if err == nil {
			var now *mvccpb.KeyValue
			var done bool
			put := clientv3.OpPut(key, string(kv.Value), clientv3.WithLease(lease))
			now, done, err = e.guarded(ctx, key, it.step.ModRevision, put)
			switch {
			case done:
				return Created, ""
			case err == nil && now != nil && bytes.Equal(now.Value, kv.Value):
				if unsure {
					return Created, ""
				}
				return Present, ""
			case err == nil:
				return Skipped, "another object is there now"
			}
		}
		last = err
		switch {
		case errors.Is(rpctypes.Error(err), rpctypes.ErrNoSpace):
			// The applier may say so after it has applied a put
			// (server/etcdserver/apply/quota.go).
			return e.wasPut(ctx, kv, err)
		case classify(err) == fatal:
			return Failed, err.Error()
		case classify(err) == ambiguous:
			unsure = true
		}
		if !e.again(ctx, attempt) {
			return Failed, e.gaveUp(last)
		}
	}
	return Failed, e.gaveUp(last)
}

func (e *engine) wasPut(ctx context.Context, kv *mvccpb.KeyValue, cause error) (Outcome, string) {
	now, err := keyspace.Current(e.Store, keyspace.Options{Timeout: e.Timeout, Kine: e.Kine}).Get(ctx, string(kv.Key))
	if err == nil && now != nil && bytes.Equal(now.Value, kv.Value) {
		return Created, ""
	}
	return Failed, cause.Error()
}

// again waits before the next attempt. After an interrupt one more attempt is
// made, which is enough to learn what became of the last one if the store
// answers at all.
func (e *engine) again(ctx context.Context, attempt int) bool {
	if e.ctx.Err() != nil && attempt > 0 {
		return false
	}
	return e.Backoff(ctx, attempt) == nil
}

func (e *engine) gaveUp(last error) string {
	if last == nil {
		return fmt.Sprintf("it changed %d times while being deleted", e.Retries+1)
	}
	if classify(last) == ambiguous {
		return "no clear answer, so it may have been done all the same: " + last.Error()
	}
	return last.Error()
}

// guarded runs op if key still has the mod revision rev; else it returns the
// key as it is now, nil if it is absent. The shape is the API server's own
// (client/v3/kubernetes), which kine understands as well. Sending it again
// after an ambiguous answer is how that answer is resolved by reading: the
// revision cannot come back, so it changes nothing twice.
func (e *engine) guarded(ctx context.Context, key string, rev int64, op clientv3.Op) (now *mvccpb.KeyValue, done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	resp, err := e.Store.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", rev)).
		Then(op).
		Else(clientv3.OpGet(key)).
		Commit()
	e.answered(err)
	if err != nil {
		return nil, false, err
	}
	if resp.Succeeded {
		return nil, true, nil
	}
	if kvs := resp.Responses[0].GetResponseRange().GetKvs(); len(kvs) > 0 {
		return kvs[0], false, nil
	}
	return nil, false, nil
}

// lease grants a new lease, once for all objects that shared one.
func (e *engine) lease(ctx context.Context, s plan.Step) (clientv3.LeaseID, error) {
	if s.Lease == 0 {
		return clientv3.NoLease, nil
	}
	e.leaseMu.Lock()
	defer e.leaseMu.Unlock()
	if id, ok := e.granted[s.Lease]; ok {
		return id, nil
	}
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	resp, err := e.Store.Grant(ctx, s.LeaseTTL)
	if err != nil {
		return 0, fmt.Errorf("grant a lease of %d s: %w", s.LeaseTTL, err)
	}
	e.granted[s.Lease] = resp.ID
	return resp.ID, nil
}
