package filter

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
)

// manyGetter reads many keys, which are sorted, with few requests; every
// keyspace.Source is one.
type manyGetter interface {
	GetAll(ctx context.Context, keys []string) (map[string]*mvccpb.KeyValue, error)
}

const (
	// fewKeys are read one by one: a request for all between the first and
	// the last may go over a great many others.
	fewKeys = 8
	// firstChunk keys are read with the first request, as many with the next
	// ones as weigh chunkBytes, judged by the last one.
	firstChunk, maxChunk = 32, 128
	chunkBytes           = 1 << 20
	// maxAhead owners are read ahead in one go; Find reads what is beyond.
	maxAhead = 1 << 10
)

// Ref is an owner reference of an object in a namespace, "" for none.
type Ref struct {
	codec.Owner
	Namespace string
}

// Ahead reads the owners that refs name, and all above them, with few
// requests, so that Find and OwnedBy know them. Find needs no Ahead: it is for
// who goes through many objects, most of them with an owner of their own, and
// calls it for a few hundred at a time.
func (w *Owners) Ahead(ctx context.Context, refs []Ref) error {
	return w.ahead(ctx, false, refs, maxDepth)
}

func (w *Owners) ahead(ctx context.Context, main bool, refs []Ref, levels int) error {
	for left := maxAhead; len(refs) > 0 && levels >= 0 && left > 0; levels-- {
		keys, err := w.unknown(ctx, main, refs, left)
		if err != nil {
			return err
		}
		left -= len(keys)
		var above []Ref
		err = w.each(ctx, main, keys, func(chunk []*Object) error {
			for _, o := range chunk {
				for _, ref := range o.Head.Meta.Owners[:min(len(o.Head.Meta.Owners), maxAhead)] {
					above = append(above, Ref{ref, o.Key.Namespace})
				}
				o.forgetValue()
			}
			above = above[:min(len(above), 4*maxAhead)]
			return nil
		}, true)
		if err != nil {
			return err
		}
		refs = above
	}
	return nil
}

// unknown returns the keys of the first most owners that are not remembered,
// sorted.
func (w *Owners) unknown(ctx context.Context, main bool, refs []Ref, most int) ([]string, error) {
	seen := map[string]bool{}
	for _, ref := range refs {
		key, ok, err := w.key(ctx, ref.Owner, ref.Namespace)
		if err != nil {
			return nil, err
		}
		path := ""
		if ok {
			path = key.Path(w.reader.Prefix)
		}
		if path == "" || seen[path] {
			continue
		}
		if _, known := w.remembered(place{main && w.Main != nil, path}); !known {
			seen[path] = true
		}
		if len(seen) == most {
			break
		}
	}
	keys := make([]string, 0, len(seen))
	for key := range seen {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys, nil
}

// Each reads the objects at keys, which are sorted, with their values, and
// calls fn for those that exist, some at a time and in the order of keys. What
// one call gets weighs about a MiB, whatever there is; it is not remembered.
func (w *Owners) Each(ctx context.Context, keys []string, fn func(chunk []*Object) error) error {
	return w.each(ctx, false, keys, fn, false)
}

func (w *Owners) each(ctx context.Context, main bool, keys []string, fn func([]*Object) error, remember bool) error {
	size := firstChunk
	for len(keys) > 0 {
		var chunk []string
		chunk, keys = w.cutChunk(keys, size)
		found, err := w.getAll(ctx, main, chunk)
		if err != nil {
			return err
		}
		objects, weight := make([]*Object, 0, len(found)), 1
		for _, key := range chunk {
			if kv := found[key]; kv != nil {
				o := NewObject(ctx, w.reader, kv)
				objects, weight = append(objects, &o), weight+len(kv.Value)
			}
		}
		size = min(max(chunkBytes*len(chunk)/weight, 1), maxChunk)
		if err := fn(objects); err != nil {
			return err
		}
		if remember {
			w.rememberAll(main, chunk, objects)
		}
	}
	return nil
}

// cutChunk takes the first keys off, of one resource: between those of two may
// lie everything else.
func (w *Owners) cutChunk(keys []string, most int) (chunk, rest []string) {
	resource := func(key string) string {
		first, _, _ := strings.Cut(strings.TrimPrefix(key, w.reader.Prefix), "/")
		return first
	}
	n := 1
	for n < min(len(keys), most) && resource(keys[n]) == resource(keys[0]) {
		n++
	}
	return keys[:n], keys[n:]
}

func (w *Owners) getAll(ctx context.Context, main bool, keys []string) (map[string]*mvccpb.KeyValue, error) {
	src := w.src
	if main && w.Main != nil {
		src = w.Main
	}
	if many, ok := src.(manyGetter); ok && len(keys) > fewKeys {
		found, err := many.GetAll(ctx, keys)
		if err != nil {
			return nil, fmt.Errorf("read %s and %d more: %w", keys[0], len(keys)-1, err)
		}
		return found, nil
	}
	found := make(map[string]*mvccpb.KeyValue, len(keys))
	for _, key := range keys {
		kv, err := src.Get(ctx, key)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", key, err)
		}
		found[key] = kv
	}
	return found, nil
}

// rememberAll remembers what was read, and what of it does not exist.
func (w *Owners) rememberAll(main bool, keys []string, found []*Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, key := range keys {
		var o *Object
		if len(found) > 0 && string(found[0].KV.Key) == key {
			o, found = found[0], found[1:]
		}
		w.remember(place{main && w.Main != nil, key}, o)
	}
}

// LooksUp reports whether judging looks up owners, so that Ahead is worth it.
func (f *Filter) LooksUp() bool { return f.sel.Owner != nil || f.sel.Orphaned }

// Ahead reads the owners that judging these objects needs, with few requests.
// Judge needs no Ahead; without it every owner not seen yet costs a request.
func (f *Filter) Ahead(ctx context.Context, objects []*Object) error {
	var owners, controllers []Ref
	for _, o := range objects {
		if !f.byKey(*o) || o.Head.Err != nil || f.sel.needsHead() && !f.byHead(o.Head) {
			continue
		}
		direct := f.sel.Owner != nil && o.names(*f.sel.Owner)
		for _, ref := range o.Head.Meta.Owners {
			if f.sel.Owner != nil && !direct {
				owners = appendNew(owners, Ref{ref, o.Key.Namespace})
			}
			if f.sel.Orphaned && ref.Controller && o.Key.Resource != nil {
				controllers = appendNew(controllers, Ref{ref, o.Key.Namespace})
			}
		}
	}
	if err := f.owners.Ahead(ctx, owners); err != nil {
		return err
	}
	return f.owners.ahead(ctx, true, controllers, 0)
}

// appendNew leaves out what is among the last few: objects that stand together
// have few different owners.
func appendNew(refs []Ref, ref Ref) []Ref {
	const few = 16
	if slices.Contains(refs[max(0, len(refs)-few):], ref) {
		return refs
	}
	return append(refs, ref)
}
