package snapshots

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
)

// sortable is a place, and eight bytes of its key as a number of the same order.
type sortable struct {
	window uint64
	at     place
}

const (
	windowBytes = 8
	// So many keys, or keys of so many bytes, are copied to be sorted.
	copiedKeys  = 1 << 15
	copiedBytes = 4 << 20
)

// sort lists the places of some keys in the order of the keys. Keys stay in the file: eight bytes of each, from where
// they begin to differ, make groups, until the keys of one group are few enough to be copied.
func (f *File) sort(ctx context.Context, all []sortable, odd bool) ([]place, error) {
	// Neighbours in the file are neighbours in memory.
	slices.SortFunc(all, func(a, b sortable) int { return cmp.Compare(a.at, b.at) })
	s := &sorter{f: f, ctx: ctx, odd: odd, mem: make([]byte, 0, copiedBytes), few: make([]copied, 0, min(len(all), copiedKeys))}
	if err := guard(f.path, func() error { return s.sort(all, 0) }); err != nil {
		return nil, err
	}
	places := make([]place, len(all))
	for i, e := range all {
		places[i] = e.at
	}
	return places, nil
}

// sorter runs under guard, and keeps nothing of the mapped file.
type sorter struct {
	f   *File
	ctx context.Context
	odd bool
	// Empty; their capacity bounds what is copied.
	mem []byte
	few []copied
}

// copied is a key that was copied to mem, but for what the whole group has in common.
type copied struct {
	sortable
	key  []byte
	size int // of the whole key
}

// sort sorts keys that agree in their first depth bytes, where a shorter key counts as followed by zeros. A key that
// is deep in recursion is as long, so that their depth is at most the square root of the size of the file.
func (s *sorter) sort(group []sortable, depth int) error {
	if len(group) < 2 {
		return nil
	}
	if ok, err := s.sortFew(group, depth); ok || err != nil {
		return err
	}
	if err := s.ctx.Err(); err != nil {
		return fmt.Errorf("read %q: %w", s.f.path, err)
	}
	depth, done, err := s.windows(group, depth)
	if err != nil {
		return err
	}
	slices.SortFunc(group, func(a, b sortable) int { return cmp.Compare(a.window, b.window) })
	for from := 0; from < len(group) && !done; {
		to := from + 1
		for to < len(group) && group[to].window == group[from].window {
			to++
		}
		if err := s.sort(group[from:to], depth+windowBytes); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// windows fills the windows with what follows after the longest common prefix, which ends at the depth it returns. It
// is done when no key goes on from there: they differ in the number of final zeros only, so that is their window.
func (s *sorter) windows(group []sortable, depth int) (at int, done bool, err error) {
	first, err := s.view(group[0].at)
	if err != nil {
		return 0, false, err
	}
	longest := len(first)
	first = first[min(depth, len(first)):]
	for _, e := range group {
		key, err := s.view(e.at)
		if err != nil {
			return 0, false, err
		}
		longest = max(longest, len(key))
		first = first[:commonPrefix(first, key[min(depth, len(key)):])]
	}
	at = depth + len(first)
	for i := range group {
		key, err := s.view(group[i].at)
		if err != nil {
			return 0, false, err
		}
		if group[i].window = uint64(len(key)); longest > at {
			group[i].window = window(key, at)
		}
	}
	return at, longest <= at, nil
}

// commonPrefix is how many first bytes a and b have in common.
func commonPrefix(a, b []byte) int {
	n := min(len(a), len(b))
	if bytes.Equal(a[:n], b[:n]) {
		return n
	}
	i := 0
	for a[i] == b[i] {
		i++
	}
	return i
}

func window(key []byte, at int) uint64 {
	if at+windowBytes <= len(key) {
		return binary.BigEndian.Uint64(key[at:])
	}
	var b [windowBytes]byte
	copy(b[:], key[min(at, len(key)):])
	return binary.BigEndian.Uint64(b[:])
}

func (s *sorter) view(at place) ([]byte, error) { return s.f.viewKey(at, s.odd) }

// sortFew is sort for keys that may be copied; it is false, and has done nothing, when they are too many.
func (s *sorter) sortFew(group []sortable, depth int) (bool, error) {
	if len(group) > cap(s.few) {
		return false, nil
	}
	mem, few := s.mem, s.few
	for _, e := range group {
		key, err := s.view(e.at)
		if err != nil {
			return false, err
		}
		size := len(key)
		if key = key[min(depth, size):]; len(mem)+len(key) > cap(mem) {
			return false, nil
		}
		from := len(mem)
		mem = append(mem, key...)
		few = append(few, copied{e, mem[from:len(mem):len(mem)], size})
	}
	common := len(few[0].key)
	for _, e := range few {
		common = commonPrefix(few[0].key[:common], e.key)
	}
	for i := range few {
		few[i].window = window(few[i].key, common)
	}
	slices.SortFunc(few, func(a, b copied) int {
		if a.window != b.window {
			return cmp.Compare(a.window, b.window)
		}
		// Nothing is left of keys that end before depth. They differ in their final zeros only.
		return cmp.Or(bytes.Compare(a.key, b.key), cmp.Compare(a.size, b.size))
	})
	for i, e := range few {
		group[i] = e.sortable
	}
	return true, nil
}
