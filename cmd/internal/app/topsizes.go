package app

import (
	"cmp"
	"container/heap"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// sizeSum adds up objects of a kind or a namespace.
type sizeSum struct {
	name    string
	objects int64
	bytes   int64
	managed int64 // bytes of managedFields
	of      int64 // bytes of the objects whose managedFields can be read
	unknown int64 // objects whose managedFields cannot be read
}

func (s *sizeSum) add(bytes, managed int64) {
	s.objects++
	s.bytes += bytes
	if managed < 0 {
		s.unknown++
		return
	}
	s.managed += managed
	s.of += bytes
}

// sizeGroups adds up by name, in bounded memory: names that are first met when
// there is no more room, or that are too long, go into one sum of their own.
type sizeGroups struct {
	by   map[string]*sizeSum
	rest sizeSum
}

const (
	// maxSizeGroups is more than any cluster has namespaces.
	maxSizeGroups = 100_000
	// longestName is more than two names of 253 bytes, the most that
	// Kubernetes allows. etcd would take a key of a megabyte.
	longestName = 1024
)

func (g *sizeGroups) add(name string, bytes, managed int64) {
	sum := g.by[name]
	if sum == nil {
		if len(g.by) == maxSizeGroups || len(name) > longestName {
			g.rest.add(bytes, managed)
			return
		}
		name = strings.Clone(name) // it may be a part of a long key
		sum = &sizeSum{name: name}
		g.by[name] = sum
	}
	sum.add(bytes, managed)
}

// sorted returns the sums, the largest first.
func (g *sizeGroups) sorted() []*sizeSum {
	sums := slices.SortedFunc(maps.Values(g.by), func(a, b *sizeSum) int {
		return cmp.Or(cmp.Compare(b.bytes, a.bytes), cmp.Compare(a.name, b.name))
	})
	if g.rest.objects > 0 {
		g.rest.name = "<others>"
		sums = append(sums, &g.rest)
	}
	return sums
}

// sizedObject is one of the largest objects. managed is -1 if its
// managedFields cannot be read.
type sizedObject struct {
	foundObject
	bytes, managed int64
}

// largest is a heap of the largest objects, the smallest of them on top.
type largest []sizedObject

func (l largest) Len() int           { return len(l) }
func (l largest) Less(i, j int) bool { return l[i].order(l[j]) > 0 }
func (l largest) Swap(i, j int)      { l[i], l[j] = l[j], l[i] }
func (l *largest) Push(x any)        { *l = append(*l, x.(sizedObject)) }
func (l *largest) Pop() any {
	last := (*l)[len(*l)-1]
	*l = (*l)[:len(*l)-1]
	return last
}

// order puts the larger object first.
func (a sizedObject) order(b sizedObject) int {
	return cmp.Or(cmp.Compare(b.bytes, a.bytes), cmp.Compare(a.key, b.key))
}

func (l *largest) offer(o filter.Object, managed int64, most int) {
	if len(*l) == most && o.Size < (*l)[0].bytes {
		return
	}
	found := sizedObject{foundOf(o), o.Size, managed}
	if len(*l) < most {
		heap.Push(l, found)
	} else if found.order((*l)[0]) < 0 {
		(*l)[0] = found
		heap.Fix(l, 0)
	}
}

// sizes is what top sizes finds.
type sizes struct {
	scan       topScan
	total      sizeSum
	largest    largest
	resources  sizeGroups
	namespaces sizeGroups
}

// managedBytes returns -1 for a value that cannot be read.
func managedBytes(o filter.Object) int64 {
	if o.Head.Err != nil {
		return -1
	}
	info, err := codec.Managed(o.Plain)
	if err != nil {
		return -1
	}
	return info.Bytes
}

// showSizes reads everything that is selected and shows what is large in at
// most so many lines, with 0 as many as there are.
func (s *session) showSizes(ctx context.Context, rows int) error {
	r := &sizes{resources: sizeGroups{by: map[string]*sizeSum{}}, namespaces: sizeGroups{by: map[string]*sizeSum{}}}
	most := s.inv.Int(flagLimit)
	r.scan = topScan{s: s, each: func(o filter.Object) {
		managed := managedBytes(o)
		r.total.add(o.Size, managed)
		r.largest.offer(o, managed, most)
		r.resources.add(resourceName(&o), o.Size, managed)
		r.namespaces.add(cmp.Or(o.Key.Namespace, none), o.Size, managed)
	}}
	if err := r.scan.all(ctx, s.inv.args[1:]); err != nil {
		return err
	}
	slices.SortFunc(r.largest, sizedObject.order)
	r.scan.survey.say(s.inv)
	if f := s.inv.format(); f == formatJSON || f == formatYAML {
		if err := s.inv.document(r.document()); err != nil {
			return err
		}
		return r.scan.verdict()
	}
	if err := r.tables(s.inv, rows); err != nil {
		return err
	}
	return r.scan.verdict()
}

// tables shows three tables. In limited space each gets a third.
func (r *sizes) tables(inv *invocation, rows int) error {
	const titles, gaps = 3, 2
	most := inv.Int(flagLimit)
	if rows > 0 {
		most = max(min(most, (rows-titles-gaps-1)/3), 1)
	}
	if r.total.objects == 0 {
		inv.say("no objects found in %s", r.scan.s.describe())
		return nil
	}
	t := inv.table()
	t.Header("BYTES", "MANAGED", "SHARE", "OBJECT")
	for _, o := range r.largest[:min(most, len(r.largest))] {
		t.Row(append(inv.sizeCells(o.bytes, max(o.managed, 0), o.bytes, o.managed < 0), o.name)...)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	sections := []struct {
		title string
		sums  []*sizeSum
	}{{"RESOURCE", r.resources.sorted()}, {"NAMESPACE", r.namespaces.sorted()}}
	for _, section := range sections {
		if err := inv.sizeTable(section.title, section.sums, most, r.total); err != nil {
			return err
		}
	}
	for _, section := range sections {
		inv.moreLines(len(section.sums)-most, most, "more "+strings.ToLower(section.title))
	}
	if r.total.unknown > 0 {
		inv.say("note: managedFields are not known of %s; shares are of the others", objects(r.total.unknown))
	}
	return nil
}

// sizeTable shows sums; the second one ends with that of everything.
func (inv *invocation) sizeTable(title string, sums []*sizeSum, most int, total sizeSum) error {
	t := inv.table()
	t.Row()
	t.Header("BYTES", "MANAGED", "SHARE", "OBJECTS", title)
	row := func(s *sizeSum, name string) {
		t.Row(append(inv.sizeCells(s.bytes, s.managed, s.of, s.unknown == s.objects), inv.number(s.objects), name)...)
	}
	for _, s := range sums[:min(most, len(sums))] {
		row(s, s.name)
	}
	if title == "NAMESPACE" {
		row(&total, "TOTAL")
	}
	return t.Flush()
}

// sizeCells are the size, that of managedFields, and their share of what they
// could be read of.
func (inv *invocation) sizeCells(bytes, managed, of int64, unknown bool) []string {
	if unknown {
		return []string{inv.size(bytes), unknownCell, unknownCell}
	}
	return []string{inv.size(bytes), inv.size(managed), percent(managed, of)}
}

const unknownCell = "?"

func (r *sizes) document() map[string]any {
	found := []any{}
	for _, o := range r.largest {
		entry := o.document(map[string]any{"bytes": o.bytes, "managedBytes": o.managed})
		if o.managed < 0 {
			entry["managedBytes"] = nil
		}
		found = append(found, entry)
	}
	doc := map[string]any{
		"version": 1, "kind": "topSizes", "revision": r.scan.revision,
		"largest": found, "resources": sumDocuments(r.resources.sorted()), "namespaces": sumDocuments(r.namespaces.sorted()),
		"objects": r.total.objects, "bytes": r.total.bytes, "managedBytes": r.total.managed, "managedOf": r.total.of, "managedUnknown": r.total.unknown,
		"undecided": r.scan.undecided,
	}
	r.scan.survey.document(doc)
	delete(doc, "outside") // not looked for
	return doc
}

func sumDocuments(sums []*sizeSum) []any {
	list := []any{}
	for _, s := range sums {
		entry := map[string]any{"name": s.name, "objects": s.objects, "bytes": s.bytes, "managedBytes": s.managed, "managedOf": s.of, "managedUnknown": s.unknown}
		if s.name == none {
			entry["name"] = nil
		}
		list = append(list, entry)
	}
	return list
}
