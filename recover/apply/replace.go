package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// overtaken decides on a replacement whose key has another revision by now, or
// is gone. Somebody else changed it, or an attempt without a clear answer did.
func (t *try) overtaken(kv *mvccpb.KeyValue, a answer) decision {
	if a.now != nil && a.now.ModRevision == t.it.step.ModRevision {
		return decision{outcome: Failed, why: "this kine takes the key for another one, so it cannot be replaced here"}
	}
	same := a.now != nil && bytes.Equal(a.now.Value, kv.Value)
	if t.unsure {
		next, rev, err := t.next(a)
		switch {
		case err == nil && next != nil && bytes.Equal(next.Value, kv.Value):
			return decision{outcome: Replaced, revision: rev}
		case err != nil && !same:
			t.last = err
			return t.gaveUp()
		}
	}
	switch {
	case same:
		return decision{outcome: Present, revision: a.revision}
	case a.now == nil:
		return decision{outcome: Skipped, why: whyDeleted, revision: a.revision}
	}
	return decision{outcome: Skipped, why: whyChanged, revision: a.revision}
}

// next finds what came right after the bytes that the plan saw: what an attempt
// of ours wrote, if one was carried out, because the guard lets it be nothing
// else. A controller may have changed that since, or deleted it. kv is nil if
// it was a delete. Where the key still has the life that it had, its version
// tells; else the history is bisected for the first revision at which the key
// had changed.
func (t *try) next(a answer) (kv *mvccpb.KeyValue, rev int64, err error) {
	was, now := t.it.kv, a.now
	if now != nil && now.CreateRevision == was.CreateRevision && was.Version > 0 && now.Version == was.Version+1 {
		return now, now.ModRevision, nil
	}
	low, high, sure := was.ModRevision, a.revision, true
	if now != nil {
		high = now.ModRevision
	}
	for kv = now; low+1 < high; {
		mid := low + (high-low)/2
		then, err := t.readAt(mid)
		switch {
		case errors.Is(err, rpctypes.ErrCompacted):
			low, sure = mid, false // it may have changed before
		case err != nil:
			return nil, 0, err
		case then == nil:
			kv, high = nil, mid
		case then.ModRevision == was.ModRevision:
			low, sure = mid, true
		case then.ModRevision <= low || then.ModRevision > mid:
			return nil, 0, fmt.Errorf("etcd answers with revision %d for revision %d", then.ModRevision, mid)
		default:
			kv, high = then, then.ModRevision
		}
	}
	if !sure || high <= was.ModRevision {
		return nil, 0, errors.New("what became of it cannot be read any more")
	}
	return kv, high, nil
}

// readAt reads the key as it was at a revision, nil if it was absent.
func (t *try) readAt(rev int64) (kv *mvccpb.KeyValue, err error) {
	key := t.it.step.Key
	err = t.persist(t.ctx, func() error {
		ctx, cancel := context.WithTimeout(t.ctx, t.Timeout)
		defer cancel()
		resp, err := t.Store.Get(ctx, key, clientv3.WithRev(rev))
		switch {
		case err != nil:
			return err
		case len(resp.Kvs) == 0:
			kv = nil
			return nil
		case string(resp.Kvs[0].Key) != key: // old kine looks it up by LIKE
			return fmt.Errorf("kine answers with another key at revision %d", rev)
		}
		kv = resp.Kvs[0]
		return nil
	})
	return kv, err
}
