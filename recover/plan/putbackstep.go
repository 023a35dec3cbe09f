package plan

import (
	"math"

	corev1 "k8s.io/api/core/v1"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// putter makes steps of puts and describes them, for Undo and PutBack alike.
type putter struct {
	out        *Writer
	sum        *Summary
	stages     stages
	withLeased bool
}

func newPutter(out *Writer, withLeased bool) putter {
	return putter{out: out, sum: newSummary(), stages: stages{}, withLeased: withLeased}
}

// The orders of what does not stand where its owners say.
const (
	namespacesFirst  = -4 // nothing can be made in one that is not there
	definitionsFirst = -3 // an object without its definition is not served
	// A volume whose claim is missing is released and reclaimed, which may
	// destroy it, and a StatefulSet makes claims that it lacks under the same
	// names; a claim waits for its volume
	// (k8s pkg/controller/volume/persistentvolume/pv_controller.go).
	claimsFirst = -2
	// A token whose ServiceAccount is missing is deleted
	// (k8s pkg/controller/serviceaccount/tokens_controller.go).
	tokensLast = math.MaxInt - orderOffset
)

// putOrder is the order of an object that by its owners stands at order.
func putOrder(o filter.Object, order int) int {
	if o.Key.Resource == nil {
		return order
	}
	switch o.Key.Resource.String() {
	case "namespaces":
		return namespacesFirst
	case definitionResource:
		return definitionsFirst
	case "persistentvolumeclaims":
		return claimsFirst
	case "secrets":
		if accountOf(o) != nil {
			return tokensLast
		}
	}
	return order
}

const definitionResource = "customresourcedefinitions.apiextensions.k8s.io"

// accountOf returns the ServiceAccount that a Secret is a token of, nil for
// other Secrets and for what cannot be read.
func accountOf(o filter.Object) *codec.Owner {
	s := decodedAs[corev1.Secret](o)
	if s == nil || s.Type != corev1.SecretTypeServiceAccountToken {
		return nil
	}
	return &codec.Owner{
		APIVersion: "v1", Kind: "ServiceAccount",
		Name: s.Annotations[corev1.ServiceAccountNameKey], UID: s.Annotations[corev1.ServiceAccountUIDKey],
	}
}

// differs counts a key that is left alone because of what is there.
func (p *putter) differs(key string) {
	p.sum.Differing++
	if len(p.sum.DifferingKeys) < maxDiffering {
		p.sum.DifferingKeys = append(p.sum.DifferingKeys, key)
	}
}

// ttl is the time to live of the lease that an entry of f had, 0 for none. ok is
// false if it is to be left out because of it.
func (p *putter) ttl(f *snapshots.File, kv *mvccpb.KeyValue) (ttl int64, ok bool) {
	if kv.Lease == 0 {
		return 0, true
	}
	ttl, _ = f.LeaseTTL(kv.Lease)
	return ttl, p.withLeased && ttl > 0
}

// lease is ttl, and counts what is to be left out.
func (p *putter) lease(f *snapshots.File, kv *mvccpb.KeyValue) (ttl int64, ok bool) {
	if ttl, ok = p.ttl(f, kv); !ok {
		p.sum.Leased++
	}
	return ttl, ok
}

// entryID is where an entry stands.
type entryID struct {
	source int // index of the file
	at     snapshots.Position
}

// put adds the step of an object that is to be made from the entry at id. What
// the caller says in s stays.
func (p *putter) put(order int, o filter.Object, id entryID, ttl int64, s Step) error {
	p.sum.observe(o)
	made := step(o, Restored, s.Reason)
	made.Action, made.ModRevision, made.CreateRevision, made.Warnings = Put, s.ModRevision, s.CreateRevision, s.Warnings
	made.Source, made.Position, made.SourceModRevision = id.source, id.at.String(), o.KV.ModRevision
	made.Owned, made.Lease, made.LeaseTTL = len(o.Head.Meta.Owners) > 0, o.KV.Lease, ttl
	if made.Owned {
		p.sum.Owned++
	}
	what := wordOf(o)
	p.stages.add(order, what, made)
	if p.out == nil {
		return nil
	}
	return p.out.Add(order, what, made)
}

// done describes what was added.
func (p *putter) done() *Summary {
	p.stages.describe(p.sum)
	return p.sum
}
