//go:build faults

package app

import (
	"bytes"
	"context"
	"maps"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// checkExit: a fault is no bad invocation and no refusal.
func (w *faultWorld) checkExit(first ranCommand) {
	switch first.code {
	case exitDone, exitFailed, exitPartial, exitConnect:
	case -1:
		if !w.killed {
			w.violate("it did not end in time, after %s", first.took)
		}
	default:
		w.violate("exit code %d", first.code)
	}
}

// checkSafe: one changed key per revision, nothing lost, nothing deleted or
// written that was not meant.
func (w *faultWorld) checkSafe() {
	events, ours, err := w.history.all()
	if err != nil {
		w.violate("%v", err)
	}
	w.checkRevisions(events)
	archived := w.archived()
	planned, guards := w.planned()
	for _, e := range ours {
		switch w.operation {
		case operationUndo:
			w.checkPut(e, archived)
		case operationPutBack:
			w.checkReplace(e, archived, guards)
		default:
			w.checkDelete(e, archived, planned)
		}
	}
}

// checkRevisions: every revision is in the history, with one changed key.
func (w *faultWorld) checkRevisions(events []*clientv3.Event) {
	next := w.base.revision + 1
	for _, e := range events {
		rev := e.Kv.ModRevision
		switch {
		case rev > next:
			w.violate("the history lacks revisions %d to %d", next, rev-1)
		case rev < next && strings.HasPrefix(string(e.Kv.Key), "/registry/"):
			w.violate("revision %d changed %q besides other keys", rev, e.Kv.Key)
		}
		next = rev + 1
	}
}

// life is one object that lived under a key.
type life struct{ key, uid string }

// checkDelete: the archive holds the last bytes of what is gone, and what is
// gone was in a plan, with its UID, and selected to the end.
func (w *faultWorld) checkDelete(e *clientv3.Event, archived map[string][]*mvccpb.KeyValue, planned map[life]bool) {
	key, rev := string(e.Kv.Key), e.Kv.ModRevision
	if e.Type != clientv3.EventTypeDelete {
		w.violate("a delete wrote %q, at revision %d", key, rev)
		return
	}
	if e.PrevKv == nil {
		w.violate("nobody knows what was deleted under %q at revision %d", key, rev)
		return
	}
	if !holds(archived[key], e.PrevKv) {
		w.violate("LOST: %q as of revision %d was deleted at revision %d and is in no archive", key, e.PrevKv.ModRevision, rev)
	}
	if !planned[life{key, codec.DecodeHead(e.PrevKv.Value).Meta.UID}] {
		w.violate("%q was deleted at revision %d with a UID that is in no plan", key, rev)
	}
	if !isMeant(key, e.PrevKv.Value) {
		w.violate("%q was deleted at revision %d and was not selected any more", key, rev)
	}
}

// checkPut: an undo only adds what is missing, with the archived bytes.
func (w *faultWorld) checkPut(e *clientv3.Event, archived map[string][]*mvccpb.KeyValue) {
	key, rev := string(e.Kv.Key), e.Kv.ModRevision
	switch {
	case e.Type != clientv3.EventTypePut:
		w.violate("an undo deleted %q, at revision %d", key, rev)
	case !e.IsCreate():
		w.violate("an undo wrote over %q, at revision %d", key, rev)
	default:
		for _, kv := range archived[key] {
			if bytes.Equal(kv.Value, e.Kv.Value) {
				return
			}
		}
		w.violate("%q was put back at revision %d with bytes that no archive holds", key, rev)
	}
}

// archived is what the archives hold. One that was killed while it was made
// cannot be opened, and holds nothing.
func (w *faultWorld) archived() map[string][]*mvccpb.KeyValue {
	all := map[string][]*mvccpb.KeyValue{}
	for _, path := range glob(w.t, w.shell.dir, "*.db") {
		f, err := snapshots.Open(path, snapshots.Options{})
		if err != nil {
			continue
		}
		err = f.Entries(context.Background(), func(_ snapshots.Position, kv *mvccpb.KeyValue) error {
			kv = &mvccpb.KeyValue{Key: bytes.Clone(kv.Key), Value: bytes.Clone(kv.Value), ModRevision: kv.ModRevision}
			all[string(kv.Key)] = append(all[string(kv.Key)], kv)
			return nil
		})
		if f.Close(); err != nil {
			w.violate("archive %s: %v", path, err)
		}
	}
	return all
}

// guard is a revision that a key must have for a step of a plan.
type guard struct {
	key      string
	revision int64
}

// planned is what the plans name.
func (w *faultWorld) planned() (all map[life]bool, guards map[guard]bool) {
	all, guards = map[life]bool{}, map[guard]bool{}
	for _, path := range glob(w.t, w.shell.dir, "*.plan.jsonl") {
		p, err := plan.Open(context.Background(), path)
		if err != nil {
			continue // not whole, so nothing was done by it
		}
		err = p.Steps(context.Background(), func(_ int, _ string, s plan.Step) error {
			all[life{s.Key, s.UID}], guards[guard{s.Key, s.ModRevision}] = true, true
			return nil
		})
		if p.Close(); err != nil {
			w.violate("plan %s: %v", path, err)
		}
	}
	return all, guards
}

// inFlight is how many transactions of a killed process may still be carried
// out after its end.
const inFlight = 64

// checkCounts: the reports' numbers equal what the history shows. They may
// fall short by steps that the first run reports as failed without a clear
// answer, and nothing else; of a first run that was killed, which has no
// report, only what came after it counts.
func (w *faultWorld) checkCounts(first ranCommand, later ...ranCommand) {
	if w.killed && len(later) == 0 {
		return
	}
	from, slack, counted := first.from, 0, []ranCommand{first}
	if w.killed {
		from, slack, counted = later[0].from, inFlight, nil
	}
	counted = append(counted, later...)
	_, ours, _ := w.history.all()
	changed, did := map[string]bool{}, 0
	for _, e := range ours {
		if e.Kv.ModRevision > from {
			changed[string(e.Kv.Key)] = true
			did++
		}
	}
	said := 0
	for _, r := range counted {
		said += int(r.report.Deleted + r.report.Created + r.report.Replaced)
		for _, p := range r.report.Problems {
			if p.Outcome == "failed" && changed[p.Key] {
				slack++
			}
		}
	}
	if did < said || did > said+slack {
		w.violate("the reports say %d changes, the history has %d; %d had no clear answer", said, did, slack)
	}
}

// checkFinished: the store is what the history says, so that nothing was
// missed above, and is as wanted.
func (w *faultWorld) checkFinished(ctx context.Context) {
	if w.archive != "" {
		if sum, err := snapshots.SHA256(ctx, w.archive); err != nil || sum != w.sum {
			w.violate("an undo changed the archive: %v", err)
		}
	}
	now, err := w.contents(ctx)
	if err != nil {
		w.violate("%v", err)
		return
	}
	events, _, _ := w.history.all()
	told := &contents{keys: map[string]*mvccpb.KeyValue{}}
	filler := func(key string, _ *mvccpb.KeyValue) bool { return strings.HasPrefix(key, fillPrefix) }
	maps.Copy(told.keys, w.base.keys)
	maps.DeleteFunc(told.keys, filler)
	maps.DeleteFunc(now.keys, filler) // it may still be there if the quota was not reached in time
	for _, e := range events {
		switch {
		case strings.HasPrefix(string(e.Kv.Key), fillPrefix):
		case e.Type == clientv3.EventTypeDelete:
			delete(told.keys, string(e.Kv.Key))
		default:
			told.keys[string(e.Kv.Key)] = e.Kv
		}
	}
	if diff := sameValues(told, now); diff != "" {
		w.violate("the store is not what the history says: %s", diff)
	}
	w.checkWanted(now)
}

// checkWanted: all that was meant is gone, or there again, and nothing else
// has changed; but for what the other client did.
func (w *faultWorld) checkWanted(now *contents) {
	for key, kv := range w.whole.keys {
		there, gone := now.keys[key], w.operation == operationDelete && isMeant(key, kv.Value)
		switch {
		case w.touched.has(key):
		case gone && there != nil:
			w.violate("%q is still there", key)
		case !gone && (there == nil || !bytes.Equal(there.Value, kv.Value)):
			w.violate("%q is not there as it was", key)
		}
	}
	for key, kv := range now.keys {
		if w.operation == operationDelete && isMeant(key, kv.Value) {
			w.violate("%q is selected and still there", key)
		}
	}
}
