package codec

import "strings"

// Resource is one kind of stored object: how people name it and where etcd
// holds it. A Resource handed out by a [Catalog] is shared and must not be
// changed.
type Resource struct {
	Group      string   // API group that serves it now, "" for the core group
	Kind       string   // "" for a custom resource without a stored CRD
	Plural     string   // lower case
	Singular   string   // lower case; may be "" where Kind is
	ShortNames []string // as kubectl accepts them
	Namespaced bool

	// OldGroups are the other API groups that serve or once served the same
	// keys, such as extensions for deployments and events.k8s.io for events
	// (AddCohabitatingResources in k8s.io/kubernetes
	// pkg/kubeapiserver/default_storage_factory_builder.go). A value below
	// Prefix may name one of them in its apiVersion.
	OldGroups []string

	// Prefix is where the keys live below the etcd prefix, with a trailing
	// slash and no leading one: "pods/", "services/specs/",
	// "batch.volcano.sh/jobs/". No two resources that [Catalog.Resources]
	// lists share it. Only the view events.events.k8s.io has that of another,
	// of events.
	Prefix string

	// Custom marks a resource whose first key segment is an API group: a
	// custom resource, or one of an aggregated apiserver on the same etcd.
	Custom bool

	// Learned marks a resource that only [Catalog.AddStored] knows: from what
	// is stored, without a CRD and without a row in the built-in table.
	Learned bool

	// Internal marks keys that kube-apiserver keeps for itself and serves
	// through no API: masterleases, peerserverleases, ranges.
	// [Catalog.Lookup] finds them by their plural only, [Catalog.ByKind] never.
	Internal bool

	// Selectable are the field paths, without a leading dot, that a CRD
	// declares in selectableFields, over all its versions.
	Selectable []string

	// PrinterColumns are the columns that a CRD declares, of the version that
	// it stores; nil if it leaves them to the default, the age.
	PrinterColumns []PrinterColumn
}

// String returns the name that selects exactly this resource: the plural,
// followed by a dot and the group unless that is the core group. It is unique
// in a catalog.
func (r *Resource) String() string {
	if r.Group == "" {
		return r.Plural
	}
	return r.Plural + "." + r.Group
}

// SingularName returns the name that kubectl -o name prints before the slash:
// the kind in lower case, followed by a dot and the group unless that is the
// core group.
func (r *Resource) SingularName() string {
	name := r.Singular
	switch {
	case r.Kind != "":
		name = strings.ToLower(r.Kind)
	case name == "":
		name = r.Plural
	}
	if r.Group == "" {
		return name
	}
	return name + "." + r.Group
}

// Word is how sentences and command lines name one object's resource: the
// singular, with its group only where the singular alone may find another
// resource, as in "job" and "job.batch.volcano.sh". [Catalog.Lookup] finds the
// resource by it.
func (r *Resource) Word() string {
	if !r.Custom && !r.Learned && !r.isEventsView() {
		if r.Singular != "" {
			return r.Singular
		}
		return r.Plural
	}
	return r.SingularName()
}

// Range returns the half-open key range [start, end) of the resource below
// the etcd prefix, or of one namespace of it. An empty namespace means all of
// them. A cluster-scoped resource has no narrower range, so namespace is
// ignored there, as kubectl does; whoever deletes must refuse the combination
// before. start always ends in a slash, so that neither a longer resource name
// nor a longer namespace name falls into the range.
func (r *Resource) Range(prefix, namespace string) (start, end string) {
	start = slashed(prefix) + r.Prefix
	if r.Namespaced && namespace != "" {
		start += namespace + "/"
	}
	return start, start[:len(start)-1] + string(rune('/'+1))
}

// NormalizePrefix returns an etcd prefix in the form that kube-apiserver gives
// its --etcd-prefix before use: one leading and one trailing slash, so that
// "registry" becomes "/registry/" and "" becomes "/" (k8s.io/apiserver
// pkg/storage/etcd3/store.go, New).
func NormalizePrefix(prefix string) string {
	prefix = strings.Trim(prefix, "/")
	if prefix == "" {
		return "/"
	}
	return "/" + prefix + "/"
}

// slashed ends a prefix in a slash, because without one a range or a parse
// would also take keys of a sibling.
func slashed(prefix string) string {
	if strings.HasSuffix(prefix, "/") {
		return prefix
	}
	return prefix + "/"
}

// isEventsView tells the view of events from the resource that has their keys.
func (r *Resource) isEventsView() bool {
	return r.Prefix == eventsPrefix && r.Group == eventsGroup
}

// inGroup reports whether the resource is served under the group, now or in
// an older release.
func (r *Resource) inGroup(group string) bool {
	if r.Group == group {
		return true
	}
	for _, old := range r.OldGroups {
		if old == group {
			return true
		}
	}
	return false
}
