package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// put writes one key: one that is absent, or one that still has the bytes that
// were archived.
func (t *try) put() decision {
	kv, err := t.bytesOf(t.it.step)
	if err != nil {
		t.stop(err)
		return decision{outcome: Failed, why: err.Error()}
	}
	if d, over := t.unsafe(kv); over {
		return d
	}
	for {
		a, err := t.putOnce(kv)
		switch {
		case err == nil && a.done && t.it.step.Replaces():
			return decision{outcome: Replaced, revision: a.revision}
		case err == nil && a.done:
			return decision{outcome: Created, revision: a.revision}
		case err == nil && (a.now != nil || t.it.step.Replaces()):
			return t.refused(kv, a)
		case err == nil:
			err = errors.New("etcd says that the key is there, and that it is not")
		case classify(err) == noSpace:
			return t.afterNoSpace(kv, err)
		}
		if d, over := t.failed(err); over {
			return d
		}
	}
}

// unsafe decides on a volume that would be reclaimed, because its claim was not
// put back or is gone since: claims stand in an earlier stage.
func (t *try) unsafe(kv *mvccpb.KeyValue) (d decision, over bool) {
	if t.Volumes == nil || t.it.step.Resource != "persistentvolume" {
		return decision{}, false
	}
	var why string
	err := t.persist(t.ctx, func() (err error) {
		ctx, cancel := context.WithTimeout(t.ctx, t.Timeout)
		defer cancel()
		why, err = t.Volumes.Unsafe(ctx, kv)
		return err
	})
	switch {
	case err != nil:
		return decision{outcome: Failed, why: err.Error()}, true
	case why == "":
		return decision{}, false
	}
	// It may be there already, as when the plan is carried out again.
	if now, err := t.read(t.it.step.Key); err == nil && now != nil && bytes.Equal(now.Value, kv.Value) {
		return decision{outcome: Present, revision: now.ModRevision}, true
	}
	return decision{outcome: Skipped, why: why}, true
}

func (t *try) putOnce(kv *mvccpb.KeyValue) (answer, error) {
	lease, err := t.lease(t.ctx, t.it.step)
	if err != nil {
		return answer{}, err
	}
	a, err := t.guarded(t.it.step.ModRevision, clientv3.OpPut(t.it.step.Key, string(kv.Value), clientv3.WithLease(lease)))
	if _, known := answerOf(err); err != nil && oneOf(known, rpctypes.ErrGRPCLeaseNotFound) {
		t.granted.forget(t.it.step.Lease, int64(lease))
	}
	return a, err
}

// refused decides on a key whose guard did not hold.
func (t *try) refused(kv *mvccpb.KeyValue, a answer) decision {
	if t.it.step.Replaces() {
		return t.overtaken(kv, a)
	}
	return t.occupied(kv, a)
}

// occupied decides on a key that something stands under already.
func (t *try) occupied(kv *mvccpb.KeyValue, a answer) decision {
	same := bytes.Equal(a.now.Value, kv.Value)
	switch {
	case t.unsure && (same || t.began(a.now, kv)):
		return decision{outcome: Created, revision: a.now.CreateRevision}
	case same:
		return decision{outcome: Present, revision: a.revision}
	}
	return decision{outcome: Skipped, why: "another object is there now", revision: a.revision}
}

// began tells whether the key began with our bytes: a controller may have
// changed what an attempt without a clear answer has put.
func (t *try) began(now, kv *mvccpb.KeyValue) bool {
	if now.Version <= 1 {
		return false
	}
	ctx, cancel := context.WithTimeout(t.ctx, t.Timeout)
	defer cancel()
	resp, err := t.Store.Get(ctx, t.it.step.Key, clientv3.WithRev(now.CreateRevision))
	return err == nil && len(resp.Kvs) == 1 && string(resp.Kvs[0].Key) == t.it.step.Key && bytes.Equal(resp.Kvs[0].Value, kv.Value)
}

// afterNoSpace reads what became of a put that was answered with NOSPACE: the
// applier may say so after it has applied it (server/etcdserver/apply/quota.go).
// No further put is begun.
func (t *try) afterNoSpace(kv *mvccpb.KeyValue, cause error) decision {
	now, err := t.read(t.it.step.Key)
	t.stop(fmt.Errorf("%w: %w", ErrNoSpace, cause))
	t.last = cause
	moved := now.GetModRevision() != t.it.step.ModRevision
	t.unsure = t.unsure || err != nil || moved
	if err != nil || !moved {
		return t.gaveUp()
	}
	return t.refused(kv, answer{now: now, revision: now.GetModRevision()})
}

// bytesOf reads what a put writes and checks that it is what the plan meant.
func (e *engine) bytesOf(s plan.Step) (*mvccpb.KeyValue, error) {
	if s.Source < 0 || s.Source >= len(e.Sources) {
		return nil, fmt.Errorf("%s: the plan names source %d of %d", s, s.Source, len(e.Sources))
	}
	p, err := snapshots.ParsePosition(s.Position)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s, err)
	}
	kv, err := e.Sources[s.Source].At(p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s, err)
	}
	if string(kv.Key) != s.Key || kv.ModRevision != s.SourceModRevision {
		return nil, fmt.Errorf("%s: the source has another object at position %s", s, s.Position)
	}
	return kv, nil
}
