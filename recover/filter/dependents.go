package filter

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// MaxUIDs bounds a set of UIDs; it then takes 128 MiB.
const MaxUIDs = 5_000_000

// ErrTooManyUIDs is returned where a set of UIDs is full.
var ErrTooManyUIDs = errors.New("more than 5 million objects are selected, too many to look for what they own; select fewer at a time")

// UIDs is a set of objects, each known by its namespace and its UID and held as
// 16 bytes of their hash, in a table of up to 2.7 times that size. The zero UIDs
// and nil are empty. It is not safe for concurrent use.
type UIDs struct {
	slots [][16]byte // open addressing; a zero slot is free
	n     int
}

func uidHash(namespace, uid string) (h [16]byte) {
	buf := make([]byte, 0, 128)
	buf = append(append(append(buf, namespace...), 0), uid...)
	sum := sha256.Sum256(buf)
	copy(h[:], sum[:])
	return h
}

// at returns where the hash is, or would be.
func (u *UIDs) at(h [16]byte) int {
	mask := len(u.slots) - 1
	i := (int(h[0]) | int(h[1])<<8 | int(h[2])<<16 | int(h[3])<<24) & mask
	for u.slots[i] != h && u.slots[i] != [16]byte{} {
		i = (i + 1) & mask
	}
	return i
}

// Add adds an object; one without a UID is left out, because nothing can name
// it as its owner. It returns ErrTooManyUIDs when the set is full.
func (u *UIDs) Add(namespace, uid string) error {
	if uid == "" || u.Has(namespace, uid) {
		return nil
	}
	return u.insert(uidHash(namespace, uid))
}

func (u *UIDs) insert(h [16]byte) error {
	if u.n >= MaxUIDs {
		return ErrTooManyUIDs
	}
	if u.n >= len(u.slots)*3/4 {
		old := u.slots
		u.slots = make([][16]byte, max(2*len(old), 1<<10))
		for _, h := range old {
			if h != [16]byte{} {
				u.slots[u.at(h)] = h
			}
		}
	}
	if i := u.at(h); u.slots[i] != h {
		u.slots[i] = h
		u.n++
	}
	return nil
}

// AddAll adds what another set holds.
func (u *UIDs) AddAll(other *UIDs) error {
	for _, h := range other.slots {
		if h != [16]byte{} {
			if err := u.insert(h); err != nil {
				return err
			}
		}
	}
	return nil
}

// Has reports whether the object is in the set.
func (u *UIDs) Has(namespace, uid string) bool {
	if u.Len() == 0 || uid == "" {
		return false
	}
	h := uidHash(namespace, uid)
	return u.slots[u.at(h)] == h
}

// Len is how many objects the set holds.
func (u *UIDs) Len() int {
	if u == nil {
		return 0
	}
	return u.n
}

// Doomed are the objects whose dependents are looked for.
type Doomed struct {
	Now *UIDs // that go now
	// Gone went earlier. Only what does not exist any more counts of it.
	Gone *UIDs
}

// has reports whether a reference of an object in namespace names one of them:
// of the same namespace or of none, as for the garbage collector.
func (d Doomed) has(u *UIDs, namespace, uid string) bool {
	return u.Has("", uid) || namespace != "" && u.Has(namespace, uid)
}

// Dependent tells whether o would lose its owners with the doomed objects: it
// names one of them, or an owner that does so itself, and no owner that stays.
// through is then the reference by which it does. shared means that it has
// another owner that stays, or of which nothing can be said, so that the
// garbage collector would keep it too (k8s pkg/controller/garbagecollector,
// attemptToDeleteItem). Neither needs the owners on the way to exist.
func (w *Owners) Dependent(ctx context.Context, o Object, doomed Doomed) (through *codec.Owner, shared bool, err error) {
	return w.dependent(ctx, &o, doomed, nil)
}

// dependent is Dependent for what was met on the way up; circles end there.
func (w *Owners) dependent(ctx context.Context, o *Object, doomed Doomed, way []string) (through *codec.Owner, shared bool, err error) {
	for i := range o.Head.Meta.Owners {
		ref := &o.Head.Meta.Owners[i]
		falls, stays, err := w.falls(ctx, ref, o.Key.Namespace, doomed, way)
		if err != nil {
			return nil, false, err
		}
		if falls && through == nil {
			through = ref
		}
		shared = shared || stays
	}
	if through == nil {
		return nil, false, nil
	}
	if shared {
		return nil, true, nil
	}
	return through, false, nil
}

// falls tells of one owner whether it goes with the doomed objects, or stays.
// One that does not exist does neither.
func (w *Owners) falls(ctx context.Context, ref *codec.Owner, namespace string, doomed Doomed, way []string) (falls, stays bool, err error) {
	if doomed.has(doomed.Now, namespace, ref.UID) {
		return true, false, nil
	}
	key, known, err := w.key(ctx, *ref, namespace)
	if err != nil {
		return false, false, err
	}
	if !known {
		gone := doomed.has(doomed.Gone, namespace, ref.UID)
		return gone, !gone, nil
	}
	path := key.Path(w.reader.Prefix)
	if len(way) >= maxDepth || slices.Contains(way, path) {
		return false, false, nil
	}
	owner, err := w.get(ctx, false, key)
	if err != nil {
		return false, false, err
	}
	switch {
	case owner == nil, owner.Head.Err == nil && owner.Head.Meta.UID != ref.UID:
		return doomed.has(doomed.Gone, namespace, ref.UID), false, nil
	case owner.Head.Err != nil:
		return false, true, nil
	}
	through, _, err := w.dependent(ctx, owner, doomed, append(way, path))
	return through != nil, through == nil, err
}

// Candidates calls fn for every object that may be owned by one in the given
// namespaces, with its metadata: all that is in them, or, without namespaces,
// everything. whole is for kine, as for Inside.
func (f *Filter) Candidates(ctx context.Context, src keyspace.Source, namespaces []string, whole bool, fn func(Object) error) error {
	if namespaces != nil {
		return f.Inside(ctx, src, namespaces, whole, func(o Object, d Decision) error {
			if d != Keep {
				return nil // what cannot be read names no owner
			}
			return fn(o)
		})
	}
	if err := f.owners.learnOnce(ctx); err != nil {
		return err
	}
	return src.Scan(ctx, keyspace.Prefix(f.reader.Prefix), false, func(kv *mvccpb.KeyValue) error {
		return fn(f.explain(ctx, kv))
	})
}
