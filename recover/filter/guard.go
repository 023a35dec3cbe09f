package filter

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/etcd-rescue/etcd-rescue/codec"
)

// Overrides are the --unsafe-… flags, each holding the very thing that it
// allows.
type Overrides struct {
	// Namespaces whose objects may be deleted although Kubernetes itself
	// lives there.
	Namespaces []string `json:"namespaces,omitempty"`
	// Kinds that may be deleted although that does harm, of UnsafeKinds.
	Kinds []string `json:"kinds,omitempty"`
}

// The kinds that [Overrides] can allow: all of some resources, and of others
// those objects whose delete does harm.
const (
	unsafeNodes       = "nodes"
	unsafeVolumes     = "persistentvolumes"
	unsafeClaims      = "persistentvolumeclaims"
	unsafeDefinitions = "customresourcedefinitions"
	unsafePods        = "statefulset-pods"
	unsafeTokens      = "serviceaccount-tokens"
	unsafeReleases    = "helm-releases"
)

// UnsafeKinds are the values that [Overrides] takes for Kinds, sorted.
func UnsafeKinds() []string {
	return []string{unsafeDefinitions, unsafeReleases, unsafeNodes, unsafeClaims, unsafeVolumes, unsafeTokens, unsafePods}
}

// Verdict is what a guard says of one object: why it must not be deleted and
// which flag would allow it, or, where Blocks is false, only what its delete
// does.
type Verdict struct {
	Blocks bool
	// Reason is one of few texts and names no object, so that equal ones can
	// be counted.
	Reason string
	Allow  string // "--unsafe-namespace kube-system", empty if nothing does
	// Detail is what was looked up for this object: "PersistentVolume pv-7".
	Detail string
}

// String is the reason with its detail. It quotes no value.
func (v Verdict) String() string {
	if v.Detail == "" {
		return v.Reason
	}
	return v.Reason + ": " + v.Detail
}

// Guard keeps objects from being deleted by accident. It is safe for concurrent
// use.
type Guard struct {
	reader  *codec.Reader
	src     GuardSource
	allowed Overrides
	facts   facts
}

// NewGuard returns a guard that lets pass what allowed names. It looks up
// Nodes, volumes and custom resources in src: the main store of the cluster,
// also where the objects to delete lie in an etcd for events. What it has read
// of a pinned revision it remembers, of the present nothing.
func NewGuard(reader *codec.Reader, src GuardSource, allowed Overrides) *Guard {
	return &Guard{reader: reader, src: src, allowed: allowed}
}

// Guard returns a guard without overrides for what f selects from src.
func (f *Filter) Guard(src GuardSource) *Guard { return NewGuard(f.reader, src, Overrides{}) }

// Check returns what is to say about deleting o, nil if nothing is. o must be
// with its value. What an override allows that does harm is a warning with the
// same reason. An error means that something could not be looked up; o must
// not be deleted then.
//
// No override reaches keys outside the prefix, the API servers' own leases,
// and the allocation bitmaps (k8s pkg/registry/core/rest/storage_core.go),
// which API servers never make again with the same content.
func (g *Guard) Check(ctx context.Context, o Object) (*Verdict, error) {
	if g == nil {
		return nil, fmt.Errorf("nothing guards %s", o.KV.Key)
	}
	if v := g.byKey(o); v != nil || o.Key.Resource == nil {
		return v, nil
	}
	return g.byKind(ctx, o)
}

// systemNamespaces hold what the cluster itself runs on.
func systemNamespaces() []string { return []string{"kube-system", "kube-public", "kube-node-lease"} }

// byKey judges by where an object is stored.
func (g *Guard) byKey(o Object) *Verdict {
	rest, below := strings.CutPrefix(string(o.KV.Key), g.reader.Prefix)
	if !below || rest == "" {
		return &Verdict{Blocks: true, Reason: "keys outside " + g.reader.Prefix + " are none of Kubernetes' own"}
	}
	first, _, _ := strings.Cut(rest, "/")
	if slices.Contains(internalKeys(), first) {
		return &Verdict{Blocks: true, Reason: first + " belong to the API servers alone"}
	}
	switch r := o.Key.Resource; {
	case r == nil:
		return guardUnknown(strings.Split(rest, "/"), g.allowed)
	case r.Prefix == "namespaces/":
		return guardNamespace(o.Key.Name, append(systemNamespaces(), "default"), g.allowed)
	}
	return guardNamespace(o.Key.Namespace, systemNamespaces(), g.allowed)
}

// internalKeys are the first segments of keys that are no API objects.
func internalKeys() []string { return []string{"masterleases", "peerserverleases", "ranges"} }

// guardUnknown takes any segment of a key that no resource is known for as
// the namespace that it may be.
func guardUnknown(segments []string, allowed Overrides) *Verdict {
	for _, s := range segments {
		if v := guardNamespace(s, systemNamespaces(), allowed); v != nil {
			return v
		}
	}
	return nil
}

// GuardSelection returns why nothing that sel could select may be deleted,
// whether or not there is anything: a refusal that depends on what is there
// today cannot be relied on in a script.
func GuardSelection(sel Selection, allowed Overrides) *Verdict {
	return guardNamespace(sel.Namespace, systemNamespaces(), allowed)
}

func guardNamespace(name string, protected []string, allowed Overrides) *Verdict {
	if !slices.Contains(protected, name) || slices.Contains(allowed.Namespaces, name) {
		return nil
	}
	return &Verdict{
		Blocks: true,
		Reason: fmt.Sprintf("namespace %s holds what the cluster itself runs on", name),
		Allow:  "--unsafe-namespace " + name,
	}
}

// harmful blocks, and warns where an override allows the kind.
func (g *Guard) harmful(kind, reason, detail string) *Verdict {
	if slices.Contains(g.allowed.Kinds, kind) {
		return &Verdict{Reason: reason, Detail: detail}
	}
	return &Verdict{Blocks: true, Reason: reason, Allow: "--unsafe-kind " + kind, Detail: detail}
}

// warning says what a delete does and does not stand in its way.
func warning(reason string) *Verdict { return &Verdict{Reason: reason} }
