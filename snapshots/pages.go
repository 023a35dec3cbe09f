package snapshots

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// The on-disk format of bbolt, version 2 (bbolt internal/common: page.go, meta.go, inode.go).
const (
	pageHeaderSize   = 16
	elemSize         = 16
	metaSize         = 64
	bucketHeaderSize = 16

	metaMagic   = 0xED0CDAED
	metaVersion = 2

	branchPage = 0x01
	leafPage   = 0x02

	bucketLeaf = 0x01

	// A tree of 2^40 entries is less deep; more means a loop.
	maxDepth = 48
	// bbolt allows larger pages, etcd's request limit does not come near. A damaged overflow count must not make us
	// allocate the size of the file.
	maxPageBytes = 256 << 20
)

// errStop ends a walk early; it never leaves this package.
var errStop = errors.New("stop")

// pages reads bbolt's page tree straight from the file, without a memory map and with every length, offset and
// page number checked. bbolt itself trusts them: on a damaged file it panics, faults on a page beyond the end, or
// descends a loop until the stack overflows, which no recover can catch.
type pages struct {
	r        io.ReaderAt
	path     string
	size     int64 // of the file, hash trailer included
	pageSize int64
	limit    uint64 // first page number that is not in use
	root     uint64
	txid     uint64
}

// page is one page with its overflow. Page 0 is never part of a tree and stands for a bucket stored inline.
type page struct {
	id    uint64
	flags uint16
	count int
	data  []byte
}

// element is one key of a leaf page. Key and value point into the page.
type element struct {
	flags      uint32
	key, value []byte
}

// tree is one bucket: a root page, or the page itself when the bucket is small enough to be stored inline.
type tree struct {
	root   uint64
	inline []byte
}

func (ps *pages) damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %q: %s", ErrDamaged, ps.path, fmt.Sprintf(format, args...))
}

// newPages picks the newer of the two valid meta pages, as bbolt does.
func newPages(r io.ReaderAt, path string, size, pageSize int64) (*pages, error) {
	ps := &pages{r: r, path: path, size: size, pageSize: pageSize}
	found := false
	for n := range int64(2) {
		var buf [pageHeaderSize + metaSize]byte
		if _, err := r.ReadAt(buf[:], n*pageSize); err != nil {
			continue
		}
		found = ps.useMeta(buf[pageHeaderSize:]) || found
	}
	if !found {
		return nil, fmt.Errorf("%w: %q has no valid meta page", ErrNotDB, path)
	}
	return ps, nil
}

func (ps *pages) useMeta(m []byte) bool {
	h := fnv.New64a()
	h.Write(m[:56])
	txid := binary.NativeEndian.Uint64(m[48:])
	ok := binary.NativeEndian.Uint32(m) == metaMagic &&
		binary.NativeEndian.Uint32(m[4:]) == metaVersion &&
		int64(binary.NativeEndian.Uint32(m[8:])) == ps.pageSize &&
		binary.NativeEndian.Uint64(m[56:]) == h.Sum64() && txid >= ps.txid
	if ok {
		ps.txid = txid
		ps.root = binary.NativeEndian.Uint64(m[16:])
		ps.limit = binary.NativeEndian.Uint64(m[40:])
	}
	return ok
}

// read reads page id into buf, which it grows as needed.
func (ps *pages) read(id uint64, buf []byte) (page, []byte, error) {
	if id < 2 || id >= ps.limit || id > uint64(ps.size/ps.pageSize) {
		return page{}, buf, ps.damaged("page %d is outside the file", id)
	}
	off := int64(id) * ps.pageSize
	buf = sized(buf, ps.pageSize)
	if err := ps.readAt(buf, off, id); err != nil {
		return page{}, buf, err
	}
	if got := binary.NativeEndian.Uint64(buf); got != id {
		return page{}, buf, ps.damaged("page %d says it is page %d", id, got)
	}
	if extra := int64(binary.NativeEndian.Uint32(buf[12:])); extra > 0 {
		total := (1 + extra) * ps.pageSize
		if total > maxPageBytes || off+total > ps.size {
			return page{}, buf, ps.damaged("page %d is longer than the file", id)
		}
		buf = sized(buf, total)
		if err := ps.readAt(buf, off, id); err != nil {
			return page{}, buf, err
		}
	}
	p, err := ps.parse(id, buf)
	return p, buf, err
}

func sized(buf []byte, n int64) []byte {
	if int64(cap(buf)) < n {
		return make([]byte, n)
	}
	return buf[:n]
}

func (ps *pages) readAt(buf []byte, off int64, id uint64) error {
	if _, err := ps.r.ReadAt(buf, off); errors.Is(err, io.EOF) {
		return ps.damaged("the file ends inside page %d", id)
	} else if err != nil {
		return fmt.Errorf("read page %d of %q: %w", id, ps.path, err)
	}
	return nil
}

func (ps *pages) parse(id uint64, data []byte) (page, error) {
	p := page{
		id:    id,
		flags: binary.NativeEndian.Uint16(data[8:]),
		count: int(binary.NativeEndian.Uint16(data[10:])),
		data:  data,
	}
	if p.flags != branchPage && p.flags != leafPage {
		return p, ps.damaged("page %d is neither branch nor leaf", id)
	}
	if pageHeaderSize+p.count*elemSize > len(data) {
		return p, ps.damaged("page %d claims %d elements", id, p.count)
	}
	return p, nil
}

// slice cuts n bytes out of p, at an offset that is counted from element i.
func (ps *pages) slice(p page, i int, pos, n uint64) ([]byte, error) {
	from := uint64(pageHeaderSize+i*elemSize) + pos
	if from+n > uint64(len(p.data)) || from < uint64(pageHeaderSize+p.count*elemSize) {
		return nil, ps.damaged("element %d of page %d reaches outside the page", i, p.id)
	}
	return p.data[from : from+n : from+n], nil
}

func (ps *pages) branch(p page, i int) (key []byte, child uint64, err error) {
	e := p.data[pageHeaderSize+i*elemSize:]
	key, err = ps.slice(p, i, uint64(binary.NativeEndian.Uint32(e)), uint64(binary.NativeEndian.Uint32(e[4:])))
	return key, binary.NativeEndian.Uint64(e[8:]), err
}

func (ps *pages) leaf(p page, i int) (element, error) {
	if p.flags != leafPage || i < 0 || i >= p.count {
		return element{}, ps.damaged("page %d has no element %d", p.id, i)
	}
	e := p.data[pageHeaderSize+i*elemSize:]
	klen, vlen := uint64(binary.NativeEndian.Uint32(e[8:])), uint64(binary.NativeEndian.Uint32(e[12:]))
	kv, err := ps.slice(p, i, uint64(binary.NativeEndian.Uint32(e[4:])), klen+vlen)
	if err != nil {
		return element{}, err
	}
	return element{flags: binary.NativeEndian.Uint32(e), key: kv[:klen:klen], value: kv[klen:]}, nil
}

// page reads one page of t by number.
func (ps *pages) page(t tree, id uint64, buf []byte) (page, []byte, error) {
	if id != 0 {
		return ps.read(id, buf)
	}
	if len(t.inline) < pageHeaderSize {
		return page{}, buf, ps.damaged("an inline bucket is too short")
	}
	p, err := ps.parse(0, t.inline)
	if err == nil && p.flags != leafPage {
		err = ps.damaged("an inline bucket is not a leaf")
	}
	return p, buf, err
}

// bucket finds a top-level bucket. ok is false when the file has none of that name.
func (ps *pages) bucket(name string) (t tree, ok bool, err error) {
	e, ok, err := ps.get(tree{root: ps.root}, []byte(name))
	if err != nil || !ok {
		return tree{}, false, err
	}
	if e.flags&bucketLeaf == 0 || len(e.value) < bucketHeaderSize {
		return tree{}, false, ps.damaged("%q is no bucket", name)
	}
	t = tree{root: binary.NativeEndian.Uint64(e.value)}
	if t.root == 0 {
		t.inline = bytes.Clone(e.value[bucketHeaderSize:])
	}
	return t, true, nil
}

// get finds one key. What it returns belongs to the caller.
func (ps *pages) get(t tree, key []byte) (e element, ok bool, err error) {
	id := t.root
	for range maxDepth {
		p, _, err := ps.page(t, id, nil)
		if err != nil {
			return element{}, false, err
		}
		if p.flags == leafPage {
			return ps.search(p, key)
		}
		if id, err = ps.child(p, key); err != nil {
			return element{}, false, err
		}
	}
	return element{}, false, ps.damaged("the page tree has a loop")
}

func (ps *pages) search(p page, key []byte) (element, bool, error) {
	lo, hi := 0, p.count
	for lo < hi {
		mid := (lo + hi) / 2
		e, err := ps.leaf(p, mid)
		if err != nil {
			return element{}, false, err
		}
		switch c := bytes.Compare(e.key, key); {
		case c == 0:
			return e, true, nil
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return element{}, false, nil
}

// child picks the last child whose first key is not above key, or the first child.
func (ps *pages) child(p page, key []byte) (uint64, error) {
	if p.count == 0 {
		return 0, ps.damaged("branch page %d is empty", p.id)
	}
	lo, hi := 1, p.count
	for lo < hi {
		mid := (lo + hi) / 2
		k, _, err := ps.branch(p, mid)
		if err != nil {
			return 0, err
		}
		if bytes.Compare(k, key) <= 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	_, id, err := ps.branch(p, lo-1)
	return id, err
}

// walker goes through a tree in key order.
type walker struct {
	*pages
	ctx  context.Context
	t    tree
	fn   func(at place, e element) error
	bufs [maxDepth][]byte
	low  []byte // no key may be below: the branch key that led here
	last []byte
	seen *pageSet
}

// pageSet remembers pages. A page that is met twice means a loop, or two buckets that share it.
type pageSet []uint64

func (ps *pages) newPageSet() *pageSet {
	s := make(pageSet, min(ps.limit, uint64(ps.size/ps.pageSize)+1)/64+1)
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

// place is where an element stands in its tree.
type place struct {
	page  uint64
	index uint32
}

// walk hands every element of t to fn, in key order. Elements are valid only during the call. Every page is read at
// most once, so a damaged tree ends in an error and never in a loop.
func (ps *pages) walk(ctx context.Context, t tree, fn func(at place, e element) error) error {
	return ps.walkOnce(ctx, t, ps.newPageSet(), fn)
}

// walkOnce is walk for several trees that must not share a page.
func (ps *pages) walkOnce(ctx context.Context, t tree, seen *pageSet, fn func(at place, e element) error) error {
	w := &walker{pages: ps, ctx: ctx, t: t, fn: fn, seen: seen}
	if err := w.descend(t.root, 0); err != nil && !errors.Is(err, errStop) {
		return err
	}
	return nil
}

func (w *walker) descend(id uint64, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if depth == maxDepth {
		return w.damaged("the page tree has a loop")
	}
	p, buf, err := w.pages.page(w.t, id, w.bufs[depth])
	w.bufs[depth] = buf
	if err != nil {
		return err
	}
	if id != 0 && !w.seen.add(id, uint64(len(p.data))/uint64(w.pageSize)) {
		return w.damaged("page %d is part of the tree twice", id)
	}
	if p.flags == leafPage {
		return w.elements(p)
	}
	for i := range p.count {
		key, child, err := w.branch(p, i)
		if err != nil {
			return err
		}
		// A search trusts branch keys, so a wrong one would hide entries from it.
		if w.last != nil && bytes.Compare(w.last, key) >= 0 {
			return w.damaged("the keys of page %d are out of order", p.id)
		}
		w.low = append(w.low[:0], key...)
		if err := w.descend(child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) elements(p page) error {
	for i := range p.count {
		e, err := w.leaf(p, i)
		if err != nil {
			return err
		}
		if bytes.Compare(e.key, w.low) < 0 || w.last != nil && bytes.Compare(w.last, e.key) >= 0 {
			return w.damaged("the keys of page %d are out of order", p.id)
		}
		w.last = append(w.last[:0], e.key...)
		if err := w.fn(place{page: p.id, index: uint32(i)}, e); err != nil {
			return err
		}
	}
	return nil
}

// buckets names the top-level buckets, in order.
func (ps *pages) buckets(ctx context.Context, seen *pageSet) ([]string, error) {
	var names []string
	err := ps.walkOnce(ctx, tree{root: ps.root}, seen, func(_ place, e element) error {
		if e.flags != bucketLeaf {
			return ps.damaged("%q stands outside every bucket", e.key)
		}
		names = append(names, string(e.key))
		return nil
	})
	return names, err
}

// lastKey is the greatest key of t, nil when it is empty.
func (ps *pages) lastKey(t tree) ([]byte, error) {
	id := t.root
	for range maxDepth {
		p, _, err := ps.page(t, id, nil)
		if err != nil || p.count == 0 {
			return nil, err
		}
		if p.flags == leafPage {
			e, err := ps.leaf(p, p.count-1)
			return e.key, err
		}
		if _, id, err = ps.branch(p, p.count-1); err != nil {
			return nil, err
		}
	}
	return nil, ps.damaged("the page tree has a loop")
}
