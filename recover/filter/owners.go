package filter

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/etcd-rescue/etcd-rescue/codec"
)

// Getter reads single keys; every keyspace.Source has it.
type Getter interface {
	Get(ctx context.Context, key string) (*mvccpb.KeyValue, error)
}

// maxCached bounds how many owners are remembered as new. Then they become the
// old ones, and what was old and not asked for meanwhile is forgotten: a flood
// with a million owners must not need a million entries.
const maxCached = 1 << 12

// maxDepth bounds a chain of owners. Real ones have two or three links; a
// circle of owner references, which the garbage collector allows to exist,
// must end somewhere.
const maxDepth = 16

// Owners follows owner references upwards. It is safe for concurrent use.
type Owners struct {
	// Main is where Orphaned looks for namespaces and owners if that is not
	// the store of the objects: an etcd for events holds neither. It is set
	// before the first use; nil means the store of the objects.
	Main Getter

	src    Getter
	reader *codec.Reader
	// learn teaches the catalog the custom kinds. It is called once, when
	// the first unknown kind is met, because reading them costs something.
	learn   func(context.Context) error
	learned bool

	mu    sync.Mutex
	cache map[place]*Object // nil = does not exist
	old   map[place]*Object

	discovering sync.Mutex
	tried       map[schema.GroupKind]map[string]bool // owners that proved nothing
}

// place is a key in one of the two stores.
type place struct {
	main bool
	key  string
}

// NewOwners reads owners from src. learn is called at most once, when a kind
// is met that the catalog does not know; it adds the custom ones.
func NewOwners(src Getter, reader *codec.Reader, learn func(context.Context) error) *Owners {
	return &Owners{src: src, reader: reader, learn: learn, cache: map[place]*Object{}, tried: map[schema.GroupKind]map[string]bool{}}
}

// key returns where the owner that ref names would be stored, for an object
// in the given namespace. ok is false for a kind that no resource is known
// for, neither from definitions nor from the owner itself.
func (w *Owners) key(ctx context.Context, ref codec.Owner, namespace string) (key codec.Key, ok bool, err error) {
	r, ok := w.reader.Catalog.ByKind(ref.Group(), ref.Kind)
	if !ok {
		if err := w.learnOnce(ctx); err != nil {
			return codec.Key{}, false, err
		}
		if r, ok = w.reader.Catalog.ByKind(ref.Group(), ref.Kind); !ok {
			if r, ok, err = w.discover(ctx, ref, namespace); err != nil || !ok {
				return codec.Key{}, false, err
			}
		}
	}
	if !r.Namespaced {
		namespace = ""
	}
	return codec.Key{Resource: r, Namespace: namespace, Name: ref.Name}, true, nil
}

func (w *Owners) learnOnce(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.learned || w.learn == nil {
		return nil
	}
	if err := w.learn(ctx); err != nil {
		return fmt.Errorf("read the custom resource definitions: %w", err)
	}
	w.learned = true
	return nil
}

// Find returns the owner that ref names if it exists with that UID, else nil.
// Where an object of that name exists whose value cannot be read, it is
// returned with Head.Err set: it may be the owner or another of its name.
func (w *Owners) Find(ctx context.Context, ref codec.Owner, namespace string) (*Object, error) {
	key, ok, err := w.key(ctx, ref, namespace)
	if err != nil || !ok {
		return nil, err
	}
	o, err := w.get(ctx, false, key)
	if err != nil || o == nil {
		return nil, err
	}
	if o.Head.Err == nil && o.Head.Meta.UID != ref.UID {
		return nil, nil
	}
	return o, nil
}

// get returns an object, read once, from Main or from the store of the objects.
func (w *Owners) get(ctx context.Context, main bool, key codec.Key) (*Object, error) {
	at := place{main && w.Main != nil, key.Path(w.reader.Prefix)}
	if o, known := w.remembered(at); known {
		return o, nil
	}
	o, err := w.read(ctx, at.main, at.key)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.remember(at, o)
	return o, nil
}

func (w *Owners) remembered(at place) (*Object, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o, known := w.cache[at]
	if !known {
		if o, known = w.old[at]; known {
			w.remember(at, o)
		}
	}
	return o, known
}

// remember is called with the lock held.
func (w *Owners) remember(at place, o *Object) {
	if len(w.cache) >= maxCached {
		w.cache, w.old = make(map[place]*Object, maxCached), w.cache
	}
	w.cache[at] = o
}

// read returns the metadata of the object at a key, nil if there is none.
func (w *Owners) read(ctx context.Context, main bool, key string) (*Object, error) {
	src := w.src
	if main {
		src = w.Main
	}
	kv, err := src.Get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	if kv == nil {
		return nil, nil
	}
	o := NewObject(ctx, w.reader, kv)
	o.forgetValue()
	return &o, nil
}

// forgetValue leaves only the metadata, to be remembered.
func (o *Object) forgetValue() { o.KV.Value, o.Plain = nil, nil }

// OwnedBy tells whether want is an owner of o, directly or through any number
// of owners that still exist in o's namespace: Keep if so, Drop if not,
// Undecided if the value of an owner on the way cannot be read. The owner
// itself need not exist any more.
func (w *Owners) OwnedBy(ctx context.Context, o Object, want OwnerRef) (Decision, error) {
	otherwise := Drop
	var seen map[string]bool // each owner once, however many ways lead to it
	level := []*Object{&o}
	for depth := 0; len(level) > 0 && depth <= maxDepth; depth++ {
		if slices.ContainsFunc(level, func(o *Object) bool { return o.names(want) }) {
			return Keep, nil
		}
		var above []*Object
		for _, o := range level {
			for _, ref := range o.Head.Meta.Owners {
				parent, err := w.Find(ctx, ref, o.Key.Namespace)
				if err != nil {
					return Drop, err
				}
				if parent == nil || seen[string(parent.KV.Key)] {
					continue
				}
				if parent.Head.Err != nil {
					otherwise = Undecided
				}
				if seen == nil {
					seen = map[string]bool{}
				}
				seen[string(parent.KV.Key)] = true
				above = append(above, parent)
			}
		}
		level = above
	}
	return otherwise, nil
}

// names reports whether want is among the owners that o itself names.
func (o *Object) names(want OwnerRef) bool {
	return slices.ContainsFunc(o.Head.Meta.Owners, func(ref codec.Owner) bool {
		return ref.Kind == want.Kind && ref.Group() == want.Group && ref.Name == want.Name
	})
}
