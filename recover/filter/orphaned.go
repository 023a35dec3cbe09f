package filter

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/etcd-rescue/etcd-rescue/codec"
)

// Orphaned reports whether the namespace of o, or its controlling owner, does
// not exist any more: Keep if so, Drop if not. Undecided comes with a reason
// that quotes no value. An error means that something could not be looked up.
//
// An owner exists only with the UID that the reference names, as for the
// garbage collector. From what is missing nothing is concluded in a store that
// does not hold the namespace kube-system, which every cluster has: an archive
// or an etcd for events holds only some of the objects.
func (w *Owners) Orphaned(ctx context.Context, o Object) (d Decision, reason string, err error) {
	namespace := o.Key.Namespace
	if o.Key.Resource == nil {
		if o.Head.Err != nil {
			return Undecided, "no resource is known for its key", nil
		}
		namespace = o.Head.Meta.Namespace
	}
	if namespace != "" {
		found, err := w.namespace(ctx, namespace)
		if err != nil {
			return Drop, "", err
		}
		if !found {
			return w.missing(ctx)
		}
	}
	if o.Head.Err != nil {
		return Undecided, valueReason(o.Head.Err), nil
	}
	i := slices.IndexFunc(o.Head.Meta.Owners, func(ref codec.Owner) bool { return ref.Controller })
	if i < 0 {
		return Drop, "", nil
	}
	return w.controllerGone(ctx, o.Head.Meta.Owners[i], namespace)
}

func (w *Owners) controllerGone(ctx context.Context, ref codec.Owner, namespace string) (Decision, string, error) {
	key, known, err := w.key(ctx, ref, namespace)
	switch {
	case err != nil:
		return Drop, "", err
	case !known:
		return Undecided, fmt.Sprintf("its owner's kind %s is not known", kindName(ref)), nil
	case key.Resource.Namespaced && namespace == "":
		// The garbage collector cannot resolve such a reference either.
		return Undecided, "its owner is namespaced and it is not", nil
	}
	owner, err := w.get(ctx, true, key)
	switch {
	case err != nil:
		return Drop, "", err
	case owner == nil:
		return w.missing(ctx)
	case owner.Head.Err != nil:
		return Undecided, "of its owner, " + valueReason(owner.Head.Err), nil
	case owner.Head.Meta.UID != ref.UID:
		return Keep, "", nil
	}
	return Drop, "", nil
}

// missing is the answer where something is not there.
func (w *Owners) missing(ctx context.Context) (Decision, string, error) {
	whole, err := w.namespace(ctx, "kube-system")
	switch {
	case err != nil:
		return Drop, "", err
	case !whole:
		return Undecided, "the store lacks the namespace kube-system, so that nothing can be concluded from what is missing", nil
	}
	return Keep, "", nil
}

// namespace reports whether a namespace exists, readable or not.
func (w *Owners) namespace(ctx context.Context, name string) (bool, error) {
	r, ok := w.reader.Catalog.ByKind("", "Namespace")
	if !ok {
		return false, errors.New("the catalog holds no namespaces")
	}
	o, err := w.get(ctx, true, codec.Key{Resource: r, Name: name})
	return o != nil, err
}

// kindName returns the kind and its group as people write them.
func kindName(ref codec.Owner) string {
	name := ref.Kind
	if group := ref.Group(); group != "" {
		name += "." + group
	}
	const longest = 150 // no real one is longer
	return name[:min(len(name), longest)]
}
