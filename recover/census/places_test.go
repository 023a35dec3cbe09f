package census

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// TestRangesCoverTheWhole: places and gaps follow each other without a hole
// and without overlap, and so do the namespaces of a place and their gaps, at
// every level.
func TestRangesCoverTheWhole(t *testing.T) {
	t.Parallel()
	c := &counter{prefix: "/registry/", whole: keyspace.Prefix("/registry/"), byPrefix: map[string]*place{}}
	for _, r := range codec.NewCatalog().Resources() {
		c.place(r.Prefix, r, r.Namespaced)
	}
	for i, prefix := range []string{"pods.example.com/a/", "pods.example.com/a-b/", "a.b/c/", "z.z/z/"} {
		c.place(prefix, nil, i%2 == 0)
	}
	slices.SortFunc(c.places, func(a, b *place) int { return cmp.Compare(a.Start, b.Start) })
	c.namespaces = []string{"a", "a-b", "a.b", "a0", "team", "team-x", "z"}
	for i := range 300 {
		c.namespaces = append(c.namespaces, fmt.Sprintf("ns-%d", i))
	}
	slices.SortFunc(c.namespaces, func(a, b string) int { return strings.Compare(a+"/", b+"/") })
	top := c.between()
	for _, p := range c.places {
		top = append(top, p.Range)
		checkNode(t, c, node{p, 0, len(c.namespaces), 3})
		checkNode(t, c, node{p, 0, len(c.namespaces), unknownCount})
	}
	covers(t, c.whole, top)
}

func checkNode(t *testing.T, c *counter, n node) {
	t.Helper()
	parts := c.parts(n)
	if parts == n.to-n.from {
		ranges := c.gapsOf(n)
		for _, namespace := range c.namespaces[n.from:n.to] {
			ranges = append(ranges, n.of(namespace))
		}
		covers(t, c.span(n), ranges)
		return
	}
	var ranges []keyspace.Range
	for i := range parts {
		child := n.child(i, parts)
		child.count = 1
		ranges = append(ranges, c.span(child))
		checkNode(t, c, child)
	}
	covers(t, c.span(n), ranges)
}

func covers(t *testing.T, whole keyspace.Range, ranges []keyspace.Range) {
	t.Helper()
	slices.SortFunc(ranges, func(a, b keyspace.Range) int { return cmp.Compare(a.Start, b.Start) })
	at := whole.Start
	for _, r := range ranges {
		if r.Start != at || r.End <= r.Start {
			t.Fatalf("after %q comes %q", at, r)
		}
		at = r.End
	}
	if at != whole.End {
		t.Fatalf("%q ends at %q", whole, at)
	}
}
