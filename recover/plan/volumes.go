package plan

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// Volumes looks at PersistentVolumes right before they are put: a claim that a
// plan counted on may have been skipped, made anew, or deleted since.
type Volumes struct {
	Reader    *codec.Reader
	Now       keyspace.Source // of the claims, as they are
	Overrides filter.Overrides
	// Undo puts back what was there before: only a claim that was made anew
	// counts then, because the volume may never have had another.
	Undo bool
}

// Unsafe says why a volume must not be put now, "" if it may be. It quotes no
// value.
func (v Volumes) Unsafe(ctx context.Context, kv *mvccpb.KeyValue) (why string, err error) {
	o := filter.NewObject(ctx, v.Reader, kv)
	claim, err := claimOf(ctx, o, filter.NewOwners(v.Now, v.Reader, nil), nil)
	if err != nil || claim == filter.Exists || v.Undo && claim != filter.OtherUID {
		return "", err
	}
	verdict := filter.UnsafeVolume(o, v.Overrides)
	if !verdict.Blocks {
		return "", nil
	}
	return verdict.Reason + "; put-back puts it there all the same with " + verdict.Allow, nil
}

// claimOf tells how the claim of a volume stands: Exists, which counts for what
// needs none, Missing or OtherUID; Uncertain of a volume that cannot be read. Of
// a claim that cannot be read it says that it exists. done, if not nil, tells of
// claims that are put back before.
func claimOf(ctx context.Context, o filter.Object, now *filter.Owners, done func(namespace, uid string) bool) (filter.Standing, error) {
	if o.Key.Resource == nil || o.Key.Resource.String() != "persistentvolumes" {
		return filter.Exists, nil
	}
	volume := decodedAs[corev1.PersistentVolume](o)
	if volume == nil {
		return filter.Uncertain, nil
	}
	claim := volume.Spec.ClaimRef
	if claim == nil || claim.UID == "" || done != nil && done(claim.Namespace, string(claim.UID)) {
		return filter.Exists, nil
	}
	ref := coreRef("PersistentVolumeClaim", claim.Namespace, claim.Name)
	ref.UID = string(claim.UID)
	standing, err := now.Standing(ctx, ref)
	if standing == filter.Missing || standing == filter.OtherUID {
		return standing, err
	}
	return filter.Exists, err
}
