package keyspace_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

const pastKey = prefix + "pods/a/p"

// makePast lets time pass: every entry of plan is how many revisions the key
// then exists (positive, changed at each) or not (negative).
func (s *store) makePast(plan ...int) {
	s.t.Helper()
	for _, n := range plan {
		if n < 0 {
			if _, err := s.Delete(s.t.Context(), pastKey); err != nil {
				s.t.Fatal(err)
			}
		}
		for i := range max(n, -n-1) {
			if n > 0 {
				s.put(pastKey, fmt.Sprint("value ", i))
			} else {
				s.put(prefix+"pods/other", "x")
			}
		}
	}
}

// TestRequestsOfAHistory counts what a history asks of etcd.
func TestRequestsOfAHistory(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		plan     []int // see makePast
		versions int
		values   int // requests that read a value
		most     int // requests in all
	}{
		{"never there", []int{-400}, 0, 1, 1 + 1 + 32},
		{"made at once", []int{300}, 300, 301, 301 + 1},
		{"one old life, deleted", []int{100, -300}, 101, 1 + 101, 1 + 1 + 101 + 32 + 6},
		{"two lives", []int{-100, 50, -200, 5}, 56, 6 + 51, 6 + 1 + 51 + 32 + 6},
		{"many short lives", slices.Repeat([]int{1, -1}, 16), 32, 1 + 2*16, 1 + 1 + 2*16 + 32},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, sandbox.Options{})
			s.makePast(tt.plan...)
			s.unchangedAfter()
			rec := &recorder{Getter: s}
			src := s.pin(rec)
			rec.taken()
			got, _ := history(t, src, pastKey, 0)
			if len(got) != tt.versions {
				t.Errorf("%d versions, want %d", len(got), tt.versions)
			}
			calls, values := rec.taken(), 0
			for _, c := range calls {
				if !c.op.IsCountOnly() {
					values++
				}
				if c.op.Rev() < 1 || c.op.Rev() > src.Revision() || c.op.RangeBytes() != nil || string(c.op.KeyBytes()) != pastKey {
					t.Errorf("a request for revision %d of %q", c.op.Rev(), c.op.KeyBytes())
				}
			}
			if values != tt.values || len(calls) > tt.most {
				t.Errorf("%d requests, %d of them for a value; want at most %d, and %d", len(calls), values, tt.most, tt.values)
			}
		})
	}
}

// TestOldestIsFoundByBisection: etcd does not say how far it was compacted.
func TestOldestIsFoundByBisection(t *testing.T) {
	t.Parallel()
	for _, compacted := range []int64{0, 2, 3, 200, 399, 400, 401} {
		t.Run(fmt.Sprint(compacted), func(t *testing.T) {
			t.Parallel()
			s := start(t, sandbox.Options{})
			s.makePast(-400, 1)
			if compacted > 0 {
				if _, err := s.Compact(t.Context(), compacted); err != nil {
					t.Fatal(err)
				}
			}
			rec := &recorder{Getter: s}
			src := s.pin(rec)
			rec.taken()
			got, extent := history(t, src, pastKey, 0)
			made := src.Revision()
			want := keyspace.Extent{Oldest: max(compacted, 1)}
			if compacted == made {
				want.Oldest = 0 // there is nothing before
			} else {
				want.Step = (made - 1 - want.Oldest + 31) / 32
			}
			if len(got) != 1 || extent != want {
				t.Errorf("%d versions, extent %+v, want %+v", len(got), extent, want)
			}
			if n := len(rec.taken()); n > 2+11+32 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// TestMostVersions cuts a history, and says so only when there is more.
func TestMostVersions(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Options{})
	s.makePast(20, -20, 10) // 31 versions
	f := keyspace.FromFile(saved(t, s))
	for name, src := range map[string]keyspace.Historian{"live": s.pin(s), "current": keyspace.Current(s, keyspace.Options{Timeout: timeout}), "file": f} {
		all, _ := history(t, src, pastKey, 0)
		if len(all) != 31 {
			t.Fatalf("%s: %d versions", name, len(all))
		}
		for _, most := range []int{1, 2, 10, 11, 12, 30, 31, 32, 1 << 40} {
			got, extent := history(t, src, pastKey, most)
			if diff := changesDiffer(all[:min(most, 31)], got); diff != "" || extent.Cut != (most < 31) {
				t.Errorf("%s: most %d: cut %v (-want +got):\n%s", name, most, extent.Cut, diff)
			}
		}
		n := 0
		_, err := src.History(t.Context(), pastKey, 0, func(keyspace.Version) error {
			if n++; n == 12 {
				return errEnough
			}
			return nil
		})
		if err != errEnough || n != 12 {
			t.Errorf("%s: %v after %d versions, want the caller's own error", name, err, n)
		}
	}
	s.makePast(keyspace.DefaultVersions)
	if got, extent := history(t, s.pin(s), pastKey, 0); len(got) != keyspace.DefaultVersions || !extent.Cut {
		t.Errorf("%d versions, cut %v", len(got), extent.Cut)
	}
}

// TestCurrentHistory: a source that is not pinned takes the present of the call.
func TestCurrentHistory(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Options{})
	src := keyspace.Current(s, keyspace.Options{Timeout: timeout})
	for n := range 3 {
		s.put(pastKey, fmt.Sprint(n))
		got, _ := history(t, src, pastKey, 0)
		_, rev := s.unary(keyspace.Range{Start: pastKey})
		kv, err := src.At(t.Context(), pastKey, rev)
		if len(got) != n+1 || err != nil || entryOf(kv) != got[0].Entry {
			t.Errorf("%d versions, want %d; At: %v, %v", len(got), n+1, kv, err)
		}
		var future *keyspace.FutureError
		if _, err := src.At(t.Context(), pastKey, rev+1); !errors.As(err, &future) || future.Newest != rev {
			t.Errorf("at %d: %v", rev+1, err)
		}
	}
}

// meddler does something before the n-th request.
type meddler struct {
	keyspace.Getter
	at, calls int
	do        func() error // its error is the answer
}

func (m *meddler) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if m.calls++; m.calls == m.at {
		if err := m.do(); err != nil {
			return nil, err
		}
	}
	return m.Getter.Get(ctx, key, opts...)
}

// TestFailureAtEveryRequest: what was yielded is right, and the error is told.
func TestFailureAtEveryRequest(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Options{})
	s.makePast(5, -90, 4, -50, 3)
	all, _ := history(t, s.pin(s), pastKey, 0)
	if len(all) != 14 {
		t.Fatalf("%d versions, want 14", len(all))
	}
	errBroken := errors.New("broken")
	count := &meddler{Getter: s}
	history(t, keyspace.Current(count, keyspace.Options{Timeout: timeout}), pastKey, 0)
	for at := 1; at <= count.calls; at++ {
		for _, want := range []error{errBroken, context.Canceled} {
			ctx, cancel := context.WithCancel(t.Context())
			m := &meddler{Getter: s, at: at, do: func() error { return errBroken }}
			if want == context.Canceled {
				m.do = func() error { cancel(); return nil }
			}
			var got []change
			_, err := keyspace.Current(m, keyspace.Options{Timeout: timeout}).History(ctx, pastKey, 0, func(v keyspace.Version) error {
				got = append(got, changeOf(v))
				return nil
			})
			cancel()
			if !errors.Is(err, want) || m.calls != at || !slices.Equal(got, all[:min(len(got), len(all))]) || len(got) > at {
				t.Errorf("at request %d: %v after %d requests and %d versions; want %v", at, err, m.calls, len(got), want)
			}
		}
	}
}

// TestCompactionDuringAHistory: somebody compacts before any of the requests.
// Nothing wrong is told; what is above the compacted revision is told whole.
func TestCompactionDuringAHistory(t *testing.T) {
	t.Parallel()
	full := start(t, sandbox.Options{})
	full.makePast(5, -90, 4, -50, 3)
	all, _ := history(t, full.pin(full), pastKey, 0)
	count := &meddler{Getter: full}
	history(t, full.pin(count), pastKey, 0)
	f := saved(t, full)
	newest := f.Revision()
	for i, compacted := range []int64{4, 60, 98, 120, newest - 2} {
		for at := 2 + i; at <= count.calls; at += 7 {
			s := start(t, sandbox.Options{Snapshot: f.Path()})
			src := s.pin(&meddler{Getter: s, at: at, do: func() error {
				_, err := s.Compact(t.Context(), compacted)
				return err
			}})
			got, _ := history(t, src, pastKey, 0)
			for _, c := range got {
				if !slices.Contains(all, c) {
					t.Errorf("compacted to %d at request %d: %v never was", compacted, at, c)
				}
			}
			must := readable(all, compacted)
			for _, c := range must {
				if !slices.Contains(got, c) {
					t.Errorf("compacted to %d at request %d: revision %d is missing", compacted, at, c.Mod)
				}
			}
			if !slices.IsSortedFunc(got, func(a, b change) int { return int(b.Mod - a.Mod) }) {
				t.Errorf("compacted to %d at request %d: out of order", compacted, at)
			}
		}
	}
}

// TestPinnedRevisionIsCompacted: then even the present is not known.
func TestPinnedRevisionIsCompacted(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Options{})
	s.makePast(5)
	src := s.pin(s)
	rev := src.Revision()
	s.compact()
	_, err := src.History(t.Context(), pastKey, 0, func(keyspace.Version) error { t.Error("a version was yielded"); return nil })
	wantCompacted(t, "History", err, rev)
	for _, at := range []int64{2, rev} {
		_, err = src.At(t.Context(), pastKey, at)
		wantCompacted(t, "At", err, rev)
	}
}

// TestEtcdEndsDuringAHistory kills the server between two versions.
func TestEtcdEndsDuringAHistory(t *testing.T) {
	t.Parallel()
	box, client := lab.Box(t, sandbox.Options{Mode: sandbox.InProcess, NoFsync: true})
	s := &store{client, t}
	s.makePast(6)
	src, err := keyspace.Pin(t.Context(), client, prefix, keyspace.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	_, err = src.History(t.Context(), pastKey, 0, func(keyspace.Version) error {
		if n++; n == 3 {
			return box.Close()
		}
		return nil
	})
	if n != 3 || err == nil || !strings.Contains(err.Error(), pastKey) {
		t.Errorf("%v after %d versions, want an error that names the key", err, n)
	}
}

// TestSilentEtcd: every request has the source's timeout.
func TestSilentEtcd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		src, err := keyspace.Pin(t.Context(), &endless{silentAt: 2}, prefix, keyspace.Options{Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = src.History(t.Context(), pastKey, 0, func(keyspace.Version) error { return nil })
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took != time.Minute {
			t.Errorf("%v after %s", err, took)
		}
	})
}

// liar answers with a revision newer than the one asked for: no real server
// does, and following it would never end.
type liar struct{}

func (liar) Get(context.Context, string, ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	return &clientv3.GetResponse{Header: &pb.ResponseHeader{Revision: 7}, Count: 1, Kvs: []*mvccpb.KeyValue{{ModRevision: 7}}}, nil
}

func TestImpossibleAnswer(t *testing.T) {
	t.Parallel()
	n := 0
	_, err := keyspace.Current(liar{}, keyspace.Options{Timeout: timeout}).History(t.Context(), pastKey, 0, func(keyspace.Version) error { n++; return nil })
	if err == nil || n != 1 || !strings.Contains(err.Error(), "etcd answered with revision 7") {
		t.Errorf("%v after %d versions", err, n)
	}
}

// TestHistoryOfAnArchive: one version for each time the key was archived.
func TestHistoryOfAnArchive(t *testing.T) {
	t.Parallel()
	a, err := snapshots.CreateArchive(filepath.Join(t.TempDir(), "undo.db"), snapshots.ArchiveInfo{})
	if err != nil {
		t.Fatal(err)
	}
	for _, mod := range []int64{10, 10, 40, 70, 70} {
		err := a.Append(0, []*mvccpb.KeyValue{
			{Key: []byte(pastKey), Value: fmt.Append(nil, mod), CreateRevision: mod - 1, ModRevision: mod, Version: 2},
			{Key: []byte(pastKey + "-x"), ModRevision: mod + 5},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	src := keyspace.FromFile(openFile(t, a.Path()))
	got, extent := history(t, src, pastKey, 0)
	var mods []int64
	for _, c := range got {
		mods = append(mods, c.Mod)
		if c.Deleted || c.Entry.Value != fmt.Sprint(c.Mod) {
			t.Errorf("%+v", c)
		}
	}
	if !slices.Equal(mods, []int64{70, 40, 10}) || extent != (keyspace.Extent{}) {
		t.Errorf("revisions %d, extent %+v", mods, extent)
	}
	for rev, want := range map[int64]int64{1: 0, 9: 0, 10: 10, 39: 10, 40: 40, 69: 40, 70: 70, 75: 70} {
		if kv, err := src.At(t.Context(), pastKey, rev); err != nil || kv.GetModRevision() != want {
			t.Errorf("at %d: %d, %v; want %d", rev, kv.GetModRevision(), err, want)
		}
	}
	var future *keyspace.FutureError
	if _, err := src.At(t.Context(), pastKey, 76); !errors.As(err, &future) {
		t.Errorf("at 76: %v, want FutureError", err)
	}
}

// TestUnfinishedCompaction: a member was stopped while it compacted. What is
// left below is listed and can be read; what is between is not known.
func TestUnfinishedCompaction(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "member.db")
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		keys, err1 := tx.CreateBucket([]byte("key"))
		meta, err2 := tx.CreateBucket([]byte("meta"))
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		for _, mod := range []int64{10, 20, -30, 40, 60} {
			kv := &mvccpb.KeyValue{Key: []byte(pastKey), ModRevision: mod}
			tombstone := ""
			if mod < 0 {
				mod, tombstone, kv.ModRevision = -mod, "t", 0
			}
			value, err := proto.Marshal(kv)
			if err := errors.Join(err, keys.Put(append(position(mod), tombstone...), value)); err != nil {
				return err
			}
		}
		return errors.Join(keys.Put(position(65), nil), meta.Put([]byte("scheduledCompactRev"), position(50)))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	src := keyspace.FromFile(openFile(t, path))
	got, extent := history(t, src, pastKey, 0)
	var mods []int64
	for _, c := range got {
		mods = append(mods, c.Mod)
	}
	if !slices.Equal(mods, []int64{60, 40, 30, 20, 10}) || extent != (keyspace.Extent{Oldest: 50}) || !got[2].Deleted {
		t.Errorf("revisions %d, extent %+v", mods, extent)
	}
	for rev, want := range map[int64]int64{10: 10, 20: 20, 30: 0, 40: 40, 41: 40, 50: 40, 59: 40, 60: 60, 65: 60} {
		if kv, err := src.At(t.Context(), pastKey, rev); err != nil || kv.GetModRevision() != want {
			t.Errorf("at %d: %d, %v; want %d", rev, kv.GetModRevision(), err, want)
		}
	}
	for _, rev := range []int64{1, 9, 11, 25, 31, 39} {
		var gone *keyspace.CompactedError
		if kv, err := src.At(t.Context(), pastKey, rev); kv != nil || !errors.As(err, &gone) || gone.Oldest != 50 {
			t.Errorf("at %d: %v, %v; want CompactedError", rev, kv, err)
		}
	}
}

// position is the key of a main revision in bucket "key".
func position(rev int64) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(rev))
	return binary.BigEndian.AppendUint64(append(b, '_'), 0)
}

func TestCancelEndsTheHistoryOfAFile(t *testing.T) {
	t.Parallel()
	src := keyspace.FromFile(zoo(t))
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	_, err := src.History(ctx, hotKey, 0, func(keyspace.Version) error { n++; cancel(); return nil })
	if !errors.Is(err, context.Canceled) || n != 1 {
		t.Errorf("%v after %d versions", err, n)
	}
	if _, err := src.History(ctx, hotKey, 0, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("History: %v", err)
	}
	if _, err := src.At(ctx, hotKey, 1000); !errors.Is(err, context.Canceled) {
		t.Errorf("At: %v", err)
	}
}
