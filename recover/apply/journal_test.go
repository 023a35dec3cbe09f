package apply_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

func journalPath(t *testing.T) string { return filepath.Join(t.TempDir(), "run.journal.jsonl") }

func openJournal(t *testing.T, path string, p *plan.Plan) *apply.JournalFile {
	t.Helper()
	j, err := apply.OpenJournal(path, headerOf(p), nil)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func headerOf(p *plan.Plan) apply.JournalHeader {
	return apply.JournalHeader{
		Time: time.Unix(1_700_000_000, 0).UTC(), Plan: p.Path(), PlanSHA256: p.Trailer().SHA256, Steps: p.Trailer().Steps, Pass: 1,
	}
}

// journaled carries p out with the journal at path.
func (s *store) journaled(r apply.Run, p *plan.Plan, path string) *apply.Result {
	s.t.Helper()
	j := openJournal(s.t, path, p)
	r.Journal = j
	result := s.execute(r, p)
	if err := j.Close(result); err != nil {
		s.t.Fatal(err)
	}
	return result
}

func TestJournalSaysHowEachStepEnded(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	p := s.plan()
	path := journalPath(t)
	gone := firstPod(s)
	if _, err := s.Delete(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	from := s.revision()
	a := s.archive()
	result := s.journaled(s.run(a), p, path)
	wantCounts(t, result, map[apply.Outcome]int64{apply.Deleted: podCount, apply.Gone: 1})
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	runs, err := apply.ReadJournal(path)
	if err != nil || len(runs) != 1 {
		t.Fatalf("%d runs, %v", len(runs), err)
	}
	run := runs[0]
	want := headerOf(p)
	want.Type, want.Version = "run", 1
	if run.Header != want || !run.Ended || run.Counts != result.Counts || run.Remaining != 0 || run.Stopped != "" {
		t.Errorf("the run is %+v, %v, %v, %d, %q", run.Header, run.Ended, run.Counts, run.Remaining, run.Stopped)
	}
	ordinals, revisions := map[int64]bool{}, map[int64]bool{}
	for _, d := range run.Steps {
		ordinals[d.N] = true
		if d.Step.Key == gone {
			if d.Outcome != apply.Gone || d.Archived != 0 {
				t.Errorf("what was gone is %+v", d)
			}
			continue
		}
		revisions[d.Revision] = true
		if before := s.before[d.Step.Key]; d.Outcome != apply.Deleted || d.Archived != before.ModRevision {
			t.Errorf("%+v, archived at %d", d, before.ModRevision)
		}
	}
	if len(ordinals) != podCount+1 || len(revisions) != podCount || revisions[from] || !revisions[from+podCount] {
		t.Errorf("%d ordinals, %d revisions", len(ordinals), len(revisions))
	}
}

// TestRunAgainKnowsWhatItDidBefore: interrupted, carried on with the same
// journal, and with its last line torn, as when the machine died.
func TestRunAgainKnowsWhatItDidBefore(t *testing.T) {
	t.Parallel()
	for _, torn := range []bool{false, true} {
		t.Run(fmt.Sprintf("torn %v", torn), func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			p, a, path := s.plan(), s.archive(), journalPath(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r := s.run(a)
			j := openJournal(t, path, p)
			r.Journal, r.Observer = j, &cancelAfter{n: 100, cancel: cancel}
			first, err := r.Plan(ctx, p)
			if err != nil {
				t.Fatal(err)
			}
			if err := j.Close(first); err != nil {
				t.Fatal(err)
			}
			done := first.Counts[apply.Deleted]
			if torn {
				done -= tear(t, path)
			}
			// Somebody else deletes one that remains.
			other := ""
			for key := range s.all() {
				if strings.HasPrefix(key, podsPrefix) {
					other = key
				}
			}
			if _, err := s.Delete(t.Context(), other); err != nil {
				t.Fatal(err)
			}
			j = openJournal(t, path, p)
			if got := j.Earlier()[apply.Deleted]; got != done {
				t.Errorf("earlier %d, want %d", got, done)
			}
			r = s.run(a)
			r.Journal = j
			second := s.execute(r, p)
			if err := j.Close(second); err != nil {
				t.Fatal(err)
			}
			gone := 1 + first.Counts[apply.Deleted] - done
			wantCounts(t, second, map[apply.Outcome]int64{
				apply.Before: done, apply.Gone: gone, apply.Deleted: podCount + 1 - done - gone,
			})
			runs, err := apply.ReadJournal(path)
			if err != nil || len(runs) != 2 || runs[1].Counts != second.Counts || runs[0].Ended == torn {
				t.Errorf("%d runs, %v", len(runs), err)
			}
			s.mustHoldAll(a)
		})
	}
}

// tear cuts the journal inside its last step; it returns how many deletes are
// lost by that.
func tear(t *testing.T, path string) int64 {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	last := bytes.LastIndex(text, []byte(`{"type":"step"`))
	if err := os.Truncate(path, int64(last+20)); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text[last:], []byte(`"deleted"`)) {
		return 1
	}
	return 0
}

// TestJournalIsNeverTrusted: one that claims that everything is done leaves no
// step out, and one of another plan says nothing about this one.
func TestJournalIsNeverTrusted(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	p, path := s.plan(), journalPath(t)
	for _, sha := range []string{p.Trailer().SHA256, "another"} {
		h := headerOf(p)
		h.PlanSHA256 = sha
		j, err := apply.OpenJournal(path, h, nil)
		if err != nil {
			t.Fatal(err)
		}
		for n := range int64(podCount + 1) {
			if err := j.Decided(apply.Decision{N: n, Outcome: apply.Deleted}); err != nil {
				t.Fatal(err)
			}
		}
		if err := j.Close(nil); err != nil {
			t.Fatal(err)
		}
	}
	result := s.journaled(s.run(s.archive()), p, path)
	wantCounts(t, result, map[apply.Outcome]int64{apply.Deleted: podCount + 1})
	// A third plan knows nothing of the two.
	h := headerOf(p)
	h.PlanSHA256 = "third"
	j, err := apply.OpenJournal(path, h, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close(nil)
	if j.Before(0) || j.Earlier() != (apply.Counts{}) {
		t.Errorf("it takes over %v", j.Earlier())
	}
}

// brokenJournal cannot be written from the n-th decision on.
type brokenJournal struct {
	*apply.JournalFile
	n int64
}

func (b brokenJournal) Decided(d apply.Decision) error {
	if d.N >= b.n {
		return fmt.Errorf("%w: %w", apply.ErrJournal, errDisk)
	}
	return b.JournalFile.Decided(d)
}

func TestJournalThatCannotBeWrittenStopsTheRun(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	p, a := s.plan(), s.archive()
	j := openJournal(t, journalPath(t), p)
	defer j.Close(nil)
	r := s.run(a)
	r.Journal = brokenJournal{j, 50}
	result := s.execute(r, p)
	if !errors.Is(result.Stopped, apply.ErrJournal) || !errors.Is(result.Stopped, apply.ErrArchive) || result.Remaining() == 0 {
		t.Errorf("stopped by %v with %d remaining, want ErrJournal", result.Stopped, result.Remaining())
	}
	s.mustHoldAll(a)
}

// TestClosedJournalFails: the errors of the file itself are ErrJournal too.
func TestClosedJournalFails(t *testing.T) {
	t.Parallel()
	j, err := apply.OpenJournal(journalPath(t), apply.JournalHeader{Steps: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(nil); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(j.Decided(apply.Decision{}), j.Flush()); !errors.Is(err, apply.ErrJournal) {
		t.Errorf("got %v", err)
	}
	if _, err := apply.OpenJournal(t.TempDir(), apply.JournalHeader{}, nil); !errors.Is(err, apply.ErrArchive) {
		t.Errorf("a folder: %v", err)
	}
}

// TestAnyFileCanBeAppendedTo: what is appended can be read again.
func TestAnyFileCanBeAppendedTo(t *testing.T) {
	t.Parallel()
	const run = `{"type":"run","version":1,"planSHA256":"x","steps":3}` + "\n"
	for name, text := range map[string]string{
		"empty":        "",
		"a run":        run + `{"type":"step","n":2,"key":"/a","outcome":"deleted"}` + "\n",
		"torn":         run + `{"type":"step","n":1,"outcome":"created"}` + "\n" + `{"type":"end","counts":{"deleted":1}`,
		"no journal":   "some text\nwithout an end",
		"strange":      run + `{"type":"step","n":-1,"outcome":"deleted"}` + "\n" + `{"type":"step","n":9223372036854775807,"outcome":"deleted"}` + "\n",
		"newer":        `{"type":"run","version":2,"planSHA256":"x","steps":3}` + "\n" + `{"type":"step","n":2,"key":"/a","outcome":"deleted"}` + "\n",
		"a long line":  strings.Repeat("x", 3<<20),
		"other counts": run + `{"type":"end","counts":{"unheard":1}}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := journalPath(t)
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			before, err := apply.ReadJournal(path)
			if err != nil {
				t.Fatal(err)
			}
			j, err := apply.OpenJournal(path, apply.JournalHeader{PlanSHA256: "x", Steps: 3}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := j.Before(2), name == "a run"; got != want {
				t.Errorf("step 2 was done before: %v, want %v", got, want)
			}
			d := apply.Decision{
				N: 1, Step: plan.Step{Action: plan.Delete, Key: "/\"b\x00é"}, Outcome: apply.Skipped, Why: "a\nline", Archived: 7, Revision: 8,
			}
			if err := errors.Join(j.Decided(d), j.Close(&apply.Result{Steps: 3})); err != nil {
				t.Fatal(err)
			}
			after, err := apply.ReadJournal(path)
			if err != nil || len(after) != len(before)+1 {
				t.Fatalf("%d runs before, %d after, %v", len(before), len(after), err)
			}
			last := after[len(after)-1]
			if !last.Ended || last.Remaining != 3 || !reflect.DeepEqual(last.Steps, []apply.Decision{d}) {
				t.Errorf("the appended run is %+v", last)
			}
		})
	}
}
