package snapshots

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"sort"
)

// index says where the newest entry of every key at one revision stands. It holds neither keys nor values: some 8 to
// 22 bytes a key, and 8 more once an ordered read asks for the order.
type index struct {
	rev  int64
	keys *table // deleted ones, too
	live int    // keys that are not deleted
	odd  bool   // some entry is; see fields
	// keyless is where the newest entry without a key stands, 0 if there is none: etcdutl's --bump-revision writes one,
	// and etcd hashes it as that of the key "". No read gives it.
	keyless place
	sorted  []place
	// unsorted counts the ordered reads that have done without sorted.
	unsorted int
}

// atRevision is the revision that a reader asks for, or why it cannot be read.
func (f *File) atRevision(rev int64) (int64, error) {
	switch {
	case rev == 0 || f.archive != nil:
		return f.rev, nil
	case rev < 0 || rev > f.rev:
		return 0, fmt.Errorf("%w: %q ends at revision %d, asked for %d", ErrFutureRev, f.path, f.rev, rev)
	case rev < f.compacted:
		return 0, fmt.Errorf("%w: %q begins at revision %d, asked for %d", ErrCompacted, f.path, f.compacted, rev)
	}
	return rev, nil
}

// index gives the index at revision rev, built on first use. That of the newest revision is kept for good, and the
// last one of another revision until a third is asked for.
func (f *File) index(ctx context.Context, rev int64) (*index, error) {
	rev, err := f.atRevision(rev)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.indexLocked(ctx, rev)
}

// slot is where the index at a revision is kept. The caller holds f.mu.
func (f *File) slot(rev int64) **index {
	if rev == f.rev {
		return &f.newest
	}
	return &f.older
}

func (f *File) indexLocked(ctx context.Context, rev int64) (*index, error) {
	slot := f.slot(rev)
	if *slot == nil || (*slot).rev != rev {
		x := f.newIndex(rev)
		if err := f.pass(ctx, x, func(*fields) error { return nil }); err != nil {
			return nil, err
		}
		*slot = x
	}
	return *slot, nil
}

// unsortedReads is how many reads of small ranges are served without sorting all keys: a program looks at a few small
// ranges before it knows that it reads everything else in whatever order.
const unsortedReads = 6

// ordered gives the places of the keys in [start, end), in the order of the keys. They are not to be changed.
func (f *File) ordered(ctx context.Context, start, end string, rev int64) ([]place, error) {
	rev, err := f.atRevision(rev)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	x, err := f.indexLocked(ctx, rev)
	if err != nil || x.live == 0 {
		return nil, err
	}
	if x.sorted == nil && x.unsorted < unsortedReads {
		x.unsorted++
		some, err := f.choose(x, start, end)
		if err != nil {
			return nil, err
		}
		if len(some) <= x.live/2 {
			return f.sort(ctx, some, x.odd)
		}
	}
	if x.sorted == nil {
		all, err := f.choose(x, "", "\x00")
		if err != nil {
			return nil, err
		}
		if x.sorted, err = f.sort(ctx, all, x.odd); err != nil {
			return nil, err
		}
	}
	lo, hi, err := f.bounds(x, start, end)
	return x.sorted[lo:hi], err
}

// choose gives the places of the keys in [start, end) that are alive, in no order.
func (f *File) choose(x *index, start, end string) (some []sortable, err error) {
	all := start == "" && end == "\x00"
	if all {
		some = make([]sortable, 0, x.live)
	}
	err = guard(f.path, func() error {
		for _, s := range x.keys.slots {
			if s&aliveBit == 0 {
				continue
			}
			if !all {
				key, err := f.viewKey(placeIn(s), x.odd)
				if err != nil {
					return err
				}
				if !within(key, start, end) {
					continue
				}
			}
			some = append(some, sortable{at: placeIn(s)})
		}
		return nil
	})
	return some, err
}

func (f *File) newIndex(rev int64) *index {
	return &index{rev: rev, keys: newTable(func(at place, key []byte) (same bool, err error) {
		err = guard(f.path, func() error {
			found, err := f.viewKey(at, true)
			same = bytes.Equal(found, key)
			return err
		})
		return same, err
	})}
}

// viewKey is the key of the entry at a place, with the conditions of pages.view. Unless the entry may be odd, it looks
// at no more than the key: the rest is in memory that is far away.
func (f *File) viewKey(at place, odd bool) ([]byte, error) {
	if !odd {
		e, err := f.pages.viewAt(f.keys, at)
		if err != nil {
			return nil, err
		}
		if key, ok := keyOf(e.value); ok {
			return key, nil
		}
	}
	var kv fields
	_, err := f.viewEntry(at, &kv)
	return kv.key, err
}

func (f *File) viewEntry(at place, into *fields) (Position, error) {
	e, err := f.pages.viewAt(f.keys, at)
	if err != nil {
		return Position{}, err
	}
	pos, _, err := f.position(e)
	if err != nil {
		return pos, err
	}
	return pos, f.parse(pos, e.value, into)
}

// pass goes once through the file, backwards: the entry of a key that is met first is its newest one. It notes them
// all in x and calls fn for those that are no deletions. The fields are valid only during the call.
func (f *File) pass(ctx context.Context, x *index, fn func(*fields) error) error {
	return f.backwards(ctx, x.rev, func(at place, tombstone bool, kv *fields) error {
		if len(kv.key) == 0 {
			x.keyless = cmp.Or(x.keyless, at)
			return nil
		}
		first, err := x.keys.add(kv.key, at, !tombstone)
		if err != nil {
			return fmt.Errorf("read %q: %w", f.path, err)
		}
		if !first || tombstone {
			return nil
		}
		x.live++
		x.odd = x.odd || kv.odd
		return fn(kv)
	})
}

// again is pass with an index that is complete.
func (f *File) again(ctx context.Context, x *index, fn func(*fields) error) error {
	return f.backwards(ctx, x.rev, func(at place, tombstone bool, kv *fields) error {
		if tombstone || len(kv.key) == 0 || !x.keys.holds(kv.key, at) {
			return nil
		}
		return fn(kv)
	})
}

// backwards calls fn for all entries up to revision rev, the last one first. kv is valid only during the call.
func (f *File) backwards(ctx context.Context, rev int64, fn func(at place, tombstone bool, kv *fields) error) error {
	var kv fields
	return f.pages.leavesBack(ctx, f.keys, func(p page) error {
		for i := p.count - 1; i >= p.from; i-- {
			e, err := f.pages.leaf(p, i)
			if err != nil {
				return err
			}
			pos, tombstone, err := f.position(e)
			if err == nil && f.archive == nil && pos.Main > rev {
				continue
			}
			if err == nil {
				err = f.readEntry(pos, tombstone, e.value, &kv)
			}
			if err != nil {
				if err = f.loseEntry(f.pages.placeOf(p, i), err); err != nil {
					return err
				}
				continue
			}
			if err := fn(f.pages.placeOf(p, i), tombstone, &kv); err != nil {
				return err
			}
		}
		return nil
	})
}

// bounds cuts out [start, end) of an ordered index, with etcd's meaning of an empty end and of "\x00".
func (f *File) bounds(x *index, start, end string) (lo, hi int, err error) {
	err = guard(f.path, func() (err error) {
		lo, err = f.search(x, start)
		switch {
		case err != nil:
		case end == "\x00":
			hi = len(x.sorted)
		case end == "":
			hi, err = f.search(x, start+"\x00")
		default:
			hi, err = f.search(x, end)
		}
		hi = max(lo, hi)
		return err
	})
	return lo, hi, err
}

func (f *File) search(x *index, key string) (int, error) {
	var failed error
	i := sort.Search(len(x.sorted), func(i int) bool {
		found, err := f.viewKey(x.sorted[i], x.odd)
		if err != nil {
			failed = err
		}
		return string(found) >= key
	})
	return i, failed
}
