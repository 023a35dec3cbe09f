package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/census"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// wholly selects namespaces with everything in them.
func wholly(names ...string) filter.Selection {
	slices.Sort(names)
	return filter.Selection{Resource: "namespaces", Names: names, Contents: &filter.Contents{Namespaces: names}}
}

// TestNamespaceGoesWithEverythingInIt: each namespace of a real cluster holds
// for a plan what a census of everything counts in it at the same revision.
func TestNamespaceGoesWithEverythingInIt(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	req := w.request(filter.Selection{Resource: "namespaces"})
	c, err := census.Take(t.Context(), census.Request{Source: w.src.(census.Source), Reader: &codec.Reader{Catalog: req.Filter.Catalog(), Prefix: prefix}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int64{}
	for _, cell := range c.Cells {
		if cell.Namespace != "" {
			want[cell.Namespace] += cell.Objects
		}
	}
	if len(want) < 10 {
		t.Fatalf("the census knows %d namespaces", len(want))
	}
	for name, n := range want {
		for _, whole := range []bool{false, true} {
			req := (&world{t, w.src}).request(wholly(name))
			req.Guard = filter.NewGuard(&codec.Reader{Catalog: req.Filter.Catalog(), Prefix: prefix}, w.src, filter.Overrides{Namespaces: []string{"kube-system", "kube-public", "kube-node-lease", "default"}, Kinds: filter.UnsafeKinds()})
			req.Whole = whole
			sum, err := Deletes(t.Context(), req, nil)
			if err != nil {
				t.Fatal(err)
			}
			ns, err := w.src.Get(t.Context(), prefix+"namespaces/"+name)
			if err != nil {
				t.Fatal(err)
			}
			own := int64(0)
			if ns != nil {
				own = 1
			}
			if sum.Steps != n+own || sum.Undecided != 0 || len(sum.Blocked) != 0 {
				t.Errorf("%s (whole %v): %d steps, the census counts %d and %d Namespace; undecided %d, blocked %v", name, whole, sum.Steps, n, own, sum.Undecided, sum.Blocked)
			}
			if last := sum.Stages[len(sum.Stages)-1]; own == 1 && last != (StageInfo{"namespace", 1}) {
				t.Errorf("%s: the last stage is %v", name, last)
			}
		}
	}
}

// TestSeveralNamespacesAreTheSumOfEach, and nothing is planned twice.
func TestSeveralNamespacesAreTheSumOfEach(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	var sum int64
	names := []string{"team", "team-x", "batch-jobs", "none"}
	for _, name := range names {
		one, _ := w.planned(w.request(wholly(name)))
		sum += one.Steps
	}
	all, lines := w.planned(w.request(wholly(names...)))
	if all.Steps != sum || all.Steps != int64(len(lines)) {
		t.Errorf("%d steps together, %d one by one", all.Steps, sum)
	}
	for _, l := range lines {
		if l.Step.Role == Content && (!slices.Contains(names, l.Step.Namespace) || !strings.Contains(l.Step.Key, "/"+l.Step.Namespace+"/")) {
			t.Errorf("%+v", l.Step)
		}
	}
}

// strangers are keys of all sorts in and around the namespace a.
func strangers(t *testing.T) *world {
	t.Helper()
	in := func(key, kind string) *mvccpb.KeyValue {
		parts := strings.Split(key, "/")
		apiVersion, kind, _ := strings.Cut(kind, " ")
		value := fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"name":%q,"namespace":%q,"uid":%q,"finalizers":["example.com/x"]}}`,
			apiVersion, kind, parts[len(parts)-1], parts[len(parts)-2], uidOf(key))
		return &mvccpb.KeyValue{Key: []byte(prefix + key), Value: []byte(value)}
	}
	raw := func(key, value string) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{Key: []byte(prefix + key), Value: []byte(value)}
	}
	const sealed = "k8s:enc:aescbc:v1:key1:\x00"
	kvs := []*mvccpb.KeyValue{
		in("pods/a/p", "v1 Pod"), in("pods/a-b/p", "v1 Pod"), in("pods/b/a", "v1 Pod"), raw("pods/a/p/q", "{}"),
		raw("secrets/a/sealed", sealed), raw("secrets/a/broken", "\x01"),
		in("services/specs/a/s", "v1 Service"), in("services/endpoints/a/s", "v1 Endpoints"),
		in("example.com/things/a/t", "example.com/v1 Thing"), raw("example.com/things/a/u", sealed), in("example.com/things/b/a", "example.com/v1 Thing"),
		raw("example.com/globals/a", `{"apiVersion":"example.com/v1","kind":"Global","metadata":{"name":"a","uid":"g"}}`),
		in("novelties/a/n", "novel.k8s.io/v1 Novelty"), in("novelties/b/n", "novel.k8s.io/v1 Novelty"),
		// Its definition was a namespaced one when these were written.
		raw("apiextensions.k8s.io/customresourcedefinitions/wides.example.com", `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition",`+
			`"metadata":{"name":"wides.example.com"},"spec":{"group":"example.com","scope":"Cluster","names":{"kind":"Wide","plural":"wides"}}}`),
		in("example.com/wides/a/w", "example.com/v1 Wide"), in("example.com/wides/a-b/w", "example.com/v1 Wide"),
		raw("example.com/wides/a", `{"apiVersion":"example.com/v1","kind":"Wide","metadata":{"name":"a","uid":"w"}}`),
		raw("oddities/a/sealed", sealed), raw("oddities/b/sealed", sealed),
		raw("clusterroles/a", `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"a"}}`),
		raw("namespaces/a", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a","uid":"ns"}}`),
		raw("namespaces/kube-system", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"kube-system","uid":"sys"}}`),
	}
	slices.SortFunc(kvs, func(x, y *mvccpb.KeyValue) int { return strings.Compare(string(x.Key), string(y.Key)) })
	for i, kv := range kvs {
		kv.CreateRevision, kv.ModRevision, kv.Version = int64(i)+1, int64(i)+1, 1
	}
	return &world{t, keyspace.FromFile(archive(t, time.Time{}, nil, kvs))}
}

// TestNothingIsLeftOutOfANamespace, whatever explains its key; and nothing of
// another is taken.
func TestNothingIsLeftOutOfANamespace(t *testing.T) {
	t.Parallel()
	for _, whole := range []bool{false, true} {
		w := strangers(t)
		req := w.request(wholly("a"))
		req.Whole = whole
		sum, lines := w.planned(req)
		var got []string
		for _, l := range lines {
			got = append(got, strings.TrimPrefix(l.Step.Key, prefix))
		}
		slices.Sort(got)
		want := []string{
			"example.com/things/a/t", "example.com/things/a/u", "example.com/wides/a/w", "namespaces/a", "novelties/a/n", "pods/a/p", "pods/a/p/q",
			"secrets/a/broken", "secrets/a/sealed", "services/endpoints/a/s", "services/specs/a/s",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("whole %v (-want +got):\n%s", whole, diff)
		}
		if reasons, _ := req.Filter.WhyUndecided(); sum.Undecided != 1 || len(reasons) != 1 || reasons[0].Key != prefix+"oddities/a/sealed" {
			t.Errorf("undecided %d: %v", sum.Undecided, reasons)
		}
		if last := lines[len(lines)-1].Step; last.Key != prefix+"namespaces/a" || last.Role != Selected {
			t.Errorf("the last step is %+v", last)
		}
		held, _ := sum.Held.Largest(0)
		if len(held) != 6 || held[0] != (Share{"example.com/x on endpoints", 1}) {
			t.Errorf("held by %v", held)
		}
	}
}

// TestContentsOnly leaves the Namespace, and what Kubernetes makes in each.
func TestContentsOnly(t *testing.T) {
	t.Parallel()
	w := made(t, thing{key: prefix + "configmaps/a/kube-root-ca.crt", kind: "v1 ConfigMap"}, thing{key: prefix + "configmaps/a/mine", kind: "v1 ConfigMap"},
		thing{key: prefix + "configmaps/b/kube-root-ca.crt", kind: "v1 ConfigMap"},
		thing{key: prefix + "namespaces/a", kind: "v1 Namespace"}, thing{key: prefix + "serviceaccounts/a/default", kind: "v1 ServiceAccount"})
	gone := func(name string) filter.Selection {
		sel := wholly(name)
		sel.Contents.Only = true
		return sel
	}
	sel := wholly("a")
	whole, _ := w.planned(w.request(sel))
	sel.Contents.Only = true
	sum, lines := w.planned(w.request(sel))
	if diff := cmp.Diff([]string{"0 content configmaps/a/mine"}, order(lines)); diff != "" || sum.Kept != 2 {
		t.Errorf("kept %d (-want +got):\n%s", sum.Kept, diff)
	}
	if sum, lines := w.planned(w.request(gone("b"))); len(lines) != 1 || sum.Kept != 0 {
		t.Errorf("where the Namespace is gone, nothing makes them again: %v, %d kept", order(lines), sum.Kept)
	}
	if whole.Steps != 4 || whole.Kept != 0 {
		t.Errorf("with the Namespace %d steps, %d kept", whole.Steps, whole.Kept)
	}
}

// TestNamespaceMadeSinceKeepsItsKey: labels may select one whose contents
// nobody has planned.
func TestNamespaceMadeSinceKeepsItsKey(t *testing.T) {
	t.Parallel()
	w := made(t, thing{key: prefix + "namespaces/new", kind: "v1 Namespace", labels: "app=x"}, thing{key: prefix + "namespaces/old", kind: "v1 Namespace", labels: "app=x"})
	_, lines := w.planned(w.request(filter.Selection{Resource: "namespaces", Labels: "app=x", Contents: &filter.Contents{Namespaces: []string{"old"}}}))
	if diff := cmp.Diff([]string{"0 selected namespaces/old"}, order(lines)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestPlansOfTwoEtcdsShareASummary.
func TestPlansOfTwoEtcdsShareASummary(t *testing.T) {
	t.Parallel()
	main := made(t, thing{key: prefix + "namespaces/a", kind: "v1 Namespace"}, thing{key: prefix + "pods/a/p", kind: "v1 Pod"})
	events := made(t, thing{key: prefix + "events/a/e", kind: "v1 Event"})
	sum, err := Deletes(t.Context(), events.request(wholly("a")), nil)
	if err != nil {
		t.Fatal(err)
	}
	req := main.request(wholly("a"))
	req.Summary = sum
	both, err := Deletes(t.Context(), req, nil)
	if err != nil || both != sum || sum.Steps != 3 || len(sum.First) != 3 {
		t.Errorf("%+v, %v", both, err)
	}
	if diff := cmp.Diff([]StageInfo{{"event", 1}, {"pod", 1}, {"namespace", 1}}, sum.Stages); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
}
