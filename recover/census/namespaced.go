package census

import (
	"context"
	"math"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

const (
	// rangeKeys is how many keys etcd walks in the time that one more range
	// takes, as measured on 3.6 and 3.7: 6 µs and 0.25 µs.
	rangeKeys = 24
	// sampleShare is the part of the namespaces that is a sample, one of so
	// many.
	sampleShare = 64
	// maxBatch bounds the ranges that are held at a time.
	maxBatch = 1 << 14
	// unknownCount is that of a node that was not counted as a whole.
	unknownCount = -1
)

// node is a run of neighbouring namespaces of a place, with the gaps between
// them, the one behind the last, and the one before the first if it is the
// first of all.
type node struct {
	*place
	from, to int // indexes of counter.namespaces
	count    int64
}

// span is the range of a node.
func (c *counter) span(n node) keyspace.Range {
	r := n.Range
	if n.from > 0 {
		r.Start = n.of(c.namespaces[n.from]).Start
	}
	if n.to < len(c.namespaces) {
		r.End = n.of(c.namespaces[n.to]).Start
	}
	return r
}

// namespaced counts the resources that have namespaces. What is probably
// large comes first, and by namespace at once. Whenever most of the keys have
// been found, what is left cannot be large.
func (c *counter) namespaced(ctx context.Context) error {
	var rest []node
	for _, p := range c.places {
		if p.namespaced {
			rest = append(rest, node{p, 0, len(c.namespaces), unknownCount})
		}
	}
	usual := func(name string) func(*place) bool {
		return func(p *place) bool { return p.res != nil && p.res.Group == "" && p.res.Plural == name }
	}
	var err error
	for _, likely := range []func(*place) bool{usual("pods"), usual("events")} {
		if c.worth(1) {
			if rest, err = c.direct(ctx, rest, likely); err != nil {
				return err
			}
		}
	}
	if c.worth(1) {
		large, err := c.sample(ctx, rest)
		if err != nil {
			return err
		}
		if rest, err = c.direct(ctx, rest, func(p *place) bool { return large[p] }); err != nil {
			return err
		}
	}
	// A gamble: all of them by namespace costs up to a quarter more, and one
	// walk less if the keys are all in one place.
	if c.worth(4 * len(rest)) {
		_, err := c.direct(ctx, rest, func(*place) bool { return true })
		return err
	}
	return c.wholeFirst(ctx, rest)
}

// worth tells whether so many places should be counted by namespace at once:
// whether that takes less than to walk what has not been found yet.
func (c *counter) worth(places int) bool {
	return !c.req.Whole && c.left >= int64(places)*int64(len(c.namespaces))*rangeKeys
}

// direct counts the chosen ones of nodes by namespace, and returns the others.
func (c *counter) direct(ctx context.Context, nodes []node, chosen func(*place) bool) (others []node, err error) {
	var mine []node
	for _, n := range nodes {
		if chosen(n.place) {
			mine = append(mine, n)
		} else {
			others = append(others, n)
		}
	}
	c.open = append(c.open, mine...)
	before := c.out.Sum
	err = c.split(ctx, mine)
	c.left -= c.out.Sum - before
	return others, err
}

// sample finds the places that are large everywhere, by a few namespaces in
// the middle.
func (c *counter) sample(ctx context.Context, nodes []node) (large map[*place]bool, err error) {
	size := max(len(c.namespaces)/sampleShare, 1)
	if len(c.namespaces) <= size {
		return nil, nil
	}
	from := (len(c.namespaces) - size) / 2
	ranges := make([]keyspace.Range, len(nodes))
	for i, n := range nodes {
		ranges[i] = c.span(node{n.place, from, from + size, unknownCount})
	}
	counts, err := c.countAll(ctx, ranges)
	large = map[*place]bool{}
	for i, n := range counts {
		// A sample is as large as the average if the whole is worth it.
		if n >= int64(size)*rangeKeys {
			large[nodes[i].place] = true
		}
	}
	return large, err
}

// wholeFirst counts each place as a whole, and those by namespace that are not
// empty.
func (c *counter) wholeFirst(ctx context.Context, nodes []node) error {
	ranges := make([]keyspace.Range, len(nodes))
	for i, n := range nodes {
		ranges[i] = n.Range
	}
	counts, err := c.countAll(ctx, ranges)
	if err != nil {
		return err
	}
	var filled []node
	for i, n := range nodes {
		if n.count = counts[i]; n.count > 0 {
			filled = append(filled, n)
			c.left -= n.count
		}
	}
	return c.split(ctx, filled)
}

// split counts nodes by namespace, level by level.
func (c *counter) split(ctx context.Context, nodes []node) error {
	for len(nodes) > 0 {
		var below []node
		for len(nodes) > 0 {
			n, ranges := 0, 0
			for n < len(nodes) && ranges < maxBatch {
				ranges += c.parts(nodes[n])
				n++
			}
			next, err := c.splitOnce(ctx, nodes[:n])
			if err != nil {
				return err
			}
			nodes, below = nodes[n:], append(below, next...)
		}
		nodes = below
	}
	return nil
}

// parts is the number of ranges that a node is split into: one for each
// namespace, or fewer for groups of them where most would be empty. Of g
// groups up to count are filled and make all/g more ranges each, so there are
// least for g = sqrt(count*all); the keys are then walked once more.
func (c *counter) parts(n node) int {
	all := n.to - n.from
	if n.count == unknownCount || c.req.Whole {
		return all
	}
	groups := math.Ceil(math.Sqrt(float64(n.count) * float64(all)))
	if 2*groups+float64(n.count)/rangeKeys >= float64(all) {
		return all
	}
	return int(groups)
}

// splitOnce counts the parts of nodes. Those that are single namespaces become
// cells, the others the nodes of the next level.
func (c *counter) splitOnce(ctx context.Context, nodes []node) (below []node, err error) {
	var ranges []keyspace.Range
	for _, n := range nodes {
		parts := c.parts(n)
		for i := range parts {
			if child := n.child(i, parts); parts == n.to-n.from {
				ranges = append(ranges, n.of(c.namespaces[child.from]))
			} else {
				ranges = append(ranges, c.span(child))
			}
		}
	}
	counts, err := c.countAll(ctx, ranges)
	if err != nil {
		return nil, err
	}
	var holed []node
	for _, n := range nodes {
		parts, sum := c.parts(n), int64(0)
		for i := range parts {
			child := n.child(i, parts)
			child.count = counts[i]
			sum += child.count
			if parts == n.to-n.from {
				c.add(cellKey{n.prefix, c.namespaces[child.from]}, child.count)
			} else if child.count > 0 {
				below = append(below, child)
			}
		}
		counts = counts[parts:]
		if n.count > sum && parts == n.to-n.from && !c.req.Whole {
			holed = append(holed, n)
		}
	}
	return below, c.gaps(ctx, holed)
}

// child is the i-th of so many parts of a node, of equal size.
func (n node) child(i, parts int) node {
	all := n.to - n.from
	return node{place: n.place, from: n.from + i*all/parts, to: n.from + (i+1)*all/parts}
}

// gaps counts what lies between the namespaces of nodes, and searches what is
// not empty.
func (c *counter) gaps(ctx context.Context, nodes []node) error {
	for _, n := range nodes {
		ranges := c.gapsOf(n)
		counts, err := c.countAll(ctx, ranges)
		if err != nil {
			return err
		}
		for i, found := range counts {
			if found > 0 {
				if err := c.search(ctx, ranges[i]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (c *counter) gapsOf(n node) []keyspace.Range {
	span := c.span(n)
	at := span.Start
	var gaps []keyspace.Range
	for _, namespace := range c.namespaces[n.from:n.to] {
		r := n.of(namespace)
		if at < r.Start {
			gaps = append(gaps, keyspace.Range{Start: at, End: r.Start})
		}
		at = r.End
	}
	return append(gaps, keyspace.Range{Start: at, End: span.End})
}

// known is the resource of a prefix, if the catalog had it when it was asked.
func (c *counter) known(r *codec.Resource) bool {
	p := c.byPrefix[r.Prefix]
	return p != nil && p.res != nil
}
