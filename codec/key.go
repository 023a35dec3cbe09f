package codec

import "strings"

// Key is what an etcd key says: which resource, which namespace, which name.
type Key struct {
	Resource  *Resource
	Namespace string // "" if the resource is cluster-scoped
	Name      string
}

// ParseKey reads an etcd key. prefix is the etcd prefix, such as "/registry/";
// a missing trailing slash is added. ok is false for everything that is not
// certainly the key of one object: outside the prefix, of an unknown resource,
// with more or fewer segments than the resource's scope has, or with a segment
// that no object can be named.
//
// The resource is the one with the longest prefix, compared by whole segments.
// If the first segment contains a dot it is an API group, because a CRD's group
// must contain one and no built-in prefix does. A custom resource whose CRD is
// not in the catalog gets a Resource of its own at every call, without a kind,
// its scope told by counting segments; compare such resources by String.
func (c *Catalog) ParseKey(prefix, key string) (k Key, ok bool) {
	rest, ok := strings.CutPrefix(key, slashed(prefix))
	if !ok {
		return Key{}, false
	}
	one := strings.IndexByte(rest, '/') + 1
	if one == 0 {
		return Key{}, false
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	two := one + strings.IndexByte(rest[one:], '/') + 1
	if two > one {
		if r := c.byPrefix[rest[:two]]; r != nil {
			return r.parse(rest[two:])
		}
		if strings.Contains(rest[:one], ".") {
			return parseOrphan(rest[:one-1], rest[one:two-1], rest[two:])
		}
	}
	if r := c.byPrefix[rest[:one]]; r != nil {
		return r.parse(rest[one:])
	}
	return Key{}, false
}

// parse reads what follows the resource's prefix.
func (r *Resource) parse(rest string) (Key, bool) {
	namespace, name, two := strings.Cut(rest, "/")
	if two != r.Namespaced {
		return Key{}, false
	}
	if !two {
		namespace, name = "", rest
	} else if !validSegment(namespace) {
		return Key{}, false
	}
	if !validSegment(name) {
		return Key{}, false
	}
	return Key{Resource: r, Namespace: namespace, Name: name}, true
}

// parseOrphan reads the key of a custom resource without a known CRD.
func parseOrphan(group, plural, rest string) (Key, bool) {
	if !validSegment(group) || !validSegment(plural) {
		return Key{}, false
	}
	r := &Resource{
		Group:      group,
		Plural:     plural,
		Prefix:     group + "/" + plural + "/",
		Namespaced: strings.Contains(rest, "/"),
		Custom:     true,
	}
	return r.parse(rest)
}

// Path returns the etcd key, the inverse of [Catalog.ParseKey] under the same
// prefix.
func (k Key) Path(prefix string) string {
	path := slashed(prefix) + k.Resource.Prefix
	if k.Resource.Namespaced {
		path += k.Namespace + "/"
	}
	return path + k.Name
}

// validSegment tells whether s can be one segment of a key: the rule of
// IsValidPathSegmentName in k8s.io/apimachinery pkg/api/validation/path, which
// every object name passes.
func validSegment(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "/%")
}
