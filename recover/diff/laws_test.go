package diff

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
// with their sides swapped; they are sorted, each at its own path.
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
	back := Objects(new, old, nil)
	if len(back) != len(changes) {
		t.Fatalf("%d changes, but %d back", len(changes), len(back))
	}
	swapped := map[Op]Op{Added: Removed, Removed: Added, Changed: Changed, Reordered: Reordered}
	for i, c := range changes {
		b := back[i]
		if b.Path.Compare(c.Path) != 0 || b.Op != swapped[c.Op] || !same(b.Old, c.New) || !same(b.New, c.Old) {
			t.Errorf("%s\nbut back %s", c, b)
		}
		if i > 0 && changes[i-1].Path.Compare(c.Path) >= 0 {
			t.Errorf("%s stands before %s", changes[i-1], c)
		}
	}
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
		var first list
		var last []int
		for i, v := range new {
			switch {
			case !ok && i < len(old):
				first = append(first, arranged(old[i], v))
			case !ok:
				first = append(first, v)
			default:
				if j := slices.IndexFunc(was, func(s Step) bool { return s.id() == is[i].id() }); j >= 0 {
					first = append(first, arranged(old[j], v))
				} else {
					last = append(last, i)
				}
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

// apply makes changes to an object.
func apply(t *testing.T, o object, changes []Change) {
	t.Helper()
	for _, op := range []Op{Changed, Removed, Reordered, Added} {
		inOrder := slices.Clone(changes)
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
		switch r.IntN(3) {
		case 0:
			r.Shuffle(len(v), func(i, j int) { v[i], v[j] = v[j], v[i] })
		case 1:
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
