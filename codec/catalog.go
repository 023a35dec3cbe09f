package codec

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/util/json"
)

// Catalog is the set of resources that keys and names are resolved against.
// It is safe for concurrent use: custom kinds may be added while keys are read.
type Catalog struct {
	mu       sync.RWMutex
	byPrefix map[string]*Resource   // Resource.Prefix
	byName   map[string][]*Resource // plural, singular, short names, kind in lower case
	events   *Resource              // eventsView: in neither map
	learned  int                    // how many of byPrefix are Learned
}

// NewCatalog returns a catalog of everything that kube-apiserver 1.16 to 1.37
// stores for itself, including what was removed on the way.
func NewCatalog() *Catalog {
	c := &Catalog{byPrefix: map[string]*Resource{}, byName: map[string][]*Resource{}, events: eventsView()}
	for _, r := range builtins() {
		c.add(r)
	}
	return c
}

// AddCRD adds the resource that a stored CustomResourceDefinition defines and
// returns it; value is the CRD's JSON as etcd holds it, v1beta1 or v1. Adding
// the same resource again replaces it, and so does adding what
// [Catalog.AddStored] had learned. A value that is not a CRD, or defines
// something that cannot stand in a key, is an error and changes nothing.
func (c *Catalog) AddCRD(value []byte) (*Resource, error) {
	var crd crdHead
	if err := json.Unmarshal(value, &crd); err != nil {
		return nil, fmt.Errorf("read CustomResourceDefinition: %w", jsonError(err))
	}
	r, err := crd.resource()
	if err != nil {
		return nil, fmt.Errorf("read CustomResourceDefinition %q: %w", crd.Metadata.Name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.byPrefix[r.Prefix]; old != nil && !old.Custom {
		return nil, fmt.Errorf("read CustomResourceDefinition %q: keys belong to built-in %s", crd.Metadata.Name, old)
	}
	c.remove(c.byPrefix[r.Prefix])
	if old := c.byKind(r.Group, r.Kind); old != nil && old.Learned {
		c.remove(old)
	}
	c.add(r)
	return r, nil
}

// crdHead is what v1beta1 and v1 have in common, and where v1beta1 differs.
type crdHead struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Group string `json:"group"`
		Scope string `json:"scope"`
		Names struct {
			Kind       string   `json:"kind"`
			Plural     string   `json:"plural"`
			Singular   string   `json:"singular"`
			ShortNames []string `json:"shortNames"`
		} `json:"names"`
		SelectableFields         []crdField  `json:"selectableFields"`
		AdditionalPrinterColumns []crdColumn `json:"additionalPrinterColumns"`
		Versions                 []struct {
			Served                   bool        `json:"served"`
			Storage                  bool        `json:"storage"`
			SelectableFields         []crdField  `json:"selectableFields"`
			AdditionalPrinterColumns []crdColumn `json:"additionalPrinterColumns"`
		} `json:"versions"`
	} `json:"spec"`
}

type crdField struct {
	JSONPath string `json:"jsonPath"`
}

func (crd *crdHead) resource() (*Resource, error) {
	group, _, _ := strings.Cut(crd.APIVersion, "/")
	if crd.Kind != "CustomResourceDefinition" || group != "apiextensions.k8s.io" {
		return nil, errors.New("it is of another kind")
	}
	spec := &crd.Spec
	// A group without a dot would be indistinguishable from a built-in
	// prefix; apiserver's validation refuses it too.
	if !validSegment(spec.Group) || !strings.Contains(spec.Group, ".") || !validSegment(spec.Names.Plural) {
		return nil, fmt.Errorf("group %q and plural %q make no key", spec.Group, spec.Names.Plural)
	}
	if spec.Scope != "Namespaced" && spec.Scope != "Cluster" {
		return nil, fmt.Errorf("unknown scope %q", spec.Scope)
	}
	singular := spec.Names.Singular
	if singular == "" {
		singular = strings.ToLower(spec.Names.Kind)
	}
	return &Resource{
		Group:      spec.Group,
		Kind:       spec.Names.Kind,
		Plural:     spec.Names.Plural,
		Singular:   singular,
		ShortNames: spec.Names.ShortNames,
		Namespaced: spec.Scope == "Namespaced",
		Prefix:     spec.Group + "/" + spec.Names.Plural + "/",
		Custom:     true,
		Selectable: crd.selectable(),

		PrinterColumns: crd.printerColumns(),
	}, nil
}

func (crd *crdHead) selectable() []string {
	all := slices.Clone(crd.Spec.SelectableFields)
	for _, v := range crd.Spec.Versions {
		all = append(all, v.SelectableFields...)
	}
	var paths []string
	for _, f := range all {
		if path := strings.TrimPrefix(f.JSONPath, "."); path != "" && !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	return paths
}

// Resources returns everything in the catalog, internal ones included, sorted
// by String. The view events.events.k8s.io is not among them.
func (c *Catalog) Resources() []*Resource {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := make([]*Resource, 0, len(c.byPrefix))
	for _, r := range c.byPrefix {
		list = append(list, r)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].String() < list[j].String() })
	return list
}

// Lookup resolves a resource name as kubectl does: plural, singular, short
// name or kind, in any case, alone or followed by .group or by .version.group
// ("pods", "po", "Job.batch", "deployments.v1.apps", "pods.v1."). A group must
// be complete, though: kubectl's abbreviated groups are not accepted, because
// a name here may decide what is deleted. If several resources match, a
// built-in one wins and others lists the rest, best match first. ok is false
// if nothing matches.
//
// The group events.k8s.io finds a Resource of its own, which has the keys of
// events and shows them in that group; events are found without it.
func (c *Catalog) Lookup(name string) (r *Resource, others []*Resource, ok bool) {
	base, rest, qualified := strings.Cut(strings.ToLower(name), ".")
	c.mu.RLock()
	found := slices.Clone(c.byName[base])
	c.mu.RUnlock()
	if qualified {
		found = slices.DeleteFunc(found, func(r *Resource) bool { return !matchesGroup(r, rest) })
		for i, r := range found {
			if r.Prefix == eventsPrefix && matchesGroup(&Resource{Group: eventsGroup}, rest) {
				found[i] = c.events
			}
		}
	}
	if len(found) == 0 {
		return nil, nil, false
	}
	sort.SliceStable(found, func(i, j int) bool { return lookupLess(base, found[i], found[j]) })
	return found[0], found[1:], true
}

func lookupLess(base string, a, b *Resource) bool {
	if a.Learned != b.Learned {
		return b.Learned
	}
	if a.Custom != b.Custom {
		return b.Custom
	}
	shortA, shortB := slices.Contains(a.ShortNames, base), slices.Contains(b.ShortNames, base)
	if shortA != shortB {
		return shortB
	}
	return a.String() < b.String()
}

// matchesGroup tells whether rest, the part of a name after its first dot,
// is a group of the resource, or a version and a group.
func matchesGroup(r *Resource, rest string) bool {
	if r.inGroup(rest) {
		return true
	}
	version, group, ok := strings.Cut(rest, ".")
	return ok && isVersion(version) && r.inGroup(group)
}

// isVersion accepts v1, v1beta2, v2alpha1.
func isVersion(s string) bool {
	s, ok := strings.CutPrefix(s, "v")
	rest := strings.TrimLeft(s, "0123456789")
	if !ok || rest == s {
		return false
	}
	if rest == "" {
		return true
	}
	minor, ok := strings.CutPrefix(rest, "alpha")
	if !ok {
		minor, ok = strings.CutPrefix(rest, "beta")
	}
	return ok && minor != "" && strings.Trim(minor, "0123456789") == ""
}

// ByKind returns the resource of a kind as an apiVersion's group and a kind
// name it, in the kind's own spelling. Older groups that serve the same keys
// are accepted.
func (c *Catalog) ByKind(group, kind string) (*Resource, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	r := c.byKind(group, kind)
	return r, r != nil
}

func (c *Catalog) byKind(group, kind string) *Resource {
	for _, r := range c.byName[strings.ToLower(kind)] {
		if r.Kind == kind && r.inGroup(group) {
			return r
		}
	}
	return nil
}

func (c *Catalog) add(r *Resource) {
	c.byPrefix[r.Prefix] = r
	if r.Learned {
		c.learned++
	}
	for _, name := range r.names() {
		c.byName[name] = append(c.byName[name], r)
	}
}

// remove does nothing for nil.
func (c *Catalog) remove(r *Resource) {
	if r == nil {
		return
	}
	delete(c.byPrefix, r.Prefix)
	if r.Learned {
		c.learned--
	}
	for _, name := range r.names() {
		c.byName[name] = slices.DeleteFunc(c.byName[name], func(other *Resource) bool { return other == r })
	}
}

// names returns each name that Lookup accepts for the resource, once.
func (r *Resource) names() []string {
	if r.Internal {
		return []string{r.Plural}
	}
	var names []string
	for _, name := range append([]string{r.Plural, r.Singular, r.Kind}, r.ShortNames...) {
		if name = strings.ToLower(name); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
