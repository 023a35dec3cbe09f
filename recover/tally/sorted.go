package tally

import (
	"cmp"
	"iter"
	"slices"
)

// runLen groups are sorted at a time: few enough for the processor's cache.
const runLen = 1 << 13

// Sorted yields the first most groups in the order of cmp, or with most 0 all
// of them. Groups that cmp does not tell apart come in the order in which they
// were added. By is valid until the next iteration only: clone what is kept,
// also the texts. Nothing may be added meanwhile. It takes 4 bytes a group and
// a few MiB.
func (t *Table) Sorted(cmp func(a, b Group) int, most int) iter.Seq[Group] {
	return func(yield func(Group) bool) {
		if most <= 0 {
			most = t.store.n
		}
		runs := t.runs(cmp, most)
		for i := len(runs)/2 - 1; i >= 0; i-- {
			sift(runs, i, cmp)
		}
		for range most {
			if len(runs) == 0 || !yield(runs[0].head) {
				return
			}
			if !t.advance(runs[0]) {
				runs[0] = runs[len(runs)-1]
				runs = runs[:len(runs)-1]
			}
			sift(runs, 0, cmp)
		}
	}
}

// run is a part of the groups, in order.
type run struct {
	rest []uint32 // behind the head
	at   uint32   // of the head
	head Group
	view *view
}

// runs sorts the groups part by part, and keeps the first most of each.
func (t *Table) runs(cmp func(a, b Group) int, most int) []*run {
	var runs []*run
	order := make([]uint32, 0, t.store.n)
	b := newBatch(&t.store)
	flush := func() {
		from := len(order)
		order = b.sorted(order, cmp, most)
		r := &run{rest: order[from:], view: t.store.newView()}
		if t.advance(r) {
			runs = append(runs, r)
		}
	}
	t.store.each(func(at uint32, _ []byte) {
		if b.add(at) {
			flush()
		}
	})
	flush()
	return runs
}

func (t *Table) advance(r *run) bool {
	if len(r.rest) == 0 {
		return false
	}
	r.at, r.rest = r.rest[0], r.rest[1:]
	r.head = t.store.group(r.at, r.view)
	return true
}

func (s *store) group(at uint32, v *view) Group {
	f := s.figures(at, s.record(at))
	return Group{By: s.texts(at, v), Objects: f.objects, Bytes: f.bytes}
}

// sift moves the run at i down the heap to its place.
func sift(runs []*run, i int, cmp func(a, b Group) int) {
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(runs); child++ {
			if before(runs[child], runs[least], cmp) {
				least = child
			}
		}
		if least == i {
			return
		}
		runs[i], runs[least] = runs[least], runs[i]
		i = least
	}
}

func before(a, b *run, cmp func(a, b Group) int) bool {
	c := cmp(a.head, b.head)
	return c < 0 || c == 0 && a.at < b.at
}

// batch puts a part of the groups together for sorting.
type batch struct {
	store  *store
	places []uint32
	groups []placed
	views  []view
}

type placed struct {
	at uint32
	Group
}

func newBatch(s *store) *batch {
	size := min(s.n, runLen)
	b := &batch{store: s, places: make([]uint32, 0, size), groups: make([]placed, 0, size), views: make([]view, size)}
	by := make([]string, size*s.columns)
	for i := range b.views {
		b.views[i].by = by[i*s.columns : (i+1)*s.columns]
	}
	return b
}

// add takes in a group and reports whether the batch is full.
func (b *batch) add(at uint32) bool {
	b.places = append(b.places, at)
	return len(b.places) == runLen
}

// sorted appends where the first most groups of the batch are, and empties it.
func (b *batch) sorted(order []uint32, compare func(a, b Group) int, most int) []uint32 {
	b.groups = b.groups[:0]
	for i, at := range b.places {
		b.groups = append(b.groups, placed{at, b.store.group(at, &b.views[i])})
	}
	b.places = b.places[:0]
	slices.SortFunc(b.groups, func(x, y placed) int {
		return cmp.Or(compare(x.Group, y.Group), cmp.Compare(x.at, y.at))
	})
	for _, g := range b.groups[:min(most, len(b.groups))] {
		order = append(order, g.at)
	}
	return order
}
