// Package census counts what a store holds, by resource and namespace, from
// the keys' order alone: it asks for counts of ranges that do not overlap, and
// never for a value. It cannot write.
//
// The key invariant: the counts of all cells add up to one count of the whole
// range at the same revision. Take returns either a census that does, or an
// error. What no range was asked for is thereby proved to be empty.
//
// etcd answers a count by walking its index, at about 0.25 µs a key, and takes
// about 6 µs for every range it is asked about. So a resource that is probably
// large is counted by namespace at once, in order not to walk it twice, and one
// that is probably small as a whole first, in order not to ask about thousands
// of empty namespaces.
package census

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// Source is a pinned source that can count many ranges at once;
// *keyspace.Live and *keyspace.File are.
type Source interface {
	keyspace.Source
	// CountAll is Count for each of the ranges, in their order.
	CountAll(ctx context.Context, ranges []keyspace.Range) ([]int64, error)
}

// Request says what to count.
type Request struct {
	Source Source
	Reader *codec.Reader // its Prefix and Catalog

	// Resource is the only one to count; nil means the whole prefix.
	Resource *codec.Resource

	// Namespace is the only one to count; "" means all, and what is in none.
	// Without a Resource it counts the namespaced resources that are known.
	Namespace string

	// Namespaces are the names of those that exist, for a store that holds
	// objects but no namespaces, as an etcd for events alone does. nil means
	// those that are stored in Source.
	Namespaces []string

	// Whole asks for nothing but ranges that end with a whole segment, the
	// only ones that kine answers rightly. If not all objects are where they
	// should be, the keys of the whole range are then read.
	Whole bool
}

// Cell is the number of objects of one resource in one namespace. No cell is
// empty.
//
// Counting cannot tell what a key is beyond its place: all keys below the
// namespace of a namespaced resource, or below a resource without namespaces,
// are its objects, also the few that [codec.Catalog.ParseKey] would not take,
// such as one with a segment too many.
type Cell struct {
	Resource  *codec.Resource // nil: no resource is known for these keys
	Prefix    string          // if Resource is nil: where they are below the registry's prefix, "" for directly there
	Namespace string          // "" for objects in none
	Objects   int64
	Orphaned  bool // the namespace does not exist
}

// Census is the result of counting.
type Census struct {
	Revision int64
	Cells    []Cell // by resource, prefix and namespace
	Total    int64  // one count of the whole range; with Namespace and no Resource there is none, and it is Sum
	Sum      int64  // of all cells; equal to Total
	Ranges   int64  // that were counted, one of them the whole
	Rounds   int64  // how often CountAll was called; a Live makes one request or more of each
	Searched int64  // keys that were read where none should be

	// Unknown is how many keys are certainly not those of an object, and
	// UnknownKeys the first 1,000 of them. They are in the cells too.
	Unknown     int64
	UnknownKeys []string
}

// maxUnknown bounds Census.UnknownKeys: keys are other people's input.
const maxUnknown = 1000

// UnevenError says that the counts of disjoint ranges do not add up to one
// count of the whole at the same revision: the server's answers contradict
// each other, and none can be relied on.
type UnevenError struct{ Revision, Sum, Total int64 }

func (e *UnevenError) Error() string {
	return fmt.Sprintf("the ranges of revision %d hold %d keys together, but one count of the whole gives %d", e.Revision, e.Sum, e.Total)
}

// ErrNotPinned is returned for a Source without a fixed revision: counts of
// different moments prove nothing.
var ErrNotPinned = errors.New("a census needs a source that is fixed at one revision")

// Take counts. It holds a few bytes for every cell and every namespace,
// whatever the number of objects. Errors are those of the Source, among them
// *keyspace.CompactedError, *UnevenError and ErrNotPinned.
func Take(ctx context.Context, req Request) (*Census, error) {
	if req.Source.Revision() == 0 {
		return nil, ErrNotPinned
	}
	c := &counter{
		req: req, prefix: req.Reader.Prefix, whole: keyspace.Prefix(req.Reader.Prefix),
		out: &Census{Revision: req.Source.Revision()}, cells: map[cellKey]int64{},
	}
	if err := c.learn(ctx); err != nil {
		return nil, err
	}
	count := c.all
	if req.Namespace != "" {
		count = c.oneNamespace
	}
	if err := count(ctx); err != nil {
		return nil, err
	}
	if c.out.Sum != c.out.Total {
		return nil, &UnevenError{c.out.Revision, c.out.Sum, c.out.Total}
	}
	c.finish()
	return c.out, nil
}

// cellKey is a cell's name. A resource has one prefix, and is known or not.
type cellKey struct{ prefix, namespace string }

// counter is one census while it is taken.
type counter struct {
	req    Request
	prefix string         // of the registry
	whole  keyspace.Range // what Total counts

	namespaces []string // in the order of their keys
	exists     map[string]bool
	places     []*place // in the order of their keys
	byPrefix   map[string]*place

	left  int64  // keys of the whole range that no count has found yet
	open  []node // counted by namespace alone: their gaps are not known to be empty
	out   *Census
	cells map[cellKey]int64
}

// add puts n objects into a cell.
func (c *counter) add(k cellKey, n int64) {
	if n > 0 {
		c.cells[k] += n
		c.out.Sum += n
	}
}

// countAll counts ranges, and keeps account.
func (c *counter) countAll(ctx context.Context, ranges []keyspace.Range) ([]int64, error) {
	if len(ranges) == 0 {
		return nil, nil
	}
	c.out.Ranges += int64(len(ranges))
	c.out.Rounds++
	counts, err := c.req.Source.CountAll(ctx, ranges)
	if err != nil {
		return nil, fmt.Errorf("count: %w", err)
	}
	return counts, nil
}

// all counts everything in the whole range.
func (c *counter) all(ctx context.Context) error {
	total, err := c.countAll(ctx, []keyspace.Range{c.whole})
	if err != nil {
		return err
	}
	c.out.Total, c.left = total[0], total[0]
	if err := c.flat(ctx); err != nil {
		return err
	}
	if err := c.namespaced(ctx); err != nil {
		return err
	}
	if c.out.Sum < c.out.Total {
		return c.leftovers(ctx)
	}
	return nil
}

// flat counts what has no namespaces: cluster-scoped resources, and the gaps
// between all resources, which are searched if they are not empty.
func (c *counter) flat(ctx context.Context) error {
	var ranges []keyspace.Range
	var keys []cellKey
	for _, p := range c.places {
		if !p.namespaced {
			ranges, keys = append(ranges, p.Range), append(keys, cellKey{prefix: p.prefix})
		}
	}
	if !c.req.Whole {
		ranges = append(ranges, c.between()...)
	}
	counts, err := c.countAll(ctx, ranges)
	if err != nil {
		return err
	}
	for i, n := range counts {
		c.left -= n
		switch {
		case i < len(keys):
			c.add(keys[i], n)
		case n > 0:
			if err := c.search(ctx, ranges[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// leftovers finds the objects that are in no namespace that exists. Where a
// resource was counted as a whole first this is done already.
func (c *counter) leftovers(ctx context.Context) error {
	if c.req.Whole {
		return c.search(ctx, c.whole)
	}
	return c.gaps(ctx, c.open)
}

// oneNamespace counts one namespace of one resource, or of all.
func (c *counter) oneNamespace(ctx context.Context) error {
	var ranges []keyspace.Range
	var places []*place
	for _, p := range c.places {
		if p.namespaced {
			ranges, places = append(ranges, p.of(c.req.Namespace)), append(places, p)
		}
	}
	counts, err := c.countAll(ctx, ranges)
	for i, n := range counts {
		c.add(cellKey{places[i].prefix, c.req.Namespace}, n)
	}
	c.out.Total = c.out.Sum
	return err
}

// finish writes the cells in their order.
func (c *counter) finish() {
	for k, n := range c.cells {
		cell := Cell{Prefix: k.prefix, Namespace: k.namespace, Objects: n}
		cell.Orphaned = k.namespace != "" && !c.exists[k.namespace]
		if p := c.byPrefix[k.prefix]; p != nil && p.res != nil && p.namespaced == (k.namespace != "") {
			cell.Resource, cell.Prefix = p.res, ""
		}
		c.out.Cells = append(c.out.Cells, cell)
	}
	slices.SortFunc(c.out.Cells, func(a, b Cell) int {
		return cmp.Or(cmp.Compare(a.name(), b.name()), cmp.Compare(a.Prefix, b.Prefix), cmp.Compare(a.Namespace, b.Namespace))
	})
}

// name is what a cell is sorted by, what is unknown last.
func (c Cell) name() string {
	if c.Resource == nil {
		return "\xff"
	}
	return c.Resource.String()
}
