package plan

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// UndoRequest asks for a plan that puts back what archives hold.
type UndoRequest struct {
	Archives   []*snapshots.File // in the order of Header.Sources
	Now        keyspace.Source   // the store that they are put back into
	Reader     *codec.Reader     // understands their keys and values
	WithLeased bool              // put back objects that had a lease, under a new one
}

const (
	// undoBatch is how many keys are compared with the store at a time.
	undoBatch = 256
	// maxDiffering is how many differing keys a Summary names.
	maxDiffering = 20
)

type undoBuilder struct {
	UndoRequest
	out    *Writer
	sum    *Summary
	batch  []undoEntry
	stages map[int]*undoStage
}

type undoStage struct {
	StageInfo
	first []Step // as many as a Summary names
}

type entryID struct {
	source int
	at     snapshots.Position
}

type undoEntry struct {
	entryID
	stage int
	kv    *mvccpb.KeyValue
}

// Undo adds a put for every archived object that is absent from the store, in
// the archives' own order, which is owners first; before all go Namespaces, then
// claims, which their volumes must find. The newest archive is undone
// first, as one undoes a series of actions; where a key occurs twice, its
// newest bytes count. Objects that are there with identical bytes need no
// step; those with other bytes are left alone and counted.
func Undo(ctx context.Context, req UndoRequest, out *Writer) (*Summary, error) {
	b := &undoBuilder{UndoRequest: req, out: out, sum: newSummary(), stages: map[int]*undoStage{}}
	order := b.newestFirst()
	for rank := range order {
		if err := b.addArchive(ctx, rank, order); err != nil {
			return nil, err
		}
	}
	var ranks []int
	for rank := range b.stages {
		ranks = append(ranks, rank)
	}
	slices.Sort(ranks)
	for _, rank := range ranks {
		st := b.stages[rank]
		b.sum.Stages = append(b.sum.Stages, st.StageInfo)
		b.sum.First = append(b.sum.First, st.first[:min(len(st.first), FirstSteps-len(b.sum.First))]...)
	}
	return b.sum, nil
}

func (b *undoBuilder) newestFirst() []int {
	order := make([]int, len(b.Archives))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int {
		first, _ := b.Archives[x].Archive()
		second, _ := b.Archives[y].Archive()
		return cmp.Compare(second.Time.UnixNano(), first.Time.UnixNano())
	})
	return order
}

// superseded tells whether a later entry of the same archive or one of a
// newer archive has the same key. The archives are asked, because a million
// keys are too many to be held.
func (b *undoBuilder) superseded(ctx context.Context, newer []int, id entryID, key []byte) (bool, error) {
	for _, source := range newer {
		if _, ok, err := b.Archives[source].Find(ctx, key); ok || err != nil {
			return ok, err
		}
	}
	last, _, err := b.Archives[id.source].Find(ctx, key)
	return last != id.at, err
}

// stagesOfOne is more stages than one archive has: a stage for each level of
// owners and each pass.
const stagesOfOne = 1 << 20

// addArchive adds the archive at a rank of the order, newest first.
func (b *undoBuilder) addArchive(ctx context.Context, rank int, order []int) error {
	source := order[rank]
	f := b.Archives[source]
	err := f.Entries(ctx, func(at snapshots.Position, kv *mvccpb.KeyValue) error {
		id := entryID{source, at}
		if old, err := b.superseded(ctx, order[:rank], id, kv.Key); err != nil {
			return err
		} else if old {
			b.sum.Superseded++
			return nil
		}
		b.batch = append(b.batch, undoEntry{id, rank*stagesOfOne + f.Stage(at), kv})
		if len(b.batch) == undoBatch {
			return b.flush(ctx)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return b.flush(ctx)
}

func (b *undoBuilder) flush(ctx context.Context) error {
	keys := make([]string, 0, len(b.batch))
	for _, e := range b.batch {
		keys = append(keys, string(e.kv.Key))
	}
	slices.Sort(keys)
	now, err := b.Now.GetAll(ctx, keys)
	if err != nil {
		return err
	}
	for _, e := range b.batch {
		if err := b.consider(ctx, e, now[string(e.kv.Key)]); err != nil {
			return err
		}
	}
	b.batch = b.batch[:0]
	return nil
}

func (b *undoBuilder) consider(ctx context.Context, e undoEntry, now *mvccpb.KeyValue) error {
	switch {
	case now != nil && bytes.Equal(now.Value, e.kv.Value):
		b.sum.Present++
		return nil
	case now != nil:
		b.sum.Differing++
		if len(b.sum.DifferingKeys) < maxDiffering {
			b.sum.DifferingKeys = append(b.sum.DifferingKeys, string(e.kv.Key))
		}
		return nil
	}
	f := b.Archives[e.source]
	ttl := int64(0)
	if e.kv.Lease != 0 {
		ttl, _ = f.LeaseTTL(e.kv.Lease)
		if !b.WithLeased || ttl == 0 {
			b.sum.Leased++
			return nil
		}
	}
	return b.add(ctx, e, ttl)
}

func (b *undoBuilder) add(ctx context.Context, e undoEntry, ttl int64) error {
	o := filter.NewObject(ctx, b.Reader, e.kv)
	b.sum.observe(o)
	owned := len(o.Head.Meta.Owners) > 0
	if owned {
		b.sum.Owned++
	}
	s := step(o, Restored, fmt.Sprintf("archived at revision %d", e.kv.ModRevision))
	s.Action, s.ModRevision, s.CreateRevision, s.Warnings = Put, 0, 0, nil
	s.Source, s.Position, s.SourceModRevision = e.source, e.at.String(), e.kv.ModRevision
	s.Owned, s.Lease, s.LeaseTTL = owned, e.kv.Lease, ttl
	what := "key"
	if o.Key.Resource != nil {
		what = o.Key.Resource.Word()
	}
	order := e.stage
	if r := o.Key.Resource; r != nil {
		switch r.String() {
		case "namespaces":
			order = -2 // nothing can be made in one that is not there
		case "persistentvolumeclaims":
			// A volume whose claim is missing is released and reclaimed, which
			// may destroy it; a claim waits for its volume
			// (k8s pkg/controller/volume/persistentvolume/pv_controller.go).
			order = -1
		}
	}
	st := b.stages[order]
	if st == nil {
		st = &undoStage{StageInfo: StageInfo{What: what}}
		b.stages[order] = st
	}
	if st.What != what {
		st.What = several(s)
	}
	st.Steps++
	if len(st.first) < FirstSteps {
		st.first = append(st.first, s)
	}
	if b.out == nil {
		return nil
	}
	return b.out.Add(order, what, s)
}
