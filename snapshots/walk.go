package snapshots

import (
	"bytes"
	"context"
	"errors"
)

// walker goes through a tree in key order, or backwards.
type walker struct {
	*pages
	ctx  context.Context
	t    tree
	back bool
	fn   func(at place, e element) error
	bufs [maxDepth][]byte // one page for each level
	seen *pageSet

	// For a reader of whole leaf pages: where they are copied to, and who gets them.
	room func(n int) []byte
	leaf func(p page)
}

// pageSet remembers pages. A page that is met twice means a loop, or two buckets that share it.
type pageSet []uint64

func (ps *pages) newPageSet() *pageSet {
	s := make(pageSet, min(ps.limit, uint64(int64(len(ps.data))/ps.pageSize)+1)/64+1)
	return &s
}

// add is false if one of the n pages from id on is in the set already, or outside of the file.
func (s pageSet) add(id, n uint64) bool {
	for ; n > 0; id, n = id+1, n-1 {
		if id/64 >= uint64(len(s)) || s[id/64]&(1<<(id%64)) != 0 {
			return false
		}
		s[id/64] |= 1 << (id % 64)
	}
	return true
}

func (s pageSet) has(id uint64) bool {
	return id/64 < uint64(len(s)) && s[id/64]&(1<<(id%64)) != 0
}

// loss is a page that cannot be read, and all that is below it.
type loss struct {
	bucket    string
	page      uint64
	low, high []byte // what would be there: keys from low on and below high; nil is without bound
	err       error  // wraps ErrDamaged
}

// walk hands every element of t to fn, in key order. Elements are valid only during the call. Every page is read at
// most once, so a damaged tree ends in an error and never in a loop. If pages.lost is set it gets the damage, and fn
// all that is sound: of a page with any mistake, nothing.
func (ps *pages) walk(ctx context.Context, t tree, fn func(at place, e element) error) error {
	return ps.walkOnce(ctx, t, ps.newPageSet(), fn)
}

// walkOnce is walk for several trees that must not share a page.
func (ps *pages) walkOnce(ctx context.Context, t tree, seen *pageSet, fn func(at place, e element) error) error {
	w := &walker{pages: ps, ctx: ctx, t: t, fn: fn, seen: seen}
	return w.walk()
}

func (w *walker) walk() error {
	if w.t.strays != nil {
		if err := w.walkStrays(); err != nil && !errors.Is(err, errStop) {
			return err
		}
		return nil
	}
	if err := w.descend(w.t.root, nil, nil, 0); err != nil && !errors.Is(err, errStop) {
		return err
	}
	return nil
}

// page copies page id out of the mapped file.
func (w *walker) page(id uint64, depth int) (page, error) {
	if depth == maxDepth {
		return page{}, w.damaged("the page tree has a loop")
	}
	if id == 0 {
		return w.inlined(tree{inline: bytes.Clone(w.t.inline)})
	}
	return w.read(id, func(p page) ([]byte, error) {
		// Before anything is copied: many pages may claim the same long stretch of the file.
		if !w.seen.add(id, uint64(len(p.data))/uint64(w.pageSize)) {
			return nil, w.damaged("page %d is part of the tree twice", id)
		}
		if w.room != nil && p.flags == leafPage {
			return w.room(len(p.data)), nil
		}
		return sized(&w.bufs[depth], len(p.data)), nil
	})
}

// sized is n bytes of a buffer that is used again and again.
func sized(buf *[]byte, n int) []byte {
	if cap(*buf) < n {
		*buf = make([]byte, n)
	}
	return (*buf)[:n]
}

// descend goes through page id, whose keys are from low on and below high.
func (w *walker) descend(id uint64, low, high []byte, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	p, err := w.page(id, depth)
	if err == nil {
		err = w.check(p, low, high)
	}
	switch {
	case err != nil && w.lost != nil && errors.Is(err, ErrDamaged):
		w.lost(loss{w.t.name, id, low, high, err})
		return nil
	case err != nil:
		return err
	case p.flags == leafPage:
		return w.elements(p)
	}
	for n := range p.count {
		i, end := w.nth(p, n), high
		key, child, err := w.branch(p, i)
		if err == nil && i+1 < p.count {
			end, _, err = w.branch(p, i+1)
		}
		if err != nil {
			return err
		}
		if err := w.descend(child, key, end, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// nth is the n-th element of p in the direction of the walk.
func (w *walker) nth(p page, n int) int {
	if w.back {
		return p.count - 1 - n
	}
	return n
}

// check looks at all elements of a page. It checks branch keys, too: a search trusts them, so a wrong one would hide
// entries from it.
func (w *walker) check(p page, low, high []byte) error {
	if p.count == 0 && p.flags == branchPage {
		return w.damaged("branch page %d is empty", p.id)
	}
	for i := range p.count {
		key, err := w.keyAt(p, i)
		if err != nil {
			return err
		}
		if c := bytes.Compare(key, low); c < 0 || c == 0 && i > 0 {
			return w.disorder(p, i)
		}
		low = key
	}
	if high != nil && p.count > 0 && bytes.Compare(low, high) >= 0 {
		return w.disorder(p, p.count-1)
	}
	if w.doubtZeros && w.pages.zeroed(p) {
		return w.damaged("page %d holds a large value, a part of which is nothing but zeros: it was never written, unless the object is so", p.id)
	}
	return nil
}

func (w *walker) keyAt(p page, i int) ([]byte, error) {
	if p.flags == branchPage {
		key, _, err := w.branch(p, i)
		return key, err
	}
	e, err := w.pages.leaf(p, i)
	return e.key, err
}

func (w *walker) disorder(p page, i int) error {
	return w.damaged("the keys of page %d are out of order at its element %d", p.id, i)
}

func (w *walker) elements(p page) error {
	for n := 0; w.fn != nil && n < p.count; n++ {
		i := w.nth(p, n)
		if i < p.from {
			continue
		}
		e, err := w.pages.leaf(p, i)
		if err != nil {
			return err
		}
		if err := w.fn(w.placeOf(p, i), e); err != nil {
			return err
		}
	}
	if w.leaf != nil {
		w.leaf(p)
	}
	return nil
}

const (
	// batchBytes is how much the reader of leaves hands over at a time: little enough for a CPU's own cache.
	batchBytes = 256 << 10
	// batchSpare is the longest page that is copied into a batch; a longer one gets memory of its own.
	batchSpare = 64 << 10
	// batchesAhead is how many batches there are: one is read, one waits, one is looked at.
	batchesAhead = 3
)

// leafBatch is a number of leaf pages in memory of its own.
type leafBatch struct {
	pages []page
	buf   [batchBytes]byte
	used  int
}

func (b *leafBatch) room(n int) []byte {
	if n > batchSpare {
		return make([]byte, n)
	}
	b.used += n
	return b.buf[b.used-n : b.used : b.used]
}

// leavesBack hands the leaf pages of t to fn, the last one first; it reads those that come next at the same time. The
// pages are checked as walk does, and valid only during the call. fn runs in the caller's goroutine.
func (ps *pages) leavesBack(ctx context.Context, t tree, fn func(page) error) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	free, full := make(chan *leafBatch, batchesAhead), make(chan *leafBatch, batchesAhead)
	for range batchesAhead {
		free <- &leafBatch{}
	}
	var readErr error
	go func() {
		defer close(full)
		readErr = ps.readLeaves(ctx, t, free, full)
	}()
	defer func() { // also when fn panics: nobody reads the file after this
		cancel()
		for b := range full {
			free <- b
		}
	}()
	for b := range full {
		for _, p := range b.pages {
			if err == nil {
				err = fn(p)
			}
		}
		if err != nil {
			cancel()
		}
		clear(b.pages) // a very long page is not kept
		b.pages, b.used = b.pages[:0], 0
		free <- b
	}
	if err != nil {
		return err
	}
	return readErr
}

func (ps *pages) readLeaves(ctx context.Context, t tree, free <-chan *leafBatch, full chan<- *leafBatch) error {
	b := <-free
	w := &walker{pages: ps, ctx: ctx, t: t, back: true, seen: ps.newPageSet()}
	w.room = func(n int) []byte { return b.room(n) }
	w.leaf = func(p page) {
		b.pages = append(b.pages, p)
		if len(p.data) > batchSpare || b.used > batchBytes-batchSpare {
			full <- b
			b = <-free
		}
	}
	err := w.walk()
	full <- b
	return err
}
