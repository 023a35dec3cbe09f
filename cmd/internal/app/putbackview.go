package app

import (
	"bytes"
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/diff"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

// differences are how the objects of a file differ from what is under their
// keys now. What is kept is bounded as that of a history is.
type differences struct {
	view    *history // decodes, hides what is secret and keeps within its room
	objects []*difference
	more    int64 // objects that are not kept
}

// difference is one object that is there with other bytes.
type difference struct {
	object   filter.Object // its key and what that means
	replaced bool          // by the plan; else it is left alone
	anew     bool          // what is there now is another object of that name
	changes  *pastVersion
	why      string // why its fields cannot be compared, "" if they were
}

// objectRoom is what an object takes beside its changes.
const objectRoom = 512

func newDifferences(s *session) *differences {
	return &differences{view: &history{s: s, room: maxChangeBytes}}
}

// add compares an object of the file with what is there now.
func (d *differences) add(ctx context.Context, was, is *mvccpb.KeyValue, replaced bool) error {
	size := objectRoom + len(was.Key)
	if d.view.room < size {
		d.more++
		return nil
	}
	d.view.room -= size
	reader := d.view.s.reader
	from, now := filter.NewObject(ctx, reader, was), filter.NewObject(ctx, reader, is)
	d.view.key = from.Key
	// Only its name is kept of the object.
	name := filter.Object{KV: &mvccpb.KeyValue{Key: bytes.Clone(was.Key)}, Value: codec.Value{Key: from.Key}}
	o := &difference{object: name, replaced: replaced, changes: &pastVersion{}}
	o.anew = from.Head.Err == nil && now.Head.Err == nil && from.Head.Meta.UID != now.Head.Meta.UID
	o.compare(d.view, from, now)
	d.objects = append(d.objects, o)
	return nil
}

func (o *difference) compare(view *history, from, now filter.Object) {
	old, new := &pastVersion{object: now}, &pastVersion{object: from}
	for _, side := range []struct {
		v     *pastVersion
		where string
	}{{old, "what is there now"}, {new, "what the file holds"}} {
		side.v.ModRevision = side.v.object.KV.ModRevision
		if err := view.decode(side.v); err != nil {
			o.why = fmt.Sprintf("%s cannot be read: %v", side.where, err)
			return
		}
	}
	for _, c := range diff.Objects(old.whole, new.whole, diff.Bookkeeping) {
		view.keep(o.changes, c)
	}
}

// How much of it is on screen.
const (
	mostCompared = 10
	mostChanges  = 8
)

// write shows the first of them.
func (d *differences) write(w writer) {
	if d == nil || len(d.objects) == 0 {
		return
	}
	w.line("")
	w.line("There with other bytes: what is there now → what the file holds")
	for _, o := range d.objects[:min(len(d.objects), mostCompared)] {
		o.write(w)
	}
	w.more(int64(len(d.objects)) - mostCompared + d.more)
	w.line("")
}

func (o *difference) write(w writer) {
	what := "left alone"
	if o.replaced {
		what = "replaced"
	}
	if o.anew {
		what += "; it was made anew since, with another UID"
	}
	w.line("  %s (%s)", o.object.Name(), what)
	n := len(o.changes.changes)
	switch {
	case o.why != "":
		w.line("    %s", o.why)
	case n+o.changes.more == 0:
		w.line("    in no field that is shown")
	}
	for _, c := range o.changes.changes[:min(n, mostChanges)] {
		w.line("    %s", c.text)
	}
	if more := int64(max(n-mostChanges, 0) + o.changes.more); more > 0 {
		w.line("    and %s more", term.Plural(more, "change"))
	}
}

// putWarning is a warning in a line.
func putWarning(v plan.PutWarning) string {
	text := fmt.Sprintf("%s: %s; such as %s", objects(v.Count), v.Reason, v.First)
	if v.Detail != "" {
		text += " (" + v.Detail + ")"
	}
	return text
}

// nothingMissing says why nothing would be put back.
func (pv *preview) nothingMissing() string {
	sum := pv.sum
	switch {
	case sum.Differing > 0:
		return "something else is there under each key that differs"
	case sum.Present > 0:
		return "all of it is there"
	case sum.Leased > 0:
		return "all of it had a lease"
	case len(sum.Blocked) > 0:
		return "all of it is blocked"
	}
	return "the file holds nothing that is selected"
}

// document is the whole of it.
func (d *differences) document() []any {
	docs := []any{}
	for _, o := range d.objects {
		changes := []any{}
		for _, c := range o.changes.changes {
			changes = append(changes, c.document())
		}
		doc := objectDocument(o.object)
		doc["replaced"], doc["madeAnew"], doc["changes"], doc["moreChanges"] = o.replaced, o.anew, changes, o.changes.more
		if o.why != "" {
			doc["why"] = o.why
		}
		docs = append(docs, doc)
	}
	return docs
}

// objectDocument is an object as docs/json.md names it.
func objectDocument(o filter.Object) map[string]any {
	doc := map[string]any{"key": string(o.KV.Key)}
	if o.Key.Resource != nil {
		doc["resource"], doc["name"] = o.Key.Resource.String(), o.Key.Name
		if o.Key.Namespace != "" {
			doc["namespace"] = o.Key.Namespace
		}
	}
	return doc
}
