package plan

import (
	"context"
	"maps"
	"slices"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// The order of a plan: what makes other objects goes before what it makes, so
// that a flood loses its source first. An object stands at the level of its
// kind's rank, or one below its controller if that is lower. Ranks are so far
// apart that a chain of owners of one rank fits between two of them.
const (
	rankStep  = maxOwnerDepth + 4
	childRank = 9 // of whatever makes no workloads
	// maxLevel fits into a byte, see planOwners.
	maxLevel = 255
	// ownersOrder is that of the highest owners that the selection does not
	// hold: all of them go before what it holds.
	ownersOrder = -1000
	// namespaceOrder is that of Namespaces: they go when they are empty.
	namespaceOrder = 1000
)

// rank is how early objects of a resource go. Of a custom kind, or one that
// this build does not know, nothing is known but that it may make anything.
func rank(r *codec.Resource) int {
	if r == nil {
		return childRank
	}
	if r.Custom || r.Learned {
		return 0
	}
	switch r.String() {
	case "cronjobs.batch":
		return 1
	case "deployments.apps":
		return 2
	case "statefulsets.apps":
		return 3
	case "daemonsets.apps":
		return 4
	case "jobs.batch":
		return 5
	case "replicasets.apps":
		return 6
	case "replicationcontrollers":
		return 7
	case "pods":
		return 8 // before what they have mounted
	}
	return childRank
}

// level is where an object without owners stands.
func level(r *codec.Resource) int { return rank(r) * rankStep }

// ordering puts the steps of selected objects into stages.
type ordering struct {
	owners *filter.Owners
	// only is the one resource that is selected, nil if there may be several.
	// Of one kind alone all stand at one level, unless they own one another.
	only *codec.Resource
	// every owner counts, not only controllers: the garbage collector looks at
	// all of them.
	every bool
	// place is the order of a stage, by the resource and the level.
	place   func(r *codec.Resource, level int) int
	add     func(order int, what string, s Step) error
	waiting []ranked
	known   map[string]int // levels of owners, by key
}

// ranked is a step that waits until its owners are looked up.
type ranked struct {
	step Step
	what string
	res  *codec.Resource
	refs []filter.Ref
}

// maxKnownLevels bounds ordering.known.
const maxKnownLevels = 1 << 13

func newOrdering(owners *filter.Owners, only *codec.Resource, add func(int, string, Step) error) *ordering {
	return &ordering{owners: owners, only: only, place: orderOf, add: add, known: map[string]int{}}
}

// put adds a step now or with later ones; flush is called after the last.
func (o *ordering) put(ctx context.Context, object filter.Object, what string, s Step) error {
	r := ranked{step: s, what: what, res: object.Key.Resource}
	for _, ref := range object.Head.Meta.Owners[:min(len(object.Head.Meta.Owners), maxRefs)] {
		if (ref.Controller || o.every) && o.counts(ref) {
			r.refs = append(r.refs, filter.Ref{Owner: ref, Namespace: object.Key.Namespace})
		}
	}
	if r.refs == nil && o.only != nil {
		return o.add(o.place(r.res, level(r.res)), what, s)
	}
	o.waiting = append(o.waiting, r)
	if len(o.waiting) < climbBatch {
		return nil
	}
	return o.flush(ctx)
}

// maxRefs bounds how many owner references of an object are looked at.
const maxRefs = 64

// counts reports whether an owner may be one of the selected objects.
func (o *ordering) counts(ref codec.Owner) bool {
	return o.only == nil || o.only.Custom || o.only.Learned || ref.Kind == o.only.Kind && ref.Group() == o.only.Group
}

func orderOf(r *codec.Resource, level int) int {
	if r != nil && r.String() == "namespaces" {
		return namespaceOrder
	}
	return level
}

func (o *ordering) flush(ctx context.Context) error {
	var refs []filter.Ref
	for _, r := range o.waiting {
		for _, ref := range r.refs {
			if len(refs) == 0 || refs[len(refs)-1] != ref {
				refs = append(refs, ref)
			}
		}
	}
	if err := o.owners.Ahead(ctx, refs); err != nil {
		return err
	}
	for _, r := range o.waiting {
		at, err := o.below(ctx, level(r.res), r.refs, 0)
		if err != nil {
			return err
		}
		if err := o.add(o.place(r.res, at), r.what, r.step); err != nil {
			return err
		}
	}
	clear(o.waiting)
	o.waiting = o.waiting[:0]
	return nil
}

// below is the level of what has these controllers: its own, or one below
// theirs. Circles end, and so do chains that are longer than real ones.
func (o *ordering) below(ctx context.Context, own int, refs []filter.Ref, depth int) (int, error) {
	for _, ref := range refs {
		owner, err := o.owners.Find(ctx, ref.Owner, ref.Namespace)
		if err != nil {
			return 0, err
		}
		if owner == nil || depth > maxOwnerDepth {
			continue
		}
		key := string(owner.KV.Key)
		at, known := o.known[key]
		if !known {
			if len(o.known) >= maxKnownLevels {
				clear(o.known)
			}
			at = level(owner.Key.Resource)
			o.known[key] = at // a circle meets it again
			if at, err = o.below(ctx, at, o.above(owner), depth+1); err != nil {
				return 0, err
			}
			o.known[key] = at
		}
		own = max(own, min(at+1, maxLevel))
	}
	return own, nil
}

// above are the references of an owner to its own owners, as far as they count.
func (o *ordering) above(owner *filter.Object) (refs []filter.Ref) {
	for _, ref := range owner.Head.Meta.Owners {
		if (ref.Controller || o.every) && len(refs) < maxRefs {
			refs = append(refs, filter.Ref{Owner: ref, Namespace: owner.Key.Namespace})
		}
	}
	return refs
}

// stages describe the plan that is being made, by order.
type stages map[int]*stage

type stage struct {
	StageInfo
	first []Step
}

// several is what a stage with steps of different kinds is called.
func several(s Step) string {
	if s.Role == Owner {
		return "owner"
	}
	return "object"
}

// add counts a step.
func (st stages) add(order int, what string, s Step) {
	at := st[order]
	if at == nil {
		at = &stage{StageInfo: StageInfo{What: what}}
		st[order] = at
	}
	if at.What != what {
		at.What = several(s)
	}
	at.Steps++
	if len(at.first) < FirstSteps {
		at.first = append(at.first, s)
	}
}

// describe adds the stages and the first steps to a Summary.
func (st stages) describe(sum *Summary) {
	for _, order := range slices.Sorted(maps.Keys(st)) {
		sum.Stages = append(sum.Stages, st[order].StageInfo)
		for _, s := range st[order].first {
			if len(sum.First) < FirstSteps {
				sum.First = append(sum.First, s)
			}
		}
	}
}
