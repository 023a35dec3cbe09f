package apply

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

// try is one step while its outcome is not known.
type try struct {
	*engine
	// ctx goes on after an interrupt: a transaction in flight is always
	// finished.
	ctx     context.Context
	it      item
	attempt int
	// counted are the attempts that failed while others were answered.
	counted int
	// unsure is set once an answer has left open whether the change was made.
	unsure bool
	last   error
}

// execute carries out one step until its outcome is known. It returns the item
// with what was archived of it last.
func (e *engine) execute(it item) (item, decision) {
	t := &try{engine: e, ctx: context.WithoutCancel(e.ctx), it: it}
	var d decision
	if it.step.Action == plan.Put {
		d = t.put()
	} else {
		d = t.delete()
	}
	if t.unsure && d.outcome != Failed {
		e.resolved()
	}
	return t.it, d
}

// answer is what a guarded transaction found.
type answer struct {
	done     bool             // the guard held and the change is made
	now      *mvccpb.KeyValue // else the key as it is, nil if it is absent
	revision int64
}

// guarded runs op if the key still has the mod revision rev. The shape is the
// API server's own (client/v3/kubernetes), which kine understands as well.
// Sending it again after an ambiguous answer is how that answer is resolved by
// reading: the revision cannot come back, so it changes nothing twice.
func (t *try) guarded(rev int64, op clientv3.Op) (answer, error) {
	key := t.it.step.Key
	ctx, cancel := context.WithTimeout(t.ctx, t.Timeout)
	defer cancel()
	began := t.Now()
	resp, err := t.Store.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", rev)).
		Then(op).
		Else(clientv3.OpGet(key)).
		Commit()
	t.answered(began, err)
	if err != nil {
		return answer{}, err
	}
	a := answer{revision: resp.Header.GetRevision()}
	if len(resp.Responses) == 0 {
		return a, fmt.Errorf("etcd answered a transaction without saying what it did")
	}
	if resp.Succeeded {
		if a.done = carriedOut(resp, key, rev); !a.done {
			a.now, err = t.read(key)
		}
		return a, err
	}
	kvs := resp.Responses[0].GetResponseRange().GetKvs()
	if len(kvs) == 0 {
		return a, nil
	}
	if a.now = kvs[0]; string(a.now.Key) == key {
		return a, nil
	}
	// Old releases of kine look a single key up by LIKE.
	a.now, err = t.read(key)
	return a, err
}

// carriedOut tells whether a transaction that succeeded changed the key. Up to
// 0.13 kine says so also of the delete of a key that had been deleted before, or
// that it takes for one that had (pkg/logstructured/logstructured.go, Delete). It
// counts nothing then, but names what it means; etcd and later kines count.
func carriedOut(resp *clientv3.TxnResponse, key string, rev int64) bool {
	d := resp.Responses[0].GetResponseDeleteRange()
	if d == nil || d.Deleted > 0 {
		return true
	}
	return len(d.PrevKvs) == 1 && string(d.PrevKvs[0].Key) == key && d.PrevKvs[0].ModRevision == rev
}

// read reads the key as it is now, nil if it is absent.
func (t *try) read(key string) (kv *mvccpb.KeyValue, err error) {
	err = t.persist(t.ctx, func() error {
		kv, err = t.now.Get(t.ctx, key)
		return err
	})
	return kv, err
}

// failed takes an error of the last attempt. It waits and returns false if
// there is to be another.
func (t *try) failed(err error) (d decision, over bool) {
	t.last = err
	switch classify(err) {
	case fatal:
		return t.gaveUp(), true
	case corrupt:
		t.stop(fmt.Errorf("%w: %w", ErrCorruptAlarm, err))
		return t.gaveUp(), true
	case denied:
		t.stop(fmt.Errorf("%w: %w", ErrDenied, err))
		return t.gaveUp(), true
	case noSpace:
		t.stop(fmt.Errorf("%w: %w", t.spaceError(), err))
		return t.gaveUp(), true
	case ambiguous:
		t.unsure = true
	}
	if !t.again() {
		return t.gaveUp(), true
	}
	return decision{}, false
}

func (t *try) spaceError() error {
	if t.it.step.Action == plan.Put {
		return ErrNoSpace
	}
	return ErrOldNoSpace
}

// again waits before the next attempt. After an interrupt one more attempt is
// made, which is enough to learn what became of the last one if the store
// answers at all. While the store is silent for everybody the attempts are not
// counted: that ends with Patience.
func (t *try) again() bool {
	if t.engine.ctx.Err() != nil && t.attempt > 0 {
		return false
	}
	if t.Backoff(t.ctx, t.attempt) != nil {
		return false
	}
	if !t.writes.lasts() {
		t.counted++
	}
	if t.counted > t.Retries {
		return false
	}
	if t.Pacer != nil {
		_ = t.Pacer.Wait(t.engine.ctx) // interrupted: at once
	}
	t.attempt++
	t.retried()
	return true
}

// gaveUp is the end of a step that nothing is known of, or that was refused.
func (t *try) gaveUp() decision {
	why := fmt.Sprintf("it changed %d times while it was being deleted", t.attempt+1)
	if t.last != nil {
		why = t.last.Error()
	}
	if t.unsure {
		why = "no clear answer, so it may have been done all the same: " + why
	}
	return decision{outcome: Failed, why: why}
}
