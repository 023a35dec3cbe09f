package plan

import (
	"bytes"
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// PutBackRequest asks for a plan that puts back what a file holds.
type PutBackRequest struct {
	File   *snapshots.File // holds the bytes: source 0 of the plan's header
	From   keyspace.Source // File at the revision asked for, see keyspace.FromFileAt
	Filter *filter.Filter  // selects in From
	Owners *filter.Owners  // over From
	Now    keyspace.Source // the store that they are put back into
	// Main is the store of Namespaces and owners where Now is the etcd that
	// holds only events; nil: Now.
	Main keyspace.Source
	// Elsewhere tells keys that API servers do not look for in Now, because
	// events have an etcd of their own; nil: none. They are blocked.
	Elsewhere func(key string) bool
	Reader    *codec.Reader // knows both
	Prefix    string        // of both

	// WithOwners takes along the owners of what is selected, and those above,
	// as far as the file holds them and the store does not.
	WithOwners bool
	// WithDependents takes along what the selected objects own, directly or not.
	WithDependents bool
	// Replace plans steps for keys that hold other bytes too, each guarded by
	// the mod revision that was seen.
	Replace    bool
	WithLeased bool // put back objects that had a lease, under a new one
	// Differs, if not nil, is told of each selected key that is there with other
	// bytes, and whether the plan is to replace them. The values are only lent.
	// Its errors end the planning.
	Differs func(ctx context.Context, from, now *mvccpb.KeyValue, replaced bool) error
	// Overrides lets pass what Summary.Blocked names an override for.
	Overrides filter.Overrides

	// held is how many bytes of keys are held in memory, 0 for spillBytes.
	held int
}

// PutWarning is what putting some objects back does beyond what it says. It
// quotes no value.
type PutWarning struct {
	// Reason is one of few texts; it goes on from "N objects: ".
	Reason string `json:"reason"`
	Count  int64  `json:"count"`
	// First names the first object, as in "pod a/p", and Detail what was looked
	// up for it, as in "replicaset/web"; the latter may be empty.
	First  string `json:"first"`
	Detail string `json:"detail,omitempty"`
}

// PutBack adds a put for every selected object of the file that is absent from
// the store, and with Replace for every one that has other bytes there; with a
// nil out it only describes what the plan would be. The order is that of Undo:
// Namespaces, then definitions of custom kinds, then claims, then owners before
// what they own. An object that Summary.Blocked counts gets no step; the others
// are put back all the same.
//
// Memory is bounded whatever is selected: the keys are spooled in a file without
// a name once they are very many, in the folder of the plan or, without out, in
// that for temporary files. Each different owner that the objects name takes up
// to 43 bytes, and each claim, and WithDependents as much for each selected
// object; it fails with filter.ErrTooManyUIDs beyond 5 million.
func PutBack(ctx context.Context, req PutBackRequest, out *Writer) (*Summary, error) {
	p := newPicker(req, out)
	defer p.close()
	if err := p.pick(ctx); err != nil {
		return nil, err
	}
	b := newPutBack(p, out)
	err := p.picked.drain(func(key []byte, f figures) error { return b.take(ctx, key, f.level) })
	if err == nil {
		err = b.flush(ctx)
	}
	if err != nil {
		return nil, err
	}
	return b.done(), nil
}

const (
	// putBatch objects, or putBytes of values and one more, are compared with
	// the store at a time.
	putBatch = undoBatch
	putBytes = 4 << 20
)

// putBack plans what a picker has picked, in the order of the plan.
type putBack struct {
	*picker
	putter
	reasons [3]string // by what picked the object
	now     *filter.Owners
	checks  *checks
	order   int
	batch   []*pickedObject
	weight  int64
}

// pickedObject is one object of the file, and what is there in its place.
type pickedObject struct {
	filter.Object
	id     entryID
	by     int
	ttl    int64
	there  bool
	same   bool
	rev    int64 // mod revision of what is there
	made   int64 // create revision
	size   int64
	uid    string // empty if it cannot be read
	warned []string
}

func newPutBack(p *picker, out *Writer) *putBack {
	now := filter.NewOwners(p.Now, p.Reader, nil)
	if p.Main != nil {
		now.Main = p.Main
	}
	b := &putBack{picker: p, putter: newPutter(out, p.WithLeased), now: now}
	b.sum.Undecided, b.sum.Spaces, b.sum.LeftSpaces = p.undecided.Undecided, p.undecided.Spaces, p.undecided.LeftSpaces
	b.reasons = [3]string{pickedOwner: "owner of what is selected", pickedDependent: "owned by what is selected", pickedSelected: selectedBy(p.Filter.Selection())}
	b.checks = newChecks(p, b.sum, now)
	return b
}

// take reads one picked object from the file.
func (b *putBack) take(ctx context.Context, picked []byte, by int) error {
	order, key := splitPicked(picked)
	if order != b.order || len(b.batch) == putBatch || b.weight >= putBytes {
		if err := b.flush(ctx); err != nil {
			return err
		}
	}
	b.order = order
	at, ok, err := b.File.FindAt(ctx, []byte(key), b.From.Revision())
	if err == nil && !ok {
		err = fmt.Errorf("%q does not hold %s any more", b.File.Path(), key)
	}
	if err != nil {
		return err
	}
	kv, err := b.File.At(at)
	if err != nil {
		return err
	}
	o := &pickedObject{Object: filter.NewObject(ctx, b.Reader, kv), id: entryID{at: at}, by: by}
	b.batch = append(b.batch, o)
	b.weight += o.Size
	return nil
}

// flush plans the batch, whose objects belong to one stage and are sorted by key.
func (b *putBack) flush(ctx context.Context) error {
	if err := b.compare(ctx); err != nil {
		return err
	}
	var steps []*pickedObject
	for _, o := range b.batch {
		if b.wants(o) {
			steps = append(steps, o)
		}
	}
	if err := b.checks.ahead(ctx, steps); err != nil {
		return err
	}
	for _, o := range steps {
		if err := b.plan(ctx, o); err != nil {
			return err
		}
	}
	clear(b.batch)
	b.batch, b.weight = b.batch[:0], 0
	return nil
}

// compare looks at what the store has under the keys of the batch.
func (b *putBack) compare(ctx context.Context) error {
	keys, byKey := make([]string, len(b.batch)), make(map[string]*pickedObject, len(b.batch))
	for i, o := range b.batch {
		keys[i] = string(o.KV.Key)
		byKey[keys[i]] = o
	}
	return b.now.Each(ctx, keys, func(chunk []*filter.Object) error {
		for _, there := range chunk {
			o := byKey[string(there.KV.Key)]
			o.there, o.same, o.size = true, bytes.Equal(there.KV.Value, o.KV.Value), there.Size
			o.rev, o.made, o.uid = there.KV.ModRevision, there.KV.CreateRevision, there.Head.Meta.UID
			if o.same || b.Differs == nil {
				continue
			}
			replaces, err := b.replaces(ctx, o)
			if err == nil {
				err = b.Differs(ctx, o.KV, there.KV, replaces)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// replaces tells whether the bytes of an object are to take the place of others.
func (b *putBack) replaces(ctx context.Context, o *pickedObject) (bool, error) {
	if _, ok := b.ttl(b.File, o.KV); !ok || !b.Replace || filter.NeverPutBack(b.Prefix, o.Object) != nil || b.elsewhere(o) != nil {
		return false, nil
	}
	v, err := b.checks.volume(ctx, o)
	return v == nil || !v.Blocks, err
}

// wants reports whether an object is to get a step, as far as itself and its
// key tell, and counts it otherwise.
func (b *putBack) wants(o *pickedObject) bool {
	switch {
	case o.same:
		b.sum.Present++
		return false
	case b.sum.blocks(filter.NeverPutBack(b.Prefix, o.Object)):
		return false
	case o.there && !b.Replace:
		b.differs(string(o.KV.Key))
		return false
	}
	var ok bool
	o.ttl, ok = b.lease(b.File, o.KV)
	return ok && !b.sum.blocks(b.elsewhere(o))
}

// elsewhere blocks what belongs into another etcd.
func (b *putBack) elsewhere(o *pickedObject) *filter.Verdict {
	if b.Elsewhere == nil || !b.Elsewhere(string(o.KV.Key)) {
		return nil
	}
	return &filter.Verdict{Blocks: true, Reason: "events have an etcd of their own here: put them back by themselves (put-back events)"}
}

// plan adds the step of an object, unless something blocks it.
func (b *putBack) plan(ctx context.Context, o *pickedObject) error {
	blocked, err := b.checks.check(ctx, o)
	if err != nil || blocked {
		return err
	}
	s := Step{Reason: b.reasons[o.by], Warnings: o.warned}
	if o.there {
		s.ModRevision, s.CreateRevision = o.rev, o.made
		b.sum.Replacing++
		b.sum.ReplacedBytes += o.size
	}
	if err := b.put(b.order, o.Object, o.id, o.ttl, s); err != nil {
		return err
	}
	return b.checks.planned(o.Object)
}
