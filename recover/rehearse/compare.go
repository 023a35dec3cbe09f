package rehearse

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

const (
	// unknown stands for what no resource is known for, others for the names
	// beyond mostNames.
	unknown   = "<unknown>"
	others    = "<others>"
	mostNames = 10_000
	// batch is how many values are compared at a time.
	batch = 256
)

// Count is how many objects there were and are.
type Count struct {
	Name    string `json:"name"`
	Before  int64  `json:"before"`
	After   int64  `json:"after"`
	Changed int64  `json:"changed"` // of those that were and are there: written
}

func (c *Count) add(before, after *mvccpb.KeyValue) {
	if before != nil {
		c.Before++
	}
	if after != nil {
		c.After++
	}
	if before != nil && after != nil && before.ModRevision != after.ModRevision {
		c.Changed++
	}
}

// same tells whether nothing happened to these objects.
func (c *Count) same() bool { return c.Before == c.After && c.Changed == 0 }

// Effect is what the plan left in the store.
type Effect struct {
	Total      Count
	Resources  []Count // that are not as before, by name
	Namespaces []Count // that the plan is about, the most changed first, and at most 1,000
	// Untouched is how many resources are as before; Kept is how many objects
	// of these there are.
	Untouched, Kept int64

	Gone, Replaced, Made int64
	// Expired are keys whose lease ran out meanwhile, since here nobody renews
	// it. They count as if they were still there.
	Expired int64
	// Strays is by how many keys the store differs from the snapshot more or
	// less than the steps of the plan explain. It must be 0.
	Strays int64
}

// everything is all keys of a store, whoever has written them.
func everything() keyspace.Range { return keyspace.Range{Start: "\x00", End: "\x00"} }

// errEnough ends a scan whose keys nobody takes any more.
var errEnough = errors.New("enough")

// keys returns the keys of a source one by one, nil after the last.
func keys(ctx context.Context, src keyspace.Source) (next func() (*mvccpb.KeyValue, error), stop func()) {
	var failed error
	pull, stop := iter.Pull(func(yield func(*mvccpb.KeyValue) bool) {
		failed = src.Scan(ctx, everything(), true, func(kv *mvccpb.KeyValue) error {
			if !yield(kv) {
				return errEnough
			}
			return nil
		})
	})
	return func() (*mvccpb.KeyValue, error) {
		if kv, ok := pull(); ok {
			return kv, nil
		}
		return nil, failed
	}, stop
}

// merge calls fn for every key that either store has, in key order, with the
// one that lacks it nil. No values are read.
func merge(ctx context.Context, before, after keyspace.Source, fn func(key string, before, after *mvccpb.KeyValue) error) error {
	nextBefore, stopBefore := keys(ctx, before)
	defer stopBefore()
	nextAfter, stopAfter := keys(ctx, after)
	defer stopAfter()
	b, err := nextBefore()
	a, err2 := nextAfter()
	for err = errors.Join(err, err2); err == nil && (a != nil || b != nil); {
		key, was, is := first(b, a)
		if err = fn(key, was, is); err != nil {
			return err
		}
		if was != nil {
			b, err = nextBefore()
		}
		if is != nil && err == nil {
			a, err = nextAfter()
		}
	}
	return err
}

// first is what is next in key order.
func first(b, a *mvccpb.KeyValue) (key string, was, is *mvccpb.KeyValue) {
	order := 0
	switch {
	case b == nil:
		order = 1
	case a == nil:
		order = -1
	default:
		order = bytes.Compare(b.Key, a.Key)
	}
	switch {
	case order < 0:
		return string(b.Key), b, nil
	case order > 0:
		return string(a.Key), nil, a
	}
	return string(b.Key), b, a
}

// now is the throwaway etcd at its present revision.
func (r *rehearsal) now(ctx context.Context) (keyspace.Source, error) {
	return keyspace.Pin(ctx, r.store.Client, r.report.Header.Prefix, keyspace.Options{Timeout: requestTimeout})
}

// measure counts what there was and what the plan has left.
func (r *rehearsal) measure(ctx context.Context) error {
	after, err := r.now(ctx)
	if err != nil {
		return err
	}
	m := newMeasuring(r)
	if err := merge(ctx, r.before, after, func(key string, was, is *mvccpb.KeyValue) error { return m.add(ctx, key, was, is) }); err != nil {
		return err
	}
	m.effect.Resources, m.effect.Untouched, m.effect.Kept = changed(m.resources)
	m.effect.Namespaces = sorted(m.namespaces)
	m.effect.Strays = m.effect.Gone + m.effect.Replaced + m.effect.Made - written(r.report.Result.Counts)
	r.report.Effect = m.effect
	return nil
}

// written is how many keys a run has changed.
func written(c apply.Counts) (n int64) {
	for o, count := range c {
		switch apply.Outcome(o) {
		case apply.Gone, apply.Present, apply.Before, apply.Skipped, apply.Failed:
		default:
			n += count
		}
	}
	return n
}

type measuring struct {
	r          *rehearsal
	reader     *codec.Reader
	effect     Effect
	resources  map[string]*Count
	namespaces map[string]*Count
}

func newMeasuring(r *rehearsal) *measuring {
	m := &measuring{r: r, reader: r.store.Reader, resources: map[string]*Count{}, namespaces: map[string]*Count{}}
	touched, _ := r.report.Summary.Namespaces.Largest(mostTouched)
	for _, share := range touched {
		m.namespaces[share.Name] = &Count{Name: share.Name}
	}
	return m
}

func (m *measuring) add(ctx context.Context, key string, was, is *mvccpb.KeyValue) error {
	e := &m.effect
	switch {
	case is == nil:
		expired, err := m.r.expired(ctx, was)
		if err != nil {
			return err
		}
		if expired {
			e.Expired++
			is = was
		} else {
			e.Gone++
		}
	case was == nil:
		e.Made++
	case was.ModRevision != is.ModRevision:
		e.Replaced++
	}
	name := unknown
	k, ok := m.reader.Catalog.ParseKey(m.reader.Prefix, key)
	if ok {
		name = k.Resource.String()
	}
	m.resource(name).add(was, is)
	if n := m.namespaces[k.Namespace]; ok && n != nil {
		n.add(was, is)
	}
	e.Total.add(was, is)
	return nil
}

func (m *measuring) resource(name string) *Count {
	c := m.resources[name]
	if c == nil && len(m.resources) >= mostNames {
		name = others
		c = m.resources[name]
	}
	if c == nil {
		c = &Count{Name: name}
		m.resources[name] = c
	}
	return c
}

// expired tells whether a key that is not there any more went with its lease,
// and not by the plan, which archives before it deletes.
func (r *rehearsal) expired(ctx context.Context, was *mvccpb.KeyValue) (bool, error) {
	if was.Lease == 0 {
		return false, nil
	}
	archived, err := r.holds(ctx, was.Key)
	return !archived, err
}

// holds tells whether the archive has a key.
func (r *rehearsal) holds(ctx context.Context, key []byte) (bool, error) {
	if r.archived == nil {
		return false, nil
	}
	_, ok, err := r.archived.Find(ctx, key)
	return ok, err
}

// changed are the counts that are not the same, by name, and how many are.
func changed(counts map[string]*Count) (list []Count, untouched, kept int64) {
	list = []Count{}
	for _, c := range counts {
		if c.same() {
			untouched++
			kept += c.After
			continue
		}
		list = append(list, *c)
	}
	slices.SortFunc(list, func(a, b Count) int { return cmp.Compare(a.Name, b.Name) })
	return list, untouched, kept
}

// sorted has the most changed first.
func sorted(counts map[string]*Count) []Count {
	list := []Count{}
	for _, c := range counts {
		list = append(list, *c)
	}
	weight := func(c Count) int64 { return max(c.Before-c.After, c.After-c.Before) + c.Changed }
	slices.SortFunc(list, func(a, b Count) int {
		return cmp.Or(cmp.Compare(weight(b), weight(a)), cmp.Compare(a.Name, b.Name))
	})
	return list
}
