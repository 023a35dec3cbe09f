package filter

import (
	"fmt"
	"slices"
	"strings"
)

// Overrides are the --unsafe-… flags, each holding the very thing that it
// allows.
type Overrides struct {
	// Namespaces whose objects may be deleted although Kubernetes itself
	// lives there.
	Namespaces []string `json:"namespaces,omitempty"`
}

// Block says why an object must not be deleted, and which flag would allow it.
type Block struct {
	Reason string // "kube-system holds Kubernetes itself"
	Allow  string // "--unsafe-namespace kube-system", empty if nothing does
}

// systemNamespaces hold what the cluster itself runs on.
func systemNamespaces() []string { return []string{"kube-system", "kube-public", "kube-node-lease"} }

// Guard returns why o must not be deleted, nil if it may. Keys that no
// override reaches: those outside the prefix, the API servers' own leases,
// and the allocation bitmaps (k8s pkg/registry/core/rest/storage_core.go),
// which API servers never make again with the same content.
func (f *Filter) Guard(o Object, allowed Overrides) *Block {
	key := string(o.KV.Key)
	if !strings.HasPrefix(key, f.reader.Prefix) || key == f.reader.Prefix {
		return &Block{Reason: fmt.Sprintf("key %q lies outside %s", key, f.reader.Prefix)}
	}
	segments := strings.Split(strings.TrimPrefix(key, f.reader.Prefix), "/")
	if slices.Contains(internalKeys(), segments[0]) {
		return &Block{Reason: segments[0] + " belong to the API servers alone"}
	}
	if o.Key.Resource == nil {
		return guardUnknown(segments, allowed)
	}
	if r := o.Key.Resource; r != nil && r.String() == "namespaces" {
		return guardNamespace(o.Key.Name, append(systemNamespaces(), "default"), allowed)
	}
	return guardNamespace(o.Key.Namespace, systemNamespaces(), allowed)
}

// internalKeys are the first segments of keys that are no API objects.
func internalKeys() []string { return []string{"masterleases", "peerserverleases", "ranges"} }

// guardUnknown takes any segment of a key that no resource is known for as
// the namespace that it may be.
func guardUnknown(segments []string, allowed Overrides) *Block {
	for _, s := range segments {
		if b := guardNamespace(s, systemNamespaces(), allowed); b != nil {
			return b
		}
	}
	return nil
}

// GuardSelection returns why nothing that sel could select may be deleted,
// whether or not there is anything: a refusal that depends on what is there
// today cannot be relied on in a script.
func GuardSelection(sel Selection, allowed Overrides) *Block {
	return guardNamespace(sel.Namespace, systemNamespaces(), allowed)
}

func guardNamespace(name string, protected []string, allowed Overrides) *Block {
	if !slices.Contains(protected, name) || slices.Contains(allowed.Namespaces, name) {
		return nil
	}
	return &Block{
		Reason: fmt.Sprintf("namespace %s holds what the cluster itself runs on", name),
		Allow:  "--unsafe-namespace " + name,
	}
}
