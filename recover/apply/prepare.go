package apply

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// prepare makes a batch ready for the workers: deletes are read and archived.
// Steps that are decided by that are recorded here.
func (e *engine) prepare(stage int, steps []plan.Step) ([]item, error) {
	var deletes, puts []plan.Step
	for _, s := range steps {
		switch {
		case !strings.HasPrefix(s.Key, e.Prefix) || s.Key == e.Prefix:
			return nil, e.fatal(fmt.Errorf("key %q of the plan lies outside %s", s.Key, e.Prefix))
		case s.Action == plan.Put:
			puts = append(puts, s)
		default:
			deletes = append(deletes, s)
		}
	}
	items, err := e.prepareDeletes(stage, deletes)
	if err != nil {
		return nil, err
	}
	for _, s := range puts {
		items = append(items, item{stage: stage, step: s})
	}
	return items, nil
}

// fatal stops the run: nothing more is begun.
func (e *engine) fatal(err error) error {
	e.stop(err)
	return err
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

func (e *engine) prepareDeletes(stage int, steps []plan.Step) ([]item, error) {
	if len(steps) == 0 {
		return nil, nil
	}
	keys := make([]string, 0, len(steps))
	for _, s := range steps {
		keys = append(keys, s.Key)
	}
	slices.Sort(keys)
	now, err := e.readNow(keys)
	if err != nil {
		return nil, e.fatal(err)
	}
	var items []item
	for _, s := range steps {
		kv := now[s.Key]
		if kv == nil {
			e.record(s, Gone, "")
			continue
		}
		if kv.ModRevision != s.ModRevision {
			if outcome, why := e.judge(s, kv); outcome != Deleted {
				e.record(s, outcome, why)
				continue
			}
		}
		items = append(items, item{stage, s, kv})
	}
	if err := e.archive(stage, items); err != nil {
		return nil, e.fatal(err)
	}
	return items, nil
}

// readNow reads the present bytes, again and again while the store does not
// answer, as long as a step would be tried.
func (e *engine) readNow(keys []string) (map[string]*mvccpb.KeyValue, error) {
	src := keyspace.Current(e.Store, keyspace.Options{Timeout: e.Timeout, Kine: e.Kine})
	for attempt := 0; ; attempt++ {
		now, err := src.GetAll(e.ctx, keys)
		if err == nil {
			return now, nil
		}
		e.answered(err)
		if e.ctx.Err() != nil {
			return nil, context.Cause(e.ctx)
		}
		if attempt == e.Retries || classify(err) == fatal {
			return nil, fmt.Errorf("read what is to be archived: %w", err)
		}
		if err := e.Backoff(e.ctx, attempt); err != nil {
			return nil, context.Cause(e.ctx)
		}
	}
}

// archive writes the items' bytes and syncs them. Archive first: an item that
// is not archived never reaches a worker.
func (e *engine) archive(stage int, items []item) error {
	if len(items) == 0 {
		return nil
	}
	kvs := make([]*mvccpb.KeyValue, 0, len(items))
	ttls := map[int64]int64{}
	for _, it := range items {
		kvs = append(kvs, it.kv)
		if lease := it.kv.Lease; lease != 0 {
			ttl, err := e.ttl(lease)
			if err != nil {
				return err
			}
			ttls[lease] = ttl
		}
	}
	if err := e.Archive.Append(stage, kvs, ttls); err != nil {
		return fmt.Errorf("%w: %w", ErrArchive, err)
	}
	for _, kv := range kvs {
		kv.Value = nil // a delete needs the revision only
	}
	return nil
}

func (e *engine) ttl(lease int64) (int64, error) {
	e.leaseMu.Lock()
	defer e.leaseMu.Unlock()
	if ttl, known := e.leases[lease]; known || e.Leases == nil {
		return ttl, nil
	}
	// Also after an interrupt: a step that is begun is finished.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), e.Timeout)
	defer cancel()
	ttl, err := e.Leases.GrantedTTL(ctx, lease)
	if err != nil {
		return 0, fmt.Errorf("look up lease %x: %w", lease, err)
	}
	e.leases[lease] = ttl
	return ttl, nil
}

// judge decides on a key that is not as the plan saw it. Deleted means that
// the step goes on with kv's bytes.
func (e *engine) judge(s plan.Step, kv *mvccpb.KeyValue) (Outcome, string) {
	if e.Strict {
		return Skipped, "it changed since the plan was made"
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), e.Timeout)
	defer cancel()
	meant, why, err := e.Judge.StillMeant(ctx, s, kv)
	switch {
	case err != nil:
		return Failed, err.Error()
	case !meant:
		return Skipped, why
	}
	return Deleted, ""
}
