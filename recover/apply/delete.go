package apply

import (
	"context"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// delete removes one key that still has the bytes that were archived. One
// changed key per etcd revision: a watch that is resumed in the middle of a
// revision misses the rest of it.
func (t *try) delete() decision {
	for {
		a, err := t.guarded(t.it.kv.ModRevision, clientv3.OpDelete(t.it.step.Key))
		var d decision
		over := true
		switch {
		case err != nil && classify(err) == noSpace && t.Unguarded != nil:
			d, over = t.unguarded(err)
		case err != nil:
			d, over = t.failed(err)
		case a.done:
			d = decision{outcome: Deleted, revision: a.revision}
		case a.now == nil:
			d = t.absent(a.revision)
		default:
			d, over = t.changed(a.now)
		}
		if over {
			return d
		}
	}
}

// absent decides on a key that is not there. If an earlier attempt had no
// clear answer it was that one.
func (t *try) absent(revision int64) decision {
	if t.unsure {
		return decision{outcome: Deleted, revision: revision}
	}
	return decision{outcome: Gone, revision: revision}
}

// changed takes the new bytes of a key whose guard held: somebody changed it
// meanwhile. They are judged and archived like the ones before.
func (t *try) changed(now *mvccpb.KeyValue) (d decision, over bool) {
	if now.ModRevision == t.it.kv.ModRevision {
		return decision{outcome: Failed, why: "this kine takes the key for another one, so it cannot be deleted here"}, true
	}
	if t.unsure && now.CreateRevision > t.it.kv.ModRevision {
		return decision{outcome: Deleted}, true // and made anew: as in absent
	}
	if outcome, why := t.judge(t.ctx, t.it.step, now); outcome != Deleted {
		return decision{outcome: outcome, why: why}, true
	}
	t.it.kv = now
	if err := t.archive(t.it.stage, []item{t.it}); err != nil {
		t.stop(err)
		return decision{outcome: Failed, why: err.Error()}, true
	}
	if t.counted >= t.Retries {
		return t.gaveUp(), true
	}
	t.counted++
	t.attempt++
	t.retried()
	return decision{}, false
}

// unguarded deletes a key of an etcd that refuses the guarded transaction
// under NOSPACE. The key is read again right before, and a delete is sent only
// if it is what was archived; what it really deleted comes with the answer. One
// such delete is in flight at a time. It is sent again only where the answer
// says that it was not applied: one that is on its way still might hit a key
// that was made anew.
func (t *try) unguarded(refusal error) (d decision, over bool) {
	t.bare.Lock()
	defer t.bare.Unlock()
	now, err := t.read(t.it.step.Key)
	switch {
	case err != nil:
		t.last = err
		return t.gaveUp(), true
	case now == nil:
		return t.absent(0), true
	case now.ModRevision != t.it.kv.ModRevision:
		return t.changed(now)
	}
	if t.Unguarded.Add(-1) < 0 {
		t.Unguarded.Add(1)
		return t.failed(refusal)
	}
	resp, err := t.bareDelete()
	switch {
	case err != nil && classify(err) == ambiguous:
		return t.afterBare(err), true
	case err != nil:
		return t.failed(err)
	case len(resp.PrevKvs) == 0:
		return t.absent(resp.Header.GetRevision()), true
	}
	return t.deletedBare(resp.PrevKvs[0], resp.Header.GetRevision()), true
}

func (t *try) bareDelete() (*clientv3.DeleteResponse, error) {
	ctx, cancel := context.WithTimeout(t.ctx, t.Timeout)
	defer cancel()
	began := t.Now()
	resp, err := t.Store.Delete(ctx, t.it.step.Key, clientv3.WithPrevKV())
	t.answered(began, err)
	return resp, err
}

// afterBare reads what became of a delete without a clear answer.
func (t *try) afterBare(cause error) decision {
	t.unsure, t.last = true, cause
	now, err := t.read(t.it.step.Key)
	if err == nil && now == nil {
		return t.absent(0)
	}
	return t.gaveUp()
}

// deletedBare compares what was deleted with what is archived.
func (t *try) deletedBare(was *mvccpb.KeyValue, revision int64) decision {
	if was.ModRevision == t.it.kv.ModRevision {
		return decision{outcome: Deleted, revision: revision}
	}
	t.it.kv = was
	if err := t.archive(t.it.stage, []item{t.it}); err != nil {
		t.stop(err)
		return decision{Failed, "it was deleted just after it had changed, and its last bytes are lost: " + err.Error(), revision}
	}
	return decision{Raced, "it changed just before it was deleted without a guard; what was deleted is in the archive", revision}
}
