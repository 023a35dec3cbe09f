// Package heat tells what is written most: it watches a store for a while from
// now on, and counts the writes of each key and of each place above it.
//
// It only watches: it never writes, never watches from an earlier revision,
// and asks for no previous values, so that etcd does no more than send each
// event once. Its invariant: memory is bounded whatever is written, and every
// write that was received is counted, if not to its key then to a place above
// it.
package heat

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// Op is what a write did to its key.
type Op int

// The operations.
const (
	Create Op = iota
	Update
	Delete
)

// Write is one change of one key.
type Write struct {
	Op    Op
	Bytes int64  // of the value, 0 for a delete
	By    string // who wrote, "" if nothing tells
}

// Writes adds up writes.
type Writes struct{ Creates, Updates, Deletes, Bytes int64 }

// Total is the number of writes.
func (w Writes) Total() int64 { return w.Creates + w.Updates + w.Deletes }

func (w *Writes) add(o Writes) {
	w.Creates += o.Creates
	w.Updates += o.Updates
	w.Deletes += o.Deletes
	w.Bytes += o.Bytes
}

func (w Write) writes() Writes {
	switch w.Op {
	case Create:
		return Writes{Creates: 1, Bytes: w.Bytes}
	case Delete:
		return Writes{Deletes: 1}
	}
	return Writes{Updates: 1, Bytes: w.Bytes}
}

const (
	// defaultKeys and keyBytes bound what a sample holds of keys, about 60 MiB
	// in all.
	defaultKeys = 1 << 17
	keyBytes    = 24 << 20
	// places is how many prefixes are counted beside the keys, for the
	// writes of keys that found no room.
	places = 1 << 14
	// writers is how many names of writers are told apart, and writerBytes
	// how long one may be: kube-apiserver allows 128.
	writers     = 1 << 12
	writerBytes = 128
	// deepest is how many levels a tree has below its root.
	deepest = 4
)

// Levels cuts a key into the places above it: the lengths of the prefixes of
// key that are levels of the tree, ascending, without the whole key. At most
// the first three count. Keys with a prefix in common must be cut alike.
type Levels func(key string) []int

// spot is a key, or a place above keys, and what was counted to it.
type spot struct {
	path   string
	ends   [deepest]int32 // of the levels; the last one that is not 0 is len(path)
	place  bool
	last   string // who wrote last
	writes Writes
}

func (s *spot) level(i int) (prefix string, ok bool) {
	if i >= deepest || s.ends[i] == 0 {
		return "", false
	}
	return s.path[:s.ends[i]], true
}

// Sample counts writes. It is not safe for concurrent use.
type Sample struct {
	levels Levels
	most   int
	keys   map[string]*spot
	places map[string]*spot
	names  map[string]string // of writers, so that each is kept once
	bytes  int
	rest   Writes // of keys that found no room at all
	beyond int64  // writes that are not counted to their key
	total  Writes

	took  time.Duration
	whole bool
}

// NewSample returns an empty sample that tells at most so many keys apart, with
// 0 about 131,000; further keys are counted to the place above them.
func NewSample(keys int, levels Levels) *Sample {
	return &Sample{
		levels: levels, most: cmp.Or(keys, defaultKeys),
		keys: map[string]*spot{}, places: map[string]*spot{}, names: map[string]string{},
	}
}

// Add counts one write. It keeps no reference to key.
func (s *Sample) Add(key []byte, w Write) {
	n := w.writes()
	s.total.add(n)
	spot := s.find(key)
	if spot == nil {
		s.beyond++
		s.rest.add(n)
		return
	}
	if spot.place {
		s.beyond++
	}
	spot.writes.add(n)
	if w.By != "" {
		spot.last = s.name(w.By)
	}
}

// find returns where a write of key is counted: at the key, else at the lowest
// place above it that has room, else nil.
func (s *Sample) find(key []byte) *spot {
	if spot := s.keys[string(key)]; spot != nil {
		return spot
	}
	room := len(s.keys) < s.most && s.bytes+len(key) <= keyBytes
	if !room && len(s.places) == places {
		return s.knownPlace(key)
	}
	// Only what is going to be kept is copied; it may be as long as etcd allows.
	ends := s.cut(string(key))
	if room {
		spot := &spot{path: string(key)}
		spot.ends = ends
		s.keys[spot.path] = spot
		s.bytes += len(key)
		return spot
	}
	return s.placeOf(key, ends)
}

// cut returns the levels of a key, with the key as the last one.
func (s *Sample) cut(key string) (ends [deepest]int32) {
	n, last := 0, 0
	for _, end := range s.levels(key) {
		if n < deepest-1 && end > last && end < len(key) {
			ends[n], last = int32(end), end
			n++
		}
	}
	ends[n] = int32(len(key))
	return ends
}

// placeOf returns the lowest place above key that exists or finds room.
func (s *Sample) placeOf(key []byte, ends [deepest]int32) *spot {
	for i := deepest - 1; i >= 0; i-- {
		end := int(ends[i])
		if end == 0 || end == len(key) {
			continue
		}
		if found := s.places[string(key[:end])]; found != nil {
			return found
		}
		if len(s.places) < places && s.bytes+end <= 2*keyBytes {
			found := &spot{path: string(key[:end]), place: true}
			copy(found.ends[:], ends[:i+1])
			s.places[found.path] = found
			s.bytes += end
			return found
		}
	}
	return nil
}

func (s *Sample) knownPlace(key []byte) *spot {
	ends := s.cut(string(key))
	for i := deepest - 1; i >= 0; i-- {
		if found := s.places[string(key[:ends[i]])]; found != nil {
			return found
		}
	}
	return nil
}

// name returns a writer's name, cut and kept once.
func (s *Sample) name(by string) string {
	by = by[:min(len(by), writerBytes)]
	if known, ok := s.names[by]; ok {
		return known
	}
	if len(s.names) == writers {
		return ""
	}
	by = strings.Clone(by)
	s.names[by] = by
	return by
}

// Total adds up everything.
func (s *Sample) Total() Writes { return s.total }

// Keys is how many keys were told apart, and Beyond how many writes were
// counted to a place above their key only.
func (s *Sample) Keys() int { return len(s.keys) }

// Beyond is described at Keys.
func (s *Sample) Beyond() int64 { return s.beyond }

// Took is how long the writes were counted.
func (s *Sample) Took() time.Duration { return s.took }

// Whole reports whether etcd has said that it had sent everything that was
// written until the sample was taken. One that hangs does not, and not every
// kine can.
func (s *Sample) Whole() bool { return s.whole }

// Node is a place or a key in the tree of what was written.
type Node struct {
	Path string // "" for the root
	Key  bool   // it is a key, and not a place above keys
	Keys int64  // that are told apart in it
	Writes
	By     string // who wrote most of it, as far as the last writes of its keys tell
	Below  []*Node
	Others *Node // the rest of what is below, nil if there is none
}

// Tree returns what was written as a tree, the hottest first. A place or a key
// is shown if its share of all writes is at least that, from 0 to 1, and of
// those below one place at most so many.
func (s *Sample) Tree(share float64, most int) *Node {
	spots := slices.AppendSeq(slices.Collect(maps.Values(s.keys)), maps.Values(s.places))
	t := tree{least: share * float64(s.total.Total()), most: most}
	root := t.node("", spots, 0)
	if s.rest.Total() > 0 {
		root.add(s.rest)
		if root.Others == nil {
			root.Others = &Node{}
		}
		root.Others.add(s.rest)
	}
	return root
}

type tree struct {
	least float64
	most  int
}

// node makes the node of path out of what lies in it, at a level.
func (t tree) node(path string, spots []*spot, level int) *Node {
	n := &Node{Path: path}
	below := map[string][]*spot{}
	var here []*spot // counted to this place itself
	for _, s := range spots {
		if prefix, ok := s.level(level); ok {
			below[prefix] = append(below[prefix], s)
		} else {
			here = append(here, s)
		}
	}
	n.sum(spots)
	n.Key = len(spots) == 1 && !spots[0].place && spots[0].path == path
	var small []*spot
	for prefix, inside := range below {
		if count := sum(inside).Total(); float64(count) < t.least || count == 0 {
			small = append(small, inside...)
		} else {
			n.Below = append(n.Below, t.node(prefix, inside, level+1))
		}
	}
	slices.SortFunc(n.Below, func(a, b *Node) int {
		return cmp.Or(cmp.Compare(b.Total(), a.Total()), cmp.Compare(a.Path, b.Path))
	})
	for t.most > 0 && len(n.Below) > t.most {
		last := n.Below[len(n.Below)-1]
		small = append(small, below[last.Path]...)
		n.Below = n.Below[:len(n.Below)-1]
	}
	if small = append(small, here...); len(small) > 0 && !n.Key {
		n.Others = &Node{}
		n.Others.sum(small)
	}
	return n
}

func sum(spots []*spot) (w Writes) {
	for _, s := range spots {
		w.add(s.writes)
	}
	return w
}

// sum fills in what spots add up to.
func (n *Node) sum(spots []*spot) {
	by := map[string]int64{}
	for _, s := range spots {
		n.add(s.writes)
		if !s.place {
			n.Keys++
		}
		if s.last != "" {
			by[s.last] += s.writes.Total()
		}
	}
	var most int64
	for name, count := range by {
		if count > most || count == most && name < n.By {
			n.By, most = name, count
		}
	}
}

func (n *Node) add(w Writes) { n.Writes.add(w) }
