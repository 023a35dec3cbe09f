package filter

import (
	"context"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/etcd-rescue/etcd-rescue/codec"
)

// Standing is what the garbage collector makes of an owner that a reference
// names (k8s pkg/controller/garbagecollector, classifyReferences).
type Standing int

// The standings.
const (
	Exists Standing = iota
	Missing
	OtherUID  // another object of that name exists
	Leaving   // it is being deleted together with what it owns
	Uncertain // its kind is not known, or its value cannot be read
	// Unresolvable is a namespaced owner of an object without a namespace.
	Unresolvable
)

// Standing tells how the owner stands that an object in ref's namespace names.
// It looks in Main where that is set, else in the store itself.
func (w *Owners) Standing(ctx context.Context, ref Ref) (Standing, error) {
	key, known, err := w.key(ctx, ref.Owner, ref.Namespace)
	switch {
	case err != nil:
		return Uncertain, err
	case !known:
		return Uncertain, nil
	case key.Resource.Namespaced && ref.Namespace == "":
		return Unresolvable, nil
	}
	o, err := w.get(ctx, true, key)
	switch {
	case err != nil:
		return Uncertain, err
	case o == nil:
		return Missing, nil
	case o.Head.Err != nil:
		return Uncertain, nil
	case o.Head.Meta.UID != ref.UID:
		return OtherUID, nil
	case !o.Head.Meta.Deleted.IsZero() && slices.Contains(o.Head.Meta.Finalizers, metav1.FinalizerDeleteDependents):
		return Leaving, nil
	}
	return Exists, nil
}

// Named returns the object that ref names, without its value and whatever its
// UID, nil if there is none. It looks where Standing looks.
func (w *Owners) Named(ctx context.Context, ref Ref) (*Object, error) {
	key, known, err := w.key(ctx, ref.Owner, ref.Namespace)
	if err != nil || !known || key.Resource.Namespaced && ref.Namespace == "" {
		return nil, err
	}
	return w.get(ctx, true, key)
}

// Direct is Ahead for what refs name alone and not what is above, where
// Standing and Named look.
func (w *Owners) Direct(ctx context.Context, refs []Ref) error { return w.ahead(ctx, true, refs, 0) }

// Below reports whether o names one of the objects as its owner, or an owner
// that does so itself. Unlike Dependent it does not ask for other owners.
func (w *Owners) Below(ctx context.Context, o Object, uids *UIDs) (bool, error) {
	seen := map[string]bool{}
	level := []*Object{&o}
	for depth := 0; len(level) > 0 && depth <= maxDepth; depth++ {
		var above []*Object
		for _, o := range level {
			for _, ref := range o.Head.Meta.Owners {
				if uids.Has("", ref.UID) || o.Key.Namespace != "" && uids.Has(o.Key.Namespace, ref.UID) {
					return true, nil
				}
				owner, err := w.Find(ctx, ref, o.Key.Namespace)
				if err != nil {
					return false, err
				}
				if owner != nil && !seen[string(owner.KV.Key)] {
					seen[string(owner.KV.Key)] = true
					above = append(above, owner)
				}
			}
		}
		level = above
	}
	return false, nil
}

// NeverPutBack returns why an object from a file must not be put back, nil if it
// may be. No override allows any of it: either somebody else makes it again, or
// API servers could not live with it (k8s.io/apiserver pkg/storage/etcd3/store.go:
// a list fails on one value that cannot be decoded; pkg/storage/cacher knows
// objects by the name in their value).
func NeverPutBack(prefix string, o Object) *Verdict {
	blocks := func(format string, args ...any) *Verdict {
		return &Verdict{Blocks: true, Reason: fmt.Sprintf(format, args...)}
	}
	rest, below := strings.CutPrefix(string(o.KV.Key), prefix)
	if !below || rest == "" {
		return blocks("keys outside %s are none of Kubernetes' own", prefix)
	}
	first, _, _ := strings.Cut(rest, "/")
	r := o.Key.Resource
	switch {
	case slices.Contains(internalKeys(), first):
		return blocks("%s belong to the API servers alone", first)
	case r == nil:
		return nil
	case isLease(r) && o.Key.Namespace != nodeLeases:
		return blocks("a Lease says who leads, or lives, at the moment; whoever does makes it again")
	case o.Head.Status == codec.StatusUndecodable || o.Head.Status == codec.StatusForeign:
		return blocks("API servers could not decode the value, and could not list its resource any more")
	case !codec.MetaMatchesKey(o.Head, o.Key):
		return blocks("the value names another object than its key does")
	}
	return nil
}

// nodeLeases is the namespace of the Leases that kubelets hold.
const nodeLeases = "kube-node-lease"

func isLease(r *codec.Resource) bool {
	return r.String() == "leases.coordination.k8s.io" || r.String() == "leasecandidates.coordination.k8s.io"
}

// IsSystem reports whether the cluster itself runs on what is in a namespace.
func IsSystem(namespace string) bool { return slices.Contains(systemNamespaces(), namespace) }

// UnsafeVolume judges a PersistentVolume that is to be put back while its claim
// is missing: it is then reclaimed at once (k8s
// pkg/controller/volume/persistentvolume, syncVolume and reclaimVolume). Where
// the data would go with it, it blocks, unless allowed names persistentvolumes.
func UnsafeVolume(o Object, allowed Overrides) *Verdict {
	v := Verdict{Blocks: !slices.Contains(allowed.Kinds, unsafeVolumes)}
	switch tell(o) {
	case retained:
		return &Verdict{Reason: "the claim of the volume is missing: it becomes Released, and its data stays (reclaim policy Retain)"}
	case destroyed:
		v.Reason = "data loss: the claim of the volume is missing, so that it is reclaimed at once and destroyed (reclaim policy Delete)"
	case recycled:
		v.Reason = "data loss: the claim of the volume is missing, so that it is reclaimed at once and wiped (reclaim policy Recycle)"
	default:
		v.Reason = "data loss cannot be ruled out: the claim of the volume is missing, and the reclaim policy cannot be read"
	}
	if v.Blocks {
		v.Allow = "--unsafe-kind " + unsafeVolumes
	}
	return &v
}
