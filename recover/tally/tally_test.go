package tally

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// fold keeps every group in a map, as a reference.
type fold map[string]*Group

func (f fold) add(by []string, objects, bytes int64) {
	id := strings.Join(by, "\x01")
	if f[id] == nil {
		f[id] = &Group{By: slices.Clone(by)}
	}
	f[id].Objects += objects
	f[id].Bytes += bytes
}

func (f fold) sorted(compare func(a, b Group) int) []Group {
	var all []Group
	for _, g := range f {
		all = append(all, *g)
	}
	slices.SortFunc(all, compare)
	return all
}

// keep clones what Sorted yields.
func keep(t *Table, compare func(a, b Group) int, most int) []Group {
	var all []Group
	for g := range t.Sorted(compare, most) {
		for i, v := range g.By {
			g.By[i] = strings.Clone(v)
		}
		g.By = slices.Clone(g.By)
		all = append(all, g)
	}
	return all
}

func sameGroups(t *testing.T, got, want []Group) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d groups, want %d", len(got), len(want))
	}
	for i := range got {
		if !slices.Equal(got[i].By, want[i].By) || got[i].Objects != want[i].Objects || got[i].Bytes != want[i].Bytes {
			t.Fatalf("group %d is %.100v, want %.100v", i, got[i], want[i])
		}
	}
}

// word is a text of a random shape: long and short ones, names with a common
// beginning, and whatever bytes.
func word(r *rand.Rand) string {
	switch r.IntN(6) {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("Job.batch/nightly-%d-%d", r.IntN(30), r.IntN(1000))
	case 2:
		return strings.Repeat(string(rune('a'+r.IntN(3))), r.IntN(2*longText))
	case 3:
		b := make([]byte, r.IntN(6))
		for i := range b {
			b[i] = byte(r.IntN(4)) * 85
		}
		return string(b)
	default:
		return []string{"Running", "Pending", "<none>", "a\x00", "a", "\x00a", "é/", "/", "-"}[r.IntN(9)]
	}
}

func TestTableIsExact(t *testing.T) {
	t.Parallel()
	for columns := range 4 {
		t.Run(fmt.Sprint(columns), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(1, uint64(columns)))
			table, want := New(columns, Limits{}), fold{}
			var objects, bytes int64
			for range 60_000 {
				by := make([]string, columns)
				for i := range by {
					by[i] = word(r)
				}
				o, b := r.Int64N(3), r.Int64N(1<<r.IntN(40))
				table.Add(by, o, b)
				want.add(by, o, b)
				objects, bytes = objects+o, bytes+b
			}
			if table.Len() != len(want) {
				t.Fatalf("%d groups, want %d", table.Len(), len(want))
			}
			if o, b := table.Total(); o != objects || b != bytes {
				t.Fatalf("in all %d, %d, want %d, %d", o, b, objects, bytes)
			}
			if m := table.Merged(); m != (Merged{}) {
				t.Fatalf("merged %+v of %d groups", m, table.Len())
			}
			byName := func(a, b Group) int { return slices.Compare(a.By, b.By) }
			sameGroups(t, keep(table, ByObjects, 0), want.sorted(ByObjects))
			sameGroups(t, keep(table, ByBytes, 0), want.sorted(ByBytes))
			sameGroups(t, keep(table, byName, 0), want.sorted(byName))
			few := want.sorted(ByBytes)
			sameGroups(t, keep(table, ByBytes, 7), few[:min(7, len(few))])
		})
	}
}

func TestSortedKeepsTheOrderOfAdding(t *testing.T) {
	t.Parallel()
	table := New(1, Limits{})
	var want []string
	for i := range 3 * runLen {
		name := fmt.Sprint((i * 7919) % (3 * runLen))
		want = append(want, name)
		table.Add([]string{name}, 1, 1)
	}
	var got []string
	for g := range table.Sorted(func(a, b Group) int { return 0 }, 0) {
		got = append(got, strings.Clone(g.By[0]))
	}
	if !slices.Equal(got, want) {
		t.Error("groups that compare equal are not in the order in which they were added")
	}
}

func TestSortedStops(t *testing.T) {
	t.Parallel()
	table := New(1, Limits{})
	for i := range 100 {
		table.Add([]string{fmt.Sprint(i)}, int64(i), 0)
	}
	var got []int64
	for g := range table.Sorted(ByObjects, 50) {
		if got = append(got, g.Objects); len(got) == 3 {
			break
		}
	}
	if want := []int64{99, 98, 97}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for range New(2, Limits{}).Sorted(ByObjects, 0) {
		t.Error("an empty table yields a group")
	}
}

func TestHostileTexts(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 64<<10)
	texts := []string{
		"", "\x00", "\x00\x00", "a\x00b", long, long + "y", "y" + long, long[1:], strings.Repeat("-", 500), strings.Repeat("-", longText),
		strings.Repeat("/", longText+1), "\xff\xfe", "a-", "a-b", "a-b-c", "-", "a", strings.Repeat("q", 200<<10),
	}
	table, want := New(2, Limits{}), fold{}
	for round := range 3 {
		for _, a := range texts {
			for _, b := range texts {
				table.Add([]string{a, b}, int64(round), int64(len(a)))
				want.add([]string{a, b}, int64(round), int64(len(a)))
			}
		}
	}
	sameGroups(t, keep(table, ByBytes, 0), want.sorted(ByBytes))
}

// TestLargeFigures exceed 32 bit, also across a merge.
func TestLargeFigures(t *testing.T) {
	t.Parallel()
	table := New(1, Limits{Groups: 10})
	table.Add([]string{"early"}, 1, 1)
	for range 4 {
		table.Add([]string{"bytes"}, 1, 3<<30)
		table.Add([]string{"objects"}, 1<<40, 0)
		table.Add([]string{"edge"}, math.MaxUint32, math.MaxUint32-1)
	}
	table.Add([]string{"less"}, -5, -5)
	for i := range 30 {
		table.Add([]string{fmt.Sprint(i)}, 1, 1)
	}
	want := []Group{
		{[]string{"objects"}, 4 << 40, 0},
		{[]string{"edge"}, 4 * math.MaxUint32, 4 * (math.MaxUint32 - 1)},
		{[]string{"bytes"}, 4, 12 << 30},
	}
	sameGroups(t, keep(table, ByObjects, 3), want)
	if table.Merged().Groups == 0 {
		t.Error("nothing was merged")
	}
}

func TestTooLongForTheTable(t *testing.T) {
	t.Parallel()
	table := New(600, Limits{Bytes: 1})
	wide := make([]string, 600)
	for i := range wide {
		wide[i] = strings.Repeat("x", longText)
	}
	table.Add(wide, 2, 20)
	long := make([]string, 600)
	long[3] = strings.Repeat("x", 1<<20)
	table.Add(long, 3, 30)
	table.Add(make([]string, 600), 4, 40)
	if got, want := table.Merged(), (Merged{2, 5, 50}); got != want {
		t.Errorf("merged %+v, want %+v", got, want)
	}
	if o, b := table.Total(); o != 9 || b != 90 {
		t.Errorf("in all %d, %d", o, b)
	}
	if table.Len() != 1 {
		t.Errorf("%d groups", table.Len())
	}
}

// TestMergingKeepsHeavyHitters: what Shortfall promises holds for every group,
// at every bound, and totals stay exact.
func TestMergingKeepsHeavyHitters(t *testing.T) {
	t.Parallel()
	for name, limits := range map[string]Limits{
		"groups": {Groups: 2_000}, "bytes": {Bytes: 1 << 20}, "few": {Groups: 3}, "one": {Groups: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(3, 4))
			zipf := rand.NewZipf(r, 1.2, 1, 1<<20)
			table, want := New(2, limits), fold{}
			for i := range 40_000 {
				by := []string{fmt.Sprintf("Job.batch/report-%d", zipf.Uint64()), "Running"}
				if i%4 == 0 {
					by = []string{fmt.Sprintf("once-%d", i), strings.Repeat(fmt.Sprint(i, "-"), i%300)}
				}
				bytes := r.Int64N(2000)
				table.Add(by, 1, bytes)
				want.add(by, 1, bytes)
			}
			checkMerged(t, table, want)
			if name == "groups" || name == "bytes" {
				best := want.sorted(ByObjects)[:5]
				for i, g := range keep(table, ByObjects, 5) {
					if !slices.Equal(g.By, best[i].By) {
						t.Errorf("%d is %v, want %v", i, g.By, best[i].By)
					}
				}
			}
			if limits.Groups > 0 && table.Len() > limits.Groups {
				t.Errorf("%d groups", table.Len())
			}
		})
	}
}

func checkMerged(t *testing.T, table *Table, want fold) {
	t.Helper()
	m := table.Merged()
	sum := Merged{Objects: m.Objects, Bytes: m.Bytes}
	shortObjects, shortBytes := table.Shortfall()
	there := map[string]bool{}
	for g := range table.Sorted(ByObjects, 0) {
		sum.Objects += g.Objects
		sum.Bytes += g.Bytes
		id := strings.Join(g.By, "\x01")
		w := want[id]
		if w == nil || g.Objects > w.Objects || g.Bytes > w.Bytes {
			t.Fatalf("%.100v is more than was added", g)
		}
		if w.Objects-g.Objects > shortObjects || w.Bytes-g.Bytes > shortBytes {
			t.Fatalf("%.100v is short by more than %d, %d of %.100v", g, shortObjects, shortBytes, w)
		}
		there[id] = true
	}
	for id, w := range maps.All(want) {
		if (w.Objects > shortObjects || w.Bytes > shortBytes) && !there[id] {
			t.Fatalf("%.100v is missing, with a shortfall of %d, %d", w, shortObjects, shortBytes)
		}
	}
	objects, bytes := table.Total()
	if sum.Objects != objects || sum.Bytes != bytes || m.Groups == 0 {
		t.Errorf("the groups and the rest %+v add up to %d, %d, in all %d, %d", m, sum.Objects, sum.Bytes, objects, bytes)
	}
	var all Merged
	for _, w := range want {
		all.Objects, all.Bytes = all.Objects+w.Objects, all.Bytes+w.Bytes
	}
	if objects != all.Objects || bytes != all.Bytes {
		t.Errorf("in all %d, %d, want %d, %d", objects, bytes, all.Objects, all.Bytes)
	}
}

func TestAddDoesNotAllocate(t *testing.T) {
	table := New(3, Limits{})
	names := owners(1000)
	by := make([]string, 3)
	add := func() {
		for i := range 1000 {
			by[0], by[1], by[2] = names(i), "Running", "team-a"
			table.Add(by, 1, 1600)
		}
	}
	add()
	texts := make([]string, 1000)
	for i := range texts {
		texts[i] = names(i)
	}
	if n := testing.AllocsPerRun(10, func() {
		for _, v := range texts {
			by[0], by[1], by[2] = v, "Running", "team-a"
			table.Add(by, 1, 1600)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// owners are names as controllers make them, n of them: Jobs of CronJobs and
// ReplicaSets of Deployments.
func owners(n int) func(i int) string {
	const letters = "bcdfghjklmnpqrstvwxz2456789"
	return func(i int) string {
		if i%2 == 0 {
			return fmt.Sprintf("Job.batch/nightly-report-%03d-%d", i%400, 29381234+i)
		}
		var hash [10]byte
		for at, rest := 0, uint64(i)*0x9E3779B97F4A7C15; at < len(hash); at++ {
			hash[at] = letters[rest%27]
			rest /= 27
		}
		return fmt.Sprintf("ReplicaSet.apps/checkout-%03d-%s", i%600, hash)
	}
}

// TestMemory: two million groups are exact within the default limit, and take
// what the limit says, sorting included.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	phases := []string{"Running", "Pending", "Succeeded", "Failed", "<none>"}
	const n = defaultGroups
	for columns := 1; columns <= 3; columns++ {
		name := owners(n)
		before := heap()
		table := New(columns, Limits{})
		by := make([]string, 3)
		length := 0
		for i := range n {
			by[0], by[1], by[2] = name(i), phases[i%5], fmt.Sprintf("node-%d.example.com", i%5000)
			table.Add(by[:columns], 1, 1600)
			length += len(by[0])
		}
		if table.Len() != n || table.Merged().Groups != 0 {
			t.Errorf("%d columns: %d groups, merged %+v", columns, table.Len(), table.Merged())
		}
		used := heap() - before
		next, stop := pull(table)
		next()
		sorting := heap() - before
		stop()
		t.Logf("%d columns: %.1f bytes a name; %.1f MiB, %.1f while sorted; the table says %.1f", columns, float64(length)/n,
			mib(used), mib(sorting), mib(table.store.size(64)))
		if sorting > defaultBytes {
			t.Errorf("%d columns take %.1f MiB", columns, mib(sorting))
		}
		runtime.KeepAlive(table)
	}
}

func pull(table *Table) (next func() (Group, bool), stop func()) {
	groups := make(chan Group)
	done := make(chan struct{})
	go func() {
		defer close(groups)
		for g := range table.Sorted(ByObjects, 0) {
			select {
			case groups <- g:
			case <-done:
				return
			}
		}
	}()
	return func() (Group, bool) { g, ok := <-groups; return g, ok }, func() { close(done); <-groups }
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// TestMemoryLimit: names that share nothing do not exceed the bytes.
func TestMemoryLimit(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	before := heap()
	table := New(1, Limits{Bytes: 8 << 20})
	r := rand.New(rand.NewPCG(5, 6))
	largest := int64(0)
	for i := range 400_000 {
		name := fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64())
		if i%1000 == 0 {
			name = strings.Repeat(name, 100)
			largest = max(largest, heap()-before)
		}
		table.Add([]string{name}, 1, 1)
	}
	if table.Merged().Groups == 0 {
		t.Error("nothing was merged")
	}
	if largest > 9<<20 {
		t.Errorf("%.1f MiB", mib(largest))
	}
	runtime.KeepAlive(table)
}

func BenchmarkAdd(b *testing.B) {
	for _, n := range []int{50, 10_000, 1_000_000} {
		name := owners(n)
		texts := make([]string, n)
		for i := range texts {
			texts[i] = name(i)
		}
		b.Run(fmt.Sprintf("known/%d", n), func(b *testing.B) {
			table := New(2, Limits{})
			by := []string{"", "Running"}
			for _, v := range texts {
				by[0] = v
				table.Add(by, 1, 1)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				by[0] = texts[i%n]
				table.Add(by, 1, 1)
			}
		})
		b.Run(fmt.Sprintf("new/%d", n), func(b *testing.B) {
			by := []string{"", "Running"}
			for b.Loop() {
				table := New(2, Limits{})
				for _, v := range texts {
					by[0] = v
					table.Add(by, 1, 1)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/group")
		})
		b.Run(fmt.Sprintf("sorted/%d", n), func(b *testing.B) {
			table := New(2, Limits{})
			by := []string{"", "Running"}
			for i, v := range texts {
				by[0] = v
				table.Add(by, cmp.Or(int64(i%7), 1), 1)
			}
			for b.Loop() {
				for range table.Sorted(ByObjects, 0) {
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/group")
		})
	}
}
