package plan

import (
	"strings"

	"github.com/etcd-rescue/etcd-rescue/recover/tally"
)

// Tally counts objects by some property. Its memory is bounded: up to 200,000
// names are exact, less if they are long; beyond that the smallest are taken
// together and the counts are approximate. The zero Tally is empty.
type Tally struct{ table *tally.Table }

const (
	// tallyNames is enough for what people look at: the largest.
	tallyNames = 200_000
	// tallyBytes of memory, about. A Summary has seven Tallies.
	tallyBytes = 7 << 19
)

// Share is one line of a Tally.
type Share struct {
	Name  string `json:"name"`
	Count int64  `json:"count"`
}

// Rest is what a list of shares leaves out.
type Rest struct {
	Names int64 `json:"names"`
	Count int64 `json:"count"` // of objects
	// Approximate says that there were too many names to count each: Names
	// may be too high, and a share too low by at most Shortfall.
	Approximate bool  `json:"approximate,omitempty"`
	Shortfall   int64 `json:"shortfall,omitempty"`
}

// Add counts one object.
func (t *Tally) Add(name string) {
	if t.table == nil {
		t.table = tally.New(1, tally.Limits{Groups: tallyNames, Bytes: tallyBytes})
	}
	by := [1]string{name}
	t.table.Add(by[:], 1, 0)
}

// Empty reports whether nothing was counted.
func (t Tally) Empty() bool { return t.table == nil }

// Largest returns the first most shares, or all with most 0, the largest first
// and equal ones by name, and what that leaves out.
func (t Tally) Largest(most int) ([]Share, Rest) {
	shares := []Share{}
	if t.table == nil {
		return shares, Rest{}
	}
	total, _ := t.table.Total()
	merged := t.table.Merged()
	short, _ := t.table.Shortfall()
	rest := Rest{Names: int64(t.table.Len()) + merged.Groups, Count: total, Approximate: merged.Groups > 0, Shortfall: short}
	for g := range t.table.Sorted(tally.ByObjects, most) {
		shares = append(shares, Share{strings.Clone(g.By[0]), g.Objects})
		rest.Names--
		rest.Count -= g.Objects
	}
	return shares, rest
}
