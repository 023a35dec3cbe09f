package snapshots

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
)

func entries(t testing.TB, f *File) (got []*mvccpb.KeyValue, stages []int) {
	t.Helper()
	if err := f.Entries(t.Context(), func(p Position, kv *mvccpb.KeyValue) error {
		if p.Main != int64(len(got)+1) || p.Sub != 0 {
			t.Errorf("entry %d stands at %s", len(got)+1, p)
		}
		got, stages = append(got, kv), append(stages, f.Stage(p))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return got, stages
}

func TestArchiveRoundTrip(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	if st, err := os.Stat(a.Path()); err != nil || st.Mode().Perm() != 0o600 || !filepath.IsAbs(a.Path()) {
		t.Fatalf("archive file: %v, %v", st, err)
	}
	event := &mvccpb.KeyValue{Key: []byte("/registry/events/a/e"), Value: []byte("v"), CreateRevision: 9, ModRevision: 9000, Version: 1, Lease: 77}
	steps := []struct {
		stage int
		kvs   []*mvccpb.KeyValue
		ttl   map[int64]int64
	}{
		{1, pods(0, 3, 1700), nil},
		{1, nil, nil},
		{2, []*mvccpb.KeyValue{event}, map[int64]int64{77: 3600}},
		{2, pods(3, 2, 100_000), nil},
		{0, pods(5, 1, 0), nil},
	}
	var want []*mvccpb.KeyValue
	for i, s := range steps {
		if i == 3 { // the rest by another process on another day
			info := a.Info()
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			var err error
			if a, err = OpenArchive(a.Path(), 0); err != nil {
				t.Fatal(err)
			}
			diff(t, "info", a.Info(), info)
		}
		if err := a.Append(s.stage, s.kvs, s.ttl); err != nil {
			t.Fatal(err)
		}
		if err := a.Note("command", []byte{byte('a' + i)}); err != nil {
			t.Fatal(err)
		}
		want = append(want, s.kvs...)
	}
	if a.Len() != int64(len(want)) {
		t.Errorf("Len = %d, want %d", a.Len(), len(want))
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	checkRoundTrip(t, a, want)
}

func checkRoundTrip(t *testing.T, a *Archive, want []*mvccpb.KeyValue) {
	t.Helper()
	f := open(t, a.Path())
	got, stages := entries(t, f)
	diff(t, "entries", got, want)
	diff(t, "stages", stages, []int{1, 1, 1, 2, 2, 2, 0})
	info, ok := f.Archive()
	if !ok || !f.IsArchive() || f.Revision() != 9000 || f.Compacted() != 0 {
		t.Errorf("archive %v, revision %d, compacted %d", ok, f.Revision(), f.Compacted())
	}
	diff(t, "info", info, a.Info())
	if ttl, ok := f.LeaseTTL(77); ttl != 3600 || !ok {
		t.Errorf("LeaseTTL(77) = %d, %v", ttl, ok)
	}
	if ttl, ok := f.LeaseTTL(78); ok {
		t.Errorf("LeaseTTL(78) = %d", ttl)
	}
	notes, err := f.Notes(t.Context())
	if err != nil {
		t.Error(err)
	}
	diff(t, "notes", notes, []Note{{"command", []byte("a")}, {"command", []byte("b")}, {"command", []byte("c")}, {"command", []byte("d")}, {"command", []byte("e")}})
	if err := f.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestArchiveLastEntryOfAKeyWins(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	put := func(key, value string, rev int64) {
		kv := &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), ModRevision: rev}
		if err := a.Append(1, []*mvccpb.KeyValue{kv}, nil); err != nil {
			t.Fatal(err)
		}
	}
	put("/b", "old", 50)
	put("/a", "only", 7)
	put("/b", "new", 60)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	f := open(t, a.Path())
	for _, rev := range []int64{0, 1, 55, 1000} {
		diff(t, "scan", keysOf(scan(t, f, "", "\x00", rev)), []string{"/a=only", "/b=new"})
	}
	if n, err := f.Count(t.Context(), "", "\x00", 55); n != 2 || err != nil {
		t.Errorf("Count = %d, %v", n, err)
	}
	if kv, err := f.At(Position{1, 0}); err != nil || string(kv.Value) != "old" {
		t.Errorf("At(1_0) = %v, %v", kv, err)
	}
}

func TestEtcdutlReadsArchive(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	want := []*mvccpb.KeyValue{}
	for i := range 7 {
		kvs := pods(i*100, 100, 1700)
		want = append(want, kvs...)
		if err := a.Append(i/2, kvs, map[int64]int64{int64(i): 15}); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	st, err := snapshot.NewV3(zap.NewNop()).Status(a.Path())
	if err != nil || st.TotalKey != len(want) || st.Revision != int64(len(want)) {
		t.Errorf("etcdutl's status = %+v, %v", st, err)
	}
}

func TestCreateArchiveNeverOverwrites(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	if err := a.Append(1, pods(0, 1, 10), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateArchive(a.Path(), ArchiveInfo{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second CreateArchive: %v", err)
	}
	if err := a.Append(1, pods(1, 1, 10), nil); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(t.TempDir(), "no", "such", "dir.db")
	if _, err := CreateArchive(missing, ArchiveInfo{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("CreateArchive in a missing directory: %v", err)
	}
}

func TestOpenArchiveRefuses(t *testing.T) {
	t.Parallel()
	rubbish := filepath.Join(t.TempDir(), "rubbish")
	if err := os.WriteFile(rubbish, make([]byte, 9000), 0o600); err != nil {
		t.Fatal(err)
	}
	busy := newArchive(t)
	missing := filepath.Join(t.TempDir(), "missing.db")
	for _, tt := range []struct {
		name, path string
		want       error
	}{
		{"rubbish", rubbish, ErrNotArchive},
		{"snapshot", makeDB(t, history(), nil), ErrNotArchive},
		{"missing", missing, fs.ErrNotExist},
		{"in use", busy.Path(), ErrLocked},
	} {
		if _, err := OpenArchive(tt.path, 100*time.Millisecond); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("a missing archive was created")
	}
}

func TestAppendRefusesBadEntries(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	for _, kv := range []*mvccpb.KeyValue{nil, {}, {Value: []byte("v")}} {
		if err := a.Append(1, []*mvccpb.KeyValue{pod(0, 10), kv}, nil); err == nil {
			t.Errorf("Append accepted %v", kv)
		}
	}
	if err := a.Append(1, pods(0, 1, 10), nil); err != nil || a.Len() != 1 {
		t.Errorf("a good entry after bad ones: %v, len %d", err, a.Len())
	}
}

func TestAppendAfterCloseFails(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Append(1, pods(0, 1, 10), nil); err == nil {
		t.Error("Append on a closed archive succeeded")
	}
	if err := a.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestConcurrentAppends(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 5 {
				if err := a.Append(w, pods(w*1000+i*10, 10, 300), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	f := open(t, a.Path())
	got, stages := entries(t, f)
	if len(got) != 400 {
		t.Fatalf("%d entries, want 400", len(got))
	}
	for i := 0; i < len(got); i += 10 { // every Append stays together, with its own stage
		first := slices.IndexFunc(got, func(kv *mvccpb.KeyValue) bool { return kv.ModRevision == got[i].ModRevision })
		if first != i || got[i+9].ModRevision != got[i].ModRevision+18 || stages[i] != int(got[i].ModRevision/2000) {
			t.Errorf("batch at %d: revisions %d to %d, stage %d", i, got[i].ModRevision, got[i+9].ModRevision, stages[i])
		}
	}
	if err := f.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func BenchmarkAppend(b *testing.B) {
	kvs := pods(0, 500, 1700)
	for b.Loop() {
		b.StopTimer()
		a := newArchive(b)
		b.StartTimer()
		for range 60 {
			if err := a.Append(1, kvs, nil); err != nil {
				b.Fatal(err)
			}
		}
		_ = a.Close()
	}
	b.SetBytes(60 * 500 * 1700)
}
