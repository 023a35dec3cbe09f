package snapshots

import (
	"encoding/binary"
	"math"
)

const (
	freelistPage = 0x10
	noFreelist   = math.MaxUint64 // none is stored, as etcd and archives do
	// manyFree in the header of a list means that its length is its first number.
	manyFree = 0xFFFF
)

// structure goes through all buckets once: the pages that they are made of, and the entries of bucket "key".
func (v *verifier) structure(h *kvHash) error {
	seen := v.pages.newPageSet()
	names, err := v.pages.buckets(v.ctx, seen)
	if err != nil {
		return v.damage(err)
	}
	if v.keys.strays != nil { // free pages among them
		v.pagesLost, v.keysLost = true, true
		if err := v.damage(v.pages.walk(v.ctx, v.keys, v.entries(nil))); err != nil {
			return err
		}
	}
	for _, name := range names {
		t, ok, err := v.pages.bucket(name)
		switch {
		case name == bucketKey && v.keys.strays != nil:
		case err == nil && !ok:
			v.problem("bucket %q cannot be found again", name)
		case err == nil && name == bucketKey:
			err = v.pages.walkOnce(v.ctx, t, seen, v.entries(h))
		case err == nil:
			err = v.pages.walkOnce(v.ctx, t, seen, v.flat(name))
		}
		if err := v.damage(err); err != nil {
			return err
		}
	}
	return v.damage(v.free(seen))
}

// flat refuses buckets in a bucket: neither etcd nor this program makes them.
func (v *verifier) flat(name string) func(place, element) error {
	return func(_ place, e element) error {
		if e.flags != 0 {
			return v.pages.damaged("bucket %q holds another bucket", name)
		}
		return nil
	}
}

// entries checks, counts and hashes the entries of bucket "key".
func (v *verifier) entries(h *kvHash) func(place, element) error {
	var kv fields
	flat := v.flat(bucketKey)
	return func(at place, e element) error {
		v.report.Entries++
		err := flat(at, e)
		pos, tombstone, posErr := v.position(e)
		if err == nil {
			err = posErr
		}
		if err == nil {
			err = v.readEntry(pos, tombstone, e.value, &kv)
		}
		if err != nil {
			return v.loseEntry(at, err)
		}
		if tombstone {
			v.report.Tombstones++
		}
		if h != nil {
			h.add(at, e, pos, tombstone, kv.key)
		}
		return nil
	}
}

// free compares the list of free pages, if the file has one, with the pages that are in use. Each page is either of
// them, unless the list cannot be read, or pages below one that cannot be read are in use.
func (v *verifier) free(seen *pageSet) error {
	if v.pages.freelist == noFreelist {
		if !v.pagesLost {
			v.report.Free = v.report.Pages - v.used(seen)
		}
		return nil
	}
	free := v.pages.newPageSet()
	var own uint64
	err := guard(v.path, func() (err error) {
		own, err = v.freePages(seen, free)
		return err
	})
	if err != nil || v.pagesLost {
		return err
	}
	for id := uint64(2); id < min(v.pages.limit, uint64(len(*free))*64); id++ {
		if !seen.has(id) && !free.has(id) && (id < v.pages.freelist || id >= v.pages.freelist+own) {
			v.problem("page %d is neither in use nor free", id)
		}
	}
	return nil
}

// used counts the pages in use, those of the two meta pages included.
func (v *verifier) used(seen *pageSet) int64 {
	n := int64(2)
	for id := uint64(2); id < min(v.pages.limit, uint64(len(*seen))*64); id++ {
		if seen.has(id) {
			n++
		}
	}
	return n
}

// freePages reads the list of free pages into a set. It runs under guard.
func (v *verifier) freePages(seen, free *pageSet) (own uint64, err error) {
	ps, id := v.pages, v.pages.freelist
	size, off := uint64(len(ps.data)), id*uint64(ps.pageSize)
	if id < 2 || id >= ps.limit || id > size/uint64(ps.pageSize) || off+uint64(ps.pageSize) > size {
		return 0, ps.damaged("the list of free pages is outside the file, at page %d", id)
	}
	head := ps.data[off:]
	own = 1 + uint64(binary.NativeEndian.Uint32(head[12:]))
	if got := binary.NativeEndian.Uint64(head); got != id || binary.NativeEndian.Uint16(head[8:]) != freelistPage {
		return own, ps.damaged("page %d is no list of free pages", id)
	}
	if own > (size-off)/uint64(ps.pageSize) {
		return own, ps.damaged("the list of free pages at page %d is longer than the file", id)
	}
	if !seen.add(id, own) {
		return own, ps.damaged("the list of free pages at page %d is part of the tree, too", id)
	}
	list := head[pageHeaderSize : own*uint64(ps.pageSize)]
	count := uint64(binary.NativeEndian.Uint16(head[10:]))
	if count == manyFree {
		count, list = binary.NativeEndian.Uint64(list), list[8:]
	}
	if count > uint64(len(list))/8 {
		return own, ps.damaged("the list of free pages at page %d claims %d of them", id, count)
	}
	v.report.Free = int64(count)
	for i := range count {
		one := binary.NativeEndian.Uint64(list[8*i:])
		switch {
		case one < 2 || one >= ps.limit:
			v.problem("page %d is called free, and is outside the file", one)
		case seen.has(one):
			v.problem("page %d is called free, and is in use", one)
		case !free.add(one, 1):
			v.problem("page %d is called free twice", one)
		}
	}
	return own, nil
}
