package census_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/census"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// TestRandomRegistries: the cells are those of a loop over all keys, and no
// key is counted twice or never, whatever is stored.
func TestRandomRegistries(t *testing.T) {
	t.Parallel()
	for seed := range uint64(120) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		catalog := codec.NewCatalog()
		src := world(randomKeys(rnd, catalog)...)
		for _, whole := range []bool{false, true} {
			got, err := census.Take(t.Context(), census.Request{Source: src, Reader: reader(catalog), Whole: whole})
			if err != nil {
				t.Fatalf("seed %d, whole ranges only %v: %v", seed, whole, err)
			}
			compare(t, catalog, got, src.all)
			if whole {
				onlyWhole(t, src)
			}
			if t.Failed() {
				t.Fatalf("seed %d, whole ranges only %v", seed, whole)
			}
			src.asked = nil
		}
	}
}

// onlyWhole asserts that all ranges end with a whole segment.
func onlyWhole(t *testing.T, s *keys) {
	t.Helper()
	for _, r := range s.asked {
		if r != keyspace.Prefix(r.Start) || !strings.HasSuffix(r.Start, "/") {
			t.Errorf("asked for %q", r)
		}
	}
}

// randomKeys makes a registry with everything that can be wrong with one.
func randomKeys(rnd *rand.Rand, c *codec.Catalog) (all []string) {
	names := func(n int, form string) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprintf(form, i))
		}
		return list
	}
	exist := append(names(rnd.IntN(60), "ns%02d"), "team", "team-x", "team.y", "team0")[rnd.IntN(4):]
	for _, ns := range exist {
		all = append(all, prefix+"namespaces/"+ns)
	}
	namespaces := append(exist, names(rnd.IntN(4), "gone%d")...)
	namespaces = append(namespaces, "ns", "ns0", "a", "zz")[:len(namespaces)+rnd.IntN(5)]
	var places []string
	for _, r := range c.Resources() {
		places = append(places, r.Prefix)
	}
	places = append(places, "pods/", "events/", "foos.example.com/things/", "example.com/foos/", "pods.metrics/x/", "unknown/", "podz/")
	if rnd.IntN(2) == 0 {
		all = append(all, crds+"foos.example.com", crds+"bars.example.com", crds+"nodot", crds+"a.b")
		places = append(places, "example.com/bars/")
	}
	for range rnd.IntN(12) {
		place := places[rnd.IntN(len(places))]
		from, n := rnd.IntN(len(namespaces)+1), 1+rnd.IntN(1+rnd.IntN(2000))
		for i := range n {
			ns := namespaces[min(from+i%(1+rnd.IntN(1+len(namespaces))), len(namespaces))%max(len(namespaces), 1):]
			all = append(all, key(c, place, ns, i))
		}
	}
	for _, odd := range []string{"odd", "odd%", "a.b/x", "pods/odd", "pods/a%/x", "services/odd", "services/odd/a/b", "unknown/a/b/c", "example.com/x"} {
		if rnd.IntN(3) == 0 {
			all = append(all, prefix+odd)
		}
	}
	return append(all, "/registrx/a", "/registry0", "compact_rev_key")
}

// key is one of a place, in the first of the namespaces if it has any.
func key(c *codec.Catalog, place string, namespaces []string, i int) string {
	k, ok := c.ParseKey(prefix, prefix+place+"x")
	if ok && !k.Resource.Custom || len(namespaces) == 0 || strings.Count(place, "/") == 2 && i%50 == 49 {
		return fmt.Sprintf("%s%so%05d", prefix, place, i)
	}
	return fmt.Sprintf("%s%s%s/o%05d", prefix, place, namespaces[0], i)
}

// shape is a registry of a kind that people have.
type shape struct {
	name                 string
	namespaces, crds     int
	objects              func(add func(place, ns string, n int), ns []string)
	visits               float64 // at most, for every key
	ranges               int     // at most
	searched, wantOrphan int
}

func spread(place string, each int) func(add func(string, string, int), ns []string) {
	return func(add func(string, string, int), ns []string) {
		for _, n := range ns {
			add(place, n, each)
		}
	}
}

func both(fs ...func(func(string, string, int), []string)) func(func(string, string, int), []string) {
	return func(add func(string, string, int), ns []string) {
		for _, f := range fs {
			f(add, ns)
		}
	}
}

func one(place, namespace string, n int) func(func(string, string, int), []string) {
	return func(add func(string, string, int), _ []string) { add(place, namespace, n) }
}

// usual is what every namespace of a cluster has.
var usual = both(spread("serviceaccounts/", 1), spread("configmaps/", 1), one("minions/", "", 100),
	one("clusterroles/", "", 90), one("leases/", "ns0000", 110), one("secrets/", "ns0000", 20), one("events/", "ns0000", 300))

// shapes: two visits of every key are the least, one of the whole and one of
// its namespace.
func shapes() []shape {
	return []shape{
		{"nothing", 0, 0, one("pods/", "x", 0), 2, 130, 0, 0},
		{"a fresh cluster", 5, 3, usual, 2.5, 260, 0, 0},
		{"200,000 pods in 50 namespaces", 50, 20, both(usual, spread("pods/", 4000)), 2.02, 520, 0, 0},
		{"200,000 pods in 5,000 namespaces", 5000, 20, both(usual, spread("pods/", 40)), 2.08, 17_600, 0, 0},
		{"100,000 pods in one of one namespaces", 1, 20, both(usual, one("pods/", "ns0000", 100_000)), 2.02, 300, 0, 0},
		{"300,000 pods in one of 5,000 namespaces", 5000, 20, both(usual, one("pods/", "ns2345", 300_000)), 2.06, 17_600, 0, 0},
		{"300,000 reports of a CRD in 1,000 namespaces", 1000, 900, both(usual, spread("g7.example.com/things7/", 300)), 2.04, 8500, 0, 0},
		{"300,000 secrets in one of 50 namespaces", 50, 20, both(usual, one("secrets/", "ns0030", 300_000)), 2.02, 3400, 0, 0},
		{"900 CRDs, mostly empty", 50, 900, both(usual, one("g5.example.com/things5/", "ns0004", 30), spread("pods/", 1000)), 2.06, 2400, 0, 0},
		{"150,000 pods of a deleted namespace", 50, 20, both(usual, one("pods/", "lost", 150_000)), 3.1, 700, 1000, 150_000},
		{"150,000 objects of a deleted CRD", 50, 20, both(usual, one("gone.example.com/things/", "ns0007", 150_000)), 3.1, 500, 1000, 0},
	}
}

// TestShapes bounds what a census asks of the server.
func TestShapes(t *testing.T) {
	t.Parallel()
	for _, tt := range shapes() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			src := tt.world()
			catalog := codec.NewCatalog()
			got := take(t, census.Request{Source: src, Reader: reader(catalog)})
			compare(t, catalog, got, src.all)
			each := float64(src.visits) / float64(max(len(src.all), 1))
			t.Logf("%d keys, %.3f visits of each, %d ranges in %d rounds", len(src.all), each, src.ranges, got.Rounds)
			if each > tt.visits || src.ranges > tt.ranges || got.Searched != int64(tt.searched) {
				t.Errorf("%.3f visits, %d ranges, %d searched; want at most %.3f and %d, and %d", each, src.ranges, got.Searched, tt.visits, tt.ranges, tt.searched)
			}
			if got.Ranges != int64(src.ranges) || got.Total != int64(len(src.all)) {
				t.Errorf("it says %d ranges and %d keys", got.Ranges, got.Total)
			}
			orphans := 0
			for _, c := range got.Cells {
				if c.Orphaned {
					orphans += int(c.Objects)
				}
			}
			if orphans != tt.wantOrphan {
				t.Errorf("%d orphans, want %d", orphans, tt.wantOrphan)
			}
		})
	}
}

func (s shape) world() *keys {
	var all, ns []string
	for i := range s.namespaces {
		ns = append(ns, fmt.Sprintf("ns%04d", i))
		all = append(all, prefix+"namespaces/"+ns[i])
	}
	for i := range s.crds {
		all = append(all, fmt.Sprintf("%sthings%d.g%d.example.com", crds, i, i))
	}
	s.objects(func(place, namespace string, n int) {
		if namespace != "" {
			place += namespace + "/"
		}
		for i := range n {
			all = append(all, fmt.Sprintf("%s%so%06d", prefix, place, i))
		}
	}, ns)
	return world(all...)
}

// TestRequests are those that are not for everything.
func TestRequests(t *testing.T) {
	t.Parallel()
	src := world(prefix+"namespaces/a", prefix+"namespaces/b", prefix+"pods/a/1", prefix+"pods/a/2", prefix+"pods/b/1", prefix+"pods/lost/1",
		prefix+"pods/odd", prefix+"events/b/1", prefix+"secrets/lost/1", prefix+"minions/n")
	catalog := codec.NewCatalog()
	resource := func(name string) *codec.Resource {
		r, _, ok := catalog.Lookup(name)
		if !ok {
			t.Fatal(name)
		}
		return r
	}
	tests := []struct {
		name string
		req  census.Request
		want []string
	}{
		{"a resource", census.Request{Resource: resource("pods")}, []string{`pods "a" 2 orphaned=false`, `pods "b" 1 orphaned=false`, `pods "lost" 1 orphaned=true`, `?pods/ "" 1 orphaned=false`}},
		{"a view", census.Request{Resource: resource("events.events.k8s.io")}, []string{`events.events.k8s.io "b" 1 orphaned=false`}},
		{"a cluster-scoped resource", census.Request{Resource: resource("nodes")}, []string{`nodes "" 1 orphaned=false`}},
		{"a resource in a namespace", census.Request{Resource: resource("pods"), Namespace: "a"}, []string{`pods "a" 2 orphaned=false`}},
		{"a namespace", census.Request{Namespace: "b"}, []string{`events "b" 1 orphaned=false`, `pods "b" 1 orphaned=false`}},
		{"a namespace that does not exist", census.Request{Namespace: "lost"}, []string{`pods "lost" 1 orphaned=true`, `secrets "lost" 1 orphaned=true`}},
		{"an empty namespace", census.Request{Namespace: "none"}, nil},
		{"namespaces of elsewhere", census.Request{Resource: resource("pods"), Namespaces: []string{"a", "lost"}}, []string{`pods "a" 2 orphaned=false`, `pods "b" 1 orphaned=true`, `pods "lost" 1 orphaned=false`, `?pods/ "" 1 orphaned=false`}},
		{"no namespaces", census.Request{Resource: resource("events"), Namespaces: []string{}}, []string{`events "b" 1 orphaned=true`}},
	}
	for _, tt := range tests {
		for _, whole := range []bool{false, true} {
			tt.req.Source, tt.req.Reader, tt.req.Whole = src, reader(catalog), whole
			got := take(t, tt.req)
			if have := text(got.Cells); !slices.Equal(have, tt.want) || got.Sum != got.Total {
				t.Errorf("%s, whole ranges only %v: %q, sum %d of %d; want %q", tt.name, whole, have, got.Sum, got.Total, tt.want)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	src := world(prefix+"namespaces/a", prefix+"pods/a/1", prefix+"pods/a/2")
	src.rev = 0
	if _, err := census.Take(t.Context(), census.Request{Source: src, Reader: reader(codec.NewCatalog())}); !errors.Is(err, census.ErrNotPinned) {
		t.Errorf("of no revision: %v, want ErrNotPinned", err)
	}
	src.rev, src.crooked = 9, true
	_, err := census.Take(t.Context(), census.Request{Source: src, Reader: reader(codec.NewCatalog())})
	var uneven *census.UnevenError
	if !errors.As(err, &uneven) || *uneven != (census.UnevenError{Revision: 9, Sum: 1, Total: 3}) {
		t.Errorf("of wrong counts: %v, want UnevenError", err)
	}
	if want := "the ranges of revision 9 hold 1 keys together, but one count of the whole gives 3"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestUnknownKeysAreBounded: what is not an object's key is counted in full
// and named in part.
func TestUnknownKeysAreBounded(t *testing.T) {
	t.Parallel()
	var all []string
	for i := range 2500 {
		all = append(all, fmt.Sprintf("%so%05d", prefix, i))
	}
	got := take(t, census.Request{Source: world(all...), Reader: reader(codec.NewCatalog())})
	if got.Unknown != 2500 || !slices.Equal(got.UnknownKeys, all[:1000]) || len(got.Cells) != 1 || got.Cells[0] != (census.Cell{Objects: 2500}) {
		t.Errorf("%d unknown, %d named, cells %v", got.Unknown, len(got.UnknownKeys), text(got.Cells))
	}
}

// TestOddKeysOfKnownPlaces: counting tells a key's place and nothing else.
func TestOddKeysOfKnownPlaces(t *testing.T) {
	t.Parallel()
	src := world(prefix+"namespaces/a", prefix+"pods/a/b/c", prefix+"minions/n/x")
	got := take(t, census.Request{Source: src, Reader: reader(codec.NewCatalog())})
	want := []string{`namespaces "" 1 orphaned=false`, `nodes "" 1 orphaned=false`, `pods "a" 1 orphaned=false`}
	if have := text(got.Cells); !slices.Equal(have, want) {
		t.Errorf("%q, want %q", have, want)
	}
}
