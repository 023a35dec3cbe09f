package diff

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type object = map[string]any
type list = []any

func texts(changes []Change) (all []string) {
	for _, c := range changes {
		all = append(all, c.String())
	}
	return all
}

func TestObjects(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, old, new string
		want           []string
	}{
		{"same", `{"a":{"b":[1,"x",null,true,1.5]}}`, `{"a":{"b":[1,"x",null,true,1.5]}}`, nil},
		{"scalars", `{"a":1,"b":"x","c":true,"d":null,"e":1.5}`, `{"a":2,"b":"y","c":false,"d":0,"e":"1.5"}`,
			[]string{"a: 1 → 2", `b: "x" → "y"`, "c: true → false", "d: null → 0", `e: 1.5 → "1.5"`}},
		{"the same number", `{"a":2,"b":0}`, `{"a":2.0,"b":-0.0}`, nil},
		{"large numbers", `{"a":9007199254740993,"b":9223372036854775807}`, `{"a":9007199254740992.0,"b":9223372036854775808.0}`,
			[]string{"a: 9007199254740993 → 9007199254740992", "b: 9223372036854775807 → 9223372036854776000"}},
		{"members", `{"spec":{"replicas":2,"paused":true}}`, `{"spec":{"replicas":5},"status":{"ready":1}}`,
			[]string{"spec.paused: removed true", "spec.replicas: 2 → 5", `status: added {"ready":1}`}},
		{"null is not absent", `{"a":null}`, `{"b":null}`, []string{"a: removed null", "b: added null"}},
		{"empty is not absent", `{"a":{},"b":[]}`, `{"c":""}`, []string{"a: removed {}", "b: removed []", `c: added ""`}},
		{"another type", `{"a":{"b":1},"c":[1]}`, `{"a":[1],"c":"x"}`, []string{`a: {"b":1} → [1]`, `c: [1] → "x"`}},
		{"label", `{"metadata":{"labels":{"app.kubernetes.io/name":"a","x":"1"}}}`, `{"metadata":{"labels":{"app.kubernetes.io/name":"b","pod-hash":"2"}}}`,
			[]string{`metadata.labels[app.kubernetes.io/name]: "a" → "b"`, `metadata.labels.pod-hash: added "2"`, `metadata.labels.x: removed "1"`}},
		{"container", `{"spec":{"containers":[{"name":"web","image":"a"},{"name":"log","image":"l"}]}}`,
			`{"spec":{"containers":[{"name":"init","image":"i"},{"name":"web","image":"b"}]}}`,
			[]string{`spec.containers[name=init]: added {"image":"i","name":"init"}`, `spec.containers[name=log]: removed {"image":"l","name":"log"}`,
				`spec.containers[name=web].image: "a" → "b"`}},
		{"only the order", `{"c":[{"name":"a"},{"name":"b"}],"f":["x","y"]}`, `{"c":[{"name":"b"},{"name":"a"}],"f":["y","x"]}`,
			[]string{`c: reordered ["name=a","name=b"] → ["name=b","name=a"]`, `f: reordered ["x","y"] → ["y","x"]`}},
		{"moved aside by another", `{"f":["x","y"]}`, `{"f":["new","x","y"]}`, []string{`f[]: added "new"`}},
		{"finalizers", `{"f":["x","y"]}`, `{"f":["y","z"]}`, []string{`f[]: removed "x"`, `f[]: added "z"`}},
		{"list from empty", `{"f":[],"c":[]}`, `{"f":["z"],"c":[{"name":"a"}]}`, []string{`c[name=a]: added {"name":"a"}`, `f[]: added "z"`}},
		{"repeated scalars", `{"args":["-v","-v","a"]}`, `{"args":["-v","b"]}`, []string{`args[1]: "-v" → "b"`, `args[2]: removed "a"`}},
		{"repeated names", `{"e":[{"name":"a","v":1},{"name":"a","v":2}]}`, `{"e":[{"name":"a","v":1},{"name":"a","v":3}]}`, []string{"e[1].v: 2 → 3"}},
		{"mounted twice", `{"m":[{"name":"v","mountPath":"/a"},{"name":"v","mountPath":"/b"}]}`, `{"m":[{"name":"v","mountPath":"/b"}]}`,
			[]string{`m[mountPath=/a]: removed {"mountPath":"/a","name":"v"}`}},
		{"ports", `{"p":[{"port":53,"protocol":"TCP"},{"port":53,"protocol":"UDP"}]}`, `{"p":[{"port":53,"protocol":"TCP"},{"port":53,"protocol":"UDP","nodePort":3}]}`,
			[]string{"p[port=53,protocol=UDP].nodePort: added 3"}},
		{"ports without protocol", `{"p":[{"containerPort":53}]}`, `{"p":[{"containerPort":54}]}`,
			[]string{`p[containerPort=53]: removed {"containerPort":53}`, `p[containerPort=54]: added {"containerPort":54}`}},
		{"conditions", `{"c":[{"type":"Ready","status":"True"}]}`, `{"c":[{"type":"Held","status":"True"},{"type":"Ready","status":"False"}]}`,
			[]string{`c[type=Held]: added {"status":"True","type":"Held"}`, `c[type=Ready].status: "True" → "False"`}},
		{"no common key", `{"r":[{"verbs":["get"]},{"name":"a"}]}`, `{"r":[{"verbs":["get","list"]},{"name":"a"}]}`, []string{`r[0].verbs[]: added "list"`}},
		{"maps and scalars", `{"r":[{"name":"a"},1]}`, `{"r":[{"name":"b"},1]}`, []string{`r[0].name: "a" → "b"`}},
		{"lists of lists", `{"r":[[1,1],[2]]}`, `{"r":[[1,2],[2],[3]]}`, []string{"r[0][1]: 1 → 2", "r[2]: added [3]"}},
		{"many by index", `{"r":[[],[],[],[],[],[],[],[],[],[],[1],[2]]}`, `{"r":[[],[],[3],[],[],[],[],[],[],[],[],[]]}`,
			[]string{"r[2]: added [3]", "r[11]: removed [2]", "r[11][]: removed 1"}},
		{"put in front", `{"r":[{"verbs":["a"]},{"verbs":["b"]},{"verbs":["c"]}]}`, `{"r":[{"verbs":["n"]},{"verbs":["a"]},{"verbs":["b"]},{"verbs":["c"]}]}`,
			[]string{`r[0]: added {"verbs":["n"]}`}},
		{"taken out of the middle", `{"args":["-v","a","-v","b"]}`, `{"args":["-v","-v","b"]}`, []string{`args[1]: removed "a"`}},
		{"changed behind what was put in", `{"r":[{"v":1,"w":1},{"v":2},{"v":3,"w":1}]}`, `{"r":[{"v":0},{"v":2},{"v":3,"w":2}]}`,
			[]string{`r[0].v: 1 → 0`, `r[0].w: removed 1`, `r[2].w: 1 → 2`}},
		{"an index of each list", `{"r":[[1],[2],[3],{},{"a":1}]}`, `{"r":[{},{"a":1},[4]]}`,
			[]string{"r[0]: removed [1]", "r[1]: removed [2]", "r[2]: removed [3]", "r[2]: added [4]"}},
		{"below what moved", `{"r":[[1,1],[0,2,2],{}]}`, `{"r":[{},[1,1],[0,2],{}]}`, []string{"r[0]: added {}", "r[2][2]: removed 2"}},
		{"numbers of two formats", `{"r":[[{"a":1}],[2]]}`, `{"r":[[],[{"a":1.0}],[2.0]]}`, []string{"r[0]: added []"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			old, new := parse(t, tt.old), parse(t, tt.new)
			if diff := cmp.Diff(tt.want, texts(Objects(old, new, nil))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			checkLaws(t, old, new)
		})
	}
}

// TestNil: an object that is not there has no members.
func TestNil(t *testing.T) {
	t.Parallel()
	o := object{"b": int64(1), "a": object{"x": "y"}}
	want := []Change{{Path: Path{field("a")}, Op: Added, New: o["a"]}, {Path: Path{field("b")}, Op: Added, New: o["b"]}}
	if diff := cmp.Diff(want, Objects(nil, o, nil)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := Objects(nil, object{}, nil); len(got) != 0 {
		t.Errorf("nil and empty differ: %v", got)
	}
	checkLaws(t, nil, o)
}

func TestSkip(t *testing.T) {
	t.Parallel()
	old := parse(t, `{"metadata":{"resourceVersion":"1","managedFields":[{"manager":"a"}],"uid":"u","labels":{"resourceVersion":"1"}},"resourceVersion":"1"}`)
	new := parse(t, `{"metadata":{"resourceVersion":"2","uid":"v","labels":{"resourceVersion":"2"}},"resourceVersion":"2"}`)
	want := []string{`metadata.labels.resourceVersion: "1" → "2"`, `metadata.uid: "u" → "v"`, `resourceVersion: "1" → "2"`}
	if diff := cmp.Diff(want, texts(Objects(old, new, Bookkeeping))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Skipping works at every kind of step and for every op.
	old = parse(t, `{"a":[[1],[2],[3]],"s":["x","y"],"k":[{"name":"a"},{"name":"b","v":1}],"o":1}`)
	new = parse(t, `{"a":[[4]],"s":["y","z"],"k":[{"name":"b","v":2},{"name":"c"}],"n":1}`)
	for _, c := range Objects(old, new, nil) {
		left := Objects(old, new, func(p Path) bool { return p.Compare(c.Path) == 0 })
		if slices.ContainsFunc(left, func(l Change) bool { return l.Path.Compare(c.Path) == 0 }) || len(left) != len(Objects(old, new, nil))-1 {
			t.Errorf("without %s: %v", c.Path, left)
		}
	}
	if n := len(Objects(old, new, func(Path) bool { return true })); n != 0 {
		t.Errorf("%d changes though everything is skipped", n)
	}
}

func TestPathString(t *testing.T) {
	t.Parallel()
	tests := []struct {
		path Path
		want string
	}{
		{nil, ""},
		{Path{field("spec"), field("a_B-9")}, "spec.a_B-9"},
		{Path{field("a/b"), field("x")}, "[a/b].x"},
		{Path{field("data"), field("ca.crt")}, "data[ca.crt]"},
		{Path{field("-a"), field("a b"), field("")}, `[-a]["a b"][""]`},
		{Path{field("a"), field("2"), {Kind: Index, Index: 2}}, `a["2"][2]`},
		{Path{field("a=b"), field("x]"), field(`"`)}, `["a=b"]["x]"]["\""]`},
		{Path{field("\x1b[31m"), field("\u202e"), field("\xff"), field("ü")}, `["\x1b[31m"]["\u202e"]["\xff"][ü]`},
		{Path{field("c"), keyStep(t, "web"), field("image")}, "c[name=web].image"},
		{Path{keyStep(t, "5"), keyStep(t, int64(5)), keyStep(t, ""), keyStep(t, "a]"), keyStep(t, true), keyStep(t, "true")},
			`[name="5"][name=5][name=""][name="a]"][name=true][name="true"]`},
		{Path{field("f"), {Kind: Element, Value: "x"}}, "f[]"},
	}
	for _, tt := range tests {
		if got := tt.path.String(); got != tt.want {
			t.Errorf("%#v is %q, want %q", tt.path, got, tt.want)
		}
	}
}

func keyStep(t *testing.T, value any) Step {
	t.Helper()
	s, ok := keyed(object{"name": value}, []string{"name"})
	if !ok {
		t.Fatalf("%v is no key", value)
	}
	return s
}

func TestChangeString(t *testing.T) {
	t.Parallel()
	at := Path{field("a")}
	long := strings.Repeat("ü", 200)
	tests := []struct {
		change Change
		want   string
	}{
		{Change{at, Changed, "x", int64(5)}, `a: "x" → 5`},
		{Change{at, Added, nil, "<&>"}, `a: added "<&>"`},
		{Change{at, Removed, object{"b": list{nil, 1.5}}, nil}, `a: removed {"b":[null,1.5]}`},
		{Change{at, Reordered, list{"x", "y"}, list{"y", "x"}}, `a: reordered ["x","y"] → ["y","x"]`},
		{Change{at, Added, nil, strings.Repeat("x", 78)}, `a: added "` + strings.Repeat("x", 78) + `"`},
		{Change{at, Changed, long, "y"}, `a: "` + long[:2*79] + `… → "y"`},
		{Change{at, Added, nil, "\x1b[31m\n\u009b\u202e\u007f\U000e0001"}, `a: added "\u001b[31m\n\u009b\u202e\u007f\U000e0001"`},
		{Change{at, Changed, math.NaN(), math.Inf(-1)}, "a: NaN → -Inf"},
		{Change{at, Added, nil, list{math.NaN()}}, "a: added ([]interface {})"},
	}
	for _, tt := range tests {
		if got := tt.change.String(); got != tt.want {
			t.Errorf("got %s\nwant %s", got, tt.want)
		}
	}
}

// nested is an object as deep as it is asked to be.
func nested(depth int, inner any) object {
	for range depth - 1 {
		inner = object{"a": inner}
	}
	return object{"a": inner}
}

// TestDepth: what lies deeper than 200 members is one value.
func TestDepth(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	t.Parallel()
	for depth, want := range map[int]int{10: 11, 199: 200, 200: 200, 201: 200, 100_000: 200} {
		old, new := nested(depth, object{"x": "y"}), nested(depth, object{"x": "z"})
		got := Objects(old, new, nil)
		if len(got) != 1 || got[0].Op != Changed || len(got[0].Path) != want {
			t.Errorf("depth %d: %d changes, the first at depth %d, want %d", depth, len(got), len(got[0].Path), want)
		}
		if got := Objects(old, nested(depth, object{"x": "y"}), nil); len(got) != 0 {
			t.Errorf("depth %d: differs from itself", depth)
		}
	}
}

// TestStrangeValues: nothing that is no JSON makes it panic.
func TestStrangeValues(t *testing.T) {
	t.Parallel()
	loop := object{}
	loop["a"] = list{loop}
	values := list{nil, object(nil), list(nil), []string{"a"}, map[string]string{"a": "b"}, 1, uint8(1), []byte("x"), struct{ A any }{list{}},
		math.NaN(), math.Inf(1), 1e300, int64(math.MaxInt64), float64(math.MaxInt64), "\xff", "\x00", func() {}, loop, &loop}
	for i, a := range values {
		for j, b := range values {
			old, new := object{"x": a, "l": list{a, "s"}, "m": list{object{"name": a}}}, object{"x": b, "l": list{b, "s"}, "m": list{object{"name": b}}}
			got := texts(Objects(old, new, nil))
			if _, isFunc := a.(func()); i == j && len(got) != 0 && !isFunc {
				t.Errorf("%T differs from itself: %q", a, got)
			}
			if i != j && len(got) == 0 && fmt.Sprintf("%T", a) != fmt.Sprintf("%T", b) {
				t.Errorf("%T %d and %T %d are equal", a, i, b, j)
			}
		}
	}
}

// TestManyChanges: however much differs, few paths are made; what is left out
// is told as a whole.
func TestManyChanges(t *testing.T) {
	t.Parallel()
	many := func(n int, v string) object {
		o := object{}
		for i := range n {
			o[fmt.Sprintf("k%05d", i)] = v
		}
		return o
	}
	byIndex := func(n int, v string) list {
		l := list{v}
		for range n {
			l = append(l, v)
		}
		return l
	}
	tests := []struct {
		name     string
		old, new object
		want     int
		depth    int // of the first change
	}{
		{"as many as are told", object{"a": many(maxChanges, "x")}, object{"a": many(maxChanges, "y")}, maxChanges, 2},
		{"one more", object{"a": many(maxChanges+1, "x")}, object{"a": many(maxChanges+1, "y")}, 1, 1},
		{"a list", object{"a": byIndex(maxChanges, "x")}, object{"a": byIndex(maxChanges, "y")}, 1, 1},
		{"a set", object{"a": slices.Collect(anyKeys(many(maxChanges+1, "x")))}, object{"a": list{}}, 1, 1},
		{"added to a set", object{"a": list{}}, object{"a": slices.Collect(anyKeys(many(maxChanges+1, "x")))}, 1, 1},
		{"in two members", object{"a": many(3000, "x"), "b": many(3000, "x"), "c": many(5, "x")},
			object{"a": many(3000, "y"), "b": many(3000, "y"), "c": many(5, "y")}, 3000 + 1 + 5, 2},
		{"at the top", many(2*maxChanges, "x"), many(2*maxChanges, "y"), 2 * maxChanges, 1},
		{"deep", nested(150, many(maxChanges+1, "x")), nested(150, many(maxChanges+1, "y")), 1, 150},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := Objects(tt.old, tt.new, nil); len(got) != tt.want || len(got[0].Path) != tt.depth {
				t.Errorf("%d changes, the first at depth %d; want %d, %d", len(got), len(got[0].Path), tt.want, tt.depth)
			}
			checkLaws(t, tt.old, tt.new)
		})
	}
}

// TestLargeLists: what costs too much to be matched is compared by index, and
// the cost for one object is bounded however many lists it has.
func TestLargeLists(t *testing.T) {
	t.Parallel()
	numbered := func(n, from int) (l list) {
		for i := range n {
			l = append(l, list{int64(from + i)}, list{})
		}
		return l
	}
	if got := Objects(object{"a": numbered(100, 0)}, object{"a": numbered(100, 1)}, nil); len(got) != 4 {
		t.Errorf("%d changes of a list that moved on by one, want 4: %q", len(got), texts(got))
	}
	if got := Objects(object{"a": numbered(600, 0)}, object{"a": numbered(600, 1)}, nil); len(got) != 2*600 {
		t.Errorf("%d changes of a list that is too large, want %d", len(got), 2*600)
	}
	old, new := object{}, object{}
	for i := range 200 {
		old[fmt.Sprint(i)], new[fmt.Sprint(i)] = numbered(200, 0), numbered(200, 1)
	}
	c := &comparer{skip: func(Path) bool { return false }, effort: maxEffort}
	c.maps(nil, old, new)
	if c.effort < 0 || c.effort > 1<<18 {
		t.Errorf("effort %d is left", c.effort)
	}
}

func anyKeys(o object) func(func(any) bool) {
	return func(yield func(any) bool) {
		for _, name := range names(o, nil) {
			if !yield(name) {
				return
			}
		}
	}
}
