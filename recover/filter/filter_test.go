package filter_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// TestSelectedInTheZoo tries every flag on a real cluster's objects. Keys are
// given without the prefix.
func TestSelectedInTheZoo(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	if err := w.learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	type S = filter.Selection
	tests := []struct {
		name string
		sel  S
		want []string
	}{
		{"a name", S{Resource: "pods", Namespace: "team", Names: []string{"guarded"}}, []string{"pods/team/guarded"}},
		{"a name that is a prefix", S{Resource: "pods", Namespace: "team", Names: []string{"guard"}}, nil},
		{"names in no order", S{Resource: "pods", Namespace: "team", Names: []string{"unschedulable", "guarded", "guarded", "none"}},
			[]string{"pods/team/guarded", "pods/team/unschedulable"}},
		{"a name everywhere", S{Resource: "deployments.apps", Names: []string{"web"}}, []string{"deployments/team-x/web", "deployments/team/web"}},
		{"a name of a cluster-scoped resource", S{Resource: "nodes", Names: []string{"w-9"}}, []string{"minions/w-9"}},
		{"a namespace", S{Resource: "deployments.apps", Namespace: "team"}, []string{"deployments/team/api", "deployments/team/web"}},
		{"a namespace that begins like it", S{Resource: "deployments.apps", Namespace: "team-x"}, []string{"deployments/team-x/web"}},
		{"a namespace that is not there", S{Resource: "pods", Namespace: "tea"}, nil},
		{"a whole namespace", S{Namespace: "sandbox-7", Labels: "app=notebook"},
			[]string{"deployments/sandbox-7/notebook", "pods/sandbox-7/notebook-674cd6c774-l4m25", "replicasets/sandbox-7/notebook-674cd6c774"}},
		{"another group of the same kind", S{Resource: "jobs.batch.volcano.sh", Namespace: "team"}, []string{"batch.volcano.sh/jobs/team/train-0"}},
		{"a resource below another name", S{Resource: "services", Names: []string{"volcano-admission-service"}}, []string{"services/specs/volcano-system/volcano-admission-service"}},
		{"keys", S{Keys: []string{prefix + "pods/team/guarded", "talos:v1:x", prefix + "pods/team/none", "talos:v1:x"}}, []string{"pods/team/guarded", "talos:v1:x"}},
		{"keys and a namespace", S{Keys: []string{prefix + "pods/team/guarded", prefix + "minions/w-9"}, Namespace: "team"}, []string{"pods/team/guarded"}},
		{"keys and a flag", S{Keys: []string{prefix + "pods/team/guarded", prefix + "pods/team/guarded-live"}, Terminating: true}, []string{"pods/team/guarded"}},
		{"labels", S{Resource: "pods", Labels: "app=notebook"}, []string{"pods/sandbox-7/notebook-674cd6c774-l4m25"}},
		{"a set of labels", S{Resource: "deployments.apps", Labels: "app in (api, cache),app!=cache"}, []string{"deployments/team/api"}},
		{"labels that are absent", S{Resource: "pods", Namespace: "ops-tools", Labels: "!job-name,!app"}, []string{"pods/ops-tools/stuck-term"}},
		{"a finalizer", S{Resource: "pods", Finalizer: "example.com/drain-guard"}, []string{"pods/team/guarded", "pods/team/guarded-live"}},
		{"part of a finalizer", S{Resource: "pods", Finalizer: "example.com"}, nil},
		{"terminating", S{Resource: "pods", Namespace: "ops-tools", Terminating: true}, []string{"pods/ops-tools/stuck-term"}},
		{"terminating namespaces", S{Resource: "namespaces", Terminating: true}, []string{"namespaces/mirror-old", "namespaces/sandbox-7", "namespaces/tenant-gone"}},
		{"a phase", S{Resource: "pods", Phase: "Pending", Labels: "!job-name"}, []string{"pods/team/unschedulable"}},
		{"the phase of a namespace", S{Resource: "namespaces", Phase: "Terminating"}, []string{"namespaces/mirror-old", "namespaces/sandbox-7", "namespaces/tenant-gone"}},
		{"the phase of a volume", S{Resource: "persistentvolumes", Phase: "Failed"}, []string{"persistentvolumes/nfs-lost"}},
		{"the phase of a claim", S{Resource: "persistentvolumeclaims", Phase: "Pending"}, []string{"persistentvolumeclaims/data-lake/data-minio-2", "persistentvolumeclaims/team/scratch"}},
		{"a phase in other letters", S{Resource: "pods", Phase: "pending"}, nil},
		{"a node", S{Resource: "pods", Node: "w-3"}, []string{"pods/monitoring/node-exporter-wxq4t"}},
		{"a node, whatever the resource", S{Node: "w-3"}, []string{"pods/monitoring/node-exporter-wxq4t"}},
		{"everything at once", S{Resource: "pods", Namespace: "team", Names: []string{"guarded", "guarded-live"}, Labels: "!app", Fields: "spec.nodeName=w-2",
			Node: "w-2", Phase: "Running", OlderThan: "5s", NewerThan: "5s", Terminating: true, Finalizer: "example.com/drain-guard"}, []string{"pods/team/guarded"}},
		{"everything but one", S{Resource: "pods", Namespace: "team", Names: []string{"guarded", "guarded-live"}, Node: "w-9",
			Terminating: true, Finalizer: "example.com/drain-guard"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			kept, undecided := w.selects(tt.sel)
			if diff := cmp.Diff(tt.want, short(kept)); diff != "" {
				t.Errorf("%v (-want +got):\n%s", tt.sel, diff)
			}
			if tt.sel.Resource != "" && len(undecided) > 0 {
				t.Errorf("%v is not decided on %v", tt.sel, undecided)
			}
		})
	}
}

func TestFieldSelectors(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	tests := []struct {
		resource, namespace, fields string
		want                        []string
	}{
		{"pods", "team", "metadata.name=guarded", []string{"pods/team/guarded"}},
		{"pods", "", "metadata.namespace=sandbox-7", []string{"pods/sandbox-7/notebook-674cd6c774-l4m25"}},
		{"pods", "", "spec.nodeName=w-3", []string{"pods/monitoring/node-exporter-wxq4t"}},
		{"pods", "", "spec.nodeName=", []string{"pods/team/unschedulable"}},
		{"pods", "team-x", "status.phase!=Running", []string{"pods/team-x/web-5cb6fd8c79-7282x", "pods/team-x/web-5cb6fd8c79-pxq75"}},
		{"pods", "team-x", "status.phase=Failed,spec.nodeName!=w-1", []string{"pods/team-x/web-5cb6fd8c79-pxq75"}},
		{"pods", "ops-tools", "spec.restartPolicy!=Always,status.phase=Succeeded", []string{"pods/ops-tools/gc-manual-mr7l2"}},
		{"pods", "team", "spec.restartPolicy=Always,metadata.name==guarded", []string{"pods/team/guarded"}},
		// The key names an object, not what its value says.
		{"pods", "team", "metadata.name=ghost-copy", []string{"pods/team/ghost-copy"}},
		{"pods", "team", "metadata.name=ghost-copy,spec.restartPolicy=Always", []string{"pods/team/ghost-copy"}},
		{"jobs.batch", "batch-jobs", "status.successful=4", []string{"jobs/batch-jobs/etl-2026-07"}},
		{"namespaces", "", "status.phase=Terminating,metadata.name!=sandbox-7", []string{"namespaces/mirror-old", "namespaces/tenant-gone"}},
		{"nodes", "", "spec.unschedulable=true", []string{"minions/w-3"}},
		{"services", "", "spec.type=NodePort", []string{"services/specs/team/api"}},
		{"secrets", "team", "metadata.name=legacy-plain", []string{"secrets/team/legacy-plain"}},
		{"secrets", "team", "type!=example.com/none,metadata.name=legacy-plain", []string{"secrets/team/legacy-plain"}},
	}
	for _, tt := range tests {
		t.Run(tt.resource+" "+tt.fields, func(t *testing.T) {
			kept, _ := w.selects(filter.Selection{Resource: tt.resource, Namespace: tt.namespace, Fields: tt.fields})
			if diff := cmp.Diff(tt.want, short(kept)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestAges: both bounds take the very second in, and an object without a time
// is neither old nor new.
func TestAges(t *testing.T) {
	t.Parallel()
	at := func(created string) object {
		return object{APIVersion: "v1", Kind: "ConfigMap", Metadata: meta{CreationTimestamp: created}}
	}
	w := made(t, map[string]object{
		prefix + "configmaps/a/before": at("2026-11-22T14:59:59Z"), prefix + "configmaps/a/exact": at("2026-11-22T15:00:00Z"),
		prefix + "configmaps/a/after": at("2026-11-22T15:00:01Z"), prefix + "configmaps/a/future": at("2026-11-23T00:00:00Z"),
		prefix + "configmaps/a/week": at("2026-11-15T15:08:00Z"), prefix + "configmaps/a/none": at(""),
	})
	tests := []struct {
		older, newer string
		want         []string
	}{
		{"8m", "", []string{"before", "exact", "week"}},
		{"", "8m", []string{"after", "exact", "future"}},
		{"8m", "8m", []string{"exact"}},
		{"1h", "2w", []string{"week"}},
		{"1w", "", []string{"week"}},
		{"1w1s", "", nil},
		{"0", "", []string{"after", "before", "exact", "week"}},
		{"", "0", []string{"future"}},
		{"", "15250w", []string{"after", "before", "exact", "future", "week"}},
	}
	for _, tt := range tests {
		kept, _ := w.selects(filter.Selection{Resource: "configmaps", OlderThan: tt.older, NewerThan: tt.newer})
		for i := range kept {
			kept[i] = strings.TrimPrefix(kept[i], prefix+"configmaps/a/")
		}
		if diff := cmp.Diff(tt.want, kept); diff != "" {
			t.Errorf("older than %q, newer than %q (-want +got):\n%s", tt.older, tt.newer, diff)
		}
	}
}

// TestUndecidedIsNeverSelected: of a value that cannot be decoded no filter
// that needs it says keep, and none says that it does not match.
func TestUndecidedIsNeverSelected(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	type S = filter.Selection
	job := &filter.OwnerRef{Group: "batch", Kind: "Job", Name: "error-ret"}
	const encrypted, corrupt = prefix + "secrets/team/old-key-1", prefix + "configmaps/team/corrupt"
	tests := []struct {
		sel  S
		want filter.Decision // of the broken objects
	}{
		{S{}, filter.Keep},
		{S{Namespace: "team"}, filter.Keep},
		{S{Namespace: "team", Names: []string{"corrupt", "old-key-1"}}, filter.Keep},
		{S{Keys: []string{encrypted, corrupt}}, filter.Keep},
		{S{Namespace: "team-x", Terminating: true}, filter.Drop},
		{S{Labels: "!app"}, filter.Undecided},
		{S{Labels: "app!=web", Namespace: "team"}, filter.Undecided},
		{S{Keys: []string{encrypted, corrupt}, Terminating: true}, filter.Undecided},
		{S{Owner: job}, filter.Undecided},
		{S{OlderThan: "0"}, filter.Undecided},
		{S{NewerThan: "1w"}, filter.Undecided},
		{S{Terminating: true}, filter.Undecided},
		{S{Finalizer: "x"}, filter.Undecided},
		{S{Node: "w-9"}, filter.Undecided},
		{S{Phase: "Failed"}, filter.Undecided},
	}
	for _, tt := range tests {
		f := w.filter(tt.sel)
		for _, key := range []string{encrypted, corrupt} {
			if got := w.judge(f, key); got != tt.want {
				t.Errorf("%q on %s: %v, want %v", tt.sel, key, got, tt.want)
			}
		}
		if got := f.NeedsValue(); got != (tt.want == filter.Undecided || tt.want == filter.Drop) {
			t.Errorf("%q: NeedsValue = %v", tt.sel, got)
		}
	}
	f := w.filter(S{Resource: "secrets", Fields: "type=Opaque"})
	if got := w.judge(f, encrypted); got != filter.Undecided {
		t.Errorf("a field of an encrypted secret: %v, want undecided", got)
	}
}

func (w *world) judge(f *filter.Filter, key string) filter.Decision {
	w.t.Helper()
	kv, err := w.src.Get(w.t.Context(), key)
	if err != nil || kv == nil {
		w.t.Fatalf("%s: %v, %v", key, kv, err)
	}
	d, err := f.Judge(w.t.Context(), f.Inspect(w.t.Context(), kv))
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// TestEveryBrokenValueIsCounted goes over the whole registry once.
func TestEveryBrokenValueIsCounted(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	kept, undecided := w.selects(filter.Selection{Labels: "no-such-label"})
	if len(kept) != 0 || len(undecided) != 69+1 {
		t.Errorf("kept %v, %d not decided; want none and the 69 encrypted and 1 corrupt", kept, len(undecided))
	}
	for _, key := range undecided {
		kv, err := w.src.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if h := codec.DecodeHead(kv.Value); !errors.Is(h.Err, codec.ErrEncrypted) && !errors.Is(h.Err, codec.ErrUndecodable) {
			t.Errorf("%s is readable: %v", key, h.Status)
		}
	}
}

// TestFieldsOfAnotherKind: a value that is not what its key says decides
// nothing.
func TestFieldsOfAnotherKind(t *testing.T) {
	t.Parallel()
	key := prefix + "pods/a/p"
	w := made(t, map[string]object{key: {APIVersion: "v1", Kind: "ConfigMap"}})
	f := w.filter(filter.Selection{Resource: "pods", Fields: "spec.restartPolicy!=Always"})
	if got := w.judge(f, key); got != filter.Undecided {
		t.Errorf("got %v, want undecided", got)
	}
}

func TestBadSelectionIsAUsageError(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	if err := w.learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	type S = filter.Selection
	tests := []struct {
		name, want string
		sel        S
	}{
		{"unknown resource", `unknown resource "podz"`, S{Resource: "podz"}},
		{"label selector", "--selector", S{Resource: "pods", Labels: "app in web"}},
		{"field selector", "--field-selector", S{Resource: "pods", Fields: "status.phase>3"}},
		{"field selector without a resource", "needs a resource", S{Fields: "metadata.name=x"}},
		{"unknown field", `pods cannot be selected by field "spec.image"`, S{Resource: "pods", Fields: "spec.image=x"}},
		{"field of another resource", `configmaps cannot be selected by field "status.phase"`, S{Resource: "configmaps", Fields: "status.phase=x"}},
		{"namespace field of a cluster-scoped resource", "metadata.namespace", S{Resource: "nodes", Fields: "metadata.namespace=x"}},
		{"unknown field beside a known one", "spec.image", S{Resource: "pods", Fields: "metadata.name=a,spec.image!=x"}},
		{"older-than", "--older-than", S{Resource: "pods", OlderThan: "yesterday"}},
		{"newer-than", "--newer-than", S{Resource: "pods", NewerThan: "-1h"}},
		{"node of jobs", "jobs.batch are not bound to a node", S{Resource: "jobs.batch", Node: "w-9"}},
		{"node of custom jobs", "jobs.batch.volcano.sh are not bound to a node", S{Resource: "jobs.batch.volcano.sh", Node: "w-9"}},
		{"phase of configmaps", "configmaps have no phase", S{Resource: "configmaps", Phase: "Failed"}},
		{"namespace of nodes", "nodes are not namespaced", S{Resource: "nodes", Namespace: "team"}},
		{"namespace of a cluster-scoped custom resource", "not namespaced", S{Resource: "queues.scheduling.volcano.sh", Namespace: "team"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := filter.New(tt.sel, w.reader, w.owners)
			if !errors.Is(err, filter.ErrUsage) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("New: %v, want ErrUsage that says %q", err, tt.want)
			}
		})
	}
	// What a custom resource may well have is not refused.
	w.filter(S{Resource: "jobs.batch.volcano.sh", Namespace: "team", Phase: "Running"})
}

func TestRanges(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	type S = filter.Selection
	exact := func(keys ...string) (ranges []keyspace.Range) {
		for _, key := range keys {
			ranges = append(ranges, keyspace.Range{Start: key})
		}
		return ranges
	}
	dir := func(path string) []keyspace.Range { return []keyspace.Range{keyspace.Prefix(prefix + path)} }
	tests := []struct {
		name string
		sel  S
		want []keyspace.Range
	}{
		{"all", S{}, dir("")},
		{"a namespace of all", S{Namespace: "team"}, dir("")},
		{"names of all", S{Namespace: "team", Names: []string{"a"}}, dir("")},
		{"a resource", S{Resource: "pods"}, dir("pods/")},
		{"a resource of all namespaces", S{Resource: "pods", AllNamespaces: true}, dir("pods/")},
		{"a resource below another name", S{Resource: "services"}, dir("services/specs/")},
		{"a namespace", S{Resource: "pods", Namespace: "team"}, dir("pods/team/")},
		{"names", S{Resource: "pods", Namespace: "team", Names: []string{"b", "a", "b"}}, exact(prefix+"pods/team/a", prefix+"pods/team/b")},
		{"names in all namespaces", S{Resource: "pods", Names: []string{"b", "a"}}, dir("pods/")},
		{"names without namespaces", S{Resource: "nodes", Names: []string{"w-9", "cp-0"}}, exact(prefix+"minions/cp-0", prefix+"minions/w-9")},
		{"keys", S{Keys: []string{"/z", "/a", "/z", "talos:v1:x"}}, exact("/a", "/z", "talos:v1:x")},
		{"keys before everything", S{Resource: "pods", Namespace: "team", Keys: []string{"/a"}}, exact("/a")},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, w.filter(tt.sel).Ranges()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	keys := []string{"/z", "/a"}
	w.filter(S{Keys: keys}).Ranges()
	if !slices.Equal(keys, []string{"/z", "/a"}) {
		t.Error("the caller's keys were sorted")
	}
}

// TestRangesHoldAllThatIsKept compares the ranges with judging everything.
func TestRangesHoldAllThatIsKept(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	if err := w.learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	type S = filter.Selection
	for _, sel := range []S{
		{Resource: "jobs.batch"}, {Resource: "jobs.batch.volcano.sh"}, {Resource: "jobs.batch", Namespace: "batch-jobs"},
		{Resource: "pods"}, {Resource: "pods", Namespace: "team"}, {Resource: "secrets", Names: []string{"legacy-plain"}},
		{Resource: "namespaces", Names: []string{"team", "team-x"}}, {Namespace: "team-x"}, {Names: []string{"web"}},
		{Resource: "pods", Node: "w-9"}, {Keys: []string{"talos:v1:x", prefix + "pods/team/guarded"}},
	} {
		f := w.filter(sel)
		var want []string
		err := w.src.Scan(t.Context(), keyspace.Range{Start: "\x00", End: "\x00"}, false, func(kv *mvccpb.KeyValue) error {
			d, err := f.Judge(t.Context(), f.Inspect(w.t.Context(), kv))
			// With neither resource nor keys only the prefix is looked through.
			if d == filter.Keep {
				want = append(want, string(kv.Key))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		kept, _ := w.selects(sel)
		if diff := cmp.Diff(want, kept); diff != "" || len(kept) == 0 {
			t.Errorf("%v keeps %d (-everywhere +in its ranges):\n%s", sel, len(kept), diff)
		}
	}
}

func TestObjectsAreNamedAsPeopleDo(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	f := w.filter(filter.Selection{})
	for key, want := range map[string]string{
		prefix + "pods/team/guarded":                  "pod team/guarded",
		prefix + "minions/w-9":                        "node w-9",
		prefix + "jobs/ops-tools/error-ret":           "job ops-tools/error-ret",
		prefix + "services/specs/default/kubernetes":  "service default/kubernetes",
		prefix + "batch.volcano.sh/jobs/team/train-0": "jobs.batch.volcano.sh team/train-0",
		"talos:v1:x":                  "talos:v1:x",
		prefix + "pods/team":          prefix + "pods/team",
		prefix + "unknown/team/thing": prefix + "unknown/team/thing",
	} {
		o := f.Inspect(t.Context(), &mvccpb.KeyValue{Key: []byte(key)})
		if got := o.Name(); got != want {
			t.Errorf("%s is named %q, want %q", key, got, want)
		}
		if o.Key.Resource != nil && o.Namespace() != o.Key.Namespace {
			t.Errorf("%s: namespace %q, want %q", key, o.Namespace(), o.Key.Namespace)
		}
	}
}
