package snapshots

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
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

// pages reads bbolt's page tree from the mapped file, with every length, offset and page number checked. bbolt itself
// trusts them: on a damaged file it panics, faults on a page beyond the end, or descends a loop until the stack
// overflows, which no recover can catch.
type pages struct {
	data     []byte // the mapped file, hash trailer included; see mapFile
	path     string
	pageSize int64
	meta           // the state that is read
	other    *meta // the state before it, if the file still says where that is

	// lost, if set, is told of pages that cannot be read, and a walk goes on behind them.
	lost func(loss)
	// doubtZeros takes large values for lost that are zero from one page border to the next.
	doubtZeros bool
}

// meta is what a sound meta page says: a state of the file.
type meta struct {
	id       uint64 // of the meta page
	limit    uint64 // first page number that is not in use
	root     uint64
	freelist uint64
	txid     uint64
}

// place is where an element stands in a file: the offset of its header in units of its size, which divides all of
// bbolt's offsets of headers. In a bucket that is stored inline it is one more than the element's number.
type place uint64

func (ps *pages) placeOf(p page, i int) place {
	return place((int64(p.id)*ps.pageSize+pageHeaderSize)/elemSize) + place(i)
}

// viewAt is the element at a place that a walk has found, with the conditions of view.
func (ps *pages) viewAt(t tree, at place) (element, error) {
	if t.root == 0 && t.strays == nil {
		p, err := ps.inlined(t)
		if err != nil {
			return element{}, err
		}
		return ps.leaf(p, int(at)-1)
	}
	off, size := uint64(at)*elemSize, uint64(len(ps.data))
	if off+elemSize > size {
		return element{}, ps.damaged("the file ends at its element %d", at)
	}
	e := ps.data[off:]
	pos, klen, vlen := uint64(binary.NativeEndian.Uint32(e[4:])), uint64(binary.NativeEndian.Uint32(e[8:])), uint64(binary.NativeEndian.Uint32(e[12:]))
	if off+pos+klen+vlen > size {
		return element{}, ps.damaged("the file ends inside its element %d", at)
	}
	kv := e[pos : pos+klen+vlen : pos+klen+vlen]
	return element{flags: binary.NativeEndian.Uint32(e), key: kv[:klen:klen], value: kv[klen:]}, nil
}

// page is one page with its overflow. Page 0 is never part of a tree and stands for a bucket stored inline.
type page struct {
	id    uint64
	flags uint16
	count int
	from  int // the first element that counts
	data  []byte
}

// element is one key of a leaf page. Key and value point into the page.
type element struct {
	flags      uint32
	key, value []byte
}

// tree is one bucket: a root page, or the page itself when the bucket is small enough to be stored inline.
type tree struct {
	name   string // "" for the list of all buckets
	root   uint64
	inline []byte
	strays []stray // if set, it is these pages, without a root
}

// damage is what is wrong with a file, and where in it. It wraps [ErrDamaged].
type damage struct{ path, text string }

func (d *damage) Error() string { return fmt.Sprintf("%v: %q: %s", ErrDamaged, d.path, d.text) }
func (d *damage) Unwrap() error { return ErrDamaged }

func (ps *pages) damaged(format string, args ...any) error {
	return &damage{ps.path, fmt.Sprintf(format, args...)}
}

// newPages picks the newer of the two valid meta pages, as bbolt does.
func newPages(data []byte, path string, pageSize int64) (*pages, error) {
	ps := &pages{data: data, path: path, pageSize: pageSize}
	var found []meta
	err := guard(path, func() error {
		for id := range min(2, int64(len(data))/pageSize) {
			if m, err := ps.metaAt(uint64(id)); err == nil {
				found = append(found, m)
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, fmt.Errorf("%w: %q has no valid meta page", ErrNotDB, path)
	case len(found) == 2 && found[1].txid >= found[0].txid:
		ps.meta, ps.other = found[1], &found[0]
	case len(found) == 2:
		ps.meta, ps.other = found[0], &found[1]
	default:
		ps.meta = found[0]
	}
	return ps, nil
}

// metaAt reads meta page id, with the conditions of view.
func (ps *pages) metaAt(id uint64) (meta, error) {
	m := ps.data[min(int64(id)*ps.pageSize, int64(len(ps.data))):]
	if len(m) < pageHeaderSize+metaSize {
		return meta{}, ps.damaged("the file ends inside meta page %d", id)
	}
	m = m[pageHeaderSize : pageHeaderSize+metaSize]
	h := fnv.New64a()
	h.Write(m[:56])
	if binary.NativeEndian.Uint32(m) != metaMagic || binary.NativeEndian.Uint32(m[4:]) != metaVersion ||
		int64(binary.NativeEndian.Uint32(m[8:])) != ps.pageSize || binary.NativeEndian.Uint64(m[56:]) != h.Sum64() {
		return meta{}, ps.damaged("meta page %d is not what its checksum says", id)
	}
	return meta{
		id:       id,
		root:     binary.NativeEndian.Uint64(m[16:]),
		freelist: binary.NativeEndian.Uint64(m[32:]),
		limit:    binary.NativeEndian.Uint64(m[40:]),
		txid:     binary.NativeEndian.Uint64(m[48:]),
	}, nil
}

// view is page id in the mapped file: the caller runs under guard and lets nothing of it out.
func (ps *pages) view(id uint64) (page, error) {
	size := int64(len(ps.data))
	if id < 2 || id >= ps.limit || id > uint64(size/ps.pageSize) {
		return page{}, ps.damaged("page %d is outside the file", id)
	}
	off := int64(id) * ps.pageSize
	if off+ps.pageSize > size {
		return page{}, ps.damaged("the file ends inside page %d", id)
	}
	head := ps.data[off : off+pageHeaderSize]
	if got := binary.NativeEndian.Uint64(head); got != id {
		return page{}, ps.damaged("page %d says it is page %d", id, got)
	}
	total := (1 + int64(binary.NativeEndian.Uint32(head[12:]))) * ps.pageSize
	if total > max(maxPageBytes, ps.pageSize) || off+total > size {
		return page{}, ps.damaged("page %d is longer than the file", id)
	}
	return ps.parse(id, ps.data[off:off+total:off+total])
}

// read copies page id to where room says, which must be as long as the page.
func (ps *pages) read(id uint64, room func(p page) ([]byte, error)) (p page, err error) {
	err = guard(ps.path, func() error {
		p, err = ps.view(id)
		if err != nil {
			return err
		}
		buf, err := room(p)
		if err != nil {
			return err
		}
		copy(buf, p.data)
		p, err = ps.parse(id, buf)
		return err
	})
	return p, err
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
	// A page that claims to be longer than it is would take the pages behind it for its own.
	if spare := int64(len(data)) - ps.pageSize; id != 0 && spare > 0 && p.end() < uint64(spare) {
		return p, ps.damaged("page %d claims to be longer than what it holds", id)
	}
	return p, nil
}

// end is where the last element ends.
func (p page) end() uint64 {
	if p.count == 0 {
		return pageHeaderSize
	}
	at := uint64(pageHeaderSize + (p.count-1)*elemSize)
	e := p.data[at:]
	u := func(i int) uint64 { return uint64(binary.NativeEndian.Uint32(e[i:])) }
	if p.flags == branchPage {
		return at + u(0) + u(4)
	}
	return at + u(4) + u(8) + u(12)
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

// inlined is the only page of a bucket that is stored inline.
func (ps *pages) inlined(t tree) (page, error) {
	if len(t.inline) < pageHeaderSize {
		return page{}, ps.damaged("an inline bucket is too short")
	}
	p, err := ps.parse(0, t.inline)
	if err == nil && p.flags != leafPage {
		err = ps.damaged("an inline bucket is not a leaf")
	}
	return p, err
}

// viewOf is page id of t, with the conditions of view.
func (ps *pages) viewOf(t tree, id uint64) (page, error) {
	if id != 0 {
		return ps.view(id)
	}
	return ps.inlined(t)
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
	t = tree{name: name, root: binary.NativeEndian.Uint64(e.value)}
	if t.root == 0 {
		t.inline = bytes.Clone(e.value[bucketHeaderSize:])
	}
	return t, true, nil
}

// get finds one key. What it returns belongs to the caller.
func (ps *pages) get(t tree, key []byte) (e element, ok bool, err error) {
	err = guard(ps.path, func() error {
		if e, ok, err = ps.lookup(t, key); ok {
			e.key, e.value = bytes.Clone(e.key), bytes.Clone(e.value)
		}
		return err
	})
	return e, ok, err
}

func (ps *pages) lookup(t tree, key []byte) (e element, ok bool, err error) {
	if t.strays != nil {
		return ps.lookupStray(t, key)
	}
	id := t.root
	for range maxDepth {
		p, err := ps.viewOf(t, id)
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

// lastKey is the greatest key of t, nil when it is empty. It belongs to the caller.
func (ps *pages) lastKey(t tree) (key []byte, err error) {
	err = guard(ps.path, func() error {
		key, err = ps.findLast(t)
		key = bytes.Clone(key)
		return err
	})
	return key, err
}

func (ps *pages) findLast(t tree) ([]byte, error) {
	id := t.root
	for range maxDepth {
		p, err := ps.viewOf(t, id)
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
