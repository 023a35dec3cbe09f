package plan

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// Request asks for a plan of deletes. With the Contents of its filter's
// selection everything in those namespaces is planned, and of the Namespaces
// themselves only those that are among them, unless they are to stay.
type Request struct {
	Source         keyspace.Source
	Filter         *filter.Filter
	Owners         *filter.Owners
	Prefix         string
	WithOwners     bool // put the owners that would make the objects again before them
	WithDependents bool // and what the selected objects own, directly or not
	// Guard keeps from being deleted what must not be by accident; nil: one
	// over Source that nothing overrides.
	Guard *filter.Guard

	// Whole is for a Source on kine, where only ranges that end with a whole
	// segment are right.
	Whole bool
	// Gone are what earlier passes of the same run planned with
	// WithDependents, so that what was made since for an owner that is gone is
	// found. What this pass plans is added to it. nil: there was none.
	Gone *Planned
	// Summary is what to add to, nil for a new one: the plans of several etcds
	// may be described together.
	Summary *Summary

	// held is how many bytes of owners are held in memory, 0 for spillBytes.
	held int
}

type builder struct {
	Request
	out      *Writer
	sum      *Summary
	refs     *spill // to the controllers of selected objects, and of how many
	key      []byte
	reason   string
	guards   *filter.Guarding // of the selected objects
	contents *filter.Contents // nil: none
	stages   stages
	order    *ordering
	planned  *Planned // nil without WithDependents
	gone     *Planned // Gone, or empty
}

// Deletes selects objects and adds a step for each to out; with a nil out it
// only describes what the plan would be. An object that a guard blocks gets no
// step; the caller refuses to go on when Summary.Blocked is not empty.
//
// Memory is bounded whatever is selected: where the objects have very many
// different owners, these are spooled in a file without a name, in the folder
// of the plan or, without out, in that for temporary files. WithDependents
// takes up to 43 bytes for each selected object, as much again for those of
// earlier passes, and fails with filter.ErrTooManyUIDs beyond 5 million.
func Deletes(ctx context.Context, req Request, out *Writer) (*Summary, error) {
	if req.Guard == nil {
		req.Guard = req.Filter.Guard(req.Source)
	}
	b := &builder{Request: req, out: out, sum: req.Summary, contents: req.Filter.Selection().Contents, stages: stages{}}
	if b.sum == nil {
		b.sum = newSummary()
	}
	b.refs = b.newSpill()
	defer b.refs.close()
	b.reason = selectedBy(req.Filter.Selection())
	b.guards = req.Guard.Guarding(b.guarded)
	b.order = newOrdering(req.Owners, b.onlyKind(), b.add)
	if req.WithDependents {
		b.planned, b.gone = &Planned{}, cmp.Or(req.Gone, &Planned{})
	}
	for _, part := range []func(context.Context) error{b.addSelected, b.addContents, b.addDependents, b.order.flush, b.addOwners} {
		if err := part(ctx); err != nil {
			return nil, err
		}
	}
	b.stages.describe(b.sum)
	if b.planned != nil && b.Gone != nil {
		return b.sum, b.Gone.addAll(b.planned)
	}
	return b.sum, nil
}

// onlyKind is the resource of all objects that may be planned beside owners,
// nil if there may be several.
func (b *builder) onlyKind() *codec.Resource {
	if b.contents != nil || b.WithDependents {
		return nil
	}
	return b.Filter.Resource()
}

// addSelected plans what the selection itself says.
func (b *builder) addSelected(ctx context.Context) error {
	if b.contents != nil && b.contents.Only {
		return nil
	}
	judging := b.Filter.Judging(b.judged)
	for _, r := range b.Filter.Ranges() {
		err := b.Source.Scan(ctx, r, false, func(kv *mvccpb.KeyValue) error {
			return judging.Add(ctx, b.Filter.Inspect(ctx, kv))
		})
		if err != nil {
			return err
		}
	}
	if err := judging.Flush(ctx); err != nil {
		return err
	}
	return b.guards.Flush(ctx)
}

// addContents plans what lies in the namespaces of the selection.
func (b *builder) addContents(ctx context.Context) error {
	if b.contents == nil {
		return nil
	}
	return b.Filter.Inside(ctx, b.Source, b.contents.Namespaces, b.Whole, func(o filter.Object, d filter.Decision) error {
		switch {
		case d == filter.Undecided:
			b.sum.Undecided++
			return nil
		case b.contents.Only && everywhere(o.Key):
			stays, err := b.made(ctx, o.Key.Namespace)
			if err != nil {
				return err
			}
			if stays {
				b.sum.Kept++
				return nil
			}
		}
		namespace := o.Key.Namespace
		if o.Key.Resource == nil {
			namespace = b.placed(o)
			b.sum.Namespaces.Add(namespace)
		}
		s := step(o, Content, "in namespace "+namespace)
		s.Namespace = namespace
		b.sum.hold(o)
		return b.plan(ctx, o, s)
	})
}

// everywhere reports whether Kubernetes makes such an object in every namespace
// that there is: to delete it from one that stays would never end
// (k8s pkg/controller/serviceaccount and pkg/controller/certificates/rootcacertpublisher).
func everywhere(k codec.Key) bool {
	if k.Resource == nil {
		return false
	}
	what := k.Resource.String() + " " + k.Name
	return what == "serviceaccounts default" || what == "configmaps kube-root-ca.crt"
}

// made reports whether Kubernetes makes its objects in a namespace: not in one
// that does not exist.
func (b *builder) made(ctx context.Context, namespace string) (bool, error) {
	key := b.Prefix + "namespaces/" + namespace
	kv, err := b.Source.Get(ctx, key)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", key, err)
	}
	return kv != nil, nil
}

// placed is the namespace of an object whose resource is not known: by its
// metadata, or by its key where it stands among the objects of one.
func (b *builder) placed(o filter.Object) string {
	if o.Head.Err == nil && b.contents.Holds(o.Head.Meta.Namespace) {
		return o.Head.Meta.Namespace
	}
	for _, segment := range strings.Split(string(o.KV.Key), "/") {
		if b.contents.Holds(segment) {
			return segment
		}
	}
	return ""
}

func (b *builder) newSpill() *spill {
	dir := os.TempDir()
	if b.out != nil {
		dir = filepath.Dir(b.out.path)
	}
	return newSpill(dir, b.held)
}

// judged hands an object to the guard if it is selected.
func (b *builder) judged(ctx context.Context, o filter.Object, d filter.Decision) error {
	switch d {
	case filter.Undecided:
		b.sum.Undecided++
		return nil
	case filter.Drop:
		return nil
	}
	if b.contents != nil && !b.contents.Holds(o.Key.Name) {
		return nil // a Namespace that was made since its like were looked up
	}
	return b.guards.Add(ctx, o)
}

// guarded plans a selected object that the guard lets pass.
func (b *builder) guarded(ctx context.Context, o filter.Object, v *filter.Verdict) error {
	return b.pass(ctx, o, step(o, Selected, b.reason), v)
}

// plan adds the step of an object, unless a guard blocks it.
func (b *builder) plan(ctx context.Context, o filter.Object, s Step) error {
	v, err := b.Guard.Check(ctx, o)
	if err != nil {
		return err
	}
	return b.pass(ctx, o, s, v)
}

// pass adds a step of which the guard has said v.
func (b *builder) pass(ctx context.Context, o filter.Object, s Step, v *filter.Verdict) error {
	if b.sum.blocks(v) {
		return nil
	}
	b.sum.observe(o)
	if b.planned != nil {
		if err := b.planned.add(o.Key.Namespace, o.Head.Meta.UID); err != nil {
			return err
		}
	}
	for _, ref := range o.Head.Meta.Owners {
		if ref.Controller && !b.inContents(ref, o.Key.Namespace) {
			b.key = join(b.key[:0], ref.APIVersion, ref.Kind, o.Key.Namespace, ref.Name, ref.UID)
			if err := b.refs.add(b.key, figures{n: 1}); err != nil {
				return err
			}
		}
	}
	return b.order.put(ctx, o, wordOf(o), s.warned(v))
}

// inContents reports whether an owner lies in a namespace that goes as a
// whole, so that it needs no look to see that it goes.
func (b *builder) inContents(ref codec.Owner, namespace string) bool {
	if !b.contents.Holds(namespace) {
		return false
	}
	r, known := b.Filter.Catalog().ByKind(ref.Group(), ref.Kind)
	return known && r.Namespaced
}

// wordOf is what the stage of an object is called if it holds one kind only.
func wordOf(o filter.Object) string {
	if o.Key.Resource == nil {
		return "key"
	}
	return o.Key.Resource.Word()
}

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

// step makes the delete step of one object.
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

// warned adds what a guard says of the object, nil for nothing.
func (s Step) warned(v *filter.Verdict) Step {
	if v != nil {
		s.Warnings = append(s.Warnings, v.String())
	}
	return s
}

func (b *builder) add(order int, what string, s Step) error {
	b.stages.add(order, what, s)
	if b.out == nil {
		return nil
	}
	return b.out.Add(order, what, s)
}
