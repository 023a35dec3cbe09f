package filter

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// Contents is everything that lies in some namespaces, whatever its kind. It is
// part of a Selection, whose other words say which of the Namespaces' own keys
// are meant.
type Contents struct {
	// Namespaces are their names, sorted. They need not exist.
	Namespaces []string `json:"namespaces"`
	// Only says that the Namespaces themselves stay.
	Only bool `json:"only,omitempty"`
}

// MaxContents bounds how many namespaces a Selection's Contents names.
const MaxContents = 10_000

// Holds reports whether the namespace is one of them; nil holds none.
func (c *Contents) Holds(namespace string) bool {
	if c == nil || namespace == "" {
		return false
	}
	_, found := slices.BinarySearch(c.Namespaces, namespace)
	return found
}

// counting is a store that counts many ranges with few requests; a
// keyspace.Live and a keyspace.File are.
type counting interface {
	CountAll(ctx context.Context, ranges []keyspace.Range) ([]int64, error)
}

// countAtOnce bounds the ranges that are held at a time.
const countAtOnce = 1 << 12

// Inside calls fn for every object that is in one of the namespaces, in no
// particular order and each once: of all resources that this build or a stored
// definition knows, and of those that only the keys tell of. It looks where
// the known ones are, and between them at the keys alone. Keep is for what is
// certainly in one of the namespaces; Undecided, with the reason kept for
// WhyUndecided, for a key whose value would have to say so and cannot be read.
//
// whole is for kine, where only ranges that end with a whole segment are right:
// then all keys are read once. Errors are those of src and of fn.
func (f *Filter) Inside(ctx context.Context, src keyspace.Source, namespaces []string, whole bool, fn func(Object, Decision) error) error {
	if err := f.owners.learnOnce(ctx); err != nil {
		return err
	}
	s := &inside{filter: f, src: src, whole: whole, fn: fn, namespaces: &Contents{Namespaces: namespaces}}
	s.places = f.reader.Catalog.Resources()
	slices.SortFunc(s.places, func(a, b *codec.Resource) int { return strings.Compare(a.Prefix, b.Prefix) })
	if err := s.within(ctx, true, s.scan); err != nil {
		return err
	}
	if err := s.within(ctx, false, s.misplaced); err != nil {
		return err
	}
	return s.strays(ctx)
}

// inside is one search for what is in some namespaces.
type inside struct {
	filter     *Filter
	src        keyspace.Source
	namespaces *Contents
	whole      bool
	places     []*codec.Resource // in the order of their keys
	fn         func(Object, Decision) error
	found      []string // keys between the places, whose values are still to be read
}

// within calls fn for the ranges of the namespaces that are not empty, in all
// namespaced resources or in the cluster-scoped custom ones: their definition
// may have been a namespaced one when the keys were written.
func (s *inside) within(ctx context.Context, namespaced bool, fn func(context.Context, keyspace.Range, int64) error) error {
	var ranges []keyspace.Range
	for _, r := range s.places {
		if r.Namespaced != namespaced || !namespaced && !r.Custom {
			continue
		}
		for _, namespace := range s.namespaces.Namespaces {
			ranges = append(ranges, keyspace.Prefix(s.filter.reader.Prefix+r.Prefix+namespace+"/"))
			if len(ranges) == countAtOnce {
				if err := s.filled(ctx, ranges, fn); err != nil {
					return err
				}
				ranges = ranges[:0]
			}
		}
	}
	return s.filled(ctx, ranges, fn)
}

// filled calls fn for the ranges that are not empty.
func (s *inside) filled(ctx context.Context, ranges []keyspace.Range, fn func(context.Context, keyspace.Range, int64) error) error {
	counts := make([]int64, len(ranges))
	var err error
	if many, ok := s.src.(counting); ok {
		counts, err = many.CountAll(ctx, ranges)
	} else {
		for i := 0; i < len(ranges) && err == nil; i++ {
			counts[i], err = s.src.Count(ctx, ranges[i])
		}
	}
	if err != nil {
		return fmt.Errorf("count what is in the namespaces: %w", err)
	}
	for i, n := range counts {
		if n == 0 {
			continue
		}
		if err := fn(ctx, ranges[i], n); err != nil {
			return err
		}
	}
	return nil
}

// scan reads what lies in one namespace of a known resource. The key alone
// says that it does. The count at the same revision proves that all was seen.
func (s *inside) scan(ctx context.Context, r keyspace.Range, count int64) error {
	var seen int64
	err := s.src.Scan(ctx, r, false, func(kv *mvccpb.KeyValue) error {
		seen++
		return s.fn(s.filter.Inspect(ctx, kv), Keep)
	})
	if err == nil && seen != count {
		err = fmt.Errorf("%s holds %d keys at revision %d, but %d were read", r.Start, count, s.src.Revision(), seen)
	}
	return err
}

// misplaced reads what lies in a range where a namespaced resource would have
// a namespace; the values say whether it is one.
func (s *inside) misplaced(ctx context.Context, r keyspace.Range, _ int64) error {
	return s.src.Scan(ctx, r, true, func(kv *mvccpb.KeyValue) error { return s.find(ctx, string(kv.Key)) })
}

// find notes a key whose value is to be read.
func (s *inside) find(ctx context.Context, key string) error {
	if s.found = append(s.found, key); len(s.found) < maxAhead {
		return nil
	}
	return s.readFound(ctx)
}

// strays searches what is between the known resources.
func (s *inside) strays(ctx context.Context) error {
	all := keyspace.Prefix(s.filter.reader.Prefix)
	gaps := []keyspace.Range{all}
	if !s.whole {
		gaps = s.gaps(all)
	}
	search := func(ctx context.Context, r keyspace.Range, _ int64) error {
		return s.src.Scan(ctx, r, true, func(kv *mvccpb.KeyValue) error {
			if !s.mayHold(string(kv.Key)) {
				return nil
			}
			return s.find(ctx, string(kv.Key))
		})
	}
	for len(gaps) > 0 {
		n := min(len(gaps), countAtOnce)
		if err := s.filled(ctx, gaps[:n], search); err != nil {
			return err
		}
		gaps = gaps[n:]
	}
	return s.readFound(ctx)
}

// gaps are the ranges between the places; no place is inside another.
func (s *inside) gaps(all keyspace.Range) (gaps []keyspace.Range) {
	at := all.Start
	for _, r := range s.places {
		start, end := r.Range(s.filter.reader.Prefix, "")
		if at < start {
			gaps = append(gaps, keyspace.Range{Start: at, End: start})
		}
		at = end
	}
	if at < all.End {
		gaps = append(gaps, keyspace.Range{Start: at, End: all.End})
	}
	return gaps
}

// mayHold reports whether the object of a key may be in one of the namespaces
// and is not in the range of a known resource.
func (s *inside) mayHold(key string) bool {
	rest := strings.TrimPrefix(key, s.filter.reader.Prefix)
	if s.whole && s.isKnown(rest) {
		return false
	}
	if k, ok := s.filter.reader.Catalog.ParseKey(s.filter.reader.Prefix, key); ok {
		return s.namespaces.Holds(k.Namespace)
	}
	segments := strings.Split(rest, "/")
	for _, segment := range segments[min(1, len(segments)-1) : len(segments)-1] {
		if s.namespaces.Holds(segment) {
			return true
		}
	}
	return false
}

// isKnown reports whether the rest of a key lies in the range of a known
// resource.
func (s *inside) isKnown(rest string) bool {
	i, _ := slices.BinarySearchFunc(s.places, rest, func(r *codec.Resource, rest string) int {
		if strings.HasPrefix(rest, r.Prefix) {
			return 0
		}
		return strings.Compare(r.Prefix, rest)
	})
	return i < len(s.places) && strings.HasPrefix(rest, s.places[i].Prefix)
}

// readFound reads the values of what was found between the places, in the
// order of keys, and decides.
func (s *inside) readFound(ctx context.Context) error {
	err := s.filter.owners.Each(ctx, s.found, func(chunk []*Object) error {
		for _, o := range chunk {
			*o = s.filter.explain(ctx, o.KV)
			if d := s.decide(*o); d != Drop {
				if err := s.fn(*o, d); err != nil {
					return err
				}
			}
		}
		return nil
	})
	s.found = s.found[:0]
	return err
}

func (s *inside) decide(o Object) Decision {
	switch {
	case o.Key.Resource != nil:
		if s.namespaces.Holds(o.Key.Namespace) {
			return Keep
		}
	case o.Head.Err != nil:
		s.filter.undecided(o, "no resource is known for its key, and its value cannot be read")
		return Undecided
	case s.namespaces.Holds(o.Head.Meta.Namespace):
		return Keep
	}
	return Drop
}

// explain is Inspect for a key of a resource that may not be known: it is
// learnt from the object, if its metadata proves what the key means.
func (f *Filter) explain(ctx context.Context, kv *mvccpb.KeyValue) Object {
	o := f.Inspect(ctx, kv)
	if o.Head.Err != nil || o.Key.Resource != nil && (o.Key.Resource.Kind != "" || !o.Key.Resource.Custom) {
		return o
	}
	// An error says that this object proves nothing; it stays unexplained.
	if _, err := f.reader.Catalog.AddStored(f.reader.Prefix, string(kv.Key), o.Head.Meta); err != nil {
		return o
	}
	return f.Inspect(ctx, kv)
}

// Catalog is what the filter knows of resources.
func (f *Filter) Catalog() *codec.Catalog { return f.reader.Catalog }
