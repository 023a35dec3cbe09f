package keyspace_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// TestGetAll asks for keys that lie close together, far apart, or nowhere.
func TestGetAll(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Options{})
	const n = 3000
	r := s.fill(prefix+"pods/a/", n, sized(40))
	key := func(i int) string { return fmt.Sprintf("%s%05d", r.Start, i) }
	every := func(from, to, step int) (keys []string) {
		for i := from; i < to; i += step {
			keys = append(keys, key(i))
		}
		return keys
	}
	both := append(every(100, 120, 1), absent(every(100, 120, 1))...)
	slices.Sort(both)
	tests := []struct {
		name  string
		keys  []string
		calls int
	}{
		{"nothing", nil, 0},
		{"single", every(1500, 1501, 1), 1},
		{"single absent", []string{key(5) + "-absent"}, 1},
		{"behind the last", []string{key(n) + "z"}, 1},
		{"dense", every(200, 456, 1), 1},
		{"very many", every(0, n/2, 1), 1},
		{"every second of a few", every(0, 32, 2), 1},
		// The read over the span reaches 5+16 keys, of which one is wanted.
		{"sparse", every(0, n, 600), 1 + 4},
		{"first and last", []string{key(0), key(n - 1)}, 1 + 1},
		{"all absent, close together", absent(every(700, 710, 1)), 1},
		{"all absent, far apart", absent(every(0, n, 600)), 1 + 4},
		{"half of them absent", both, 1},
		{"the same key twice", []string{key(3), key(3), key(4)}, 1},
	}
	s.unchangedAfter()
	all, _ := s.unary(everything())
	rec := &recorder{Getter: s}
	src := s.pin(rec)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rec.taken()
			got, err := src.GetAll(t.Context(), tt.keys)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(among(all, tt.keys), entries(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			calls := rec.taken()
			if len(calls) != tt.calls {
				t.Errorf("%d requests, want %d", len(calls), tt.calls)
			}
			for _, c := range calls {
				if c.op.Rev() != src.Revision() || c.keys > len(tt.keys)+16 {
					t.Errorf("a request for revision %d gave %d keys", c.op.Rev(), c.keys)
				}
			}
		})
	}
}

// absent gives a key that does not exist beside each of keys.
func absent(keys []string) (other []string) {
	for _, key := range keys {
		other = append(other, key+"-absent")
	}
	return other
}

// among picks the wanted ones from one read of everything.
func among(all []entry, keys []string) map[string]entry {
	byKey, found := map[string]entry{}, map[string]entry{}
	for _, e := range all {
		byKey[e.Key] = e
	}
	for _, key := range keys {
		if e, ok := byKey[key]; ok {
			found[key] = e
		}
	}
	return found
}

func entries(kvs map[string]*mvccpb.KeyValue) map[string]entry {
	found := map[string]entry{}
	for key, kv := range kvs {
		found[key] = entryOf(kv)
	}
	return found
}

// TestLiveAndFileAgree asks an etcd and the snapshot it was started from the
// same questions.
func TestLiveAndFileAgree(t *testing.T) {
	t.Parallel()
	f := zoo(t)
	s := start(t, sandbox.Options{Snapshot: zooFile})
	s.unchangedAfter()
	live, file := s.pin(s), keyspace.FromFile(f)
	if live.Revision() != file.Revision() || file.Revision() != f.Revision() || file.Revision() != 1718 {
		t.Errorf("revisions: live %d, file %d, want 1718", live.Revision(), file.Revision())
	}
	all := scan(t, file, everything(), false)
	if len(all) != 790 {
		t.Errorf("the file has %d keys, want 790", len(all))
	}
	for _, r := range []keyspace.Range{
		everything(), keyspace.Prefix("/"), keyspace.Prefix(prefix), keyspace.Prefix(prefix + "pods/team/"),
		keyspace.Prefix(prefix + "pods/team-x/"), keyspace.Prefix(prefix + "events/"), keyspace.Prefix(prefix + "none/"),
		{Start: prefix + "configmaps/team/corrupt"}, {Start: prefix + "configmaps/team/none"}, {Start: "talos:v1:x"},
		{Start: all[400].Key, End: all[600].Key}, {Start: "z", End: "a"},
	} {
		compareRange(t, live, file, r)
	}
	compareKeys(t, live, file, all)
	liveUID, err1 := keyspace.ClusterUID(t.Context(), live, prefix)
	fileUID, err2 := keyspace.ClusterUID(t.Context(), file, prefix)
	if err1 != nil || err2 != nil || liveUID != fileUID || len(liveUID) != 36 {
		t.Errorf("ClusterUID: live %q, %v; file %q, %v", liveUID, err1, fileUID, err2)
	}
}

func compareRange(t *testing.T, live, file keyspace.Source, r keyspace.Range) {
	t.Helper()
	want := scan(t, file, r, false)
	if diff := difference(want, scan(t, live, r, false)); diff != "" {
		t.Errorf("Scan of %q (-file +live):\n%s", r, diff)
	}
	for name, src := range map[string]keyspace.Source{"live": live, "file": file} {
		bare := scan(t, src, r, true)
		for _, e := range bare {
			if e.Value != "" {
				t.Fatalf("%s: a scan for keys only gives the value of %s", name, e.Key)
			}
		}
		if diff := difference(withoutValues(want), withoutValues(bare)); diff != "" {
			t.Errorf("%s: Scan of %q for keys only (-want +got):\n%s", name, r, diff)
		}
		if n, err := src.Count(t.Context(), r); err != nil || n != int64(len(want)) {
			t.Errorf("%s: Count of %q = %d, %v; want %d", name, r, n, err, len(want))
		}
	}
}

func compareKeys(t *testing.T, live, file keyspace.Source, all []entry) {
	t.Helper()
	var keys []string
	want := map[string]entry{}
	for i, e := range all {
		if i%7 != 0 {
			continue
		}
		keys = append(keys, e.Key, e.Key+"-absent")
		want[e.Key] = e
	}
	slices.Sort(keys)
	for name, src := range map[string]keyspace.Source{"live": live, "file": file} {
		found, err := src.GetAll(t.Context(), keys)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, entries(found)); diff != "" {
			t.Errorf("%s: GetAll (-want +got):\n%s", name, diff)
		}
		for _, key := range keys {
			kv, err := src.Get(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			if e, exists := want[key]; exists != (kv != nil) || exists && entryOf(kv) != e {
				t.Errorf("%s: Get of %s = %v", name, key, kv)
			}
		}
	}
}

// TestScanUnordered gives what Scan gives, in whatever order.
func TestScanUnordered(t *testing.T) {
	t.Parallel()
	src := keyspace.FromFile(zoo(t))
	for _, r := range []keyspace.Range{
		everything(), keyspace.Prefix(prefix), keyspace.Prefix(prefix + "pods/team/"), keyspace.Prefix(prefix + "none/"),
		{Start: prefix + "configmaps/team/corrupt"}, {Start: "z", End: "a"},
	} {
		for _, keysOnly := range []bool{false, true} {
			var got []entry
			err := src.ScanUnordered(t.Context(), r, keysOnly, func(kv *mvccpb.KeyValue) error {
				got = append(got, entryOf(kv))
				clear(kv.Key) // what is fn's may be spoiled
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			slices.SortFunc(got, func(a, b entry) int { return strings.Compare(a.Key, b.Key) })
			if diff := difference(scan(t, src, r, keysOnly), got); diff != "" {
				t.Errorf("%q, keys only %v (-ordered +unordered):\n%s", r, keysOnly, diff)
			}
		}
	}
}

// TestFileOfTheIncident counts the embedded snapshot.
func TestFileOfTheIncident(t *testing.T) {
	t.Parallel()
	path, err := sandbox.FixtureFile(t.Context(), sandbox.Runaway30k, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	src := keyspace.FromFile(openFile(t, path))
	if src.Revision() != 30440 {
		t.Errorf("revision %d, want 30440", src.Revision())
	}
	for r, want := range map[keyspace.Range]int64{
		everything(): 30229, keyspace.Prefix(prefix + "pods/ops-tools/"): 30000, keyspace.Prefix(prefix + "pods/ops/"): 0,
	} {
		n, err := src.Count(t.Context(), r)
		if err != nil || n != want {
			t.Errorf("Count of %q = %d, %v; want %d", r, n, err, want)
		}
	}
	var bytes int
	for _, e := range scan(t, src, keyspace.Prefix(prefix+"pods/ops-tools/"), false) {
		bytes += len(e.Value)
	}
	if bytes != 49_350_000 {
		t.Errorf("the pods weigh %d bytes, want 49350000", bytes)
	}
}

// TestConcurrentReads: a source may be used by several goroutines at once.
func TestConcurrentReads(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Options{})
	r := s.fill(prefix+"pods/a/", 300, sized(100))
	want := scan(t, s.pin(s), r, false)
	values := map[string]string{}
	for _, e := range want {
		values[e.Key] = e.Value
	}
	for name, src := range map[string]keyspace.Source{"live": s.pin(s), "file": made(t, values)} {
		for i := range 4 {
			t.Run(fmt.Sprintf("%s %d", name, i), func(t *testing.T) {
				t.Parallel()
				if got := scan(t, src, r, i%2 == 0); len(got) != len(want) {
					t.Errorf("%d keys, want %d", len(got), len(want))
				}
				if kv, err := src.Get(t.Context(), want[i].Key); err != nil || string(kv.GetValue()) != want[i].Value {
					t.Errorf("Get = %v, %v", kv, err)
				}
			})
		}
	}
}
