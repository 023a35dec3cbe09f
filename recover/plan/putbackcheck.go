package plan

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// What putting an object back does beyond what it says, the worst first. What
// stands before the colon is said of a step.
const (
	// k8s.io/apiserver pkg/storage/etcd3/store.go: a list fails on one value
	// that cannot be transformed or decoded.
	unreadable = "encrypted by what the known encryption configuration does not hold: API servers cannot read it, nor list its resource"
	// apiextensions-apiserver pkg/apiserver/conversion/converter.go.
	otherVersion = "the CustomResourceDefinition does not know the version that it is stored in: API servers cannot read it, nor list its resource"
	inTheClear   = "stored in the clear, which the known encryption configuration does not allow for: API servers cannot read it, nor list its resource"
	unchecked    = "encrypted: whether API servers can read it was not checked, because no encryption configuration is known; a value that they cannot read keeps them from listing its resource"

	// k8s pkg/controller/garbagecollector, attemptToDeleteItem.
	ownerInFile  = "no owner of it exists, but the file holds one (--with-owners): the garbage collector deletes it again, within seconds where kube-controller-manager runs"
	noOwner      = "no owner of it exists: the garbage collector deletes it again, within seconds where kube-controller-manager runs"
	ownerAgain   = "its owner was made again, with another UID: the garbage collector deletes it again, within seconds where kube-controller-manager runs"
	ownerLeaving = "its owner is being deleted together with what it owns: the garbage collector deletes it too"
	lateOwner    = "its owner comes after it, if at all (--with-owners), as claims come before all else: the garbage collector may delete it in between, where kube-controller-manager runs"
	someOwner    = "one of its owners does not exist, or was made again: the garbage collector takes the reference to it off"
	unknownOwner = "its owner cannot be looked up, because its kind is not known or its value cannot be read: the garbage collector deletes it if that owner is gone"
	wrongOwner   = "it has no namespace and names an owner that has one: the garbage collector never resolves that"

	// k8s pkg/controller/namespace/deletion.
	namespaceLeaving = "the namespace is being deleted: the object goes with it"
	// apiserver plugin pkg/admission/plugin/namespace/lifecycle.
	noNamespace    = "the namespace does not exist: API servers show the object, but nothing can be created there and nobody cleans up, until the Namespace is back"
	namespaceAgain = "the namespace was made again since, with another UID: that does no harm"

	definitionLeaving = "the CustomResourceDefinition is being deleted: the object goes with it"
	noDefinition      = "the CustomResourceDefinition does not exist: no API reaches the object until it is back"
	notStored         = "the CustomResourceDefinition does not count its version among those stored: a migration to another version may leave it out"
	definitionUnread  = "the CustomResourceDefinition cannot be read: whether it knows the version was not checked"

	// k8s pkg/controller/volume/persistentvolume/pv_controller.go, syncBoundClaim.
	noVolume    = "the PersistentVolume of the claim does not exist: the claim becomes Lost"
	volumeTaken = "the PersistentVolume of the claim belongs to another claim: the claim becomes Lost"

	// k8s pkg/controller/serviceaccount/tokens_controller.go, syncSecret.
	noAccount = "the ServiceAccount of the token does not exist, or was made again: the Secret is deleted again, where kube-controller-manager runs"
	// k8s pkg/registry/core/service/ipallocator and portallocator see no put.
	addressTaken = "another Service has its cluster IP or node port now: both are given the traffic of either"

	otherObject = "another object of that name, with another UID, is replaced: the garbage collector deletes what that one owns"
	leaving     = "it was being deleted when the file was written: it goes again once its finalizers are done"
	// k8s pkg/controller/podgc.
	noNode = "the Node of the pod does not exist: the pod is deleted by force within minutes, where kube-controller-manager runs"
	// k8s pkg/controller/replicaset, job and others.
	twin         = "the controller of the pod lives and has likely made another in its place: it deletes what is more than it wants"
	systemObject = "it replaces something that the cluster itself runs on"
)

// putWarnings are all of them, in that order.
func putWarnings() []string {
	return []string{
		unreadable, inTheClear, otherVersion, unchecked,
		ownerInFile, noOwner, ownerAgain, ownerLeaving, lateOwner, someOwner, unknownOwner, wrongOwner,
		namespaceLeaving, noNamespace, definitionLeaving, noDefinition, notStored, definitionUnread,
		noVolume, volumeTaken, noAccount, addressTaken, otherObject, systemObject, leaving, noNode, twin, namespaceAgain,
	}
}

// checks looks at what an object needs in the store that it is put back into.
type checks struct {
	*picker
	sum  *Summary
	now  *filter.Owners
	main keyspace.Source
	// done are steps before the present one that others name by UID.
	done        filter.UIDs
	definitions map[string]*definition // by name, nil for one that does not exist
	addresses   map[string]string      // the Service that has an address, nil before it is asked for
}

func newChecks(p *picker, sum *Summary, now *filter.Owners) *checks {
	c := &checks{picker: p, sum: sum, now: now, main: p.Now, definitions: map[string]*definition{}}
	if p.Main != nil {
		c.main = p.Main
	}
	return c
}

// coreRef names an object of the core group as an owner reference would.
func coreRef(kind, namespace, name string) filter.Ref {
	return filter.Ref{Owner: codec.Owner{APIVersion: "v1", Kind: kind, Name: name}, Namespace: namespace}
}

// ahead reads what checking these objects needs, with few requests.
func (c *checks) ahead(ctx context.Context, objects []*pickedObject) error {
	var refs []filter.Ref
	need := func(ref filter.Ref) {
		if ref.Name != "" && !slices.Contains(refs[max(0, len(refs)-16):], ref) {
			refs = append(refs, ref)
		}
	}
	for _, o := range objects {
		if o.Key.Resource == nil {
			continue
		}
		need(coreRef("Namespace", "", o.Key.Namespace))
		if isPod(o.Object) {
			need(coreRef("Node", "", o.Head.Node))
		}
		for _, ref := range o.Head.Meta.Owners[:min(len(o.Head.Meta.Owners), maxRefs)] {
			if !c.isDone(o.Key.Namespace, ref.UID) {
				need(filter.Ref{Owner: ref, Namespace: o.Key.Namespace})
			}
		}
	}
	return c.now.Direct(ctx, refs)
}

func isPod(o filter.Object) bool { return o.Key.Resource != nil && o.Key.Resource.String() == "pods" }

func isClaim(o filter.Object) bool {
	return o.Key.Resource != nil && o.Key.Resource.String() == "persistentvolumeclaims"
}

// planned notes a step that others may need.
func (c *checks) planned(o filter.Object) error {
	uid := o.Head.Meta.UID
	if !isClaim(o) && !c.owners.Has("", uid) {
		return nil
	}
	return c.done.Add(o.Key.Namespace, uid)
}

// isDone reports whether an owner is put back before an object in namespace.
func (c *checks) isDone(namespace, uid string) bool {
	return c.done.Has("", uid) || namespace != "" && c.done.Has(namespace, uid)
}

// comes reports whether the plan puts something under a key that objects of
// other kinds look for; there tells whether the store has it.
func (c *checks) comes(key string, there bool) bool {
	return c.keys.Has("", key) && (!there || c.Replace)
}

// maxDetail bounds what is told of what a value names. No real name is longer.
const maxDetail = 512

// warn notes one of putWarnings.
func (c *checks) warn(o *pickedObject, reason, detail string) {
	detail = strings.ToValidUTF8(detail[:min(len(detail), maxDetail)], "")
	short, _, _ := strings.Cut(reason, ": ")
	if detail != "" {
		short += ": " + detail
	}
	o.warned = append(o.warned, short)
	for i := range c.sum.PutWarnings {
		if c.sum.PutWarnings[i].Reason == reason {
			c.sum.PutWarnings[i].Count++
			return
		}
	}
	c.sum.PutWarnings = append(c.sum.PutWarnings, PutWarning{Reason: reason, Count: 1, First: o.Name(), Detail: detail})
	order := putWarnings()
	slices.SortStableFunc(c.sum.PutWarnings, func(x, y PutWarning) int {
		return cmp.Compare(slices.Index(order, x.Reason), slices.Index(order, y.Reason))
	})
}

// check looks at one object; blocked means that it must not be put back, and
// is counted.
func (c *checks) check(ctx context.Context, o *pickedObject) (blocked bool, err error) {
	if o.Key.Resource == nil {
		return false, nil
	}
	if v, err := c.volume(ctx, o); v != nil || err != nil {
		if err != nil || v.Blocks {
			return err == nil && c.sum.blocks(v), err
		}
		c.warn(o, v.Reason, "")
	}
	c.itself(o)
	for _, one := range []func(context.Context, *pickedObject) error{c.ownersOf, c.namespace, c.definition, c.claim, c.token, c.service, c.pod} {
		if err := one(ctx, o); err != nil {
			return false, err
		}
	}
	return false, nil
}

// clearReader is a codec.Decrypter that knows where API servers read values that
// nothing has encrypted: the provider identity is among those of the resource.
type clearReader interface {
	ReadsClear(r *codec.Resource) bool
}

// itself is what the object alone tells, and what is there in its place.
func (c *checks) itself(o *pickedObject) {
	if o.Head.Status == codec.StatusEncrypted {
		reason := unchecked
		if c.Reader.Decrypter != nil {
			reason = unreadable
		}
		c.warn(o, reason, o.Provider)
	}
	if known, ok := c.Reader.Decrypter.(clearReader); ok && o.Provider == "" && !known.ReadsClear(o.Key.Resource) {
		c.warn(o, inTheClear, "")
	}
	if o.there && o.uid != "" && o.Head.Err == nil && o.uid != o.Head.Meta.UID {
		c.warn(o, otherObject, "")
	}
	if o.there && (filter.IsSystem(o.Key.Namespace) || o.Key.Resource.String() == "namespaces" && filter.IsSystem(o.Key.Name)) {
		c.warn(o, systemObject, "")
	}
	if !o.Head.Meta.Deleted.IsZero() {
		c.warn(o, leaving, "")
	}
}

func (c *checks) namespace(ctx context.Context, o *pickedObject) error {
	name := o.Key.Namespace
	if name == "" {
		return nil
	}
	ref := coreRef("Namespace", "", name)
	then, err := c.Owners.Named(ctx, ref)
	if err != nil {
		return err
	}
	now, err := c.now.Named(ctx, ref)
	if err != nil {
		return err
	}
	if c.comes(c.Prefix+"namespaces/"+name, now != nil) {
		now = then // as it will be
	}
	switch {
	case now == nil && then == nil:
		c.warn(o, noNamespace, "namespace "+name+", which the file does not hold either")
	case now == nil:
		c.warn(o, noNamespace, "put-back namespaces "+name)
	case now.Head.Err != nil:
	case !now.Head.Meta.Deleted.IsZero():
		c.warn(o, namespaceLeaving, "namespace "+name)
	case then != nil && then.Head.Err == nil && then.Head.Meta.UID != now.Head.Meta.UID:
		c.warn(o, namespaceAgain, "namespace "+name)
	}
	return nil
}

// ownersOf says what the garbage collector will do.
func (c *checks) ownersOf(ctx context.Context, o *pickedObject) error {
	var first [filter.Unresolvable + 1]*codec.Owner // of each standing
	refs := o.Head.Meta.Owners[:min(len(o.Head.Meta.Owners), maxRefs)]
	for i := range refs {
		standing := filter.Exists
		if !c.isDone(o.Key.Namespace, refs[i].UID) {
			var err error
			if standing, err = c.now.Standing(ctx, filter.Ref{Owner: refs[i], Namespace: o.Key.Namespace}); err != nil {
				return err
			}
		}
		if first[standing] == nil {
			first[standing] = &refs[i]
		}
	}
	gone := cmp.Or(first[filter.Missing], first[filter.OtherUID], first[filter.Leaving])
	switch {
	case first[filter.Uncertain] != nil:
		c.warn(o, unknownOwner, ownerName(first[filter.Uncertain]))
	case first[filter.Unresolvable] != nil:
		c.warn(o, wrongOwner, ownerName(first[filter.Unresolvable]))
	case gone == nil:
	case first[filter.Exists] != nil:
		c.warn(o, someOwner, ownerName(gone))
	case first[filter.Missing] != nil:
		return c.ownerless(ctx, o, gone)
	case first[filter.OtherUID] != nil:
		c.warn(o, ownerAgain, ownerName(gone))
	default:
		c.warn(o, ownerLeaving, ownerName(gone))
	}
	return nil
}

// ownerless is for an object none of whose owners exists.
func (c *checks) ownerless(ctx context.Context, o *pickedObject, missing *codec.Owner) error {
	held, err := c.Owners.Find(ctx, *missing, o.Key.Namespace)
	switch {
	case err != nil:
		return err
	case held == nil:
		c.warn(o, noOwner, ownerName(missing))
	case isClaim(o.Object):
		c.warn(o, lateOwner, ownerName(missing))
	case c.WithOwners: // it is blocked, or cannot be read
		c.warn(o, noOwner, ownerName(missing))
	default:
		c.warn(o, ownerInFile, ownerName(missing))
	}
	return nil
}

func ownerName(ref *codec.Owner) string {
	return filter.OwnerRef{Group: ref.Group(), Kind: ref.Kind, Name: ref.Name}.String()
}

func (c *checks) pod(ctx context.Context, o *pickedObject) error {
	if !isPod(o.Object) || o.Head.Err != nil {
		return nil
	}
	if node := o.Head.Node; node != "" {
		now, err := c.now.Named(ctx, coreRef("Node", "", node))
		if err != nil {
			return err
		}
		if now == nil && !c.comes(c.Prefix+"minions/"+node, false) {
			c.warn(o, noNode, "node "+node)
		}
	}
	if o.there || o.Head.Phase == "Succeeded" || o.Head.Phase == "Failed" {
		return nil
	}
	for _, ref := range o.Head.Meta.Owners[:min(len(o.Head.Meta.Owners), maxRefs)] {
		if !ref.Controller || c.isDone(o.Key.Namespace, ref.UID) {
			continue
		}
		standing, err := c.now.Standing(ctx, filter.Ref{Owner: ref, Namespace: o.Key.Namespace})
		if err != nil {
			return err
		}
		if standing == filter.Exists {
			c.warn(o, twin, ownerName(&ref))
		}
	}
	return nil
}
