package plan

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// Request asks for a plan of deletes.
type Request struct {
	Source     keyspace.Source
	Filter     *filter.Filter
	Owners     *filter.Owners
	Prefix     string
	WithOwners bool // put the owners that would make the objects again before them
	Overrides  filter.Overrides
}

// childrenOrder is the order of the selected objects; owners come before it.
const childrenOrder = 0

type builder struct {
	Request
	out    *Writer
	sum    *Summary
	refs   map[ownerID]int64
	reason string
}

// ownerID tells owners apart; the UID because a name may be used again.
type ownerID struct{ apiVersion, kind, namespace, name, uid string }

// Deletes selects objects and adds a step for each to out; with a nil out it
// only describes what the plan would be. An object that a guard blocks gets no
// step; the caller refuses to go on when Summary.Blocked is not empty.
func Deletes(ctx context.Context, req Request, out *Writer) (*Summary, error) {
	b := &builder{Request: req, out: out, sum: newSummary(), refs: map[ownerID]int64{}}
	b.reason = selectedBy(req.Filter.Selection())
	for _, r := range req.Filter.Ranges() {
		if err := req.Source.Scan(ctx, r, false, func(kv *mvccpb.KeyValue) error { return b.consider(ctx, kv) }); err != nil {
			return nil, err
		}
	}
	makers, err := b.makers(ctx)
	if err != nil {
		return nil, err
	}
	b.sum.Makers = makers
	children := b.sum.Steps
	if req.WithOwners {
		if err := b.addOwners(ctx); err != nil {
			return nil, err
		}
	}
	if children > 0 {
		b.sum.Stages = append(b.sum.Stages, StageInfo{What: b.childrenLabel(), Steps: children})
	}
	return b.sum, nil
}

func (b *builder) childrenLabel() string {
	if r := b.Filter.Resource(); r != nil {
		return r.Word()
	}
	return "key"
}

func (b *builder) consider(ctx context.Context, kv *mvccpb.KeyValue) error {
	o := b.Filter.Inspect(ctx, kv)
	d, err := b.Filter.Judge(ctx, o)
	if err != nil {
		return err
	}
	switch d {
	case filter.Undecided:
		b.sum.Undecided++
		return nil
	case filter.Drop:
		return nil
	}
	if block := b.Filter.Guard(o, b.Overrides); block != nil {
		b.sum.block(block)
		return nil
	}
	b.sum.observe(o)
	for _, ref := range o.Head.Meta.Owners {
		if ref.Controller {
			b.refs[ownerID{ref.APIVersion, ref.Kind, o.Key.Namespace, ref.Name, ref.UID}]++
		}
	}
	return b.add(childrenOrder, b.childrenLabel(), step(o, Selected, b.reason), &b.sum.First)
}

// step makes the delete step of one object.
// selectedBy is the reason that stands in every step; an expression may be
// long, and the header has it whole.
func selectedBy(sel filter.Selection) string {
	const most = 200
	text := []rune("selected by " + sel.String())
	if len(text) > most {
		return string(text[:most]) + "…"
	}
	return string(text)
}

func step(o filter.Object, role Role, reason string) Step {
	s := Step{
		Action: Delete, Key: string(o.KV.Key), ModRevision: o.KV.ModRevision, CreateRevision: o.KV.CreateRevision,
		UID: o.Head.Meta.UID, Namespace: o.Key.Namespace, Name: o.Key.Name, Size: o.Size, Role: role, Reason: reason,
	}
	if o.Key.Resource != nil {
		s.Resource = o.Key.Resource.Word()
	}
	if n := len(o.Head.Meta.Finalizers); n > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%d finalizers are not waited for", n))
	}
	return s
}

func (b *builder) add(order int, what string, s Step, first *[]Step) error {
	if len(*first) < FirstSteps {
		*first = append(*first, s)
	}
	if b.out == nil {
		return nil
	}
	return b.out.Add(order, what, s)
}

// makers finds which owners of the selected objects still exist, and the
// owners above those, the highest first.
func (b *builder) makers(ctx context.Context) ([]LiveOwner, error) {
	found := map[string]*LiveOwner{}
	ids := slices.SortedFunc(maps.Keys(b.refs), func(x, y ownerID) int {
		return cmp.Or(cmp.Compare(x.namespace, y.namespace), cmp.Compare(x.kind, y.kind), cmp.Compare(x.name, y.name), cmp.Compare(x.uid, y.uid))
	})
	for _, id := range ids {
		ref := codec.Owner{APIVersion: id.apiVersion, Kind: id.kind, Name: id.name, UID: id.uid, Controller: true}
		a := &ascent{owners: b.Owners, makes: b.refs[id], found: found, levels: map[string]int{}}
		if _, err := a.climb(ctx, ref, id.namespace, 0); err != nil {
			return nil, err
		}
	}
	makers := make([]LiveOwner, 0, len(found))
	for _, o := range found {
		makers = append(makers, *o)
	}
	slices.SortFunc(makers, func(x, y LiveOwner) int {
		return cmp.Or(cmp.Compare(x.level, y.level), cmp.Compare(y.Makes, x.Makes), cmp.Compare(x.object.Name(), y.object.Name()))
	})
	return makers, nil
}

// maxOwnerDepth bounds a chain of owners. Real ones have two or three links.
const maxOwnerDepth = 16

// ascent follows owner references upwards from one owner.
type ascent struct {
	owners *filter.Owners
	makes  int64 // selected objects below
	found  map[string]*LiveOwner
	// levels holds the owners met on this ascent, -1 while their own owners
	// are looked for. Each is climbed to once: there may be circles.
	levels map[string]int
}

// climb notes the owner that ref names, and its owners, if they exist. It
// returns the owner's level: 0 has no owner above it, -1 means none found.
func (a *ascent) climb(ctx context.Context, ref codec.Owner, namespace string, depth int) (int, error) {
	o, err := a.owners.Find(ctx, ref, namespace)
	if err != nil || o == nil || depth > maxOwnerDepth {
		return -1, err
	}
	key := string(o.KV.Key)
	if level, met := a.levels[key]; met {
		return level, nil
	}
	a.levels[key] = -1
	level := 0
	for _, up := range o.Head.Meta.Owners {
		if !up.Controller {
			continue
		}
		above, err := a.climb(ctx, up, o.Key.Namespace, depth+1)
		if err != nil {
			return -1, err
		}
		level = max(level, above+1)
	}
	a.levels[key] = level
	if a.found[key] == nil {
		a.found[key] = &LiveOwner{
			Resource: o.Key.Resource.Word(), Namespace: o.Key.Namespace, Name: o.Key.Name,
			Kubelet: o.Key.Resource.String() == "nodes", Unreadable: o.Head.Err != nil, object: *o,
		}
	}
	a.found[key].level = max(a.found[key].level, level)
	a.found[key].Makes += a.makes
	return level, nil
}

// addOwners puts the owners before what they make, the highest first. Owners
// that the selection holds already keep their place in it.
func (b *builder) addOwners(ctx context.Context) error {
	var first []Step
	levels := map[int]*StageInfo{}
	for i := range b.sum.Makers {
		m := &b.sum.Makers[i]
		if m.Kubelet {
			continue
		}
		d, err := b.judgeOwner(ctx, m.object)
		if err != nil {
			return err
		}
		if m.Unreadable && d != filter.Keep {
			continue
		}
		if block := b.Filter.Guard(m.object, b.Overrides); block != nil {
			if d != filter.Keep { // else it was counted as one of the selected
				b.sum.block(block)
			}
			continue
		}
		if m.Planned = true; d == filter.Keep {
			continue
		}
		b.sum.observe(m.object)
		// Far below childrenOrder, one order for each level of owners.
		order := childrenOrder - 2*maxOwnerDepth + m.level
		s := step(m.object, Owner, fmt.Sprintf("owns %d of the selected objects and would make them again", m.Makes))
		if err := b.add(order, "owner", s, &first); err != nil {
			return err
		}
		if levels[m.level] == nil {
			levels[m.level] = &StageInfo{What: m.Resource}
		}
		if levels[m.level].What != m.Resource {
			levels[m.level].What = "owner"
		}
		levels[m.level].Steps++
	}
	for _, level := range slices.Sorted(maps.Keys(levels)) {
		b.sum.Stages = append(b.sum.Stages, *levels[level])
	}
	b.sum.First = append(first, b.sum.First...)
	b.sum.First = b.sum.First[:min(len(b.sum.First), FirstSteps)]
	return nil
}

// judgeOwner judges an owner as one of the selected. Owners are remembered
// without their values, so where judging needs one it is read again.
func (b *builder) judgeOwner(ctx context.Context, o filter.Object) (filter.Decision, error) {
	d, err := b.Filter.Judge(ctx, o)
	if err != nil || d != filter.Undecided || o.Head.Err != nil {
		return d, err
	}
	kv, err := b.Source.Get(ctx, string(o.KV.Key))
	if err != nil || kv == nil {
		return d, err
	}
	return b.Filter.Judge(ctx, b.Filter.Inspect(ctx, kv))
}
