package snapshots

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"sort"
)

// stray is a leaf page of bucket "key" that was found by itself, because the branch pages that lead to it are lost.
type stray struct {
	id          uint64
	first, last Position
	// after is the last entry that the strays before it have: a page that was changed often leaves copies of itself,
	// which begin with the same entries.
	after Position
}

func (p Position) compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Main, q.Main), cmp.Compare(p.Sub, q.Sub))
}

// findStrays looks at every page of the file for whole leaf pages of bucket "key". Free pages are among them: what
// they hold was in the store once, for revisions are never written twice.
func (f *File) findStrays() (tree, error) {
	t := tree{name: bucketKey}
	ids := min(f.pages.limit, uint64(int64(len(f.data))/f.pages.pageSize))
	var found []stray
	for id := uint64(2); id < ids; id++ {
		err := guard(f.path, func() error {
			if s, ok := f.strayAt(id); ok {
				found = append(found, s)
			}
			return nil
		})
		if err != nil {
			return t, err
		}
	}
	slices.SortFunc(found, func(a, b stray) int { return cmp.Or(a.first.compare(b.first), b.last.compare(a.last)) })
	var last Position
	for _, s := range found {
		if s.last.compare(last) > 0 {
			s.after, last = last, s.last
			t.strays = append(t.strays, s)
		}
	}
	if len(t.strays) == 0 {
		return t, fmt.Errorf("%w: %q holds no page of bucket \"key\"", ErrDamaged, f.path)
	}
	return t, nil
}

// strayAt says whether page id is a leaf page of bucket "key" without any mistake. It runs under guard.
func (f *File) strayAt(id uint64) (s stray, ok bool) {
	p, err := f.pages.view(id)
	if err != nil || p.flags != leafPage || p.count == 0 || f.pages.doubtZeros && f.pages.zeroed(p) {
		return s, false
	}
	s.id = id
	var kv fields
	for i := range p.count {
		e, err := f.pages.leaf(p, i)
		if err != nil || e.flags != 0 {
			return s, false
		}
		pos, tombstone, err := positionOf(e.key)
		if err != nil || i > 0 && pos.compare(s.last) <= 0 || f.readEntry(pos, tombstone, e.value, &kv) != nil {
			return s, false
		}
		if i == 0 {
			s.first = pos
		}
		s.last = pos
	}
	return s, true
}

// walkStrays is walk for a tree of strays.
func (w *walker) walkStrays() error {
	for n := range w.t.strays {
		if w.back {
			n = len(w.t.strays) - 1 - n
		}
		if err := w.ctx.Err(); err != nil {
			return err
		}
		s := w.t.strays[n]
		p, err := w.page(s.id, 0)
		if err == nil {
			err = w.check(p, nil, nil)
		}
		if err != nil {
			w.lost(loss{bucket: w.t.name, page: s.id, low: s.first.bytes(), high: s.last.bytes(), err: err})
			continue
		}
		after := s.after.bytes()
		p.from = sort.Search(p.count, func(i int) bool {
			e, err := w.pages.leaf(p, i)
			return err != nil || bytes.Compare(e.key[:min(posLen, len(e.key))], after) > 0
		})
		if err := w.elements(p); err != nil {
			return err
		}
	}
	return nil
}

// lookupStray finds a key in a tree of strays.
func (ps *pages) lookupStray(t tree, key []byte) (element, bool, error) {
	at, _, err := positionOf(key)
	if err != nil {
		return element{}, false, err
	}
	i := sort.Search(len(t.strays), func(i int) bool { return t.strays[i].last.compare(at) >= 0 })
	if i == len(t.strays) || t.strays[i].after.compare(at) >= 0 {
		return element{}, false, nil
	}
	p, err := ps.view(t.strays[i].id)
	if err != nil {
		return element{}, false, err
	}
	return ps.search(p, key)
}

// loadStrays reads bucket "key" without the pages that lead to it. err is why that is necessary.
func (f *File) loadStrays(err error) error {
	f.archive, f.compacted, f.leases, f.hasLeases = nil, 0, tree{}, false
	found, noneErr := f.findStrays()
	if noneErr != nil {
		return err
	}
	f.keys = found
	last, lastErr := f.lastRevision()
	if lastErr != nil {
		return lastErr
	}
	f.rev = max(1, last)
	f.losses.note("what leads to the entries cannot be read (%s): they were taken from %s, wherever in the file; others are missing, leases too, and objects that were deleted long ago may be among them",
		bare(err), counted(int64(len(found.strays)), "page", "pages"))
	return nil
}
