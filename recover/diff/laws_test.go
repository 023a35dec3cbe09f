package diff

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	utiljson "k8s.io/apimachinery/pkg/util/json"
)

func parse(tb testing.TB, text string) object {
	tb.Helper()
	var o object
	if err := utiljson.Unmarshal([]byte(text), &o); err != nil {
		tb.Fatalf("%s: %v", text, err)
	}
	return o
}

// checkLaws holds what the package promises: an object does not differ from
// itself; the changes turn old into new; the other way round they are the same
// with their sides swapped, but for indexes; they are sorted, each at its own
// path.
func checkLaws(t *testing.T, old, new object) {
	t.Helper()
	for _, o := range []object{old, new} {
		if got := Objects(o, o, nil); len(got) != 0 {
			t.Errorf("an object differs from itself: %s", got[0])
		}
	}
	changes := Objects(old, new, nil)
	got, _ := clone(old).(object)
	if got == nil {
		got = object{}
	}
	apply(t, got, changes)
	if want := arranged(old, new); !same(got, want) {
		t.Errorf("the changes do not lead from old to new:\nold  %s\nnew  %s\ngot  %s\nwant %s\nby %q", text(old), text(new), text(got), text(want), texts(changes))
	}
	if want, got := swapped(changes), mirrored(Objects(new, old, nil)); !slices.Equal(got, want) {
		t.Errorf("the other way round it is %q, want %q", got, want)
	}
	for i, c := range changes[min(1, len(changes)):] {
		// An index is one of the old list for what was removed.
		if n := changes[i].Path.Compare(c.Path); n > 0 || n == 0 && (changes[i].Op != Removed || c.Op == Removed || c.Path[len(c.Path)-1].Kind != Index) {
			t.Errorf("%s stands before %s", changes[i], c)
		}
	}
}

// mirrored tells changes without the indexes of lists, sorted.
func mirrored(changes []Change) (all []string) {
	for _, c := range changes {
		p := slices.Clone(c.Path)
		for i := range p {
			p[i].Index = 0
		}
		sides := list{c.Old, c.New}
		for i, v := range sides {
			h := sha256.New()
			(&comparer{effort: maxEffort}).write(h, v, 0)
			sides[i] = fmt.Sprintf("%x", h.Sum(nil))[:8]
		}
		last := ""
		if len(p) > 0 {
			last = p[len(p)-1].id()
		}
		all = append(all, fmt.Sprint(p, last, c.Op, sides))
	}
	slices.Sort(all)
	return all
}

// swapped is mirrored of what they are the other way round.
func swapped(changes []Change) []string {
	ops := map[Op]Op{Added: Removed, Removed: Added, Changed: Changed, Reordered: Reordered}
	var back []Change
	for _, c := range changes {
		back = append(back, Change{c.Path, ops[c.Op], c.New, c.Old})
	}
	return mirrored(back)
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b[:min(len(b), 2000)])
}

func clone(v any) any {
	switch v := v.(type) {
	case object:
		c := object{}
		for name, w := range v {
			c[name] = clone(w)
		}
		return c
	case list:
		c := list{}
		for _, w := range v {
			c = append(c, clone(w))
		}
		return c
	}
	return v
}

// same is equality in which 2 and 2.0 are one number.
func same(a, b any) bool {
	switch a := a.(type) {
	case object:
		b, ok := b.(object)
		if !ok || len(a) != len(b) {
			return false
		}
		for name, v := range a {
			if w, ok := b[name]; !ok || !same(v, w) {
				return false
			}
		}
		return true
	case list:
		b, ok := b.(list)
		return ok && slices.EqualFunc(a, b, same)
	}
	return equal(a, b)
}

// arranged is new with the elements that old has not at the end of matched
// lists, sorted, because where they stand is not told.
func arranged(old, new any) any {
	switch new := new.(type) {
	case object:
		old, _ := old.(object)
		c := object{}
		for name, v := range new {
			c[name] = v
			if w, ok := old[name]; ok {
				c[name] = arranged(w, v)
			}
		}
		return c
	case list:
		old, ok := old.(list)
		if !ok {
			return new
		}
		was, is, ok := match(old, new)
		if !ok {
			all := slices.Clone(new)
			for _, x := range (&comparer{effort: maxEffort}).align(old, new) {
				if x.old >= 0 && x.new >= 0 {
					all[x.new] = arranged(old[x.old], new[x.new])
				}
			}
			return all
		}
		var first list
		var last []int
		for i, v := range new {
			if j := slices.IndexFunc(was, func(s Step) bool { return s.id() == is[i].id() }); j >= 0 {
				first = append(first, arranged(old[j], v))
			} else {
				last = append(last, i)
			}
		}
		slices.SortFunc(last, func(i, j int) int { return Path{is[i]}.Compare(Path{is[j]}) })
		for _, i := range last {
			first = append(first, new[i])
		}
		return first
	}
	return new
}

// apply makes changes to an object: from the outside in, since a path leads
// through the new lists, and what is removed first, since its index is of the
// old list.
func apply(t *testing.T, o object, changes []Change) {
	t.Helper()
	level := func(c Change) int {
		if c.Op == Reordered {
			return len(c.Path) + 1 // a list is put in order when its elements are complete
		}
		return len(c.Path)
	}
	byLevel := map[int][]Change{}
	for _, c := range changes {
		byLevel[level(c)] = append(byLevel[level(c)], c)
	}
	for _, n := range slices.Sorted(maps.Keys(byLevel)) {
		for _, op := range []Op{Removed, Reordered, Added, Changed} {
			inOrder := slices.Clone(byLevel[n])
			if op == Removed {
				slices.Reverse(inOrder) // so that indexes stay right
			}
			for _, c := range inOrder {
				if c.Op == op {
					applyAt(t, o, c.Path, c)
				}
			}
		}
	}
}

func applyAt(t *testing.T, v any, p Path, c Change) any {
	t.Helper()
	if len(p) == 0 {
		if c.Op == Reordered {
			return reorder(v.(list), c.New.(list))
		}
		return clone(c.New)
	}
	if m, ok := v.(object); ok {
		if len(p) == 1 && c.Op == Removed {
			delete(m, p[0].Name)
		} else {
			m[p[0].Name] = applyAt(t, m[p[0].Name], p[1:], c)
		}
		return m
	}
	l, ok := v.(list)
	if !ok {
		t.Fatalf("%s leads to no list", c.Path)
	}
	i := place(l, p[0])
	switch {
	case len(p) == 1 && c.Op == Added && p[0].Kind == Index:
		return slices.Insert(l, i, clone(c.New))
	case len(p) == 1 && c.Op == Added:
		return append(l, clone(c.New))
	case i < 0 || i >= len(l):
		t.Fatalf("%s leads nowhere", c.Path)
	case len(p) == 1 && c.Op == Removed:
		return slices.Delete(l, i, i+1)
	}
	l[i] = applyAt(t, l[i], p[1:], c)
	return l
}

// place finds an element by what it is known by.
func place(l list, s Step) int {
	if s.Kind == Index {
		return s.Index
	}
	return slices.IndexFunc(l, func(v any) bool {
		if s.Kind == Element {
			return same(v, s.Value)
		}
		return slices.ContainsFunc(keys(), func(members []string) bool {
			found, ok := keyed(v, members)
			return ok && found == s
		})
	})
}

func reorder(l, order list) (sorted list) {
	for _, o := range order {
		s := Step{Kind: Element, Value: o}
		if _, isMap := l[0].(object); isMap {
			s = Step{Kind: Key, Name: o.(string)}
		}
		sorted = append(sorted, l[place(l, s)])
	}
	return sorted
}

// TestLawsOnRealObjects compares neighbours in what kubectl listed of a real
// cluster: objects of one kind, as different as they get.
func TestLawsOnRealObjects(t *testing.T) {
	t.Parallel()
	pairs := 0
	for name, objects := range expected(t) {
		for i := range len(objects) - 1 {
			checkLaws(t, objects[i], objects[i+1])
			pairs++
		}
		if t.Failed() {
			t.Fatalf("in %s", name)
		}
	}
	if pairs < 500 {
		t.Errorf("only %d pairs", pairs)
	}
}

func expected(t *testing.T) map[string][]object {
	t.Helper()
	in, err := os.Open("../../testdata/zoo-1.36/expected.tar.zst")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	z, err := zstd.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	all := map[string][]object{}
	for r := tar.NewReader(z); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(header.Name, ".json") {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range parse(t, string(data))["items"].(list) {
			all[header.Name] = append(all[header.Name], item.(object))
		}
	}
}

// TestLawsOnMadeObjects draws objects from few names and values, so that
// lists match, repeat and change their order often.
func TestLawsOnMadeObjects(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5_000) {
		r := rand.New(rand.NewPCG(seed, 1))
		old := object{"o": drawn(r, 4)}
		new := clone(old).(object)
		for range r.IntN(4) {
			new["o"] = bent(r, new["o"])
		}
		checkLaws(t, old, new)
		checkLaws(t, old, object{"o": drawn(r, 4)})
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
}

func drawn(r *rand.Rand, depth int) any {
	if depth == 0 {
		return list{nil, true, int64(1), int64(2), 2.0, 2.5, "a", "b", "c", ""}[r.IntN(10)]
	}
	switch r.IntN(4) {
	case 0:
		return drawn(r, 0)
	case 1:
		o := object{}
		for range r.IntN(5) {
			o[[]string{"name", "key", "port", "protocol", "x", "a/b"}[r.IntN(6)]] = drawn(r, depth-1)
		}
		return o
	case 2:
		l := list{}
		for i := range r.IntN(5) {
			l = append(l, object{"name": fmt.Sprint(i * r.IntN(3)), "port": int64(i), "v": drawn(r, depth-1)})
		}
		return l
	}
	l := list{}
	for range r.IntN(5) {
		l = append(l, drawn(r, r.IntN(depth)))
	}
	return l
}

// bent changes v a little, somewhere.
func bent(r *rand.Rand, v any) any {
	switch v := v.(type) {
	case object:
		for _, name := range names(v, nil) {
			if r.IntN(2) == 0 {
				v[name] = bent(r, v[name])
			}
		}
	case list:
		switch r.IntN(5) {
		case 0:
			return slices.Insert(v, r.IntN(len(v)+1), drawn(r, 2))
		case 1:
			if i := r.IntN(len(v) + 1); i < len(v) {
				return slices.Delete(v, i, i+1)
			}
		case 2:
			r.Shuffle(len(v), func(i, j int) { v[i], v[j] = v[j], v[i] })
		case 3:
			return append(v, drawn(r, 2))
		default:
			for i := range v {
				v[i] = bent(r, v[i])
			}
		}
	default:
		return drawn(r, 1)
	}
	return v
}

func FuzzObjects(f *testing.F) {
	f.Add(`{"a":[{"name":"x","v":1},{"name":"y"}],"f":["p","q"]}`, `{"a":[{"name":"y"},{"name":"x","v":2.0}],"f":["q"]}`)
	f.Add(`{"a":[1,1,{"port":53,"protocol":"TCP"}]}`, `{"a":null}`)
	f.Add(`{"":{"\u001b":[[[]]]}}`, `{"":{"\u001b":[[[{}]]]}}`)
	f.Fuzz(func(t *testing.T, a, b string) {
		var old, new object
		if utiljson.Unmarshal([]byte(a), &old) != nil || utiljson.Unmarshal([]byte(b), &new) != nil {
			return
		}
		checkLaws(t, old, new)
		for _, c := range texts(Objects(old, new, nil)) {
			if strings.ContainsFunc(c, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }) {
				t.Errorf("control characters in %q", c)
			}
		}
	})
}
