package filter

import (
	"context"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/etcd-rescue/etcd-rescue/codec"
)

// How much is looked for: owner references are other people's input. Of a kind
// more than one owner is tried, because the first may be one that is gone.
const (
	maxGuessedKinds = 256
	maxGuesses      = 64 // owners of each kind
)

// discover looks for the kind of an owner that neither the built-in table nor
// a definition explains: a custom one whose definition is gone, or one that is
// newer than this build. A guess only says where to look. What makes the kind
// known is the owner itself, by the proof of [codec.Catalog.AddStored].
func (w *Owners) discover(ctx context.Context, ref codec.Owner, namespace string) (*codec.Resource, bool, error) {
	w.discovering.Lock()
	defer w.discovering.Unlock()
	kind := schema.GroupKind{Group: ref.Group(), Kind: ref.Kind}
	if r, ok := w.reader.Catalog.ByKind(kind.Group, kind.Kind); ok {
		return r, true, nil
	}
	owner := namespace + "/" + ref.Name
	if !mayBeStored(kind, namespace, ref.Name) || w.tried[kind][owner] || !w.mayTry(kind) {
		return nil, false, nil
	}
	for _, key := range w.guesses(kind, namespace, ref.Name) {
		if err := w.prove(ctx, kind, key.Path(w.reader.Prefix)); err != nil {
			return nil, false, err
		}
		if r, ok := w.reader.Catalog.ByKind(kind.Group, kind.Kind); ok {
			delete(w.tried, kind)
			return r, true, nil
		}
	}
	if w.tried[kind] == nil {
		w.tried[kind] = map[string]bool{}
	}
	w.tried[kind][owner] = true
	return nil, false, nil
}

// mayTry reports whether the bounds leave room for another try.
func (w *Owners) mayTry(kind schema.GroupKind) bool {
	tried, known := w.tried[kind]
	return len(tried) < maxGuesses && (known || len(w.tried) < maxGuessedKinds)
}

// mayBeStored refuses what no apiserver lets exist, so that nothing strange is
// asked for or remembered.
func mayBeStored(kind schema.GroupKind, namespace, name string) bool {
	segment := func(s string) bool {
		return len(s) <= validation.DNS1123SubdomainMaxLength && len(content.IsPathSegmentName(s)) == 0
	}
	return len(validation.IsDNS1035Label(strings.ToLower(kind.Kind))) == 0 &&
		(kind.Group == "" || len(validation.IsDNS1123Subdomain(kind.Group)) == 0) &&
		name != "" && segment(name) && (namespace == "" || segment(namespace))
}

// guesses returns the keys that the owner may have.
func (w *Owners) guesses(kind schema.GroupKind, namespace, name string) (keys []codec.Key) {
	guess, _ := meta.UnsafeGuessKindToResource(kind.WithVersion(""))
	plurals := []string{guess.Resource}
	if simple := strings.ToLower(kind.Kind) + "s"; simple != guess.Resource {
		plurals = append(plurals, simple) // gateways, where the guess is gatewaies
	}
	for _, plural := range plurals {
		var prefixes []string
		if strings.Contains(kind.Group, ".") {
			prefixes = append(prefixes, kind.Group+"/"+plural+"/")
		}
		if !w.defined(kind.Group) {
			prefixes = append(prefixes, plural+"/")
		}
		for _, prefix := range prefixes {
			if namespace != "" {
				keys = append(keys, codec.Key{Resource: &codec.Resource{Prefix: prefix, Namespaced: true}, Namespace: namespace, Name: name})
			}
			keys = append(keys, codec.Key{Resource: &codec.Resource{Prefix: prefix}, Name: name})
		}
	}
	return keys
}

// defined reports whether there are definitions of custom kinds in the group.
func (w *Owners) defined(group string) bool {
	for _, r := range w.reader.Catalog.Resources() {
		if r.Custom && !r.Learned && r.Group == group {
			return true
		}
	}
	return false
}

// prove adds the kind to the catalog if an object of it is stored at key.
// The object is not remembered: its key is understood only afterwards.
func (w *Owners) prove(ctx context.Context, kind schema.GroupKind, key string) error {
	if k, ok := w.reader.Catalog.ParseKey(w.reader.Prefix, key); ok && k.Resource.Kind != "" {
		return nil // the key belongs to another kind
	}
	o, err := w.read(ctx, w.Main != nil, key)
	if err != nil || o == nil || o.Head.Err != nil {
		return err
	}
	m := o.Head.Meta
	if schema.FromAPIVersionAndKind(m.APIVersion, m.Kind).GroupKind() != kind {
		return nil
	}
	// What AddStored refuses is not proved, and stays unknown.
	_, _ = w.reader.Catalog.AddStored(w.reader.Prefix, key, m)
	return nil
}
