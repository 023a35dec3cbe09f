package keyspace_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// The bounds of a page, as the package documents them.
const (
	firstPage  = 100
	minPage    = 4
	maxPage    = 1000
	maxKeys    = 5000
	pageBytes  = 2 << 20
	burstBytes = 8 << 20
)

func sized(n int) func(int) string {
	return func(i int) string { return strings.Repeat(string(rune('a'+i%26)), n) }
}

// someHuge is a run of small values with one of a megabyte now and then, at
// the page's borders too.
func someHuge(i int) string {
	if i == 0 || i == 50 || i == 99 || i == 100 {
		return sized(1 << 20)(i)
	}
	return sized(300)(i)
}

// TestPagesAddUpToOneRead: all pages together are what one unary read gives,
// in the same order, nothing twice and nothing missing.
func TestPagesAddUpToOneRead(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Options{})
	tests := []struct {
		name  string
		n     int
		value func(int) string
		pages int // at most, of a scan with values
	}{
		{"none", 0, sized(1), 1},
		{"one", 1, sized(1), 1},
		{"one below the first page", firstPage - 1, sized(10), 1},
		{"exactly the first page", firstPage, sized(10), 1},
		{"one beyond the first page", firstPage + 1, sized(10), 2},
		{"exactly the first and the largest page", firstPage + maxPage, sized(10), 2},
		{"one beyond the largest page", firstPage + maxPage + 1, sized(10), 3},
		{"empty values", 1000, sized(0), 3},
		{"pods", 3000, sized(1700), 6},
		{"more than the largest page of keys", firstPage + maxKeys + 1, sized(10), 9},
		{"large values", firstPage + 3*minPage, sized(150_000), 8},
		{"some huge values", 400, someHuge, 24},
	}
	for i, tt := range tests {
		s.fill(fmt.Sprintf("%sn%d/", prefix, i), tt.n, tt.value)
		s.fill(fmt.Sprintf("%sn%d-x/", prefix, i), 1, sized(1))
	}
	s.unchangedAfter()
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := keyspace.Prefix(fmt.Sprintf("%sn%d/", prefix, i))
			all, _ := (&store{s.Client, t}).unary(r)
			if len(all) != tt.n {
				t.Fatalf("one read gives %d keys, want %d", len(all), tt.n)
			}
			checkScan(t, s, r, all, tt.pages)
		})
	}
}

func checkScan(t *testing.T, s *store, r keyspace.Range, all []entry, wantPages int) {
	t.Helper()
	rec := &recorder{Getter: s.Client}
	src := (&store{s.Client, t}).pin(rec)
	rec.taken()
	if diff := difference(all, scan(t, src, r, false)); diff != "" {
		t.Errorf("scan with values (-want +got):\n%s", diff)
	}
	pages := rec.taken()
	if len(pages) > wantPages {
		t.Errorf("scan with values made %d requests, want at most %d", len(pages), wantPages)
	}
	checkPages(t, src, pages, false)
	if diff := difference(withoutValues(all), scan(t, src, r, true)); diff != "" {
		t.Errorf("scan for keys only (-want +got):\n%s", diff)
	}
	checkPages(t, src, rec.taken(), true)
	n, err := src.Count(t.Context(), r)
	if err != nil || n != int64(len(all)) {
		t.Errorf("Count = %d, %v; want %d", n, err, len(all))
	}
	if c := rec.taken(); len(c) != 1 || !c[0].op.IsCountOnly() || c[0].keys != 0 {
		t.Errorf("Count read keys: %+v", c)
	}
}

// checkPages asserts that every request is pinned and bounded, and that what
// its answer weighs is bounded too, as soon as values are known.
func checkPages(t *testing.T, src keyspace.Source, pages []call, keysOnly bool) {
	t.Helper()
	most, large, seen := maxPage, 0, 0
	if keysOnly {
		most = maxKeys
	}
	for i, p := range pages {
		limit := int(p.op.Limit())
		if p.op.Rev() != src.Revision() || p.op.IsKeysOnly() != keysOnly || len(p.op.RangeBytes()) == 0 {
			t.Errorf("page %d asks for revision %d, keys only %v, up to %q; want %d and %v", i, p.op.Rev(), p.op.IsKeysOnly(), p.op.RangeBytes(), src.Revision(), keysOnly)
		}
		if i == 0 && limit != firstPage || limit < minPage || limit > most || p.keys > limit {
			t.Errorf("page %d asks for %d keys and gets %d", i, limit, p.keys)
		}
		// Values that are larger than all before announce themselves by nothing.
		if known := p.largest <= large; seen > 0 && known && p.gotBytes > burstBytes && p.keys > minPage {
			t.Errorf("page %d weighs %d bytes, of %d keys up to %d bytes", i, p.gotBytes, p.keys, p.largest)
		}
		// Where all weigh the same, pages weigh what they should.
		if seen > 0 && p.largest == large && p.smallest == large && p.keys > minPage && p.gotBytes > pageBytes+large {
			t.Errorf("page %d weighs %d bytes, want about %d", i, p.gotBytes, pageBytes)
		}
		if p.keys > 0 {
			large, seen = p.largest, seen+p.keys
		}
	}
}

// TestScanOfTheIncident reads real pods, and ranges that border on them.
func TestScanOfTheIncident(t *testing.T) {
	t.Parallel()
	const pods = 2500
	s := start(t, runaway(pods))
	s.unchangedAfter()
	src := s.pin(s)
	all, rev := s.unary(everything())
	if src.Revision() != rev {
		t.Errorf("pinned at %d, want %d", src.Revision(), rev)
	}
	tests := []struct {
		name string
		r    keyspace.Range
		want func(key string) bool
	}{
		{"everything", everything(), func(string) bool { return true }},
		{"all that begins with a slash", keyspace.Prefix("/"), func(k string) bool { return k[0] == '/' }},
		{"one namespace", keyspace.Prefix(prefix + "pods/ops-tools/"), func(k string) bool { return strings.HasPrefix(k, prefix+"pods/ops-tools/") }},
		{"shorter namespace", keyspace.Prefix(prefix + "pods/ops/"), func(string) bool { return false }},
		{"all but pods", keyspace.Range{Start: prefix, End: prefix + "pods/"}, func(k string) bool { return k < prefix+"pods/" }},
		{"one key", keyspace.Range{Start: all[7].Key}, func(k string) bool { return k == all[7].Key }},
		{"no key", keyspace.Range{Start: prefix + "pods/ops-tools/"}, func(string) bool { return false }},
		{"empty", keyspace.Range{Start: "z", End: "a"}, func(string) bool { return false }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var want []entry
			for _, e := range all {
				if tt.want(e.Key) {
					want = append(want, e)
				}
			}
			if diff := difference(want, scan(t, src, tt.r, false)); diff != "" {
				t.Errorf("with values (-want +got):\n%s", diff)
			}
			bare := scan(t, src, tt.r, true)
			for i := range bare {
				bare[i].Lease = 0
			}
			if diff := difference(withoutValues(want), bare); diff != "" {
				t.Errorf("keys only (-want +got):\n%s", diff)
			}
			if n, err := src.Count(t.Context(), tt.r); err != nil || n != int64(len(want)) {
				t.Errorf("Count = %d, %v; want %d", n, err, len(want))
			}
		})
	}
}

// TestPinnedScanSeesNoLaterWrites writes, deletes and changes keys before and
// behind the reader, while it reads.
func TestPinnedScanSeesNoLaterWrites(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Options{})
	const n = 700
	r := s.fill(prefix+"pods/a/", n, sized(5000))
	all, _ := s.unary(r)
	src := s.pin(s)
	var got []entry
	err := src.Scan(t.Context(), r, false, func(kv *mvccpb.KeyValue) error {
		got = append(got, entryOf(kv))
		if i := len(got); i%50 == 1 {
			s.put(fmt.Sprintf("%spods/a/%05d-new", prefix, n-i), "new")
			s.put(fmt.Sprintf("%spods/a/%05d", prefix, (i+200)%n), "changed")
			if _, err := s.Delete(t.Context(), fmt.Sprintf("%spods/a/%05d", prefix, (i+300)%n)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := difference(all, got); diff != "" {
		t.Errorf("the scan saw what came later (-want +got):\n%s", diff)
	}
	checkStillPinned(t, src, r, all)
	if now, _ := s.unary(r); slices.Equal(all, now) {
		t.Error("nothing was written meanwhile")
	}
}

func checkStillPinned(t *testing.T, src keyspace.Source, r keyspace.Range, all []entry) {
	t.Helper()
	if n, err := src.Count(t.Context(), r); err != nil || n != int64(len(all)) {
		t.Errorf("Count afterwards = %d, %v; want %d", n, err, len(all))
	}
	var keys []string
	for _, e := range all {
		keys = append(keys, e.Key)
	}
	found, err := src.GetAll(t.Context(), append(keys, r.Start+"99999-new"))
	if err != nil || len(found) != len(all) {
		t.Fatalf("GetAll afterwards finds %d, %v; want %d", len(found), err, len(all))
	}
	for _, want := range all {
		kv, err := src.Get(t.Context(), want.Key)
		if err != nil || kv == nil || entryOf(kv) != want || entryOf(found[want.Key]) != want {
			t.Fatalf("%s is another one afterwards: %v, %v", want.Key, kv, err)
		}
	}
}

// TestCurrentSeesEveryWrite: the other kind of source is not pinned.
func TestCurrentSeesEveryWrite(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Options{})
	src := keyspace.Current(s, keyspace.Options{Timeout: timeout})
	key := prefix + "pods/a/p"
	for _, want := range []string{"one", "two"} {
		s.put(key, want)
		kv, err := src.Get(t.Context(), key)
		if err != nil || kv == nil || string(kv.Value) != want {
			t.Errorf("Get = %v, %v; want %q", kv, err, want)
		}
	}
	if src.Revision() != 0 {
		t.Errorf("Revision = %d, want 0: it belongs to none", src.Revision())
	}
}
