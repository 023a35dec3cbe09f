package snapshots

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// keyMaker makes up keys of one shape; few of them differ.
type keyMaker func(*rand.Rand) string

func keyShapes() map[string]keyMaker {
	return map[string]keyMaker{
		"namespaces": func(r *rand.Rand) string { return fmt.Sprintf("/registry/pods/ns-%d/pod-%d", r.IntN(4), r.IntN(8)) },
		"suffixes":   func(r *rand.Rand) string { return "/registry/" + strings.Repeat("x", r.IntN(30)) },
		"zeros": func(r *rand.Rand) string {
			return "k" + strings.Repeat("\x00", r.IntN(20)) + strings.Repeat("z", r.IntN(2))
		},
		"any bytes": func(r *rand.Rand) string {
			b := []byte{byte(r.IntN(3) * 127), byte(r.IntN(3) * 127), byte(r.IntN(256))}
			return string(b[:1+r.IntN(3)])
		},
		"long": func(r *rand.Rand) string { return strings.Repeat("/registry", 40) + fmt.Sprint(r.IntN(40)) },
	}
}

// madeUp is a history of n main revisions, some of several changes, and what is alive after each of them.
func madeUp(r *rand.Rand, n int, key keyMaker) (changes []change, alive []map[string]change) {
	now := map[string]change{}
	alive = []map[string]change{{}, {}}
	for rev := int64(2); rev < int64(n); rev++ {
		touched := map[string]bool{}
		for sub := int64(0); sub < 1+int64(r.IntN(3)*r.IntN(3)); sub++ {
			c := change{rev: rev, sub: sub, key: key(r), create: rev, version: 1}
			if touched[c.key] {
				break // etcd refuses to change a key twice in one transaction
			}
			touched[c.key] = true
			old, exists := now[c.key]
			if c.deleted = exists && r.IntN(3) == 0; c.deleted {
				delete(now, c.key)
			} else {
				if exists {
					c.create, c.version = old.create, old.version+1
				}
				c.value = fmt.Sprintf("%d.%d", rev, sub)
				now[c.key] = c
			}
			changes = append(changes, c)
		}
		alive = append(alive, maps.Clone(now))
	}
	return changes, alive
}

// compact is what a compaction at a revision leaves that was interrupted somewhere: it removes in the order of the file.
func compact(r *rand.Rand, changes []change, at int64) (left []change) {
	stop := r.IntN(len(changes) + 1)
	for i, c := range changes {
		replaced := slices.ContainsFunc(changes[i+1:], func(d change) bool { return d.key == c.key && d.rev <= at })
		if i >= stop || c.rev > at || !replaced && !c.deleted {
			left = append(left, c)
		}
	}
	return left
}

func wanted(alive map[string]change, start, end string) []*mvccpb.KeyValue {
	kvs := []*mvccpb.KeyValue{}
	for _, key := range slices.Sorted(maps.Keys(alive)) {
		if c := alive[key]; end == "" && key == start || end != "" && key >= start && (end == "\x00" || key < end) {
			kvs = append(kvs, &mvccpb.KeyValue{
				Key: []byte(key), Value: []byte(c.value), CreateRevision: c.create, ModRevision: c.rev, Version: c.version,
			})
		}
	}
	return kvs
}

// unordered reads by Newest, copies what it gets, spoils the original and sorts the copies.
func unordered(t *testing.T, f *File, start, end string, rev int64, keysOnly bool) []*mvccpb.KeyValue {
	t.Helper()
	got := []*mvccpb.KeyValue{}
	if err := f.Newest(t.Context(), start, end, rev, keysOnly, func(kv *mvccpb.KeyValue) error {
		got = append(got, proto.Clone(kv).(*mvccpb.KeyValue))
		clear(kv.Value)
		kv.Reset()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
	return got
}

func withoutValues(kvs []*mvccpb.KeyValue) []*mvccpb.KeyValue {
	out := []*mvccpb.KeyValue{}
	for _, kv := range kvs {
		kv = proto.Clone(kv).(*mvccpb.KeyValue)
		kv.Value = nil
		out = append(out, kv)
	}
	return out
}

// checkReads compares every way to read with what is alive. Newest is called before there is an index and after.
func checkReads(t *testing.T, f *File, rev int64, alive map[string]change, start, end string) {
	t.Helper()
	want := wanted(alive, start, end)
	if got := unordered(t, f, start, end, rev, false); !same(got, want) {
		t.Fatalf("revision %d [%q, %q): Newest gives %q, want %q", rev, start, end, keysOf(got), keysOf(want))
	}
	if got := scan(t, f, start, end, rev); !same(got, want) {
		t.Fatalf("revision %d [%q, %q): Scan gives %q, want %q", rev, start, end, keysOf(got), keysOf(want))
	}
	bare := []*mvccpb.KeyValue{}
	err := f.ScanKeys(t.Context(), start, end, rev, func(kv *mvccpb.KeyValue) error { bare = append(bare, kv); return nil })
	if err != nil || !same(bare, withoutValues(want)) || !same(unordered(t, f, start, end, rev, true), withoutValues(want)) {
		t.Fatalf("revision %d [%q, %q): for keys only: %q, %v", rev, start, end, keysOf(bare), err)
	}
	if n, err := f.Count(t.Context(), start, end, rev); err != nil || n != int64(len(want)) {
		t.Fatalf("revision %d [%q, %q): Count = %d, %v; want %d", rev, start, end, n, err, len(want))
	}
}

// TestReadsAgainstAMap: random histories, read at many revisions, against a map.
func TestReadsAgainstAMap(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	t.Parallel()
	for name, key := range keyShapes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(12) {
				r := rand.New(rand.NewPCG(seed, 11))
				n := 3 + r.IntN(150)
				changes, alive := madeUp(r, n, key)
				compacted := int64(r.IntN(n))
				left := compact(r, changes, compacted)
				f := open(t, makeDB(t, left, map[string][]byte{"scheduledCompactRev": Position{Main: compacted}.bytes()}))
				if len(left) == 0 {
					continue
				}
				for range 6 + unsortedReads {
					rev := max(1, compacted) + r.Int64N(f.Revision()-max(1, compacted)+1)
					checkReads(t, f, rev, alive[min(rev, int64(len(alive)-1))], "", "\x00")
					checkReads(t, f, rev, alive[min(rev, int64(len(alive)-1))], key(r), key(r))
					checkReads(t, f, 0, alive[len(alive)-1], key(r), "")
				}
				checkLookups(t, f, changes, alive[len(alive)-1])
			}
		})
	}
}

// checkLookups asks for every key that ever was, and for one that never was.
func checkLookups(t *testing.T, f *File, changes []change, alive map[string]change) {
	t.Helper()
	for _, c := range append(changes, change{key: "never"}) {
		want, exists := alive[c.key]
		kv, err := f.Get(c.key, 0)
		if err != nil || exists != (kv != nil) || exists && string(kv.Value) != want.value {
			t.Fatalf("Get(%q) = %v, %v; want %q", c.key, kv, err, want.value)
		}
		pos, ok, err := f.Find(t.Context(), []byte(c.key))
		if err != nil || ok != exists || ok && pos != (Position{want.rev, want.sub}) {
			t.Fatalf("Find(%q) = %v, %v, %v; want %d_%d, %v", c.key, pos, ok, err, want.rev, want.sub, exists)
		}
	}
}

// TestArchiveReadsAgainstAMap: keys that were archived again and again, at revisions of any order.
func TestArchiveReadsAgainstAMap(t *testing.T) {
	t.Parallel()
	for name, key := range keyShapes() {
		r := rand.New(rand.NewPCG(5, 12))
		a := newArchive(t)
		alive, at := map[string]change{}, map[string]Position{}
		for n := 1; n < 400; {
			var kvs []*mvccpb.KeyValue
			for range 1 + r.IntN(20) {
				c := change{key: key(r), value: fmt.Sprint(n), rev: int64(r.IntN(1000))}
				alive[c.key], at[c.key] = c, Position{Main: int64(n)}
				kvs = append(kvs, &mvccpb.KeyValue{Key: []byte(c.key), Value: []byte(c.value), ModRevision: c.rev})
				n++
			}
			if err := a.Append(n, kvs, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		f := open(t, a.Path())
		for _, rev := range []int64{0, 1, 500, 5000} {
			checkReads(t, f, rev, alive, "", "\x00")
		}
		for key, want := range at {
			if pos, ok, err := f.Find(t.Context(), []byte(key)); pos != want || !ok || err != nil {
				t.Errorf("%s: Find(%q) = %v, %v, %v; want %v", name, key, pos, ok, err, want)
			}
		}
	}
}

// TestOddEntries: the key need not come first, and its last occurrence counts. etcd writes no such entry.
func TestOddEntries(t *testing.T) {
	t.Parallel()
	odd := func(keys ...string) []byte {
		b := protowire.AppendVarint(protowire.AppendTag(nil, fieldMod, protowire.VarintType), 7)
		for _, key := range keys {
			b = protowire.AppendString(protowire.AppendTag(b, fieldKey, protowire.BytesType), key)
		}
		return b
	}
	var entries [][]byte
	for i := range 40 {
		entries = append(entries, odd(fmt.Sprint("decoy", 40-i), fmt.Sprintf("key%02d", i))[2*(i%2):])
	}
	f := open(t, rawDB(t, entries))
	for i, kv := range scan(t, f, "", "\x00", 0) {
		if want := fmt.Sprintf("key%02d", i); string(kv.Key) != want {
			t.Errorf("key %d is %q, want %q", i, kv.Key, want)
		}
	}
	if n, err := f.Count(t.Context(), "key10", "key20", 0); n != 10 || err != nil {
		t.Errorf("Count = %d, %v; want 10", n, err)
	}
	if kv, err := f.Get("decoy7", 0); kv != nil || err != nil {
		t.Errorf("a decoy is found: %v, %v", kv, err)
	}
}

// TestSortBeyondMemory: groups of keys that are too many, or too long, to be copied.
func TestSortBeyondMemory(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 13))
	for name, key := range keyShapes() {
		alive := map[string]bool{}
		var changes []change
		for range 600 {
			if k := key(r); !alive[k] {
				alive[k] = true
				changes = append(changes, change{rev: int64(2 + len(changes)), key: k, version: 1})
			}
		}
		f := open(t, makeDB(t, changes, nil))
		x, err := f.index(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, limit := range []struct{ keys, bytes int }{{1, 0}, {1, 100}, {3, 1 << 20}, {1 << 10, 64}} {
			var group []sortable
			for _, s := range x.keys.slots {
				if s != 0 {
					group = append(group, sortable{at: placeIn(s)})
				}
			}
			s := &sorter{f: f, ctx: t.Context(), mem: make([]byte, 0, limit.bytes), few: make([]copied, 0, limit.keys)}
			if err := s.sort(group, 0); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range group {
				kv, err := f.entry(e.at, true)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, string(kv.Key))
			}
			if !slices.Equal(got, slices.Sorted(maps.Keys(alive))) {
				t.Errorf("%s, limits %v: not in order: %q", name, limit, got)
			}
		}
	}
}

// TestTable holds so many keys that the parts of their hashes that it keeps collide.
func TestTable(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	t.Parallel()
	const n = 300_000
	key := func(i int) []byte { return fmt.Appendf(nil, "/registry/pods/a/%d", i) }
	calls := 0
	tab := newTable(func(at place, k []byte) (bool, error) { calls++; return bytes.Equal(key(int(at)), k), nil })
	for i := 1; i <= n; i++ {
		if first, err := tab.add(key(i), place(i), i%3 != 0); !first || err != nil {
			t.Fatalf("key %d: %v, %v", i, first, err)
		}
	}
	if calls > n/10 {
		t.Errorf("%d keys were compared to add %d different ones", calls, n)
	}
	for i := 1; i <= n; i++ {
		if first, err := tab.add(key(i), place(n+i), true); first || err != nil {
			t.Fatalf("key %d is new again: %v", i, err)
		}
		at, alive, ok, err := tab.newest(key(i))
		if int(at) != i || alive != (i%3 != 0) || !ok || err != nil || !tab.holds(key(i), at) || tab.holds(key(i), at+1) {
			t.Fatalf("key %d: %d, %v, %v, %v", i, at, alive, ok, err)
		}
		if _, _, ok, err := tab.newest(key(n + i)); ok || err != nil {
			t.Fatalf("key %d is there: %v", n+i, err)
		}
	}
	if _, err := tab.add([]byte("far"), 1<<placeBits, true); !errors.Is(err, errTooLarge) {
		t.Errorf("a place that has no room: %v", err)
	}
}

// TestMemoryOfAnIndex: what the documentation of index promises, whatever the size of keys and values.
func TestMemoryOfAnIndex(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	const n = 200_000
	changes := make([]change, n)
	for i := range changes {
		changes[i] = change{rev: int64(i + 2), key: fmt.Sprintf("/registry/pods/namespace-%d/a-pod-of-some-length-%d", i%9, i), value: "v", version: 1}
	}
	f := open(t, makeDB(t, changes, nil))
	before := heap()
	if err := f.Newest(t.Context(), "", "\x00", 0, false, func(*mvccpb.KeyValue) error { return nil }); err != nil {
		t.Fatal(err)
	}
	table := heap() - before
	if _, err := f.Count(t.Context(), "/", "\x00", 0); err != nil {
		t.Fatal(err)
	}
	whole := heap() - before
	runtime.KeepAlive(f)
	runtime.KeepAlive(changes)
	if most := int64(22*n + 64<<10); table > most || whole > most+8*n {
		t.Errorf("%.1f bytes a key, %.1f with the order", float64(table)/n, float64(whole)/n)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestNewestStops(t *testing.T) {
	t.Parallel()
	f := open(t, unzstd(t, runawayFixture))
	stop := errors.New("enough")
	calls := 0
	if err := f.Newest(t.Context(), "", "\x00", 0, false, func(*mvccpb.KeyValue) error {
		if calls++; calls == 1000 {
			return stop
		}
		return nil
	}); err != stop || calls != 1000 {
		t.Errorf("%v after %d calls, want the error of the call", err, calls)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := f.Newest(ctx, "", "\x00", 0, false, func(*mvccpb.KeyValue) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	// What a walk that was stopped has seen is no index, and other methods may be called during a walk.
	calls = 0
	err := f.Newest(t.Context(), "/registry/pods/", "/registry/pods0", 0, true, func(kv *mvccpb.KeyValue) error {
		if calls++; calls%500 != 0 {
			return nil
		}
		key := string(kv.Key)
		again, err := f.Get(key, 0)
		if err == nil && string(again.GetKey()) != key {
			err = fmt.Errorf("Get(%q) = %v", key, again)
		}
		return err
	})
	if err != nil || calls != 30000 {
		t.Errorf("%d pods, %v", calls, err)
	}
	if err := f.Newest(t.Context(), "", "\x00", f.Revision()+1, false, nil); !errors.Is(err, ErrFutureRev) {
		t.Errorf("future revision: %v", err)
	}
}

// TestFileThatShrinks: the lock does not keep others from truncating the file that is mapped.
func TestFileThatShrinks(t *testing.T) {
	t.Parallel()
	for name, read := range map[string]func(*File) error{
		"everything": func(f *File) error { return readAll(t.Context(), f) },
		"Newest": func(f *File) error {
			return f.Newest(t.Context(), "", "\x00", 0, false, func(*mvccpb.KeyValue) error { return nil })
		},
		"Get": func(f *File) error { _, err := f.Get("/registry/pods/x", 0); return err },
		"Scan with an index": func(f *File) error {
			return f.Scan(t.Context(), "", "\x00", 0, func(*mvccpb.KeyValue) error { return nil })
		},
		"Revisions": func(f *File) error {
			return f.Revisions(t.Context(), "x", func(Position, bool) error { return nil })
		},
	} {
		path := unzstd(t, runawayFixture)
		f := open(t, path)
		if name == "Scan with an index" {
			if _, err := f.Count(t.Context(), "/", "\x00", 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Truncate(path, 20<<20); err != nil {
			t.Fatal(err)
		}
		if err := read(f); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDisorder: keys that a search would miss are noticed in both directions.
func TestDisorder(t *testing.T) {
	t.Parallel()
	raw, _ := smallArchive(t)
	page := os.Getpagesize()
	path := filepath.Join(t.TempDir(), "disorder.db")
	swapped := 0
	for p := 2 * page; p+page <= len(raw); p += page {
		if kind := raw[p+8]; kind != branchPage && kind != leafPage || raw[p+10] < 3 {
			continue
		}
		b := bytes.Clone(raw)
		first, second := b[p+pageHeaderSize:p+pageHeaderSize+elemSize], b[p+pageHeaderSize+elemSize:p+pageHeaderSize+2*elemSize]
		tmp := bytes.Clone(first)
		copy(first, second)
		copy(second, tmp)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path, Options{})
		if err != nil {
			continue // not a page of bucket "key"
		}
		walk := f.Entries(t.Context(), func(Position, *mvccpb.KeyValue) error { return nil })
		back := f.Newest(t.Context(), "", "\x00", 0, false, func(*mvccpb.KeyValue) error { return nil })
		if (walk == nil) != (back == nil) {
			t.Errorf("page %d: forwards %v, backwards %v", p/page, walk, back)
		}
		if walk != nil {
			swapped++
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if swapped < 3 {
		t.Errorf("only %d pages of the bucket could be damaged", swapped)
	}
}
