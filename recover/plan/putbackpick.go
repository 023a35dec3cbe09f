package plan

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// What picked an object; where several did, the highest counts.
const (
	pickedOwner = iota
	pickedDependent
	pickedSelected
)

// picker finds what is to be put back, in the file alone.
type picker struct {
	PutBackRequest
	picked    *spill // by order and key; the level is what picked it
	order     *ordering
	undecided *Summary    // of the selection
	roots     *Planned    // selected, nil without WithDependents
	refs      *spill      // to owners that are to be taken along, nil without WithOwners
	owners    filter.UIDs // that are named by what is picked
	keys      filter.UIDs // picked ones that others need: see needed
	spoolDir  string
}

func newPicker(req PutBackRequest, out *Writer) *picker {
	p := &picker{PutBackRequest: req, undecided: newSummary(), spoolDir: os.TempDir()}
	if out != nil {
		p.spoolDir = filepath.Dir(out.path)
	}
	p.picked = newSpill(p.spoolDir, req.held)
	var only *codec.Resource
	if !req.WithOwners && !req.WithDependents && req.Filter.Selection().Contents == nil {
		only = req.Filter.Resource()
	}
	// A Step carries the key through the ordering, and in Source what picked it.
	p.order = newOrdering(req.Owners, only, func(order int, _ string, s Step) error {
		return p.picked.add(joinPicked(order, s.Key), figures{level: s.Source})
	})
	p.order.every, p.order.place = true, func(_ *codec.Resource, level int) int { return level }
	if req.WithDependents {
		p.roots = &Planned{}
	}
	if req.WithOwners {
		p.refs = newSpill(p.spoolDir, req.held)
	}
	return p
}

func (p *picker) close() {
	p.picked.close()
	if p.refs != nil {
		p.refs.close()
	}
}

// orderOffset makes all orders positive.
const orderOffset = 1 << 16

func joinPicked(order int, key string) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(order+orderOffset)), key...)
}

func splitPicked(picked []byte) (order int, key string) {
	return int(binary.BigEndian.Uint64(picked)) - orderOffset, string(picked[8:])
}

func (p *picker) pick(ctx context.Context) error {
	for _, part := range []func(context.Context) error{p.pickSelected, p.pickContents, p.pickDependents, p.pickOwners, p.order.flush} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p *picker) pickSelected(ctx context.Context) error {
	contents := p.Filter.Selection().Contents
	if contents != nil && contents.Only {
		return nil
	}
	judging := p.Filter.Judging(func(ctx context.Context, o filter.Object, d filter.Decision) error {
		if contents != nil && !contents.Holds(o.Key.Name) {
			return nil
		}
		return p.judged(ctx, o, d)
	})
	for _, r := range p.Filter.Ranges() {
		err := p.From.Scan(ctx, r, false, func(kv *mvccpb.KeyValue) error {
			return judging.Add(ctx, p.Filter.Inspect(ctx, kv))
		})
		if err != nil {
			return err
		}
	}
	return judging.Flush(ctx)
}

// pickContents picks what lies in the namespaces of the selection.
func (p *picker) pickContents(ctx context.Context) error {
	contents := p.Filter.Selection().Contents
	if contents == nil {
		return nil
	}
	return p.Filter.Inside(ctx, p.From, contents.Namespaces, false, func(o filter.Object, d filter.Decision) error {
		return p.judged(ctx, o, d)
	})
}

func (p *picker) judged(ctx context.Context, o filter.Object, d filter.Decision) error {
	switch d {
	case filter.Undecided:
		p.undecided.Undecided++
		return nil
	case filter.Drop:
		return nil
	}
	if p.roots != nil {
		if err := p.roots.add(o.Key.Namespace, o.Head.Meta.UID); err != nil {
			return err
		}
	}
	return p.add(ctx, o, pickedSelected)
}

// pickDependents picks what the selected objects own.
func (p *picker) pickDependents(ctx context.Context) error {
	if p.roots == nil || p.roots.uids.Len() == 0 {
		return nil
	}
	return p.Filter.Candidates(ctx, p.From, p.roots.places(&Planned{}), false, func(o filter.Object) error {
		if o.Head.Err != nil || len(o.Head.Meta.Owners) == 0 {
			return nil
		}
		below, err := p.Owners.Below(ctx, o, &p.roots.uids)
		switch {
		case err != nil || !below:
			return err
		case isNamespace(o): // its own key alone would be an empty promise
			p.undecided.leave(o.Key.Name)
			return nil
		}
		return p.add(ctx, o, pickedDependent)
	})
}

// add picks an object. It may be picked already.
func (p *picker) add(ctx context.Context, o filter.Object, by int) error {
	if err := p.note(o); err != nil {
		return err
	}
	key := string(o.KV.Key)
	if at := putOrder(o, 0); at != 0 && (len(o.Head.Meta.Owners) == 0 || at == claimsFirst || at == tokensLast) {
		return p.picked.add(joinPicked(at, key), figures{level: by})
	}
	return p.order.put(ctx, o, "", Step{Key: key, Source: by})
}

// note remembers what an object names, and that others may need it.
func (p *picker) note(o filter.Object) error {
	if needed(o) {
		if err := p.keys.Add("", string(o.KV.Key)); err != nil {
			return err
		}
	}
	for _, ref := range o.Head.Meta.Owners[:min(len(o.Head.Meta.Owners), maxRefs)] {
		if err := p.owners.Add("", ref.UID); err != nil {
			return err
		}
		if p.refs == nil {
			continue
		}
		err := p.refs.add(join(nil, ref.APIVersion, ref.Kind, o.Key.Namespace, ref.Name, ref.UID), figures{n: 1})
		if err != nil {
			return err
		}
	}
	return nil
}

// needed reports whether objects of other kinds look for o by its key.
func needed(o filter.Object) bool {
	if o.Key.Resource == nil {
		return false
	}
	switch o.Key.Resource.String() {
	case "namespaces", "nodes", "persistentvolumes", "serviceaccounts", definitionResource:
		return true
	}
	return false
}

// pickOwners picks the owners that the file holds and the store does not, and
// those above them. Circles of owners end where a chain would.
func (p *picker) pickOwners(ctx context.Context) error {
	if p.refs == nil {
		return nil
	}
	now := filter.NewOwners(p.Now, p.Reader, nil)
	if p.Main != nil {
		now.Main = p.Main
	}
	for depth := 0; depth < maxOwnerDepth; depth++ {
		refs := p.refs
		p.refs = newSpill(p.spoolDir, p.held)
		err := p.climb(ctx, refs, now)
		refs.close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *picker) climb(ctx context.Context, refs *spill, now *filter.Owners) error {
	var batch []filter.Ref
	flush := func() error {
		if err := now.Direct(ctx, batch); err != nil {
			return err
		}
		for _, ref := range batch {
			if err := p.pickOwner(ctx, ref, now); err != nil {
				return err
			}
		}
		batch = batch[:0]
		return nil
	}
	err := refs.drain(func(key []byte, _ figures) error {
		t := split(key, 5)
		batch = append(batch, filter.Ref{Owner: codec.Owner{APIVersion: t[0], Kind: t[1], Name: t[3], UID: t[4]}, Namespace: t[2]})
		if len(batch) < climbBatch {
			return nil
		}
		return flush()
	})
	if err != nil {
		return err
	}
	return flush()
}

// pickOwner picks one owner, unless something of its name is in the store.
func (p *picker) pickOwner(ctx context.Context, ref filter.Ref, now *filter.Owners) error {
	held, err := p.Owners.Find(ctx, ref.Owner, ref.Namespace)
	if err != nil || held == nil || held.Head.Err != nil {
		return err
	}
	standing, err := now.Standing(ctx, ref)
	if err != nil || standing != filter.Missing {
		return err
	}
	key := string(held.KV.Key)
	kv, err := p.From.Get(ctx, key) // owners are remembered without their values
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	if kv == nil {
		return nil
	}
	return p.add(ctx, p.Filter.Inspect(ctx, kv), pickedOwner)
}
