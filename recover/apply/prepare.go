package apply

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

// prepare makes a batch ready to be archived: what is to be deleted or replaced
// is read. Steps that are decided by that are recorded here.
func (e *engine) prepare(steps []item) ([]item, error) {
	var keys []string
	for _, it := range steps {
		if key := it.step.Key; !strings.HasPrefix(key, e.Prefix) || key == e.Prefix {
			return nil, e.halt(fmt.Errorf("key %q of the plan lies outside %s", key, e.Prefix))
		}
		if !it.step.Destroys() {
			continue
		}
		if e.Archive == nil {
			return nil, e.halt(fmt.Errorf("%w: the run has none", ErrArchive))
		}
		keys = append(keys, it.step.Key)
	}
	slices.Sort(keys)
	now, err := e.readAll(keys)
	if err != nil {
		return nil, err
	}
	ready := make([]item, 0, len(steps))
	for _, it := range steps {
		if it.step.Destroys() {
			it.kv = now[it.step.Key]
			d, over := e.decided(it)
			if e.ctx.Err() != nil { // nothing of this batch is begun
				return nil, context.Cause(e.ctx)
			}
			if over {
				it.kv = nil
				e.record(it, d)
				continue
			}
		}
		ready = append(ready, it)
	}
	return ready, nil
}

// decided decides on a step by what was read alone, where that is possible.
func (e *engine) decided(it item) (d decision, over bool) {
	switch {
	case it.step.Replaces():
		return e.replaced(it)
	case it.kv == nil:
		return decision{outcome: Gone}, true
	case e.holds(it.step):
		return decision{outcome: Skipped, why: "something in it is left, which would be an orphan without it"}, true
	case it.kv.ModRevision == it.step.ModRevision:
		return decision{}, false
	}
	outcome, why := e.judge(e.ctx, it.step, it.kv)
	return decision{outcome: outcome, why: why}, outcome != Deleted
}

// replaced decides on a replacement. It is never judged again: what is there
// now nobody has seen beside what is to replace it.
func (e *engine) replaced(it item) (d decision, over bool) {
	kv, err := e.bytesOf(it.step)
	switch {
	case err != nil:
		e.stop(err)
		return decision{outcome: Failed, why: err.Error()}, true
	case it.kv == nil:
		return decision{outcome: Skipped, why: whyDeleted}, true
	case bytes.Equal(it.kv.Value, kv.Value):
		return decision{outcome: Present}, true
	case it.kv.ModRevision != it.step.ModRevision:
		return decision{outcome: Skipped, why: whyChanged}, true
	}
	return decision{}, false
}

// Why a step is skipped.
const (
	whyChanged = "it changed since the plan was made"
	whyDeleted = "it was deleted since the plan was made"
)

// holds tells whether a step is a Namespace that was to go after its contents,
// and some of them are left. Namespaces are the last stage.
func (e *engine) holds(s plan.Step) bool {
	if s.Resource != "namespace" {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.held[s.Name]
}

// readAll reads the present bytes of sorted keys.
func (e *engine) readAll(keys []string) (now map[string]*mvccpb.KeyValue, err error) {
	if len(keys) == 0 {
		return nil, nil
	}
	err = e.persist(e.ctx, func() error {
		now, err = e.now.GetAll(e.ctx, keys)
		return err
	})
	if err == nil {
		return now, nil
	}
	if e.ctx.Err() != nil {
		return nil, context.Cause(e.ctx)
	}
	if classify(err) == denied {
		err = fmt.Errorf("%w: %w", ErrDenied, err)
	}
	return nil, e.halt(fmt.Errorf("read what is to be archived: %w", err))
}

// persist reads again and again while the store does not answer, as long as a
// change would be tried.
func (e *engine) persist(ctx context.Context, read func() error) error {
	counted := 0 // attempts that failed while others were answered
	for attempt := 0; ; attempt++ {
		err := read()
		if err != nil && !transient(err) {
			return err
		}
		e.stopSilent(e.reads.note(err, e.Now()), err)
		if err == nil || (e.ctx.Err() != nil && attempt > 0) {
			return err
		}
		if e.Backoff(ctx, attempt) != nil {
			return err
		}
		if !e.reads.lasts() {
			counted++
		}
		if counted > e.Retries {
			return err
		}
	}
}

// archive writes the items' bytes and syncs them.
func (e *engine) archive(stage int, items []item) error {
	kvs := make([]*mvccpb.KeyValue, 0, len(items))
	var ttls map[int64]int64
	for _, it := range items {
		if it.kv == nil {
			continue // a put of a key that is absent
		}
		kvs = append(kvs, it.kv)
		if lease := it.kv.Lease; lease != 0 {
			ttl, err := e.ttl(lease)
			if err != nil {
				return err
			}
			if ttls == nil {
				ttls = map[int64]int64{}
			}
			ttls[lease] = ttl
		}
	}
	if len(kvs) == 0 {
		return nil
	}
	if err := e.Archive.Append(stage, kvs, ttls); err != nil {
		return fmt.Errorf("%w: %w", ErrArchive, err)
	}
	for _, kv := range kvs {
		kv.Value = nil // the guard needs the revision only
	}
	return nil
}

// judge decides on a key that is not as the plan saw it. Deleted means that
// the step goes on with kv's bytes.
func (e *engine) judge(ctx context.Context, s plan.Step, kv *mvccpb.KeyValue) (Outcome, string) {
	if e.Strict {
		return Skipped, whyChanged
	}
	var meant bool
	var why string
	err := e.persist(ctx, func() (err error) {
		limited, cancel := context.WithTimeout(ctx, e.Timeout)
		defer cancel()
		meant, why, err = e.Judge.StillMeant(limited, s, kv)
		return err
	})
	switch {
	case err != nil:
		return Failed, err.Error()
	case !meant:
		return Skipped, why
	}
	return Deleted, ""
}
