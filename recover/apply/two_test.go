package apply_test

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

func atOnce(t *testing.T, runs [2]apply.Run, plans [2]*plan.Plan) (results [2]*apply.Result) {
	t.Helper()
	var errs [2]error
	var both sync.WaitGroup
	for i := range runs {
		both.Go(func() { results[i], errs[i] = runs[i].Plan(t.Context(), plans[i]) })
	}
	both.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	return results
}

// TestTwoRunsOfOnePlanAtOnceDoNoHarm: each with its own archive.
func TestTwoRunsOfOnePlanAtOnceDoNoHarm(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	p, q := s.plan(), s.plan()
	archives := [2]*snapshots.Archive{s.archive(), s.archive()}
	runs := [2]apply.Run{s.run(archives[0]), s.run(archives[1])}
	from := s.revision()
	results := atOnce(t, runs, [2]*plan.Plan{p, q})
	var deleted int64
	for i, r := range results {
		deleted += r.Counts[apply.Deleted]
		if r.Stopped != nil || r.Counts[apply.Deleted]+r.Counts[apply.Gone] != podCount+1 {
			t.Errorf("run %d: %v, stopped by %v", i, r.Counts, r.Stopped)
		}
	}
	if deleted != podCount+1 || s.revision() != from+podCount+1 {
		t.Errorf("together they deleted %d in %d revisions, want %d", deleted, s.revision()-from, podCount+1)
	}
	kept := s.archived(archives[0])
	for key, kv := range s.archived(archives[1]) {
		kept[key] = kv
	}
	now := s.all()
	for key, kv := range s.before {
		meant := bytes.HasPrefix(kv.Key, []byte(podsPrefix)) || key == jobKey
		switch {
		case !meant && now[key] == nil:
			t.Errorf("%s was deleted", key)
		case meant && (now[key] != nil || kept[key] == nil || !bytes.Equal(kept[key].Value, kv.Value)):
			t.Errorf("%s is still there, or in no archive", key)
		}
	}
}

// TestTwoUndosAtOnceDoNoHarm: what one puts back the other finds present.
func TestTwoUndosAtOnceDoNoHarm(t *testing.T) {
	t.Parallel()
	s, f := emptied(t)
	p, _ := s.undoPlan(false, f)
	q, _ := s.undoPlan(false, f)
	runs := [2]apply.Run{undoRun(s, f), undoRun(s, f)}
	results := atOnce(t, runs, [2]*plan.Plan{p, q})
	created := results[0].Counts[apply.Created] + results[1].Counts[apply.Created]
	present := results[0].Counts[apply.Present] + results[1].Counts[apply.Present]
	if created != podCount+1 || present != podCount+1 {
		t.Errorf("%d created and %d present, want %d of each", created, present, podCount+1)
	}
	for key, kv := range s.all() {
		if before := s.before[key]; before == nil || !bytes.Equal(kv.Value, before.Value) || (kv.Version != 1 && before.Version == 1) {
			t.Errorf("%s is not as it was", key)
		}
	}
}

// TestFullDiskIsLeftForAnother: the run stops before its next delete, and goes
// on with a new archive elsewhere.
func TestFullDiskIsLeftForAnother(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	p, full := s.plan(), s.archive()
	path := journalPath(t)
	r := s.run(&failingArchive{Archive: full, n: 3})
	r.Pacer = smallBatches{}
	first := s.journaled(r, p, path)
	if !errors.Is(first.Stopped, apply.ErrArchive) || first.Remaining() == 0 {
		t.Fatalf("stopped by %v with %d remaining", first.Stopped, first.Remaining())
	}
	elsewhere := s.archive()
	second := s.journaled(s.run(elsewhere), p, path)
	done := first.Counts[apply.Deleted]
	wantCounts(t, second, map[apply.Outcome]int64{apply.Before: done, apply.Deleted: podCount + 1 - done})
	kept := s.archived(full)
	for key, kv := range s.archived(elsewhere) {
		kept[key] = kv
	}
	now := s.all()
	for key, kv := range s.before {
		if now[key] == nil && (kept[key] == nil || !bytes.Equal(kept[key].Value, kv.Value)) {
			t.Errorf("%s is lost", key)
		}
	}
}
