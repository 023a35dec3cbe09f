package plan

import (
	"context"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// Judge decides again on a step whose key changed since the plan was made:
// by the same UID (or, where none can be read, the same life of the key) and
// by the same selection. Controllers strip finalizers and mark pods all the
// time; skipping those would never end an incident.
type Judge struct {
	Filter *filter.Filter // made from the plan's header
	Guard  *filter.Guard  // with the overrides in the plan's header; without one nothing can be judged
}

// StillMeant reports whether the step may go on with the key's present bytes;
// if not, why says why.
func (j Judge) StillMeant(ctx context.Context, s Step, kv *mvccpb.KeyValue) (meant bool, why string, err error) {
	o := j.Filter.Inspect(ctx, kv)
	if s.UID != "" && o.Head.Err != nil {
		return false, "it changed, and cannot be decoded any more", nil
	}
	if s.UID != "" && o.Head.Meta.UID != s.UID {
		return false, "it was deleted and made again meanwhile", nil
	}
	if s.UID == "" && kv.CreateRevision != s.CreateRevision {
		return false, "the key was deleted and made again meanwhile", nil
	}
	v, err := j.Guard.Check(ctx, o)
	if err != nil {
		return false, "", err
	}
	if v != nil && v.Blocks {
		return false, v.Reason, nil
	}
	switch s.Role {
	case Owner, Content: // a key stays in its namespace
		return true, "", nil
	case Dependent:
		if !names(o, s.OwnerUID) {
			return false, "it changed and is not owned by what is selected any more", nil
		}
		return true, "", nil
	}
	d, err := j.Filter.Judge(ctx, o)
	if err != nil {
		return false, "", err
	}
	if d != filter.Keep {
		return false, "it changed and is not selected any more", nil
	}
	return true, "", nil
}

// names reports whether one of the owner references of o names the UID.
func names(o filter.Object, uid string) bool {
	return slices.ContainsFunc(o.Head.Meta.Owners, func(ref codec.Owner) bool { return ref.UID == uid })
}
