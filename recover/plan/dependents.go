package plan

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// maxSpaces is how many namespaces are looked through one by one for what the
// selected objects own; beyond that everything is read.
const maxSpaces = 16

// Planned is what is in a plan, as far as looking for what that owns needs it.
// The zero Planned is empty.
type Planned struct {
	uids       filter.UIDs
	spaces     map[string]bool
	everywhere bool // a cluster-scoped object may own anything, anywhere
}

func (p *Planned) add(namespace, uid string) error {
	p.in(namespace)
	return p.uids.Add(namespace, uid)
}

// in notes a namespace, "" for none, that dependents may be in.
func (p *Planned) in(namespace string) {
	switch {
	case p.everywhere:
	case namespace == "":
		p.everywhere = true
	default:
		if p.spaces == nil {
			p.spaces = map[string]bool{}
		}
		p.spaces[namespace] = true
		p.everywhere = len(p.spaces) > maxSpaces
	}
}

// addAll adds what another plan holds.
func (p *Planned) addAll(other *Planned) error {
	for space := range other.spaces {
		p.in(space)
	}
	p.everywhere = p.everywhere || other.everywhere
	return p.uids.AddAll(&other.uids)
}

// places returns where dependents of either may be, nil for everywhere.
func (p *Planned) places(other *Planned) []string {
	both := &Planned{everywhere: p.everywhere || other.everywhere}
	for _, spaces := range []map[string]bool{p.spaces, other.spaces} {
		for space := range spaces {
			both.in(space)
		}
	}
	if both.everywhere {
		return nil
	}
	return slices.Sorted(maps.Keys(both.spaces))
}

// dependentBatch objects, or dependentBytes of values and one more, wait until
// their owners are read together.
const (
	dependentBatch = climbBatch
	dependentBytes = 1 << 20
)

// dependents finds what the planned objects own.
type dependents struct {
	*builder
	waiting []filter.Object
	weight  int64
}

// addDependents plans what the planned objects own, directly or not. What is
// planned so may be an owner too, but nothing new is found by it: whoever is
// looked at is followed up to the top.
func (b *builder) addDependents(ctx context.Context) error {
	if b.planned == nil || b.planned.uids.Len()+b.gone.uids.Len() == 0 {
		return nil
	}
	names := b.planned.places(b.gone)
	d := &dependents{builder: b}
	err := b.Filter.Candidates(ctx, b.Source, names, b.Whole, func(o filter.Object) error {
		if o.Head.Err != nil {
			return d.unread(ctx, o)
		}
		if len(o.Head.Meta.Owners) == 0 {
			return nil
		}
		d.waiting = append(d.waiting, o)
		if d.weight += o.Size; len(d.waiting) < dependentBatch && d.weight < dependentBytes {
			return nil
		}
		return d.flush(ctx)
	})
	if err != nil {
		return err
	}
	return d.flush(ctx)
}

func (d *dependents) flush(ctx context.Context) error {
	var refs []filter.Ref
	for _, o := range d.waiting {
		for _, ref := range o.Head.Meta.Owners[:min(len(o.Head.Meta.Owners), maxRefs)] {
			if r := (filter.Ref{Owner: ref, Namespace: o.Key.Namespace}); !d.goes(r) && (len(refs) == 0 || refs[len(refs)-1] != r) {
				refs = append(refs, r)
			}
		}
	}
	if err := d.Owners.Ahead(ctx, refs); err != nil {
		return err
	}
	for _, o := range d.waiting {
		if err := d.judge(ctx, o); err != nil {
			return err
		}
	}
	clear(d.waiting)
	d.waiting, d.weight = d.waiting[:0], 0
	return nil
}

// unread counts an object that may be a dependent, but whose value does not say
// so, unless selecting it has counted it.
func (d *dependents) unread(ctx context.Context, o filter.Object) error {
	if r := o.Key.Resource; r == nil || r.Internal || d.contents.Holds(o.Key.Namespace) {
		return nil
	}
	decision, err := d.Filter.Judge(ctx, o)
	if err == nil && decision == filter.Drop {
		d.sum.Undecided++
		d.Filter.Unread(o)
	}
	return err
}

// goes reports whether a reference names what is planned.
func (d *dependents) goes(ref filter.Ref) bool {
	return d.planned.uids.Has("", ref.UID) || d.planned.uids.Has(ref.Namespace, ref.UID)
}

// selected reports whether an object is in the plan already. Its UID alone does
// not say so: a copy under another key has the same.
func (d *dependents) selected(ctx context.Context, o filter.Object) (bool, error) {
	if uid := o.Head.Meta.UID; uid != "" && !d.planned.uids.Has(o.Key.Namespace, uid) {
		return false, nil
	}
	if d.contents.Holds(o.Key.Namespace) {
		return true, nil
	}
	if d.contents != nil && (d.contents.Only || !d.contents.Holds(o.Key.Name)) {
		return false, nil
	}
	decision, err := d.Filter.Judge(ctx, o)
	return decision == filter.Keep, err
}

func (d *dependents) judge(ctx context.Context, o filter.Object) error {
	if selected, err := d.selected(ctx, o); err != nil || selected {
		return err
	}
	through, shared, err := d.Owners.Dependent(ctx, o, filter.Doomed{Now: &d.planned.uids, Gone: &d.gone.uids})
	if err != nil {
		return err
	}
	if shared {
		d.sum.Shared++
	}
	if through == nil {
		return nil
	}
	if isNamespace(o) {
		d.sum.leave(o.Key.Name)
		return nil
	}
	s := step(o, Dependent, "owned by "+filter.OwnerRef{Group: through.Group(), Kind: through.Kind, Name: through.Name}.String())
	s.OwnerUID = through.UID
	d.sum.Dependents++
	return d.plan(ctx, o, s)
}

// Planned returns what the plan's steps are about, and the owners by which its
// dependents are, for Request.Gone.
func (p *Plan) Planned(ctx context.Context) (*Planned, error) {
	all := &Planned{}
	err := p.Steps(ctx, func(_ int, _ string, s Step) error {
		if s.Role == Owner {
			return nil
		}
		return errors.Join(all.add(s.Namespace, s.UID), all.add(s.Namespace, s.OwnerUID))
	})
	return all, err
}
