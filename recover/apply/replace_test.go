package apply_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// replaceKeys are some of the pods, in order.
func replaceKeys(s *store, n int) []string {
	keys := slices.Sorted(maps.Keys(s.before))
	keys = slices.DeleteFunc(keys, func(key string) bool { return !strings.HasPrefix(key, podsPrefix) })
	return keys[:n]
}

// changed keeps objects in a file as they were in the beginning, and changes
// them in the store.
func (s *store) changed(keys []string) *snapshots.File {
	s.t.Helper()
	a := s.archive()
	var kvs []*mvccpb.KeyValue
	for _, key := range keys {
		kvs = append(kvs, s.before[key])
	}
	if err := a.Append(0, kvs, nil); err != nil {
		s.t.Fatal(err)
	}
	for _, key := range keys {
		s.put(key, changedValue(s.before[key].Value))
	}
	return reopened(s.t, a)
}

func changedValue(value []byte) string { return string(value) + " and more" }

func (s *store) put(key, value string, opts ...clientv3.OpOption) {
	s.t.Helper()
	if _, err := s.Put(context.WithoutCancel(s.t.Context()), key, value, opts...); err != nil {
		s.t.Error(err)
	}
}

func (s *store) remove(key string) {
	s.t.Helper()
	if _, err := s.Delete(context.WithoutCancel(s.t.Context()), key); err != nil {
		s.t.Error(err)
	}
}

// replacePlan puts what f holds in the place of what is there, and changes its
// steps before as told.
func (s *store) replacePlan(f *snapshots.File, change ...func(*plan.Step)) *plan.Plan {
	s.t.Helper()
	path, now := filepath.Join(s.t.TempDir(), "plan.jsonl"), s.all()
	w, err := plan.Create(path, plan.Header{Operation: "put-back", Prefix: prefix, Sources: []plan.SourceFile{{Path: f.Path()}}})
	if err != nil {
		s.t.Fatal(err)
	}
	err = f.Entries(s.t.Context(), func(at snapshots.Position, kv *mvccpb.KeyValue) error {
		key := string(kv.Key)
		step := plan.Step{
			Action: plan.Put, Key: key, ModRevision: now[key].GetModRevision(), CreateRevision: now[key].GetCreateRevision(),
			Size: int64(len(kv.Value)), Role: plan.Restored, Position: at.String(), SourceModRevision: kv.ModRevision,
		}
		for _, c := range change {
			c(&step)
		}
		return w.Add(0, "pod", step)
	})
	if err := errors.Join(err, w.Close()); err != nil {
		s.t.Fatal(err)
	}
	p, err := plan.Open(s.t.Context(), path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { p.Close() })
	return p
}

func (s *store) replaceRun(f *snapshots.File, a apply.Archive) apply.Run {
	r := s.run(a)
	r.Sources, r.Judge = []apply.Bytes{f}, nil // which would panic: a put is never judged
	return r
}

// TestReplacementIsOneGuardedPutOfArchivedBytes: of each key, which goes on in
// its life.
func TestReplacementIsOneGuardedPutOfArchivedBytes(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	keys := replaceKeys(s, 200)
	f := s.changed(keys[:150])
	changed := s.all()
	s.remove(keys[149]) // and is put back
	p, a := s.replacePlan(f), s.archive()
	if needed, err := apply.NeedsArchive(t.Context(), p); err != nil || !needed {
		t.Errorf("an archive is needed: %v, %v", needed, err)
	}
	from := s.revision()
	watch := s.Watch(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithRev(from+1))
	wantCounts(t, s.execute(s.replaceRun(f, a), p), map[apply.Outcome]int64{apply.Replaced: 149, apply.Created: 1})
	revisions := map[int64]bool{}
	for len(revisions) < 150 {
		for _, e := range (<-watch).Events {
			if revisions[e.Kv.ModRevision] {
				t.Fatalf("revision %d changed %s besides another key", e.Kv.ModRevision, e.Kv.Key)
			}
			revisions[e.Kv.ModRevision] = true
		}
	}
	now, kept := s.all(), s.archived(a)
	for key, before := range s.before {
		is, was := now[key], changed[key]
		switch at := slices.Index(keys[:150], key); {
		case is == nil || !bytes.Equal(is.Value, before.Value):
			t.Errorf("%s has other bytes", key)
		case at < 0 || at == 149:
			if kept[key] != nil || (at < 0 && is.ModRevision != before.ModRevision) {
				t.Errorf("%s was changed, or archived", key)
			}
		case is.CreateRevision != was.CreateRevision || is.Version != was.Version+1 || is.Lease != 0:
			t.Errorf("%s is %v and was %v", key, is, was)
		case kept[key] == nil || kept[key].ModRevision != was.ModRevision || !bytes.Equal(kept[key].Value, was.Value):
			t.Errorf("what was under %s is not in the archive", key)
		}
	}
}

// TestReplacementAgainFindsItDone: by what etcd holds; the journal only tells
// who did it, and of what changed since that it had been done.
func TestReplacementAgainFindsItDone(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	keys, path := replaceKeys(s, 20), journalPath(t)
	f := s.changed(keys)
	p, a := s.replacePlan(f), s.archive()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	j := openJournal(t, path, p)
	r := s.replaceRun(f, a)
	r.Journal, r.Observer, r.InFlight = j, &cancelAfter{n: 5, cancel: cancel}, 1
	first, err := r.Plan(ctx, p)
	if err = errors.Join(err, j.Close(first)); err != nil {
		t.Fatal(err)
	}
	done := first.Counts[apply.Replaced]
	if done < 5 || done >= 20 || !errors.Is(first.Stopped, context.Canceled) {
		t.Fatalf("%v, stopped by %v", first.Counts, first.Stopped)
	}
	s.put(keys[0], "a controller's")
	second := s.journaled(s.replaceRun(f, a), p, path)
	wantCounts(t, second, map[apply.Outcome]int64{apply.Before: done - 1, apply.Skipped: 1, apply.Replaced: 20 - done})
	if why := second.Problems[0].Why; !strings.Contains(why, "an earlier run of this plan had replaced it") {
		t.Errorf("skipped because %q", why)
	}
	wantCounts(t, s.execute(s.replaceRun(f, a), p), map[apply.Outcome]int64{apply.Present: 19, apply.Skipped: 1})
	runs, err := apply.ReadJournal(path)
	if err != nil || len(runs) != 2 {
		t.Fatalf("%d runs, %v", len(runs), err)
	}
	now := s.all()
	for _, d := range runs[1].Steps {
		if d.Outcome == apply.Replaced && (d.Archived == 0 || d.Revision != now[d.Step.Key].ModRevision) {
			t.Errorf("%+v of %v", d, now[d.Step.Key])
		}
	}
}

// TestNothingIsReplacedThatIsNotArchived: with an archive that fails, and
// without one.
func TestNothingIsReplacedThatIsNotArchived(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	f := s.changed(replaceKeys(s, 100))
	p, before := s.replacePlan(f), s.all()
	if result := s.execute(s.replaceRun(f, nil), p); !errors.Is(result.Stopped, apply.ErrArchive) {
		t.Errorf("without an archive: stopped by %v", result.Stopped)
	}
	for n := int64(1); n <= 2; n++ {
		a := s.archive()
		r := s.replaceRun(f, &failingArchive{Archive: a, n: n})
		result := s.execute(r, p)
		if !errors.Is(result.Stopped, apply.ErrArchive) || result.Remaining() == 0 {
			t.Errorf("append %d fails: stopped by %v with %d remaining", n, result.Stopped, result.Remaining())
		}
		kept, replaced := s.archived(a), 0
		for key, is := range s.all() {
			if was := before[key]; !bytes.Equal(is.Value, was.Value) {
				if replaced++; kept[key] == nil || !bytes.Equal(kept[key].Value, was.Value) {
					t.Errorf("%s was replaced and is not archived", key)
				}
			}
		}
		if n == 1 && replaced > 0 || n == 2 && int64(replaced) != result.Counts[apply.Replaced] {
			t.Errorf("append %d fails: %d are replaced, counted %v", n, replaced, result.Counts)
		}
	}
}

// TestReplacementOfWhatHasNoBytesStopsTheRun: a plan whose file is another.
func TestReplacementOfWhatHasNoBytesStopsTheRun(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	f := s.changed(replaceKeys(s, 3))
	p := s.replacePlan(f, func(step *plan.Step) { step.SourceModRevision++ })
	from, a := s.revision(), s.archive()
	result := s.execute(s.replaceRun(f, a), p)
	if result.Stopped == nil || !strings.Contains(result.Stopped.Error(), "another object at position") || s.revision() != from {
		t.Errorf("stopped by %v, counted %v", result.Stopped, result.Counts)
	}
}

// atFirst is a store that does something right before the first transaction on
// a key, and may answer it with an error.
type atFirst struct {
	*clientv3.Client
	key    string
	before func()
	// answer: the transaction is sent if it is to be applied.
	err   error
	apply bool
	after func()
	// versionless hides the versions of keys, which kine does not count.
	versionless bool
	once        sync.Once
}

func (f *atFirst) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	resp, err := f.Client.Get(ctx, key, opts...)
	if err == nil && f.versionless {
		for _, kv := range resp.Kvs {
			kv.Version = 0
		}
	}
	return resp, err
}

func (f *atFirst) Txn(ctx context.Context) clientv3.Txn {
	return &firstTxn{Txn: f.Client.Txn(ctx), f: f}
}

type firstTxn struct {
	clientv3.Txn
	f   *atFirst
	own bool
}

func (t *firstTxn) If(cs ...clientv3.Cmp) clientv3.Txn {
	t.own = string(cs[0].KeyBytes()) == t.f.key
	t.Txn = t.Txn.If(cs...)
	return t
}
func (t *firstTxn) Then(ops ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Then(ops...); return t }
func (t *firstTxn) Else(ops ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Else(ops...); return t }
func (t *firstTxn) Commit() (resp *clientv3.TxnResponse, err error) {
	first := false
	if t.own {
		t.f.once.Do(func() { first = true })
	}
	if !first {
		return t.commit()
	}
	if t.f.before != nil {
		t.f.before()
	}
	if t.f.err == nil {
		return t.commit()
	}
	if t.f.apply {
		if _, err := t.Txn.Commit(); err != nil {
			return nil, err
		}
	}
	if t.f.after != nil {
		t.f.after()
	}
	return nil, t.f.err
}

func (t *firstTxn) commit() (*clientv3.TxnResponse, error) {
	resp, err := t.Txn.Commit()
	if err == nil && t.f.versionless && !resp.Succeeded {
		for _, kv := range resp.Responses[0].GetResponseRange().GetKvs() {
			kv.Version = 0
		}
	}
	return resp, err
}

// TestReplacementIsNeverForced: whatever became of the key since the plan was
// made, before its bytes were archived or after.
func TestReplacementIsNeverForced(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(s *store, key string)
		want   apply.Outcome
		value  string // then; "" for gone
	}{
		{"changed", func(s *store, key string) { s.put(key, "theirs") }, apply.Skipped, "theirs"},
		{"written again as it was", func(s *store, key string) { s.put(key, changedValue(s.before[key].Value)) }, apply.Skipped, "changed"},
		{"changed and back", func(s *store, key string) { s.put(key, "theirs"); s.put(key, changedValue(s.before[key].Value)) }, apply.Skipped, "changed"},
		{"deleted", func(s *store, key string) { s.remove(key) }, apply.Skipped, ""},
		{"made anew", func(s *store, key string) { s.remove(key); s.put(key, "theirs") }, apply.Skipped, "theirs"},
		{"replaced by another", func(s *store, key string) { s.put(key, string(s.before[key].Value)) }, apply.Present, "before"},
		{"made anew as the file has it", func(s *store, key string) { s.remove(key); s.put(key, string(s.before[key].Value)) }, apply.Present, "before"},
	}
	s := newStore(t)
	for _, early := range []bool{true, false} {
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s/early %v", tt.name, early), func(t *testing.T) { // one after another, in one store
				s := &store{s.Client, t, s.before}
				keys := replaceKeys(s, 3)
				f := s.changed(keys)
				p, key := s.replacePlan(f), keys[1]
				store := &atFirst{Client: s.Client, key: key, before: func() { tt.change(s, key) }}
				if early {
					store.before = nil
					tt.change(s, key)
				}
				from := s.revision()
				a := s.archive()
				r := s.replaceRun(f, a)
				r.Store = store
				result := s.execute(r, p)
				want := map[apply.Outcome]int64{apply.Replaced: 2}
				want[tt.want]++
				wantCounts(t, result, want)
				if kept := s.archived(a); early && (s.revision() != from+2 || len(kept) != 2 || kept[key] != nil) {
					t.Errorf("%d revisions, %d archived", s.revision()-from, len(kept))
				}
				s.mustHold(key, tt.value)
				if tt.want != apply.Skipped {
					return
				}
				wantWhy := "it changed since"
				if tt.value == "" {
					wantWhy = "it was deleted since"
				}
				if len(result.Problems) != 1 || !strings.HasPrefix(result.Problems[0].Why, wantWhy) {
					t.Errorf("problems %v", result.Problems)
				}
			})
		}
	}
}

// mustHold checks what is under a key: "before" and "changed" mean those bytes.
func (s *store) mustHold(key, want string) {
	s.t.Helper()
	switch want {
	case "before":
		want = string(s.before[key].Value)
	case "changed":
		want = changedValue(s.before[key].Value)
	}
	if got := string(s.all()[key].GetValue()); got != want {
		s.t.Errorf("%s holds %d bytes, want %d: %.40q", key, len(got), len(want), got)
	}
}

func TestReplacedKeyHasTheLeaseOfThePlan(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	keys := replaceKeys(s, 3)
	f := s.changed(keys)
	old, err := s.Grant(t.Context(), 600)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		s.put(key, "leased", clientv3.WithLease(old.ID))
	}
	ttls := map[string]int64{keys[1]: 3600, keys[2]: 0}
	p, a := s.replacePlan(f, func(step *plan.Step) {
		if ttl, ok := ttls[step.Key]; ok {
			step.Lease, step.LeaseTTL = 0x1234, ttl
		}
	}), s.archive()
	r := s.replaceRun(f, a)
	r.Leases = apply.LiveLeases{Client: s.Client}
	wantCounts(t, s.execute(r, p), map[apply.Outcome]int64{apply.Replaced: 3})
	now := s.all()
	if now[keys[0]].Lease != 0 || now[keys[2]].Lease != 0 {
		t.Errorf("leases %x and %x, want none", now[keys[0]].Lease, now[keys[2]].Lease)
	}
	lease := clientv3.LeaseID(now[keys[1]].Lease)
	ttl, err := s.TimeToLive(t.Context(), lease)
	if err != nil || lease == 0 || lease == old.ID || ttl.GrantedTTL != 3600 {
		t.Errorf("lease %x, %+v, %v; want a new one of 3600 s", lease, ttl, err)
	}
	kept := reopened(t, a)
	if seconds, ok := kept.LeaseTTL(int64(old.ID)); !ok || seconds != 600 {
		t.Errorf("the archive knows %d s, %v of the old lease", seconds, ok)
	}
	if ttl, err := (apply.LiveLeases{Client: s.Client}).GrantedTTL(t.Context(), 0x777); ttl != 0 || err != nil {
		t.Errorf("a lease that is not there: %d, %v", ttl, err)
	}
}

// TestReplacementsAreReadInSmallBatches: what is replaced may be large, and the
// plan does not say how large.
func TestReplacementsAreReadInSmallBatches(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	f := s.changed(replaceKeys(s, 100))
	counting := &failingArchive{Archive: s.archive(), n: 1000}
	wantCounts(t, s.execute(s.replaceRun(f, counting), s.replacePlan(f)), map[apply.Outcome]int64{apply.Replaced: 100})
	if n := counting.calls.Load(); n != 4 {
		t.Errorf("archived in %d batches, want 4", n)
	}
}
