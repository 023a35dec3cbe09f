package keyspace

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"
)

// index answers as etcd's index does, and counts what it walks over.
type index struct {
	keys             []string
	visits, requests int
}

func (x *index) page(r Range, limit int) (keys []string, count int64) {
	from, to := sort.SearchStrings(x.keys, r.Start), len(x.keys)
	if r.End != "\x00" {
		to = max(from, sort.SearchStrings(x.keys, r.End))
	}
	x.requests++
	x.visits += to - from
	return x.keys[from:min(to, from+limit)], int64(to - from)
}

// walk reads all keys of r in pages chosen by bounds.
func (x *index) walk(t testing.TB, r Range, limit int) []string {
	t.Helper()
	var got []string
	for b := newBounds(r); !b.done(); {
		next := b.next(limit)
		if !before(next.Start, next.End) && next != r {
			t.Fatalf("empty range %q", next)
		}
		keys, count := x.page(next, limit)
		got = append(got, keys...)
		if err := b.got(next, limit, keys, count); err != nil {
			t.Fatal(err)
		}
		if x.requests > 100*len(x.keys)+10000 {
			t.Fatalf("no end after %d requests, at %q", x.requests, b.pos)
		}
	}
	return got
}

const letters = "bcdfghjklmnpqrstvwxz2456789"

func randomName(r *rand.Rand, n int) string {
	name := make([]byte, n)
	for i := range name {
		name[i] = letters[r.IntN(len(letters))]
	}
	return string(name)
}

// shapes are keys as clusters have them.
func shapes(n int) map[string][]string {
	r := rand.New(rand.NewPCG(1, 2))
	names := make([]string, 5000)
	for i := range names {
		names[i] = randomName(r, 12)
	}
	pick := func(most, length int) string { return names[r.IntN(most)][:length] }
	all := map[string][]string{}
	for i := range n {
		for shape, key := range map[string]string{
			"50 namespaces":          fmt.Sprintf("ns-%02d/error-ret-%s", r.IntN(50), randomName(r, 5)),
			"50 namespaces, 3 jobs":  fmt.Sprintf("ns-%02d/%s-%s", r.IntN(50), []string{"error-ret", "nightly-report", "web-7d9f"}[r.IntN(3)], randomName(r, 5)),
			"one namespace":          "ops/error-ret-" + randomName(r, 5),
			"numbers":                fmt.Sprintf("ops/p-%07d", i),
			"numbers without zeros":  fmt.Sprintf("ops/p-%d", i),
			"5000 namespaces":        fmt.Sprintf("team-%s/web-%s-%s", pick(5000, 5), pick(5, 9), randomName(r, 5)),
			"2000 numbered ones":     fmt.Sprintf("tenant-%04d/web-%s-%s", r.IntN(2000), pick(5, 9), randomName(r, 5)),
			"random":                 randomName(r, 2) + "/" + randomName(r, 20),
			"uids":                   fmt.Sprintf("default/%08x-%04x", r.Uint32(), r.IntN(65536)),
			"jobs of a cron job":     fmt.Sprintf("batch/cron-%d-%s", 28000000+i/7, randomName(r, 5)),
			"20 jobs, 10 namespaces": fmt.Sprintf("batch%d/job-%s-%s", r.IntN(10), pick(20, 5), randomName(r, 5)),
			"events":                 fmt.Sprintf("ns-%d/web-%s.%016x", r.IntN(20), pick(50, 5), 0x17a0000000000000+int64(i)*987654321),
			"words": fmt.Sprintf("%s/%s-%s-%d", []string{"alpha", "beta", "gamma", "payments", "zeta"}[r.IntN(5)],
				[]string{"web", "api", "db", "cache", "queue"}[r.IntN(5)], []string{"blue", "green", "canary"}[r.IntN(3)], r.IntN(1e6)),
			"bytes": string([]byte{byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))}),
		} {
			all[shape] = append(all[shape], "/registry/pods/"+key)
		}
	}
	for shape, keys := range all {
		slices.Sort(keys)
		all[shape] = slices.Compact(keys)
	}
	return all
}

// TestVisits holds what a scan costs etcd: index visits for each key.
func TestVisits(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	t.Parallel()
	for _, size := range []struct{ keys, limit int }{{50_000, 500}, {30_000, 1000}, {3000, 10}} {
		for shape, keys := range shapes(size.keys) {
			x := &index{keys: keys}
			if got := x.walk(t, Prefix("/registry/pods/"), size.limit); !slices.Equal(got, keys) {
				t.Errorf("%s: read %d keys of %d", shape, len(got), len(keys))
			}
			each := float64(x.visits) / float64(len(keys))
			pages := float64(x.requests) * float64(size.limit) / float64(len(keys))
			t.Logf("%6d keys, limit %4d: %.2f visits a key, %.2f requests a full page: %s", len(keys), size.limit, each, pages, shape)
			// A request is worth visits too; only small pages of few keys have so many.
			if each > 5+requestVisits/float64(size.limit) {
				t.Errorf("%d keys, limit %d, %s: %.2f visits a key", len(keys), size.limit, shape, each)
			}
		}
	}
}

// BenchmarkBounds is what choosing the pages costs the client; a scan of a
// million keys does it once.
func BenchmarkBounds(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	keys := make([]string, 1_000_000)
	for i := range keys {
		keys[i] = fmt.Sprintf("/registry/pods/team-%04d/nightly-report-%s", i%50, randomName(r, 7))
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	x := &index{keys: keys}
	for b.Loop() {
		x.visits, x.requests = 0, 0
		if n := len(x.walk(b, Prefix("/registry/pods/"), maxPage)); n != len(keys) {
			b.Fatalf("%d keys of %d", n, len(keys))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(keys)), "ns/key")
	b.ReportMetric(float64(x.visits)/float64(len(keys)), "visits/key")
	b.ReportMetric(float64(x.requests), "requests")
}
