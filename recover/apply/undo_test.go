package apply_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// emptied deletes the pods and their Job and returns the archive, closed.
func emptied(t *testing.T) (*store, *snapshots.File) {
	t.Helper()
	s := newStore(t)
	a := s.archive()
	wantCounts(t, s.execute(s.run(a), s.plan()), map[apply.Outcome]int64{apply.Deleted: podCount + 1})
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := snapshots.Open(a.Path(), snapshots.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return s, f
}

func (s *store) undoPlan(withLeased bool, files ...*snapshots.File) (*plan.Plan, *plan.Summary) {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), "undo.jsonl")
	h := plan.Header{Operation: "undo", Prefix: prefix}
	for _, f := range files {
		h.Sources = append(h.Sources, plan.SourceFile{Path: f.Path()})
	}
	w, err := plan.Create(path, h)
	if err != nil {
		s.t.Fatal(err)
	}
	sum, err := plan.Undo(s.t.Context(), plan.UndoRequest{
		Archives: files, Now: keyspace.Current(s.Client, keyspace.Options{Timeout: time.Minute}), Reader: &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}, WithLeased: withLeased,
	}, w)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		s.t.Fatal(err)
	}
	p, err := plan.Open(s.t.Context(), path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { p.Close() })
	return p, sum
}

func undoRun(s *store, files ...*snapshots.File) apply.Run {
	r := s.run(nil)
	for _, f := range files {
		r.Sources = append(r.Sources, f)
	}
	return r
}

func TestUndoPutsEverythingBackByteForByte(t *testing.T) {
	t.Parallel()
	s, f := emptied(t)
	from := s.revision()
	watch := s.Watch(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithRev(from+1))
	p, sum := s.undoPlan(false, f)
	if sum.Steps != podCount+1 || sum.Owned != podCount {
		t.Errorf("the plan has %d steps, %d of them owned", sum.Steps, sum.Owned)
	}
	wantCounts(t, s.execute(undoRun(s, f), p), map[apply.Outcome]int64{apply.Created: podCount + 1})
	if first := (<-watch).Events[0]; string(first.Kv.Key) != jobKey {
		t.Errorf("the first to come back was %s, want the owner", first.Kv.Key)
	}
	if got := s.revision() - from; got != podCount+1 {
		t.Errorf("%d puts took %d revisions", podCount+1, got)
	}
	now := s.all()
	for key, kv := range s.before {
		if now[key] == nil || !bytes.Equal(now[key].Value, kv.Value) {
			t.Errorf("%s is not as it was", key)
		}
	}
	// The same plan again finds everything done, and so does a new one.
	wantCounts(t, s.execute(undoRun(s, f), p), map[apply.Outcome]int64{apply.Present: podCount + 1})
	if _, sum := s.undoPlan(false, f); sum.Steps != 0 || sum.Present != podCount+1 {
		t.Errorf("a second undo has %d steps and finds %d present", sum.Steps, sum.Present)
	}
}

func TestUndoLeavesOtherBytesAlone(t *testing.T) {
	t.Parallel()
	s, f := emptied(t)
	p, _ := s.undoPlan(false, f)
	key := firstPod(s)
	if _, err := s.Put(t.Context(), key, "somebody else's"); err != nil {
		t.Fatal(err)
	}
	result := s.execute(undoRun(s, f), p)
	wantCounts(t, result, map[apply.Outcome]int64{apply.Created: podCount, apply.Skipped: 1})
	if got := string(s.all()[key].Value); got != "somebody else's" {
		t.Errorf("the other object became %q", got)
	}
	if _, sum := s.undoPlan(false, f); sum.Differing != 1 || sum.DifferingKeys[0] != key {
		t.Errorf("a new plan counts %d differing: %v", sum.Differing, sum.DifferingKeys)
	}
}

func TestUndoResolvesAmbiguousAnswers(t *testing.T) {
	t.Parallel()
	for _, applied := range []bool{true, false} {
		s, f := emptied(t)
		p, _ := s.undoPlan(false, f)
		r := undoRun(s, f)
		r.Store = &faulty{Client: s.Client, fault: func(n int) (error, bool) {
			if n%3 == 0 && n <= faults {
				return rpctypes.ErrTimeout, applied
			}
			return nil, false
		}}
		wantCounts(t, s.execute(r, p), map[apply.Outcome]int64{apply.Created: podCount + 1})
	}
}

// TestNoSpaceAfterAPutIsResolvedByReading: etcd may apply a put and still
// answer that there is no space. No further put is begun.
func TestNoSpaceAfterAPutIsResolvedByReading(t *testing.T) {
	t.Parallel()
	s, f := emptied(t)
	p, _ := s.undoPlan(false, f)
	r := undoRun(s, f)
	r.Store = &faulty{Client: s.Client, fault: func(n int) (error, bool) {
		if n < 100 {
			return nil, false
		}
		return rpctypes.ErrNoSpace, n%2 == 0
	}}
	result := s.execute(r, p)
	if !errors.Is(result.Stopped, apply.ErrNoSpace) {
		t.Errorf("stopped by %v, want ErrNoSpace", result.Stopped)
	}
	created := int64(len(s.all()) - (len(s.before) - podCount - 1))
	failed := podCount + 1 - created - result.Remaining()
	wantCounts(t, result, map[apply.Outcome]int64{apply.Created: created, apply.Failed: failed})
	if created < 99 || result.Remaining() == 0 {
		t.Errorf("%d were created, %d remain", created, result.Remaining())
	}
	second := s.execute(undoRun(s, f), p)
	wantCounts(t, second, map[apply.Outcome]int64{apply.Present: created, apply.Created: podCount + 1 - created})
}

// TestPutThatAControllerChangedAtOnce: an attempt without a clear answer was
// applied, and then somebody changed what it had put.
func TestPutThatAControllerChangedAtOnce(t *testing.T) {
	t.Parallel()
	for _, ours := range []bool{true, false} {
		t.Run(fmt.Sprintf("ours %v", ours), func(t *testing.T) {
			t.Parallel()
			s, f := emptied(t)
			p, _ := s.undoPlan(false, f)
			first := "theirs"
			if ours {
				first = string(s.before[jobKey].Value)
			}
			r := undoRun(s, f)
			r.Store = &faulty{Client: s.Client, fault: func(n int) (error, bool) {
				if n > 1 {
					return nil, false
				}
				for _, value := range []string{first, "changed"} {
					if _, err := s.Put(t.Context(), jobKey, value); err != nil {
						t.Error(err)
					}
				}
				return rpctypes.ErrLeaderChanged, false
			}}
			want := map[apply.Outcome]int64{apply.Created: podCount + 1}
			if !ours {
				want = map[apply.Outcome]int64{apply.Created: podCount, apply.Skipped: 1}
			}
			wantCounts(t, s.execute(r, p), want)
			if got := string(s.all()[jobKey].Value); got != "changed" {
				t.Errorf("the key holds %q", got)
			}
		})
	}
}

// TestNewestBytesOfAKeyCount: an archive that holds a key twice, and two
// archives with the same key.
func TestNewestBytesOfAKeyCount(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	key := prefix + "configmaps/team/twice"
	kv := func(value string, rev int64) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), ModRevision: rev, CreateRevision: 1, Version: rev}
	}
	older, newer := s.archive(), s.archive()
	for _, add := range []struct {
		a  *snapshots.Archive
		kv *mvccpb.KeyValue
	}{{older, kv("one", 1)}, {older, kv("two", 2)}, {newer, kv("three", 3)}, {newer, kv("four", 4)}} {
		if err := add.a.Append(0, []*mvccpb.KeyValue{add.kv}, nil); err != nil {
			t.Fatal(err)
		}
	}
	// Their times of creation differ, and the order that they are named in
	// does not matter.
	files := []*snapshots.File{reopened(t, newer), reopened(t, older)}
	p, sum := s.undoPlan(false, files...)
	if sum.Steps != 1 || sum.Superseded != 3 {
		t.Errorf("%d steps, %d superseded; want 1 and 3", sum.Steps, sum.Superseded)
	}
	wantCounts(t, s.execute(undoRun(s, files...), p), map[apply.Outcome]int64{apply.Created: 1})
	resp, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(resp.Kvs[0].Value); got != "four" {
		t.Errorf("the key holds %q, want the newest bytes", got)
	}
}

func reopened(t *testing.T, a *snapshots.Archive) *snapshots.File {
	t.Helper()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := snapshots.Open(a.Path(), snapshots.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestLeasedObjectsComeBackUnderANewLeaseOnly(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	lease, err := s.Grant(t.Context(), 3600)
	if err != nil {
		t.Fatal(err)
	}
	value := s.before[firstPod(s)].Value
	keys := []string{podsPrefix + "leased-1", podsPrefix + "leased-2"}
	for _, key := range keys {
		if _, err := s.Put(t.Context(), key, string(value), clientv3.WithLease(lease.ID)); err != nil {
			t.Fatal(err)
		}
	}
	f, owners, src := s.filter(selectionOf("leased-1", "leased-2"))
	path := filepath.Join(t.TempDir(), "plan.jsonl")
	w, err := plan.Create(path, plan.Header{Operation: "delete", Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Deletes(t.Context(), plan.Request{Source: src, Filter: f, Owners: owners, Prefix: prefix}, w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	p, err := plan.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	a := s.archive()
	r := s.run(a)
	r.Leases = apply.LiveLeases{Client: s.Client}
	wantCounts(t, s.execute(r, p), map[apply.Outcome]int64{apply.Deleted: 2})
	file := reopened(t, a)
	if _, sum := s.undoPlan(false, file); sum.Steps != 0 || sum.Leased != 2 {
		t.Errorf("without --with-leased: %d steps, %d left out", sum.Steps, sum.Leased)
	}
	undo, _ := s.undoPlan(true, file)
	wantCounts(t, s.execute(undoRun(s, file), undo), map[apply.Outcome]int64{apply.Created: 2})
	now := s.all()
	first, second := now[keys[0]].Lease, now[keys[1]].Lease
	if first == 0 || first != second || first == int64(lease.ID) {
		t.Errorf("leases %x and %x, before %x: want one new lease for both", first, second, lease.ID)
	}
	ttl, err := s.TimeToLive(t.Context(), clientv3.LeaseID(first))
	if err != nil || ttl.GrantedTTL != 3600 {
		t.Errorf("the new lease was granted %d s, %v; want 3600", ttl.GrantedTTL, err)
	}
}
