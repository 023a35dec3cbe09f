package keyspace

import (
	"slices"
	"testing"
)

// dirs are what the keys of a random set begin with.
var dirs = []string{"", "/registry/pods/", "\xff", "a"}

// checkWalk reads r in pages of limit and holds the result against keys, and
// its cost against what no shape of keys may exceed.
func checkWalk(t testing.TB, keys []string, r Range, limit int) *index {
	t.Helper()
	x := &index{keys: keys}
	want := within(keys, r)
	if got := x.walk(t, r, limit); !slices.Equal(got, want) {
		t.Fatalf("%q in pages of %d: read %d keys, want %d", r, limit, len(got), len(want))
	}
	n := len(want)
	// A page that does not end its range is full, so that there are no more
	// of them than in the loop that always asks for all the rest.
	loop := 0
	for left := n; left > 0; left -= limit {
		loop += left
	}
	if x.visits > loop+n {
		t.Fatalf("%q in pages of %d: %d visits for %d keys, more than %d of the open loop", r, limit, x.visits, n, loop)
	}
	// Between two pages that are filled to a quarter, guesses end when they
	// cost more than the rest.
	if most := (4*n/limit + 1) * (n/requestVisits + 3); x.requests > most {
		t.Fatalf("%q in pages of %d: %d requests for %d keys, want at most %d", r, limit, x.requests, n, most)
	}
	return x
}

// TestRandomShapes: whatever the keys look like, each is read once, in order.
func TestRandomShapes(t *testing.T) {
	t.Parallel()
	keys, visits, requests, full := 0, 0, 0, 0
	seeds := uint64(2000)
	if testing.Short() {
		seeds = 200
	}
	for seed := range seeds {
		m := newMaker(seed)
		dir := dirs[m.IntN(len(dirs))]
		all := m.keys(dir, 400)
		r := m.rangeOver(dir, all)
		checkWalk(t, all[:min(len(all), 50)], r, 1+m.below(2))
		limit := minPage + m.below(200)
		x := checkWalk(t, all, r, limit)
		n := len(within(all, r))
		keys, visits = keys+n, visits+x.visits
		requests, full = requests+x.requests, full+n/limit+1
	}
	t.Logf("%d keys: %.2f visits a key, %.2f requests a full page", keys, float64(visits)/float64(keys), float64(requests)/float64(full))
	if visits > 12*keys || requests > 3*full {
		t.Errorf("%d keys took %d visits and %d requests, where full pages take %d", keys, visits, requests, full)
	}
}

// decoded is the key set that data spells: each entry keeps a part of the key
// before it, and adds bytes of its own.
func decoded(data []byte) (keys []string) {
	key := ""
	for len(data) > 1 {
		keep, add := int(data[0]), int(data[1]>>4)
		data = data[2:]
		add = min(add, len(data))
		key = key[:min(keep, len(key))] + string(data[:add])
		data = data[add:]
		if key != "" {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func FuzzBounds(f *testing.F) {
	f.Add("\x00", "\x00", byte(3), []byte("\x00\x30abc\x03\x10d\x02\x20zz\x00\x10\xff\x01\x10\xff\x02\x10\x00"))
	f.Add("/a", "/b", byte(0), []byte("\x00\x20/a\x02\x30pod\x05\x101\x05\x102\x05\x103\x02\x10x"))
	f.Add("b", "a", byte(9), []byte(nil))
	f.Fuzz(func(t *testing.T, start, end string, limit byte, data []byte) {
		if start == "" || end == "" {
			return // etcd has no such range
		}
		checkWalk(t, decoded(data), Range{start, end}, 1+int(limit))
	})
}
