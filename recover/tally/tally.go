// Package tally groups objects by one or several texts and adds them up, in
// bounded memory. It does no I/O.
//
// Its invariant: what Total says is exact, whatever was added. Every group is
// exact too, up to two million groups or about 80 MiB (Limits). At either bound
// the smaller half of the groups is merged into one rest, of which Merged
// tells, and from then on the figures of groups are approximate, much as in
// lossy counting (Manku and Motwani, VLDB 2002):
//
//   - never too high: a group's figures are at most what was added to it;
//   - too low by at most what Shortfall says, the sum over all merges of the
//     largest figure that was merged;
//   - a group of more objects, or of more bytes, than Shortfall is there;
//   - the groups that are there and the rest add up to Total.
//
// Shortfall is small as long as few groups are large, as in every flood of
// objects with owners of their own. There is no bound on it for other input:
// groups of nearly the same size may be merged one after another.
//
// How small it is: a group costs 8 bytes, 5 bytes of index, 4 bytes while the
// groups are sorted, and its texts. Texts, and beginnings of texts up to a
// separator, that occur in several groups are kept once; names made by a
// controller so cost their random end. Two million groups are exact as long as
// their texts, less what they share, are shorter than 23 bytes on average.
package tally

import (
	"cmp"
	"slices"
)

const (
	defaultGroups = 2_000_000
	defaultBytes  = 80 << 20
	minBytes      = 1 << 20
)

// Limits bound a Table.
type Limits struct {
	Groups int   // at most so many; 0 is 2,000,000
	Bytes  int64 // of memory, about; 0 is 80 MiB, at least 1 MiB, at most 128 MiB
}

func (l Limits) orDefault() Limits {
	if l.Groups <= 0 {
		l.Groups = defaultGroups
	}
	if l.Bytes <= 0 {
		l.Bytes = defaultBytes
	}
	l.Bytes = min(max(l.Bytes, minBytes), maxArena)
	return l
}

// Group is the objects that have the same texts.
type Group struct {
	By      []string
	Objects int64
	Bytes   int64
}

// Merged is the rest: what was taken out of the table to keep it small.
type Merged struct {
	Groups  int64 // a group that came back and was merged again is counted again
	Objects int64
	Bytes   int64
}

// Table counts groups. It is not safe for concurrent use.
type Table struct {
	columns int
	limits  Limits
	store   store

	objects, bytes           int64
	merged                   Merged
	shortObjects, shortBytes int64
}

// New returns an empty table of groups with so many texts each.
func New(columns int, l Limits) *Table {
	l = l.orDefault()
	return &Table{columns: columns, limits: l, store: newStore(columns, l)}
}

// Add adds objects and their bytes to the group of these texts, of which there
// must be one for each column. It copies what it keeps, and allocates nothing for a group that is
// there. Negative numbers count as none.
func (t *Table) Add(by []string, objects, bytes int64) {
	objects, bytes = max(objects, 0), max(bytes, 0)
	t.objects += objects
	t.bytes += bytes
	by = by[:t.columns]
	h := t.store.hash(by)
	at := t.store.find(h, by)
	if at == 0 {
		if !t.makeRoom(by) {
			t.rest(objects, bytes)
			return
		}
		at = t.store.insert(h, by)
	}
	t.store.count(at, objects, bytes)
}

// makeRoom merges groups until one more fits, or reports that it never will.
func (t *Table) makeRoom(by []string) bool {
	record, kept := t.store.need(by)
	if record > chunkSize-counters || kept > t.limits.Bytes/4 {
		return false
	}
	for t.store.n >= t.limits.Groups || t.store.size(record)+kept > t.limits.Bytes {
		if t.store.n == 0 {
			return false
		}
		t.merge()
		if t.store.size(record)+kept > t.limits.Bytes {
			t.store.release()
		}
	}
	return true
}

// rest counts a group that is not kept.
func (t *Table) rest(objects, bytes int64) {
	t.merged.Groups++
	t.merged.Objects += objects
	t.merged.Bytes += bytes
	t.shortObjects += objects
	t.shortBytes += bytes
}

// Len is the number of groups, without the rest.
func (t *Table) Len() int { return t.store.n }

// Total is all that was added, exactly.
func (t *Table) Total() (objects, bytes int64) { return t.objects, t.bytes }

// Merged is the rest. If it holds groups, the figures of all groups are
// approximate.
func (t *Table) Merged() Merged { return t.merged }

// Shortfall is by how much the figures of a group may be too low: 0 as long as
// nothing was merged.
func (t *Table) Shortfall() (objects, bytes int64) { return t.shortObjects, t.shortBytes }

// ByObjects orders groups: most objects first, then by their texts.
func ByObjects(a, b Group) int {
	return cmp.Or(cmp.Compare(b.Objects, a.Objects), slices.Compare(a.By, b.By))
}

// ByBytes orders groups: most bytes first, then by their texts.
func ByBytes(a, b Group) int {
	return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), slices.Compare(a.By, b.By))
}
