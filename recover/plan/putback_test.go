package plan

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// fields are more of an object than a thing has.
type fields = map[string]any

// kept is an object in a file or a store.
type kept struct {
	thing
	uid   string // another than that of its key
	more  fields
	raw   string // the value, if it is none of the above
	lease int64
}

func keep(key, kind string, more ...fields) kept {
	k := kept{thing: thing{key: prefix + key, kind: kind}, more: fields{}}
	for _, m := range more {
		k.more = merged(k.more, m)
	}
	return k
}

// by adds owners: "batch/v1 Job jobs/a/j" is a controller.
func (k kept) by(owners ...string) kept {
	for _, text := range owners {
		i := strings.LastIndex(text, " ")
		k.owners = append(k.owners, owner(text[:i], prefix+text[i+1:]))
	}
	return k
}

func (k kept) as(uid string) kept { k.uid = uid; return k }

func merged(into, from fields) fields {
	into = maps.Clone(into)
	for name, value := range from {
		inner, ok := value.(fields)
		old, both := into[name].(fields)
		if ok && both {
			value = merged(old, inner)
		}
		into[name] = value
	}
	return into
}

func (k kept) entry(t *testing.T, rev int64) *mvccpb.KeyValue {
	t.Helper()
	kv := k.thing.entry(rev)
	kv.Lease = k.lease
	var object fields
	if err := json.Unmarshal(kv.Value, &object); err != nil {
		t.Fatal(err)
	}
	object = merged(object, k.more)
	if k.uid != "" {
		object = merged(object, fields{"metadata": fields{"uid": k.uid}})
	}
	var err error
	if kv.Value, err = json.Marshal(object); err != nil {
		t.Fatal(err)
	}
	if k.raw != "" {
		kv.Value = []byte(k.raw)
	}
	return kv
}

func stored(t *testing.T, ttl map[int64]int64, objects ...kept) *snapshots.File {
	t.Helper()
	var kvs []*mvccpb.KeyValue
	for i, k := range objects {
		kvs = append(kvs, k.entry(t, int64(i)+5))
	}
	return archive(t, time.Time{}, ttl, kvs)
}

// putRequest asks to put back from f into now what sel selects.
func putRequest(t *testing.T, f *snapshots.File, from, now keyspace.Source, sel filter.Selection) PutBackRequest {
	t.Helper()
	w := &world{t, from}
	r := w.request(sel)
	return PutBackRequest{
		File: f, From: from, Filter: r.Filter, Owners: r.Owners, Now: now, Prefix: prefix,
		Reader: &codec.Reader{Catalog: r.Filter.Catalog(), Prefix: prefix},
	}
}

// careful holds callers to what a live etcd needs.
type careful struct {
	keyspace.Source
	t *testing.T
}

func (c careful) GetAll(ctx context.Context, keys []string) (map[string]*mvccpb.KeyValue, error) {
	if !slices.IsSorted(keys) || len(keys) > putBatch {
		c.t.Errorf("asked for %d keys, sorted %v", len(keys), slices.IsSorted(keys))
	}
	return c.Source.GetAll(ctx, keys)
}

// putsBack carries out the request as a preview that holds few keys in memory
// and into a plan, asserts that both say the same and that the steps name what
// stands in the file, and returns what was planned.
func putsBack(t *testing.T, req PutBackRequest) (*Summary, []line) {
	t.Helper()
	req.Now = careful{req.Now, t}
	spooled := req
	spooled.held = 1000
	preview, err := PutBack(t.Context(), spooled, nil)
	if err != nil {
		t.Fatal(err)
	}
	var sum *Summary
	lines := throughFile(t, func(out *Writer) error {
		sum, err = PutBack(t.Context(), req, out)
		return err
	})
	if diff := cmp.Diff(preview, sum, cmpopts.IgnoreUnexported(LiveOwner{})); diff != "" {
		t.Errorf("the preview differs (-preview +plan):\n%s", diff)
	}
	checkStages(t, sum, lines)
	for _, l := range lines {
		kv, err := req.File.At(position(t, l.Step.Position))
		if err != nil || string(kv.Key) != l.Step.Key || kv.ModRevision != l.Step.SourceModRevision || int64(len(kv.Value)) != l.Step.Size {
			t.Errorf("the step for %s does not stand at %s of the file: %v", l.Step.Key, l.Step.Position, err)
		}
	}
	return sum, lines
}

// everything of the prefix.
func everything() filter.Selection { return filter.Selection{AllNamespaces: true} }

func selects(resource, namespace string, names ...string) filter.Selection {
	return filter.Selection{Resource: resource, Namespace: namespace, Names: names}
}

// system is what every store has.
func system() kept { return keep("namespaces/kube-system", "v1 Namespace") }

// TestPutBackOfEachKindOfKey: absent, identical, and other bytes, with and
// without Replace.
func TestPutBackOfEachKindOfKey(t *testing.T) {
	t.Parallel()
	namespace := keep("namespaces/a", "v1 Namespace")
	gone, same, other := keep("configmaps/a/gone", "v1 ConfigMap"), keep("configmaps/a/same", "v1 ConfigMap"), keep("configmaps/a/other", "v1 ConfigMap")
	changed := keep("configmaps/a/other", "v1 ConfigMap", fields{"data": fields{"k": "now"}})
	f, now := stored(t, nil, gone, same, other), stored(t, nil, namespace, same, changed)
	req := putRequest(t, f, keyspace.FromFile(f), keyspace.FromFile(now), selects("configmaps", "a"))

	sum, lines := putsBack(t, req)
	value := gone.entry(t, 5).Value
	want := Step{
		Type: "step", Action: Put, Key: gone.key, UID: uidOf(gone.key), Resource: "configmap", Namespace: "a", Name: "gone",
		Size: int64(len(value)), Role: Restored, Reason: "selected by configmaps -n a", Position: "1_0", SourceModRevision: 5,
	}
	if diff := cmp.Diff([]line{{0, "configmap", want}}, lines); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if sum.Steps != 1 || sum.Present != 1 || sum.Differing != 1 || sum.Replacing != 0 || !slices.Equal(sum.DifferingKeys, []string{other.key}) {
		t.Errorf("%d steps, %d present, %d differing (%v), %d replacing", sum.Steps, sum.Present, sum.Differing, sum.DifferingKeys, sum.Replacing)
	}

	req.Replace = true
	sum, lines = putsBack(t, req)
	if len(lines) != 2 || sum.Present != 1 || sum.Differing != 0 || sum.Replacing != 1 || sum.DifferingKeys != nil {
		t.Fatalf("%d steps, %d present, %d differing, %d replacing", len(lines), sum.Present, sum.Differing, sum.Replacing)
	}
	there := changed.entry(t, 7)
	if got := lines[1].Step; got.Key != other.key || got.ModRevision != 7 || got.CreateRevision != 7 || got.SourceModRevision != 7 || got.Warnings != nil {
		t.Errorf("the replacement is %+v", got)
	}
	if got := lines[0].Step; got.ModRevision != 0 || got.CreateRevision != 0 {
		t.Errorf("what is missing must be absent: %+v", got)
	}
	if sum.ReplacedBytes != int64(len(there.Value)) {
		t.Errorf("%d bytes are replaced, want %d", sum.ReplacedBytes, len(there.Value))
	}
}

// crd defines the namespaced kind W of example.com, in versions.
func crd(plural string, versions ...string) kept {
	var list []fields
	for _, v := range versions {
		list = append(list, fields{"name": v})
	}
	return keep("apiextensions.k8s.io/customresourcedefinitions/"+plural+".example.com", "apiextensions.k8s.io/v1 CustomResourceDefinition", fields{
		"spec": fields{"group": "example.com", "scope": "Namespaced", "names": fields{"kind": "W", "plural": plural, "singular": "w"}, "versions": list},
	})
}

// TestPutBackInOrder: Namespaces, definitions, claims; owners before what they
// own, whether or not they are controllers; tokens last. Keys are in another
// order.
func TestPutBackInOrder(t *testing.T) {
	t.Parallel()
	byHand := keep("configmaps/a/part", "v1 ConfigMap").by("v1 Secret secrets/a/whole")
	byHand.owners[0].Controller = false
	f := stored(t, nil,
		crd("w", "v1"),
		byHand,
		keep("deployments/a/web", "apps/v1 Deployment").by("example.com/v1 W example.com/w/a/top"),
		keep("example.com/w/a/top", "example.com/v1 W"),
		keep("namespaces/a", "v1 Namespace"),
		keep("persistentvolumeclaims/a/c", "v1 PersistentVolumeClaim").by("apps/v1 StatefulSet statefulsets/a/db"),
		keep("persistentvolumes/v", "v1 PersistentVolume"),
		keep("pods/a/web-1-x", "v1 Pod").by("apps/v1 ReplicaSet replicasets/a/web-1"),
		keep("replicasets/a/web-1", "apps/v1 ReplicaSet").by("apps/v1 Deployment deployments/a/web"),
		keep("secrets/a/token", "v1 Secret", fields{"type": "kubernetes.io/service-account-token", "metadata": fields{"annotations": fields{"kubernetes.io/service-account.name": "s"}}}).by("v1 ServiceAccount serviceaccounts/a/s"),
		keep("secrets/a/whole", "v1 Secret"),
		keep("serviceaccounts/a/s", "v1 ServiceAccount"),
		keep("statefulsets/a/db", "apps/v1 StatefulSet"),
	)
	sum, lines := putsBack(t, putRequest(t, f, keyspace.FromFile(f), empty(t), everything()))
	if diff := cmp.Diff([]string{
		"0 restored namespaces/a",
		"1 restored apiextensions.k8s.io/customresourcedefinitions/w.example.com",
		"2 restored persistentvolumeclaims/a/c",
		"3 restored example.com/w/a/top",
		"4 restored deployments/a/web",
		"5 restored statefulsets/a/db",
		"6 restored replicasets/a/web-1",
		"7 restored pods/a/web-1-x",
		"8 restored persistentvolumes/v", "8 restored secrets/a/whole", "8 restored serviceaccounts/a/s",
		"9 restored configmaps/a/part",
		"10 restored secrets/a/token",
	}, order(lines)); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if sum.Owned != 6 {
		t.Errorf("%d owned", sum.Owned)
	}
}

// TestNamespaceWithAnOwnerComesAfterIt: the garbage collector would delete it,
// and all that is in it.
func TestNamespaceWithAnOwnerComesAfterIt(t *testing.T) {
	t.Parallel()
	f := stored(t, nil, keep("example.com/tenants/t", "example.com/v1 Tenant"), keep("namespaces/a", "v1 Namespace").by("example.com/v1 Tenant example.com/tenants/t"))
	_, lines := putsBack(t, putRequest(t, f, keyspace.FromFile(f), empty(t), everything()))
	if diff := cmp.Diff([]string{"0 restored example.com/tenants/t", "1 restored namespaces/a"}, order(lines)); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

// family is a Deployment with all below it, another pod, and a CronJob's chain.
func family() []kept {
	return []kept{
		keep("configmaps/a/notes", "v1 ConfigMap").by("v1 Pod pods/a/web-1-x"),
		keep("deployments/a/web", "apps/v1 Deployment"),
		keep("namespaces/a", "v1 Namespace"),
		keep("namespaces/b", "v1 Namespace"),
		keep("pods/a/alone", "v1 Pod"),
		keep("pods/a/web-1-x", "v1 Pod").by("apps/v1 ReplicaSet replicasets/a/web-1"),
		keep("pods/b/web-1-x", "v1 Pod").by("apps/v1 ReplicaSet replicasets/a/web-1"), // of another namespace
		keep("replicasets/a/web-1", "apps/v1 ReplicaSet").by("apps/v1 Deployment deployments/a/web"),
	}
}

// TestOwnersAndDependentsAreTakenAlong from the file.
func TestOwnersAndDependentsAreTakenAlong(t *testing.T) {
	t.Parallel()
	namespaces := []kept{keep("namespaces/a", "v1 Namespace"), keep("namespaces/b", "v1 Namespace")}
	for _, tt := range []struct {
		name                   string
		sel                    filter.Selection
		owners, dependents     bool
		there                  []kept
		want                   []string
		wantWarned, wantReason string
	}{
		{
			name: "neither", sel: selects("replicasets.apps", "a", "web-1"),
			want: []string{"0 restored replicasets/a/web-1"}, wantWarned: ownerInFile,
		},
		{
			name: "owners", sel: selects("pods", "a", "web-1-x"), owners: true,
			want: []string{"0 restored deployments/a/web", "1 restored replicasets/a/web-1", "2 restored pods/a/web-1-x"}, wantReason: "owner of what is selected",
		},
		{
			name: "owners that are there stay as they are", sel: selects("pods", "a", "web-1-x"), owners: true,
			there: []kept{keep("deployments/a/web", "apps/v1 Deployment", fields{"spec": fields{"replicas": 7}})},
			want:  []string{"0 restored replicasets/a/web-1", "1 restored pods/a/web-1-x"},
		},
		{
			name: "owners that were made again are no owners", sel: selects("pods", "a", "web-1-x"), owners: true,
			there: []kept{keep("replicasets/a/web-1", "apps/v1 ReplicaSet").as("new")},
			want:  []string{"0 restored pods/a/web-1-x"}, wantWarned: ownerAgain,
		},
		{
			name: "dependents", sel: selects("deployments.apps", "a", "web"), dependents: true,
			want:       []string{"0 restored deployments/a/web", "1 restored replicasets/a/web-1", "2 restored pods/a/web-1-x", "3 restored configmaps/a/notes"},
			wantReason: "selected by deployments.apps web -n a",
		},
		{
			name: "dependents of what is there already", sel: selects("deployments.apps", "a", "web"), dependents: true,
			there: []kept{keep("deployments/a/web", "apps/v1 Deployment")},
			want:  []string{"0 restored replicasets/a/web-1", "1 restored pods/a/web-1-x", "2 restored configmaps/a/notes"}, wantReason: "owned by what is selected",
		},
		{
			name: "both", sel: selects("replicasets.apps", "a", "web-1"), owners: true, dependents: true,
			want: []string{"0 restored deployments/a/web", "1 restored replicasets/a/web-1", "2 restored pods/a/web-1-x", "3 restored configmaps/a/notes"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f, now := stored(t, nil, family()...), stored(t, nil, append(slices.Clone(namespaces), tt.there...)...)
			req := putRequest(t, f, keyspace.FromFile(f), keyspace.FromFile(now), tt.sel)
			req.WithOwners, req.WithDependents = tt.owners, tt.dependents
			sum, lines := putsBack(t, req)
			if diff := cmp.Diff(tt.want, order(lines)); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
			if sum.Differing != 0 {
				t.Errorf("%v was picked, and is there", sum.DifferingKeys)
			}
			if tt.wantReason != "" && lines[0].Step.Reason != tt.wantReason {
				t.Errorf("the reason is %q, want %q", lines[0].Step.Reason, tt.wantReason)
			}
			var want []string
			if tt.wantWarned != "" {
				want = []string{tt.wantWarned}
			}
			if got := reasons(sum); !slices.Equal(got, want) {
				t.Errorf("warnings %q, want %q", got, want)
			}
		})
	}
}

func reasons(sum *Summary) (texts []string) {
	for _, w := range sum.PutWarnings {
		texts = append(texts, w.Reason)
	}
	return texts
}

// TestCircleOfOwnersIsPutBack, each object once.
func TestCircleOfOwnersIsPutBack(t *testing.T) {
	t.Parallel()
	f := stored(t, nil, keep("configmaps/a/x", "v1 ConfigMap").by("v1 ConfigMap configmaps/a/y"), keep("configmaps/a/y", "v1 ConfigMap").by("v1 ConfigMap configmaps/a/x"))
	now := stored(t, nil, keep("namespaces/a", "v1 Namespace"))
	req := putRequest(t, f, keyspace.FromFile(f), keyspace.FromFile(now), selects("configmaps", "a", "x"))
	req.WithOwners, req.WithDependents = true, true
	sum, _ := putsBack(t, req)
	if sum.Steps != 2 {
		t.Errorf("%d steps", sum.Steps)
	}
}

// TestLeasedObjectsComeBackOnlyIfAskedFor, and if the file knows how long they
// lived.
func TestLeasedObjectsComeBackOnlyIfAskedFor(t *testing.T) {
	t.Parallel()
	known, unknown := keep("events/a/known", "v1 Event"), keep("events/a/unknown", "v1 Event")
	known.lease, unknown.lease = 77, 78
	f := stored(t, map[int64]int64{77: 3600}, known, unknown)
	now := stored(t, nil, keep("namespaces/a", "v1 Namespace"))
	req := putRequest(t, f, keyspace.FromFile(f), keyspace.FromFile(now), selects("events", "a"))
	if sum, _ := putsBack(t, req); sum.Leased != 2 || sum.Steps != 0 {
		t.Errorf("%d leased, %d steps", sum.Leased, sum.Steps)
	}
	req.WithLeased = true
	sum, lines := putsBack(t, req)
	if sum.Leased != 1 || len(lines) != 1 || lines[0].Step.Lease != 77 || lines[0].Step.LeaseTTL != 3600 {
		t.Errorf("%d leased, steps %v", sum.Leased, lines)
	}
}

// TestEventsLookForNamespacesInTheMainStore.
func TestEventsLookForNamespacesInTheMainStore(t *testing.T) {
	t.Parallel()
	f, main := stored(t, nil, keep("events/a/e", "v1 Event")), stored(t, nil, keep("namespaces/a", "v1 Namespace"))
	req := putRequest(t, f, keyspace.FromFile(f), empty(t), selects("events", "a"))
	if sum, _ := putsBack(t, req); !slices.Equal(reasons(sum), []string{noNamespace}) {
		t.Errorf("warnings %q", reasons(sum))
	}
	req.Main = keyspace.FromFile(main)
	if sum, _ := putsBack(t, req); sum.PutWarnings != nil || sum.Steps != 1 {
		t.Errorf("%d steps, warnings %q", sum.Steps, reasons(sum))
	}
}

// TestContentsOfNamespacesArePutBack with the Namespace.
func TestContentsOfNamespacesArePutBack(t *testing.T) {
	t.Parallel()
	f := stored(t, nil, family()...)
	sel := selects("namespaces", "", "a")
	sel.Contents = &filter.Contents{Namespaces: []string{"a"}}
	sum, lines := putsBack(t, putRequest(t, f, keyspace.FromFile(f), empty(t), sel))
	if diff := cmp.Diff([]string{
		"0 restored namespaces/a", "1 restored deployments/a/web", "2 restored replicasets/a/web-1",
		"3 restored pods/a/alone", "3 restored pods/a/web-1-x", "4 restored configmaps/a/notes",
	}, order(lines)); diff != "" || sum.PutWarnings != nil {
		t.Errorf("warnings %q, steps (-want +got):\n%s", reasons(sum), diff)
	}
}

// TestUndecidedIsNotPutBack: what a filter cannot decide on is never selected.
func TestUndecidedIsNotPutBack(t *testing.T) {
	t.Parallel()
	secret := keep("secrets/a/s", "v1 Secret")
	secret.raw = "k8s:enc:aescbc:v1:key1:xxxx"
	f := stored(t, nil, secret)
	sel := selects("secrets", "a")
	sel.Labels = "app=web"
	if sum, _ := putsBack(t, putRequest(t, f, keyspace.FromFile(f), empty(t), sel)); sum.Undecided != 1 || sum.Steps != 0 {
		t.Errorf("%d undecided, %d steps", sum.Undecided, sum.Steps)
	}
}

// TestBrokenReadsLeaveNoPlan, wherever they break.
func TestBrokenReadsLeaveNoPlan(t *testing.T) {
	t.Parallel()
	f := stored(t, nil, family()...)
	for after := range 12 {
		now := &breaking{Source: empty(t), left: after}
		req := putRequest(t, f, keyspace.FromFile(f), now, everything())
		req.WithOwners = true
		sum, err := PutBack(t.Context(), req, nil)
		if now.left < 0 && (err == nil || sum != nil || !strings.Contains(err.Error(), errLost.Error())) {
			t.Errorf("after %d reads: %v, %v; want the error", after, sum, err)
		}
		if now.left >= 0 && err != nil {
			t.Errorf("after %d reads: %v", after, err)
		}
	}
}

// breaking fails after some reads.
type breaking struct {
	keyspace.Source
	left int
}

func (b *breaking) Get(ctx context.Context, key string) (*mvccpb.KeyValue, error) {
	if b.left--; b.left < 0 {
		return nil, errLost
	}
	return b.Source.Get(ctx, key)
}

func (b *breaking) GetAll(ctx context.Context, keys []string) (map[string]*mvccpb.KeyValue, error) {
	if b.left--; b.left < 0 {
		return nil, errLost
	}
	return b.Source.GetAll(ctx, keys)
}

// TestPutBackAftermath tells what is replaced from what is new.
func TestPutBackAftermath(t *testing.T) {
	t.Parallel()
	alive := Alive{Server: true, Manager: true}
	new, changed := PutBackAftermath([]string{"pods"}, 1, 0, alive), PutBackAftermath([]string{"pods"}, 1, 1, alive)
	if diff := cmp.Diff(UndoAftermath([]string{"pods"}, 1, alive), new); diff != "" {
		t.Errorf("without replacing (-undo +put-back):\n%s", diff)
	}
	if len(changed) != len(new) || changed[0].Text != seenChanged || fmt.Sprint(changed[1:]) != fmt.Sprint(new[1:]) {
		t.Errorf("with replacing: %v", changed)
	}
}
