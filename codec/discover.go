package codec

import (
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
)

// maxLearned bounds what AddStored keeps: keys are other people's input.
const maxLearned = 10_000

// AddStored learns a resource that neither the built-in table nor a CRD
// explains from one stored object, m being the metadata in the value of key,
// and returns it: a custom resource whose CRD is gone, or a built-in one that
// is newer than this build. [Catalog.ParseKey] then understands the keys of the
// resource, Lookup its plural and its kind, and [Resource.Learned] is set.
// A resource that was learned before is returned again.
//
// Nothing is guessed. The key must be group/plural/[namespace/]name, or
// plural/[namespace/]name without a dot in the plural, with the name, the
// namespace and, in the first form, the group of m. Resources that are known
// are never replaced: a prefix that overlaps with a known one, a plural or a
// kind of a group that is stored elsewhere, and a kind or group other than what
// was learned before are errors, as is everything beyond 10,000 learned
// resources. After an error the catalog is as it was.
func (c *Catalog) AddStored(prefix, key string, m Meta) (*Resource, error) {
	r, err := storedResource(prefix, key, m)
	if err != nil {
		return nil, fmt.Errorf("learn from key %q: %w", key, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old, err := c.conflict(r)
	if err != nil {
		return nil, fmt.Errorf("learn from key %q: %w", key, err)
	}
	if old != nil {
		return old, nil
	}
	if c.learned >= maxLearned {
		return nil, fmt.Errorf("learn from key %q: %d resources are learned already", key, c.learned)
	}
	if orphan := c.byPrefix[r.Prefix]; orphan != nil {
		c.remove(orphan)
	}
	c.add(r)
	return r, nil
}

// AddOrphan learns a custom resource without a CRD from a key alone, where
// values cannot be read: its group, its plural and, by counting segments, its
// scope. Its kind stays unknown. AddStored replaces it by what an object proves.
// The errors are AddStored's.
func (c *Catalog) AddOrphan(prefix, key string) (*Resource, error) {
	k, ok := c.ParseKey(prefix, key)
	if !ok || !k.Resource.Custom {
		return nil, fmt.Errorf("learn from key %q: it is not that of a custom resource", key)
	}
	r := k.Resource
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.byPrefix[r.Prefix]; old != nil {
		return old, nil
	}
	if c.learned >= maxLearned {
		return nil, fmt.Errorf("learn from key %q: %d resources are learned already", key, c.learned)
	}
	r.Learned = true
	c.add(r)
	return r, nil
}

// storedResource is what a key and the metadata in its value say together.
func storedResource(prefix, key string, m Meta) (*Resource, error) {
	rest, ok := strings.CutPrefix(key, slashed(prefix))
	if !ok {
		return nil, errors.New("it is outside the prefix")
	}
	gv, err := schema.ParseGroupVersion(m.APIVersion)
	if err != nil || gv.Version == "" {
		return nil, fmt.Errorf("its apiVersion is %q", m.APIVersion)
	}
	first, below, _ := strings.Cut(rest, "/")
	r := &Resource{
		Group: gv.Group, Kind: m.Kind, Plural: first, Singular: strings.ToLower(m.Kind),
		Namespaced: m.Namespace != "", Prefix: first + "/", Learned: true,
	}
	if strings.Contains(first, ".") {
		if first != gv.Group {
			return nil, fmt.Errorf("its apiVersion is %q", m.APIVersion)
		}
		r.Custom = true
		r.Plural, below, _ = strings.Cut(below, "/")
		r.Prefix = first + "/" + r.Plural + "/"
	}
	// The names that an apiserver accepts; a CRD's validation says the same.
	if len(validation.IsDNS1035Label(r.Plural)) > 0 || len(validation.IsDNS1035Label(r.Singular)) > 0 ||
		r.Group != "" && len(validation.IsDNS1123Subdomain(r.Group)) > 0 {
		return nil, fmt.Errorf("group %q, plural %q and kind %q make no resource", r.Group, r.Plural, r.Kind)
	}
	k, ok := r.parse(below)
	if !ok || k.Name != m.Name || k.Namespace != m.Namespace {
		return nil, errors.New("its metadata has another name or namespace")
	}
	return r, nil
}

// conflict returns the same resource if it was learned before, and an error if
// r disagrees with anything known.
func (c *Catalog) conflict(r *Resource) (*Resource, error) {
	if old := c.byPrefix[r.Prefix]; old != nil {
		if old.Learned && old.Kind == r.Kind && old.Group == r.Group && old.Namespaced == r.Namespaced {
			return old, nil
		}
		if !old.Learned || old.Kind != "" {
			return nil, fmt.Errorf("its keys belong to %s", old)
		}
	}
	if old := c.byKind(r.Group, r.Kind); old != nil {
		return nil, fmt.Errorf("its kind is that of %s, which is stored elsewhere", old)
	}
	for _, old := range c.byName[r.Plural] {
		if old.Plural == r.Plural && old.inGroup(r.Group) && old.Prefix != r.Prefix {
			return nil, fmt.Errorf("it would be another %s", old)
		}
	}
	if r.Custom {
		return nil, nil
	}
	// A longer prefix below this one would be in the range of its keys.
	for known, old := range c.byPrefix {
		if strings.HasPrefix(known, r.Prefix) {
			return nil, fmt.Errorf("the keys of %s are below it", old)
		}
	}
	return nil, nil
}
