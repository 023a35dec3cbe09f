package apply_test

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// TestFaultAtEachCallOfAReplacement: afterwards every key has the bytes that
// it had, or those of the file and the archive holds the ones that it had; what
// somebody else wrote stays; and a second run finishes.
func TestFaultAtEachCallOfAReplacement(t *testing.T) {
	t.Parallel()
	everyFault(t, func(t *testing.T, s *store, kind fault, n int64) int64 {
		keys := replaceKeys(s, chaosPods)
		f := s.changed(keys)
		defer f.Close()
		p, a := s.replacePlan(f), s.archive()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		theirs := false
		c := &chaos{Client: s.Client, archive: a, kind: kind, n: n, cancel: cancel, other: func(f fault) {
			if theirs = true; f == remakeFirst {
				s.remove(keys[0])
			}
			s.put(keys[0], "theirs")
		}}
		r := s.chaosRun(c, append(keys, jobKey))
		r.Sources = []apply.Bytes{f}
		first, err := r.Plan(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		calls := c.calls.Load()
		check := func() (replaced int64) {
			now, kept := s.all(), entriesOf(t, a)
			for _, key := range keys {
				old := []byte(changedValue(s.before[key].Value))
				archived := slices.ContainsFunc(kept[key], func(v []byte) bool { return bytes.Equal(v, old) })
				switch value := now[key].GetValue(); {
				case theirs && key == keys[0]:
					if string(value) != "theirs" {
						t.Errorf("%s was written over", key)
					}
				case bytes.Equal(value, old):
				case !bytes.Equal(value, s.before[key].Value):
					t.Errorf("%s has bytes that nobody wrote", key)
				case !archived:
					t.Errorf("LOST: what was under %s is in no archive", key)
				default:
					replaced++
				}
			}
			return replaced
		}
		replaced, said := check(), first.Counts[apply.Replaced]
		if kind != changeFirst && kind != remakeFirst && (replaced < said || replaced > said+first.Counts[apply.Failed]) {
			t.Errorf("%d are replaced, the result says %v", replaced, first.Counts)
		}
		again := &chaos{Client: s.Client, archive: s.reopen(a)}
		a, r.Store, r.Archive = again.archive, again, again
		if second := s.execute(r, p); second.Stopped != nil || second.Counts[apply.Failed] > 0 {
			t.Errorf("a second run: %v, stopped by %v", second.Counts, second.Stopped)
		}
		want := int64(chaosPods)
		if theirs {
			want--
		}
		if replaced := check(); replaced != want {
			t.Errorf("after a second run %d are replaced, want %d", replaced, want)
		}
		return calls
	})
}

// TestTwoRunsOfReplacementsAtOnceDoNoHarm: what one replaces the other finds
// present.
func TestTwoRunsOfReplacementsAtOnceDoNoHarm(t *testing.T) {
	t.Parallel()
	const n = 200
	s := newStore(t)
	f := s.changed(replaceKeys(s, n))
	archives := [2]*snapshots.Archive{s.archive(), s.archive()}
	runs := [2]apply.Run{s.replaceRun(f, archives[0]), s.replaceRun(f, archives[1])}
	plans := [2]*plan.Plan{s.replacePlan(f), s.replacePlan(f)}
	before, from := s.all(), s.revision()
	results := atOnce(t, runs, plans)
	replaced := results[0].Counts[apply.Replaced] + results[1].Counts[apply.Replaced]
	present := results[0].Counts[apply.Present] + results[1].Counts[apply.Present]
	if replaced != n || present != n || s.revision() != from+n {
		t.Errorf("%d replaced and %d present in %d revisions, want %d of each", replaced, present, s.revision()-from, n)
	}
	kept := s.archived(archives[0])
	for key, kv := range s.archived(archives[1]) {
		kept[key] = kv
	}
	for key, now := range s.all() {
		was := before[key]
		switch {
		case !bytes.Equal(now.Value, s.before[key].Value):
			t.Errorf("%s has other bytes", key)
		case now.ModRevision == was.ModRevision:
		case now.Version != was.Version+1 || kept[key] == nil || !bytes.Equal(kept[key].Value, was.Value):
			t.Errorf("%s was written twice, or what it held is in no archive", key)
		}
	}
}
