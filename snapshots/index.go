package snapshots

import (
	"context"
	"fmt"
	"slices"
	"sort"

	"google.golang.org/protobuf/encoding/protowire"
)

// index lists the keys that are alive at one revision, sorted, and where their entries stand. It holds no values.
type index struct {
	rev    int64
	keys   []string
	places []place
}

// bounds cuts out [start, end), with etcd's meaning of an empty end and of "\x00".
func (x *index) bounds(start, end string) (lo, hi int) {
	lo = sort.SearchStrings(x.keys, start)
	switch end {
	case "":
		if hi = lo; lo < len(x.keys) && x.keys[lo] == start {
			hi++
		}
	case "\x00":
		hi = len(x.keys)
	default:
		hi = max(lo, sort.SearchStrings(x.keys, end))
	}
	return lo, hi
}

// index gives the index at revision rev, built on first use. That of the newest revision is kept for good, and the
// last one of another revision until a third is asked for.
func (f *File) index(ctx context.Context, rev int64) (*index, error) {
	switch {
	case rev == 0 || f.archive != nil:
		rev = f.rev
	case rev < 0 || rev > f.rev:
		return nil, fmt.Errorf("%w: %q ends at revision %d, asked for %d", ErrFutureRev, f.path, f.rev, rev)
	case rev < f.compacted:
		return nil, fmt.Errorf("%w: %q begins at revision %d, asked for %d", ErrCompacted, f.path, f.compacted, rev)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	slot := &f.newest
	if rev != f.rev {
		slot = &f.older
	}
	if *slot == nil || (*slot).rev != rev {
		x, err := f.buildIndex(ctx, rev)
		if err != nil {
			return nil, err
		}
		*slot = x
	}
	return *slot, nil
}

// indexed is one key while an index is being built.
type indexed struct {
	key   string
	at    place
	alive bool
}

func (f *File) buildIndex(ctx context.Context, rev int64) (*index, error) {
	var all []indexed
	byKey := make(map[string]int32)
	err := f.walkKeys(ctx, func(pos Position, tombstone bool, at place, value []byte) error {
		if f.archive == nil && pos.Main > rev {
			return errStop
		}
		key, err := f.keyAt(pos, value)
		if err != nil || len(key) == 0 {
			return err
		}
		i, ok := byKey[string(key)]
		if !ok {
			i = int32(len(all))
			all = append(all, indexed{key: string(key)})
			byKey[all[i].key] = i
		}
		all[i].at, all[i].alive = at, !tombstone
		return nil
	})
	if err != nil {
		return nil, err
	}
	return newIndex(rev, all), nil
}

func newIndex(rev int64, all []indexed) *index {
	all = slices.DeleteFunc(all, func(e indexed) bool { return !e.alive })
	sort.Slice(all, func(i, j int) bool { return all[i].key < all[j].key })
	x := &index{rev: rev, keys: make([]string, len(all)), places: make([]place, len(all))}
	for i, e := range all {
		x.keys[i], x.places[i] = e.key, e.at
	}
	return x
}

// keyOf takes the key out of an encoded KeyValue and leaves the rest alone. The last occurrence counts, as protobuf
// demands.
func keyOf(b []byte) (key []byte, err error) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]
		if num == 1 && typ == protowire.BytesType {
			if key, n = protowire.ConsumeBytes(b); n < 0 {
				return nil, protowire.ParseError(n)
			}
		} else if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]
	}
	return key, nil
}
