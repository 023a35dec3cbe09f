package diff

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// Side is one of two stores that are compared.
type Side struct {
	// Reader knows the keys and values of the store.
	Reader *codec.Reader
	// Parts are what is compared, in key order.
	Parts []Part
	// Inspect reads a key and its value; nil: the part's filter does.
	Inspect func(context.Context, *filter.Filter, *mvccpb.KeyValue) (filter.Object, error)
	// Partial, if set, tells whether the store may lack objects, as an archive
	// does, and a damaged file as far as it was read: what it lacks is not
	// taken for removed or added.
	Partial func() bool
}

// Part is a range of a store, and what is selected in it.
type Part struct {
	Source keyspace.Source
	Range  keyspace.Range
	Filter *filter.Filter
}

// item is an object on its way through a side.
type item struct {
	filter.Object
	name     string // the key below the prefix
	decision filter.Decision
	filter   *filter.Filter
	read     bool // the value was looked into
}

// errEnough ends the scan of a side that is wanted no longer.
var errEnough = errors.New("seen enough")

// items yields the objects of a side in key order, judged. Where the keys
// decide, values are not looked into.
func (s *Side) items(ctx context.Context) iter.Seq2[*item, error] {
	return func(yield func(*item, error) bool) {
		for _, p := range s.Parts {
			err := s.scan(ctx, p, yield)
			if errors.Is(err, errEnough) {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

func (s *Side) scan(ctx context.Context, p Part, yield func(*item, error) bool) error {
	give := func(o filter.Object, d filter.Decision, read bool) error {
		name := strings.TrimPrefix(string(o.KV.Key), s.Reader.Prefix)
		if !yield(&item{Object: o, name: name, decision: d, filter: p.Filter, read: read}, nil) {
			return errEnough
		}
		return nil
	}
	if !p.Filter.NeedsValue() {
		return p.Source.Scan(ctx, p.Range, false, func(kv *mvccpb.KeyValue) error {
			o := filter.Object{KV: kv, Size: int64(len(kv.Value))}
			o.Key, _ = s.Reader.Catalog.ParseKey(s.Reader.Prefix, string(kv.Key))
			d, err := p.Filter.Judge(ctx, o)
			if err != nil {
				return err
			}
			return give(o, d, false)
		})
	}
	judging := p.Filter.Judging(func(_ context.Context, o filter.Object, d filter.Decision) error { return give(o, d, true) })
	err := p.Source.Scan(ctx, p.Range, false, func(kv *mvccpb.KeyValue) error {
		o, err := s.inspect(ctx, p.Filter, kv)
		if err != nil {
			return err
		}
		return judging.Add(ctx, o)
	})
	if err != nil {
		return err
	}
	return judging.Flush(ctx)
}

func (s *Side) inspect(ctx context.Context, f *filter.Filter, kv *mvccpb.KeyValue) (filter.Object, error) {
	if s.Inspect != nil {
		return s.Inspect(ctx, f, kv)
	}
	return f.Inspect(ctx, kv), nil
}

// read looks into the value, if that was not done.
func (s *Side) read(ctx context.Context, i *item) error {
	if i == nil || i.read {
		return nil
	}
	o, err := s.inspect(ctx, i.filter, i.KV)
	if err != nil {
		return err
	}
	i.Object, i.read = o, true
	return nil
}

// cursor goes through one side.
type cursor struct {
	pull func() (*item, error, bool)
	at   *item // nil at the end
	last string
}

// next goes on. A store that does not keep to the order of keys would make
// objects look removed and added, so that is an error.
func (c *cursor) next() error {
	i, err, ok := c.pull()
	if !ok || err != nil {
		c.at = nil
		return err
	}
	if c.at != nil && i.name <= c.last {
		return fmt.Errorf("keys are not in order: %q came after %q", i.name, c.last)
	}
	c.at, c.last = i, i.name
	return nil
}

// merge goes through both sides in key order. fn gets what each of them has
// under a key; one of them may be nil.
func merge(ctx context.Context, old, new *Side, fn func(old, new *item) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var a, b cursor
	var stopA, stopB func()
	a.pull, stopA = iter.Pull2(old.items(ctx))
	defer stopA()
	b.pull, stopB = iter.Pull2(new.items(ctx))
	defer stopB()
	if err := errors.Join(a.next(), b.next()); err != nil {
		return err
	}
	for a.at != nil || b.at != nil {
		x, y := a.at, b.at
		switch {
		case y == nil || x != nil && x.name < y.name:
			y = nil
		case x == nil || y.name < x.name:
			x = nil
		}
		if err := fn(x, y); err != nil {
			return err
		}
		if x != nil {
			if err := a.next(); err != nil {
				return err
			}
		}
		if y != nil {
			if err := b.next(); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}
