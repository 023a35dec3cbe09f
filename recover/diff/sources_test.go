package diff

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// shelf is a store of made objects.
type shelf []*mvccpb.KeyValue

func (s shelf) Revision() int64 { return 1 }

func (s shelf) Scan(_ context.Context, r keyspace.Range, _ bool, fn func(*mvccpb.KeyValue) error) error {
	for _, kv := range s {
		if key := string(kv.Key); key == r.Start || key >= r.Start && key < r.End {
			if err := fn(kv); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s shelf) Count(context.Context, keyspace.Range) (int64, error) { return int64(len(s)), nil }

func (s shelf) Get(_ context.Context, key string) (*mvccpb.KeyValue, error) {
	for _, kv := range s {
		if string(kv.Key) == key {
			return kv, nil
		}
	}
	return nil, nil
}

func (s shelf) GetAll(context.Context, []string) (map[string]*mvccpb.KeyValue, error) {
	return nil, errors.New("not asked for here")
}

const below = "/registry/"

// stored makes a store of values by the rest of their keys.
func stored(prefix string, values map[string]string) shelf {
	var s shelf
	for i, name := range slices.Sorted(maps.Keys(values)) {
		s = append(s, &mvccpb.KeyValue{Key: []byte(prefix + name), Value: []byte(values[name]), ModRevision: int64(i + 1)})
	}
	return s
}

// sideOf selects in a store.
func sideOf(t *testing.T, s shelf, prefix string, sel filter.Selection) Side {
	t.Helper()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	f, err := filter.New(sel, reader, filter.NewOwners(s, reader, nil))
	if err != nil {
		t.Fatal(err)
	}
	side := Side{Reader: reader}
	for _, r := range f.Ranges() {
		side.Parts = append(side.Parts, Part{Source: s, Range: r, Filter: f})
	}
	return side
}

func whole(o *filter.Object) (Decoded, error) {
	shown, err := codec.Show(o.Plain, o.KV.ModRevision, o.Key.Resource)
	if err != nil {
		return Decoded{}, err
	}
	fields, err := codec.Render(shown.Object, codec.RenderOptions{ShowSecrets: true})
	return Decoded{fields, shown.Omitted}, err
}

// told is a difference in a line.
func told(d *Difference) string {
	o := d.Object()
	words := []string{string(d.Op), o.Name()}
	if d.Class != "" {
		words = append(words, string(d.Class))
	}
	if d.Recreated {
		words = append(words, "recreated")
	}
	if d.Err != nil {
		words = append(words, fmt.Sprintf("(%v)", d.Err))
	}
	for _, c := range d.Changes {
		words = append(words, c.String())
	}
	return strings.Join(words, " ")
}

func compare(t *testing.T, req Request) (lines []string, sum *Summary) {
	t.Helper()
	if req.Decode == nil {
		req.Decode = whole
	}
	sum, err := Sources(t.Context(), req, func(d *Difference) error {
		lines = append(lines, told(d))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines, sum
}

// cm is a ConfigMap with a UID, a label and one entry.
func cm(name, uid, label, value string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q,"namespace":"team","uid":%q,"labels":{"app":%q}},"data":{"a":%q}}`, name, uid, label, value)
}

// withStatus is a custom object.
func withStatus(spec, status int, more string) string {
	return fmt.Sprintf(`{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"t","namespace":"team","uid":"u"%s},"spec":{"n":%d},"status":{"n":%d}}`, more, spec, status)
}

const thing = "example.com/things/team/t"

func TestSources(t *testing.T) {
	t.Parallel()
	const key = "configmaps/team/a"
	for _, tt := range []struct {
		name     string
		old, new map[string]string
		want     []string
	}{
		{"nothing", nil, nil, nil},
		{"equal", map[string]string{key: cm("a", "u", "x", "1")}, map[string]string{key: cm("a", "u", "x", "1")}, nil},
		{"added", nil, map[string]string{key: cm("a", "u", "x", "1")}, []string{"added configmap team/a"}},
		{"removed", map[string]string{key: cm("a", "u", "x", "1")}, nil, []string{"removed configmap team/a"}},
		{"changed", map[string]string{key: cm("a", "u", "x", "1")}, map[string]string{key: cm("a", "u", "x", "2")},
			[]string{`changed configmap team/a configured data.a: "1" → "2"`}},
		{"recreated", map[string]string{key: cm("a", "u", "x", "1")}, map[string]string{key: cm("a", "v", "x", "1")},
			[]string{"changed configmap team/a configured recreated"}},
		{"recreated with another value", map[string]string{key: cm("a", "u", "x", "1")}, map[string]string{key: cm("a", "v", "x", "2")},
			[]string{`changed configmap team/a configured recreated data.a: "1" → "2"`}},
		{"status", map[string]string{thing: withStatus(1, 1, "")}, map[string]string{thing: withStatus(1, 2, `,"generation":3`)},
			[]string{"changed thing.example.com team/t status status.n: 1 → 2"}},
		{"spec and status", map[string]string{thing: withStatus(1, 1, "")}, map[string]string{thing: withStatus(2, 2, "")},
			[]string{"changed thing.example.com team/t configured spec.n: 1 → 2 status.n: 1 → 2"}},
		{"leader election", map[string]string{thing: withStatus(1, 1, `,"annotations":{"control-plane.alpha.kubernetes.io/leader":"a"}`)},
			map[string]string{thing: withStatus(1, 1, `,"annotations":{"control-plane.alpha.kubernetes.io/leader":"b"}`)},
			[]string{`changed thing.example.com team/t status metadata.annotations[control-plane.alpha.kubernetes.io/leader]: "a" → "b"`}},
		{"bookkeeping", map[string]string{thing: withStatus(1, 1, "")}, map[string]string{thing: withStatus(1, 1, `,"generation":2,"managedFields":[{"manager":"m"}]`)},
			[]string{"changed thing.example.com team/t rewritten"}},
		{"unreadable", map[string]string{key: cm("a", "u", "x", "1")}, map[string]string{key: "??"},
			[]string{"changed configmap team/a unreadable (the new one: value cannot be decoded: 2 bytes of no known form)"}},
		{"encrypted", map[string]string{key: "k8s:enc:aescbc:v1:k:1"}, map[string]string{key: "k8s:enc:aescbc:v1:k:2"},
			[]string{"changed configmap team/a unreadable (the old one: value is encrypted by provider aescbc:v1:k\nthe new one: value is encrypted by provider aescbc:v1:k)"}},
		{"no object's key", map[string]string{"odd": "1", "a": "x"}, map[string]string{"odd": "2"},
			[]string{"removed /registry/a", "changed /registry/odd unreadable (the old one: value cannot be decoded: 1 bytes of no known form\nthe new one: value cannot be decoded: 1 bytes of no known form)"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			old, new := stored(below, tt.old), stored(below, tt.new)
			got, _ := compare(t, Request{Old: learning(sideOf(t, old, below, filter.Selection{})), New: learning(sideOf(t, new, below, filter.Selection{}))})
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// learning makes a side learn custom kinds from what it reads, as a session
// does.
func learning(s Side) Side {
	s.Inspect = func(ctx context.Context, f *filter.Filter, kv *mvccpb.KeyValue) (filter.Object, error) {
		if o := f.Inspect(ctx, kv); o.Head.Err == nil {
			_, _ = s.Reader.Catalog.AddStored(s.Reader.Prefix, string(kv.Key), o.Head.Meta)
		}
		return f.Inspect(ctx, kv), nil
	}
	return s
}

// TestSourcesSelection: an object counts if it is selected on either side, and
// what a filter cannot decide on is counted apart.
func TestSourcesSelection(t *testing.T) {
	t.Parallel()
	old := stored(below, map[string]string{
		"configmaps/team/in": cm("in", "1", "other", "1"), "configmaps/team/out": cm("out", "2", "web", "1"), "configmaps/team/never": cm("never", "3", "other", "1"),
		"configmaps/team/gone": cm("gone", "4", "web", "1"), "configmaps/team/same": cm("same", "5", "web", "1"), "configmaps/team/broken": "?",
	})
	new := stored(below, map[string]string{
		"configmaps/team/in": cm("in", "1", "web", "1"), "configmaps/team/out": cm("out", "2", "other", "1"), "configmaps/team/never": cm("never", "3", "other", "2"),
		"configmaps/team/same": cm("same", "5", "web", "1"), "configmaps/team/broken": "!",
	})
	sel := filter.Selection{Resource: "configmaps", Namespace: "team", Labels: "app=web"}
	got, sum := compare(t, Request{Old: sideOf(t, old, below, sel), New: sideOf(t, new, below, sel)})
	want := []string{
		"removed configmap team/gone",
		`changed configmap team/in configured metadata.labels.app: "other" → "web"`,
		`changed configmap team/out configured metadata.labels.app: "web" → "other"`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if sum.Undecided != 1 || sum.Total.Before != 4 || sum.Total.After != 3 || sum.Total.Removed != 1 || sum.Total.Configured != 2 {
		t.Errorf("%+v", sum)
	}
}

// TestSourcesPrefixes: stores with different prefixes are compared below them.
func TestSourcesPrefixes(t *testing.T) {
	t.Parallel()
	old := stored(below, map[string]string{"configmaps/team/a": cm("a", "u", "x", "1"), "configmaps/team/b": cm("b", "v", "x", "1")})
	new := stored("/kubernetes.io/", map[string]string{"configmaps/team/a": cm("a", "u", "x", "2"), "configmaps/team/b": cm("b", "v", "x", "1")})
	got, _ := compare(t, Request{Old: sideOf(t, old, below, filter.Selection{}), New: sideOf(t, new, "/kubernetes.io/", filter.Selection{})})
	if d := cmp.Diff([]string{`changed configmap team/a configured data.a: "1" → "2"`}, got); d != "" {
		t.Error(d)
	}
}

// TestSourcesPartial: what a partial store lacks is not compared.
func TestSourcesPartial(t *testing.T) {
	t.Parallel()
	few := stored(below, map[string]string{"configmaps/team/a": cm("a", "u", "x", "1"), "configmaps/team/gone": cm("gone", "v", "x", "1")})
	all := stored(below, map[string]string{"configmaps/team/a": cm("a", "u", "x", "2"), "configmaps/team/b": cm("b", "w", "x", "1"), "configmaps/team/c": cm("c", "z", "x", "1")})
	archive, store := sideOf(t, few, below, filter.Selection{}), sideOf(t, all, below, filter.Selection{})
	archive.Partial = func() bool { return true }
	got, sum := compare(t, Request{Old: archive, New: store})
	if d := cmp.Diff([]string{`changed configmap team/a configured data.a: "1" → "2"`, "removed configmap team/gone"}, got); d != "" || sum.Unmatched != 2 {
		t.Error(d, sum.Unmatched)
	}
	got, sum = compare(t, Request{Old: store, New: archive})
	if d := cmp.Diff([]string{`changed configmap team/a configured data.a: "2" → "1"`, "added configmap team/gone"}, got); d != "" || sum.Unmatched != 2 {
		t.Error(d, sum.Unmatched)
	}
}

// TestSourcesRoutine: what changes all the time is counted apart, and not
// decoded.
func TestSourcesRoutine(t *testing.T) {
	t.Parallel()
	old := stored(below, map[string]string{"events/team/a": "1", "events/team/b": "1", "configmaps/team/a": cm("a", "u", "x", "1")})
	new := stored(below, map[string]string{"events/team/a": "2", "events/team/c": "1", "configmaps/team/a": cm("a", "u", "x", "1")})
	got, sum := compare(t, Request{
		Old: sideOf(t, old, below, filter.Selection{}), New: sideOf(t, new, below, filter.Selection{}),
		Decode:  func(o *filter.Object) (Decoded, error) { return Decoded{}, fmt.Errorf("decoded %s", o.Name()) },
		Routine: func(r *codec.Resource) bool { return r != nil && r.Plural == "events" },
	})
	if d := cmp.Diff([]string{"changed event team/a routine", "removed event team/b routine", "added event team/c routine"}, got); d != "" {
		t.Error(d)
	}
	want := Counts{Before: 2, After: 2, BytesBefore: 2, BytesAfter: 2, Added: 1, Removed: 1, Routine: 1}
	if d := cmp.Diff(want, sum.Routine); d != "" || sum.Total.Before != 1 || sum.Total.Different() != 0 {
		t.Error(d, sum.Total)
	}
}

// TestSourcesErrors: errors of a store and of the receiver end the comparing,
// and so do keys that are not in order.
func TestSourcesErrors(t *testing.T) {
	t.Parallel()
	store := stored(below, map[string]string{"configmaps/team/a": cm("a", "u", "x", "1"), "configmaps/team/b": cm("b", "v", "x", "1")})
	disorder := shelf{store[1], store[0]}
	mine := errors.New("mine")
	nothing := func(*Difference) error { return nil }
	for _, tt := range []struct {
		name     string
		old, new shelf
		each     func(*Difference) error
		want     string
	}{
		{"receiver", store, nil, func(*Difference) error { return mine }, "mine"},
		{"old out of order", disorder, store, nothing, "keys are not in order"},
		{"new out of order", store, disorder, nothing, "keys are not in order"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			req := Request{Old: sideOf(t, tt.old, below, filter.Selection{}), New: sideOf(t, tt.new, below, filter.Selection{}), Decode: whole}
			if _, err := Sources(t.Context(), req, tt.each); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	req := Request{Old: sideOf(t, store, below, filter.Selection{}), New: sideOf(t, store, below, filter.Selection{}), Decode: whole}
	if _, err := Sources(ctx, req, nothing); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestSourcesLaws compares drawn stores: each difference is told once, in the
// order of keys; a store does not differ from itself; the other way round it
// is the same, with the sides swapped; and the sums agree with the stores.
func TestSourcesLaws(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(4, 9))
	draw := func() map[string]string {
		values := map[string]string{}
		for range r.IntN(30) {
			name, ns := fmt.Sprint("n", r.IntN(6)), fmt.Sprint("team", r.IntN(3))
			value := cm(name, fmt.Sprint(r.IntN(2)), "x", fmt.Sprint(r.IntN(2)))
			kind := []string{"configmaps", "secrets", "services/specs", "odd"}[r.IntN(4)]
			values[kind+"/"+ns+"/"+name] = value
		}
		return values
	}
	for range 60 {
		old, new := draw(), draw()
		checkStores(t, old, new)
		checkStores(t, old, old)
	}
}

func checkStores(t *testing.T, old, new map[string]string) {
	t.Helper()
	var want []string
	keys := maps.Clone(old)
	maps.Copy(keys, new)
	var bytes int64
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		was, had := old[key]
		is, has := new[key]
		bytes += int64(len(is) - len(was))
		switch {
		case !had:
			want = append(want, "added "+key)
		case !has:
			want = append(want, "removed "+key)
		case was != is:
			want = append(want, "changed "+key)
		}
	}
	all := func(old, new map[string]string) (got []string, sum *Summary) {
		req := Request{Old: sideOf(t, stored(below, old), below, filter.Selection{}), New: sideOf(t, stored(below, new), below, filter.Selection{}), Decode: whole}
		sum, err := Sources(t.Context(), req, func(d *Difference) error {
			got = append(got, string(d.Op)+" "+strings.TrimPrefix(string(d.Object().KV.Key), below))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return got, sum
	}
	got, sum := all(old, new)
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
	c := sum.Total
	if c.Before != int64(len(old)) || c.After != int64(len(new)) || c.After-c.Before != c.Added-c.Removed || c.Growth() != bytes || c.Different()+c.Rewritten != int64(len(got)) {
		t.Fatalf("%+v of %v", c, got)
	}
	var groups Counts
	for _, g := range sum.Groups {
		groups = groups.Plus(g.Counts)
	}
	if groups.Different() != c.Different() || groups.Growth() != c.Growth() {
		t.Fatalf("groups %+v, in all %+v", groups, c)
	}
	swap := strings.NewReplacer("added ", "removed ", "removed ", "added ")
	back, _ := all(new, old)
	for i := range back {
		back[i] = swap.Replace(back[i])
	}
	if d := cmp.Diff(want, back); d != "" {
		t.Fatalf("the other way round: %s", d)
	}
}

// TestGroupsAreBounded: what lies beyond is added up.
func TestGroupsAreBounded(t *testing.T) {
	t.Parallel()
	s := newSummary()
	for i := range MaxGroups + 5 {
		s.group(codec.Key{Namespace: fmt.Sprint(i)}, false).Added++
	}
	s.group(codec.Key{Namespace: strings.Repeat("x", 1<<20)}, false).Added++
	s.finish()
	if len(s.Groups) != MaxGroups || s.OtherGroups != 6 || s.Others.Added != 6 || s.Total.Added != MaxGroups+6 {
		t.Errorf("%d groups, %d others: %+v", len(s.Groups), s.OtherGroups, s.Others)
	}
	if s := newSummary(); true {
		s.group(codec.Key{Namespace: strings.Repeat("x", 1<<20)}, false).Added++
		s.finish()
		if n := len(s.Groups[0].Namespace); n > 1024 {
			t.Errorf("a namespace of %d bytes is kept", n)
		}
	}
}

func TestWriters(t *testing.T) {
	t.Parallel()
	managed := func(uid string, entries ...string) *filter.Object {
		var list []string
		for _, e := range entries {
			f := strings.Fields(e)
			list = append(list, fmt.Sprintf(`{"manager":%q,"operation":"Update","subresource":%q,"time":"2026-11-22T15:08:%sZ"}`, f[0], strings.TrimPrefix(f[1], "-"), f[2]))
		}
		value := fmt.Sprintf(`{"apiVersion":"v1","kind":"X","metadata":{"name":"x","uid":%q,"managedFields":[%s]}}`, uid, strings.Join(list, ","))
		return &filter.Object{Value: codec.Value{Plain: []byte(value), Head: codec.DecodeHead([]byte(value))}}
	}
	broken := &filter.Object{Value: codec.Value{Plain: []byte("?"), Head: codec.DecodeHead([]byte("?"))}}
	old := managed("u", "kubectl - 01", "kubelet status 02")
	for _, tt := range []struct {
		name       string
		old, new   *filter.Object
		configured bool
		want       string
	}{
		{"nobody", old, old, true, ""},
		{"one wrote again", old, managed("u", "kubectl - 05", "kubelet status 02"), true, "kubectl"},
		{"the newest last", old, managed("u", "edit - 09", "kubectl - 05", "kubelet status 02"), true, "kubectl edit"},
		{"status is left out", old, managed("u", "kubectl - 05", "kubelet status 06"), true, "kubectl"},
		{"unless there is no other", old, managed("u", "kubectl - 01", "kubelet status 06"), true, "kubelet"},
		{"or that is what changed", old, managed("u", "kubectl - 05", "kubelet status 06"), false, "kubectl kubelet"},
		{"another object", old, managed("v", "kubectl - 01", "kubelet status 02"), false, "kubectl kubelet"},
		{"a new one", nil, old, true, "kubectl"},
		{"one that is gone", old, nil, true, ""},
		{"unreadable", old, broken, true, ""},
	} {
		var names []string
		for _, e := range Writers(tt.old, tt.new, tt.configured) {
			names = append(names, e.Manager)
		}
		if got := strings.Join(names, " "); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
