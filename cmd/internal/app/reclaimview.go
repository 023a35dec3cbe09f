package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

// showPreview shows what fills etcd, the delete (nil for none) and the steps.
func (r *reclaiming) showPreview(pv *preview) error {
	inv := r.inv
	if inv.format() != formatTable {
		doc := r.document(nil)
		doc["changed"] = false
		if pv != nil {
			doc["preview"] = pv.document()
		}
		return inv.document(doc)
	}
	w := writer{inv.Streams.Out, width(inv.Streams.OutWidth)}
	r.writeFills(w)
	if pv != nil {
		pv.write(w, w.columns)
	}
	r.writeSteps(w)
	w.line("")
	w.line("Nothing was changed. Add --execute to do it.")
	return nil
}

// writeFills says how full etcd is, and of what.
func (r *reclaiming) writeFills(w writer) {
	w.line("What fills this etcd")
	r.sizes(w)
	r.fill.write(w)
	w.line("")
}

func (f *filling) write(w writer) {
	w.line("")
	for _, of := range f.resources[:min(len(f.resources), topFew)] {
		w.line("  %s, %s %s", term.Bytes(of.Bytes), term.Count(of.Objects), of.Resource)
	}
	w.more(int64(len(f.resources) - topFew))
	w.line("  %s, old versions, and what etcd adds for itself", term.Bytes(f.history()))
}

// writeSteps says what is done after the delete.
func (r *reclaiming) writeSteps(w writer) {
	n := 0
	step := func(format string, args ...any) {
		n++
		w.field(fmt.Sprintf("%d.", n), fmt.Sprintf(format, args...))
	}
	w.line("Steps")
	at := "the present revision"
	later := fmt.Sprintf(", %s later", r.inv.Duration(flagSettle))
	switch {
	case r.target > 0:
		step("delete what is selected: done")
		at, later = fmt.Sprintf("revision %d, after the last delete", r.target), ""
	case r.d != nil && r.step > 0:
		step("delete what is selected: nothing is there")
	case r.d != nil:
		step("delete what is selected: see above; undo puts it back once there is room")
		at = "the revision after the last delete"
	}
	step("compact to %s%s: what was overwritten or deleted is then nowhere but in archives and snapshots", at, later)
	order, skipped := etcdmembers.PlanDefrag(r.all, etcdmembers.Always)
	step("defragment %s, one at a time, those that have %d %% and %s to give back by then; each answers nothing for about %s", memberWords(order), reclaimShare, term.Bytes(reclaimLeast), longest(order))
	if raised := r.raised(); len(raised) > 0 {
		step("take back %s, if every db file is below its limit", joinWords(r.alarmNames(raised)))
	} else {
		step("disarm: no alarm is raised")
	}
	step("prove that a write works, by a lease that is given back: no key is touched")
	for _, s := range skipped {
		w.field("note", "not defragmented: "+s.Member.Label()+", "+s.Why)
	}
	if len(r.all) == 1 {
		w.field("warning", "etcd has one member: while it is defragmented, the whole control plane waits")
	}
	w.field("warning", watchWarning("the revision that is compacted to"))
	for _, v := range etcdmembers.LosesEvents(r.all) {
		w.field("note", "etcd "+v+" may lose a delete for a watch that begins at that revision (etcd#18089): should an object linger in the API, restart the API servers")
	}
}

// longest is the longest stop that is to be expected.
func longest(order []etcdmembers.DefragStep) string {
	var most time.Duration
	for _, s := range order {
		most = max(most, s.Stop)
	}
	return term.Duration(most)
}

// report says what was done, wherever it ended.
func (r *reclaiming) report(ctx context.Context, err error) error {
	inv := r.inv
	if inv.format() != formatTable {
		return inv.document(r.document(err))
	}
	w := writer{inv.Streams.Out, width(inv.Streams.OutWidth)}
	if r.deleted != nil {
		w.line("")
	}
	if r.compacted {
		w.line("Compacted to revision %d in %s", r.target, term.Duration(r.took))
	}
	for i := range r.defragged {
		d := &r.defragged[i]
		w.line("Defragmented %s: %s", d.Before.Label(), defragged(d))
	}
	for _, name := range r.alarmNames(r.disarmed) {
		w.line("Took back %s", name)
	}
	if r.proved {
		w.line("%s", provedText)
		w.line("")
		r.sizes(w)
		return nil
	}
	w.line("It was not finished; the same command goes on, and leaves out what is done:")
	w.line("go on:   %s", inv.commandLine())
	return nil
}

func (r *reclaiming) document(err error) map[string]any {
	doc := map[string]any{
		"version": 1, "kind": "reclaim", "changed": r.deleted != nil || r.asked, "raised": r.alarmList(etcdmembers.Alarms(r.all)),
		"members": r.memberList(), "compacted": r.compacted, "disarmed": r.alarmList(r.disarmed), "proved": r.proved,
		"interrupted": errors.Is(err, context.Canceled),
	}
	if r.deleted != nil {
		doc["delete"] = r.deleted
	}
	if r.target > 0 {
		doc["target"], doc["compactMilliseconds"] = r.target, r.took.Milliseconds()
	}
	defragged := []any{}
	for _, d := range r.defragged {
		one := map[string]any{"member": fmt.Sprintf("%x", d.Before.ID), "before": d.Before.DBSize, "after": d.After.DBSize, "milliseconds": d.Took.Milliseconds()}
		if d.Err != nil {
			one["error"] = d.Err.Error()
		}
		defragged = append(defragged, one)
	}
	doc["defragmented"] = defragged
	if r.fill != nil {
		doc["fills"] = map[string]any{
			"resources": append([]filled{}, r.fill.resources...), "objects": r.fill.objects, "bytes": r.fill.bytes, "history": r.fill.history(),
		}
	}
	return doc
}
