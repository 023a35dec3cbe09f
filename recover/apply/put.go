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

// put writes one key that does not exist.
func (t *try) put() decision {
	kv, err := t.bytesOf(t.it.step)
	if err != nil {
		t.stop(err)
		return decision{outcome: Failed, why: err.Error()}
	}
	for {
		a, err := t.putOnce(kv)
		switch {
		case err == nil && a.done:
			return decision{outcome: Created, revision: a.revision}
		case err == nil && a.now != nil:
			return t.occupied(kv, a)
		case err == nil:
			err = errors.New("etcd says that the key is there, and that it is not")
		case classify(err) == noSpace && t.wasPut(kv):
			t.stop(fmt.Errorf("%w: %w", ErrNoSpace, err))
			return decision{outcome: Created}
		}
		if d, over := t.failed(err); over {
			return d
		}
	}
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

// wasPut reads what became of a put that was answered with NOSPACE: the
// applier may say so after it has applied it (server/etcdserver/apply/quota.go).
func (t *try) wasPut(kv *mvccpb.KeyValue) bool {
	now, err := t.read(t.it.step.Key)
	t.unsure = t.unsure || err != nil
	return err == nil && now != nil && bytes.Equal(now.Value, kv.Value)
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
