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
	putter
	batch []undoEntry
}

type undoEntry struct {
	entryID
	stage int
	kv    *mvccpb.KeyValue
}

// Undo adds a put for every archived object that is absent from the store, in
// the archives' own order, which is owners first; before all go Namespaces, then
// definitions of custom kinds, then claims, which their volumes must find, and
// after all the tokens of ServiceAccounts. The newest archive is undone first, as
// one undoes a series of actions; where a key occurs twice, its newest bytes
// count. Objects that are there with identical bytes need no step; those with
// other bytes are left alone and counted.
func Undo(ctx context.Context, req UndoRequest, out *Writer) (*Summary, error) {
	b := &undoBuilder{UndoRequest: req, putter: newPutter(out, req.WithLeased)}
	order := b.newestFirst()
	for rank := range order {
		if err := b.addArchive(ctx, rank, order); err != nil {
			return nil, err
		}
	}
	return b.done(), nil
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
		b.differs(string(e.kv.Key))
		return nil
	}
	ttl, ok := b.lease(b.Archives[e.source], e.kv)
	if !ok {
		return nil
	}
	o := filter.NewObject(ctx, b.Reader, e.kv)
	return b.put(putOrder(o, e.stage), o, e.entryID, ttl, Step{Reason: fmt.Sprintf("archived at revision %d", e.kv.ModRevision)})
}
