package plan

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/api/v3/mvccpb"

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
	// Guard keeps from being deleted what must not be by accident; nil: one
	// over Source that nothing overrides.
	Guard *filter.Guard

	// held is how many bytes of owners are held in memory, 0 for spillBytes.
	held int
}

// childrenOrder is the order of the selected objects; owners come before it.
const childrenOrder = 0

type builder struct {
	Request
	out    *Writer
	sum    *Summary
	refs   *spill // to the controllers of selected objects, and of how many
	key    []byte
	reason string
	guards *filter.Guarding // of the selected objects
}

// Deletes selects objects and adds a step for each to out; with a nil out it
// only describes what the plan would be. An object that a guard blocks gets no
// step; the caller refuses to go on when Summary.Blocked is not empty.
//
// Memory is bounded whatever is selected: where the objects have very many
// different owners, these are spooled in a file without a name, in the folder
// of the plan or, without out, in that for temporary files.
func Deletes(ctx context.Context, req Request, out *Writer) (*Summary, error) {
	if req.Guard == nil {
		req.Guard = req.Filter.Guard(req.Source)
	}
	b := &builder{Request: req, out: out, sum: newSummary()}
	b.refs = b.newSpill()
	defer b.refs.close()
	b.reason = selectedBy(req.Filter.Selection())
	b.guards = req.Guard.Guarding(b.guarded)
	judging := req.Filter.Judging(b.judged)
	for _, r := range req.Filter.Ranges() {
		err := req.Source.Scan(ctx, r, false, func(kv *mvccpb.KeyValue) error {
			return judging.Add(ctx, req.Filter.Inspect(ctx, kv))
		})
		if err != nil {
			return nil, err
		}
	}
	if err := judging.Flush(ctx); err != nil {
		return nil, err
	}
	if err := b.guards.Flush(ctx); err != nil {
		return nil, err
	}
	children := b.sum.Steps
	if err := b.addOwners(ctx); err != nil {
		return nil, err
	}
	if children > 0 {
		b.sum.Stages = append(b.sum.Stages, StageInfo{What: b.childrenLabel(), Steps: children})
	}
	return b.sum, nil
}

func (b *builder) newSpill() *spill {
	dir := os.TempDir()
	if b.out != nil {
		dir = filepath.Dir(b.out.path)
	}
	return newSpill(dir, b.held)
}

func (b *builder) childrenLabel() string {
	if r := b.Filter.Resource(); r != nil {
		return r.Word()
	}
	return "key"
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
	return b.guards.Add(ctx, o)
}

// guarded plans a selected object that the guard lets pass.
func (b *builder) guarded(_ context.Context, o filter.Object, v *filter.Verdict) error {
	if b.sum.blocks(v) {
		return nil
	}
	b.sum.observe(o)
	for _, ref := range o.Head.Meta.Owners {
		if ref.Controller {
			b.key = join(b.key[:0], ref.APIVersion, ref.Kind, o.Key.Namespace, ref.Name, ref.UID)
			if err := b.refs.add(b.key, figures{n: 1}); err != nil {
				return err
			}
		}
	}
	return b.add(childrenOrder, b.childrenLabel(), step(o, Selected, b.reason).warned(v), &b.sum.First)
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

func (b *builder) add(order int, what string, s Step, first *[]Step) error {
	if len(*first) < FirstSteps {
		*first = append(*first, s)
	}
	if b.out == nil {
		return nil
	}
	return b.out.Add(order, what, s)
}
