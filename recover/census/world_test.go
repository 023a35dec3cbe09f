package census_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/census"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

const (
	prefix = "/registry/"
	crds   = prefix + "apiextensions.k8s.io/customresourcedefinitions/"
)

// keys is a source over a sorted list of keys that adds up what an etcd would
// do for it.
type keys struct {
	all     []string
	rev     int64
	visits  int64 // keys that an index walk passes
	ranges  int   // that were counted
	read    int   // keys
	crooked bool  // counts one too few of every range but the first
	asked   []keyspace.Range
}

func world(all ...string) *keys {
	slices.Sort(all)
	return &keys{all: slices.Compact(all), rev: 7}
}

func (s *keys) within(r keyspace.Range) []string {
	lo, hi := sort.SearchStrings(s.all, r.Start), sort.SearchStrings(s.all, r.End)
	return s.all[lo:max(lo, hi)]
}

func (s *keys) Revision() int64 { return s.rev }

func (s *keys) Scan(_ context.Context, r keyspace.Range, keysOnly bool, fn func(*mvccpb.KeyValue) error) error {
	if !keysOnly {
		return fmt.Errorf("the values of %q are read", r)
	}
	for _, key := range s.within(r) {
		s.visits++
		s.read++
		if err := fn(&mvccpb.KeyValue{Key: []byte(key)}); err != nil {
			return err
		}
	}
	return nil
}

func (s *keys) CountAll(_ context.Context, ranges []keyspace.Range) ([]int64, error) {
	counts := make([]int64, len(ranges))
	for i, r := range ranges {
		counts[i] = int64(len(s.within(r)))
		s.visits += counts[i]
		if s.crooked && s.ranges > 0 && counts[i] > 0 {
			counts[i]--
		}
		s.ranges++
		s.asked = append(s.asked, r)
	}
	return counts, nil
}

func (s *keys) Count(context.Context, keyspace.Range) (int64, error) {
	return 0, fmt.Errorf("counted singly")
}

func (s *keys) Get(context.Context, string) (*mvccpb.KeyValue, error) {
	return nil, fmt.Errorf("a value is read")
}

func (s *keys) GetAll(context.Context, []string) (map[string]*mvccpb.KeyValue, error) {
	return nil, fmt.Errorf("values are read")
}

func reader(c *codec.Catalog) *codec.Reader { return &codec.Reader{Catalog: c, Prefix: prefix} }

func take(t *testing.T, req census.Request) *census.Census {
	t.Helper()
	got, err := census.Take(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// plain is the census of a loop over all keys.
func plain(c *codec.Catalog, all []string) []census.Cell {
	known, exists := map[string]*codec.Resource{}, map[string]bool{}
	for _, r := range c.Resources() {
		known[r.Prefix] = r
	}
	for _, key := range all {
		if name, ok := strings.CutPrefix(key, prefix+"namespaces/"); ok {
			exists[name] = true
		}
	}
	counts := map[census.Cell]int64{}
	for _, key := range all {
		rest, ok := strings.CutPrefix(key, prefix)
		if !ok {
			continue
		}
		cell := census.Cell{}
		if k, ok := c.ParseKey(prefix, key); ok {
			cell = census.Cell{Resource: known[k.Resource.Prefix], Namespace: k.Namespace, Orphaned: k.Namespace != "" && !exists[k.Namespace]}
			if cell.Resource == nil {
				cell.Prefix = k.Resource.Prefix
			}
		} else {
			cell.Prefix = placeName(known, rest)
		}
		counts[cell]++
	}
	var cells []census.Cell
	for cell, n := range counts {
		cell.Objects = n
		cells = append(cells, cell)
	}
	sortCells(cells)
	return cells
}

// placeName is what a key that is no object's is counted under.
func placeName(known map[string]*codec.Resource, rest string) string {
	s := strings.SplitAfter(rest, "/")
	if len(s) < 2 {
		return ""
	}
	if len(s) > 2 && (known[s[0]+s[1]] != nil || strings.Contains(s[0], ".")) {
		return s[0] + s[1]
	}
	return s[0]
}

func sortCells(cells []census.Cell) {
	name := func(c census.Cell) string {
		if c.Resource == nil {
			return "\xff"
		}
		return c.Resource.String()
	}
	slices.SortFunc(cells, func(a, b census.Cell) int {
		return cmp.Or(cmp.Compare(name(a), name(b)), cmp.Compare(a.Prefix, b.Prefix), cmp.Compare(a.Namespace, b.Namespace))
	})
}

// text makes cells readable.
func text(cells []census.Cell) (lines []string) {
	for _, c := range cells {
		name := "?" + c.Prefix
		if c.Resource != nil {
			name = c.Resource.String() + c.Prefix
		}
		lines = append(lines, fmt.Sprintf("%s %q %d orphaned=%v", name, c.Namespace, c.Objects, c.Orphaned))
	}
	return lines
}

// compare checks a census against the plain loop.
func compare(t *testing.T, c *codec.Catalog, got *census.Census, all []string) {
	t.Helper()
	want, have := text(plain(c, all)), text(got.Cells)
	if !slices.Equal(want, have) {
		for _, line := range want {
			if !slices.Contains(have, line) {
				t.Errorf("missing: %s", line)
			}
		}
		for _, line := range have {
			if !slices.Contains(want, line) {
				t.Errorf("too much: %s", line)
			}
		}
		t.Error("the cells are not those of a loop over all keys, or not in order")
	}
	if got.Sum != got.Total {
		t.Errorf("sum %d, total %d", got.Sum, got.Total)
	}
}
