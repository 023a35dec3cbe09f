package filter_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

func TestOwnedInTheZoo(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	type O = filter.OwnerRef
	tests := []struct {
		name, resource, namespace string
		owner                     O
		want                      []string
	}{
		{"direct", "pods", "batch-jobs", O{Group: "batch", Kind: "Job", Name: "report-manual"}, []string{"pods/batch-jobs/report-manual-cwr7n"}},
		{"two above", "pods", "", O{Group: "batch", Kind: "CronJob", Name: "report"}, []string{"pods/batch-jobs/report-29922668-cklnt", "pods/batch-jobs/report-manual-cwr7n"}},
		{"all below", "", "batch-jobs", O{Group: "batch", Kind: "CronJob", Name: "report"}, []string{
			"jobs/batch-jobs/report-29922668", "jobs/batch-jobs/report-manual",
			"pods/batch-jobs/report-29922668-cklnt", "pods/batch-jobs/report-manual-cwr7n"}},
		{"through a replica set", "pods", "platform", O{Group: "apps", Kind: "Deployment", Name: "cache"}, []string{"pods/platform/cache-86798c6f7f-v5nns"}},
		{"the owner is gone", "pods", "harbor", O{Group: "apps", Kind: "ReplicaSet", Name: "jobservice-5676bd8869"}, []string{"pods/harbor/jobservice-5676bd8869-2t978"}},
		{"what was above it is unknown", "pods", "harbor", O{Group: "apps", Kind: "Deployment", Name: "jobservice"}, nil},
		{"wrong group", "pods", "batch-jobs", O{Group: "batch.volcano.sh", Kind: "Job", Name: "report-manual"}, nil},
		{"no group", "pods", "batch-jobs", O{Kind: "Job", Name: "report-manual"}, nil},
		{"wrong kind", "pods", "batch-jobs", O{Group: "batch", Kind: "CronJob", Name: "report-manual"}, nil},
		{"kind in other letters", "pods", "batch-jobs", O{Group: "batch", Kind: "job", Name: "report-manual"}, nil},
		{"part of a name", "pods", "", O{Group: "batch", Kind: "CronJob", Name: "repor"}, nil},
		{"cluster-scoped", "pods", "", O{Kind: "Node", Name: "cp-0"}, []string{
			"pods/kube-system/etcd-cp-0", "pods/kube-system/kube-apiserver-cp-0",
			"pods/kube-system/kube-controller-manager-cp-0", "pods/kube-system/kube-scheduler-cp-0"}},
		{"core group", "pods", "", O{Kind: "ReplicationController", Name: "old-style"}, []string{"pods/ops-tools/old-style-c4vfb", "pods/ops-tools/old-style-gfbtf"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			kept, _ := w.selects(filter.Selection{Resource: tt.resource, Namespace: tt.namespace, Owner: &tt.owner})
			if diff := cmp.Diff(tt.want, short(kept)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	// The Job error-ret of the incident, and Deployments of one name in two
	// namespaces.
	for owner, want := range map[O]int{
		{Group: "batch", Kind: "Job", Name: "error-ret"}:   12,
		{Group: "apps", Kind: "Deployment", Name: "web"}:   17,
		{Group: "apps", Kind: "StatefulSet", Name: "mini"}: 0,
	} {
		if kept, _ := w.selects(filter.Selection{Resource: "pods", Owner: &owner}); len(kept) != want {
			t.Errorf("%s owns %d pods, want %d: %v", owner, len(kept), want, short(kept))
		}
	}
}

// TestOwnersNeedTheSameUID: an ancestor counts only as long as the owner in
// between is the very one.
func TestOwnersNeedTheSameUID(t *testing.T) {
	t.Parallel()
	const cron, job = prefix + "cronjobs/a/c", prefix + "jobs/a/j"
	again := owned("batch/v1", "Job", job)
	again[0].UID = "of the Job that had this name before"
	w := made(t, map[string]object{
		cron:                        {APIVersion: "batch/v1", Kind: "CronJob"},
		job:                         {APIVersion: "batch/v1", Kind: "Job", Metadata: meta{OwnerReferences: owned("batch/v1", "CronJob", cron)}},
		prefix + "pods/a/of-now":    {APIVersion: "v1", Kind: "Pod", Metadata: meta{OwnerReferences: owned("batch/v1", "Job", job)}},
		prefix + "pods/a/of-before": {APIVersion: "v1", Kind: "Pod", Metadata: meta{OwnerReferences: again}},
		// An owner lies in the namespace of what it owns.
		prefix + "pods/b/elsewhere": {APIVersion: "v1", Kind: "Pod", Metadata: meta{OwnerReferences: owned("batch/v1", "Job", job)}},
	})
	for owner, want := range map[filter.OwnerRef][]string{
		{Group: "batch", Kind: "Job", Name: "j"}:     {"pods/a/of-before", "pods/a/of-now", "pods/b/elsewhere"},
		{Group: "batch", Kind: "CronJob", Name: "c"}: {"pods/a/of-now"},
	} {
		kept, _ := w.selects(filter.Selection{Resource: "pods", Owner: &owner})
		if diff := cmp.Diff(want, short(kept)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", owner, diff)
		}
	}
}

// TestCircleOfOwnersEnds: the garbage collector lets circles exist, also ones
// with many ways round.
func TestCircleOfOwnersEnds(t *testing.T) {
	t.Parallel()
	var all []string
	for i := range 12 {
		all = append(all, fmt.Sprintf("%sconfigmaps/a/m%d", prefix, i))
	}
	objects := map[string]object{}
	for _, key := range all {
		objects[key] = object{APIVersion: "v1", Kind: "ConfigMap", Metadata: meta{OwnerReferences: owned("v1", "ConfigMap", all...)}}
	}
	self := prefix + "configmaps/b/self"
	objects[self] = object{APIVersion: "v1", Kind: "ConfigMap", Metadata: meta{OwnerReferences: owned("v1", "ConfigMap", self)}}
	w := made(t, objects)
	for owner, want := range map[filter.OwnerRef]int{
		{Kind: "ConfigMap", Name: "m3"}: 12, {Kind: "ConfigMap", Name: "self"}: 1, {Kind: "Secret", Name: "m3"}: 0,
	} {
		if kept, _ := w.selects(filter.Selection{Resource: "configmaps", Owner: &owner}); len(kept) != want {
			t.Errorf("%s owns %v, want %d", owner, kept, want)
		}
	}
}

// custom is a world where a pod's Job is a custom one, and a built-in Job of
// the same name owns another pod.
func custom(t *testing.T) *world {
	t.Helper()
	const train, builtin = prefix + "batch.volcano.sh/jobs/batch-jobs/train-0", prefix + "jobs/batch-jobs/train-0"
	queue := prefix + "scheduling.volcano.sh/queues/research"
	return made(t, map[string]object{
		train:                              {APIVersion: "batch.volcano.sh/v1alpha1", Kind: "Job", Metadata: meta{OwnerReferences: owned("scheduling.volcano.sh/v1beta1", "Queue", queue)}},
		queue:                              {APIVersion: "scheduling.volcano.sh/v1beta1", Kind: "Queue"},
		builtin:                            {APIVersion: "batch/v1", Kind: "Job"},
		prefix + "pods/batch-jobs/custom":  {APIVersion: "v1", Kind: "Pod", Metadata: meta{OwnerReferences: owned("batch.volcano.sh/v1alpha1", "Job", train)}},
		prefix + "pods/batch-jobs/builtin": {APIVersion: "v1", Kind: "Pod", Metadata: meta{OwnerReferences: owned("batch/v1", "Job", builtin)}},
		prefix + "pods/batch-jobs/unknown": {APIVersion: "v1", Kind: "Pod", Metadata: meta{OwnerReferences: owned("example.com/v1", "Unknown", "x")}},
	})
}

// TestCustomKindsAreLearntOnce uses the definitions of the zoo.
func TestCustomKindsAreLearntOnce(t *testing.T) {
	t.Parallel()
	w, definitions := custom(t), zoo(t)
	w.owners = filter.NewOwners(w.src, w.reader, func(ctx context.Context) error {
		definitions.reader.Catalog = w.reader.Catalog
		return definitions.learn(ctx)
	})
	for _, tt := range []struct {
		owner   filter.OwnerRef
		want    []string
		learned int
	}{
		{filter.OwnerRef{Group: "batch", Kind: "Job", Name: "train-0"}, []string{"pods/batch-jobs/builtin"}, 1},
		{filter.OwnerRef{Group: "batch.volcano.sh", Kind: "Job", Name: "train-0"}, []string{"pods/batch-jobs/custom"}, 1},
		{filter.OwnerRef{Group: "scheduling.volcano.sh", Kind: "Queue", Name: "research"}, []string{"pods/batch-jobs/custom"}, 1},
		{filter.OwnerRef{Group: "example.com", Kind: "Unknown", Name: "x"}, []string{"pods/batch-jobs/unknown"}, 1},
	} {
		kept, _ := w.selects(filter.Selection{Resource: "pods", Owner: &tt.owner})
		if diff := cmp.Diff(tt.want, short(kept)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.owner, diff)
		}
		if definitions.learned != tt.learned {
			t.Errorf("%s: learnt %d times, want %d", tt.owner, definitions.learned, tt.learned)
		}
	}
}

func TestKnownKindsAreNotLearnt(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	w.learnCustom()
	owner := &filter.OwnerRef{Group: "batch", Kind: "CronJob", Name: "report"}
	if kept, _ := w.selects(filter.Selection{Resource: "pods", Owner: owner}); len(kept) != 2 || w.learned != 0 {
		t.Errorf("%v were found, learnt %d times; want 2 and 0", kept, w.learned)
	}
}

func TestWithoutLearningUnknownKindsOwnNothingFurther(t *testing.T) {
	t.Parallel()
	w := custom(t)
	for owner, want := range map[filter.OwnerRef]int{
		{Group: "batch.volcano.sh", Kind: "Job", Name: "train-0"}: 1, {Group: "scheduling.volcano.sh", Kind: "Queue", Name: "research"}: 0,
	} {
		if kept, _ := w.selects(filter.Selection{Resource: "pods", Owner: &owner}); len(kept) != want {
			t.Errorf("%s owns %v, want %d", owner, kept, want)
		}
	}
}

// TestJudgingWhileLearning: a filter may be used by several goroutines, also
// at the moment when one of them meets the first unknown kind.
func TestJudgingWhileLearning(t *testing.T) {
	t.Parallel()
	w, definitions := custom(t), zoo(t)
	definitions.reader.Catalog = w.reader.Catalog
	w.owners = filter.NewOwners(w.src, w.reader, definitions.learn)
	f := w.filter(filter.Selection{Resource: "pods", Owner: &filter.OwnerRef{Group: "scheduling.volcano.sh", Kind: "Queue", Name: "research"}})
	kvs := map[string]*mvccpb.KeyValue{}
	err := w.src.Scan(t.Context(), keyspace.Prefix(prefix), false, func(kv *mvccpb.KeyValue) error {
		kvs[string(kv.Key)] = kv
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	judgeAll := func() {
		for key, kv := range kvs {
			d, err := f.Judge(t.Context(), f.Inspect(t.Context(), kv))
			if want := strings.HasSuffix(key, "/custom"); err != nil || (d == filter.Keep) != want {
				t.Errorf("%s: %v, %v", key, d, err)
			}
		}
	}
	var wg sync.WaitGroup
	var learnt atomic.Bool
	reading := make(chan struct{}, 2)
	for range cap(reading) {
		wg.Go(func() {
			for first := true; first || !learnt.Load(); first = false {
				f.Inspect(t.Context(), &mvccpb.KeyValue{Key: []byte(prefix + "batch.volcano.sh/jobs/batch-jobs/train-0")})
				if first {
					reading <- struct{}{}
				}
			}
		})
	}
	for range cap(reading) {
		<-reading
	}
	for range 4 {
		wg.Go(func() {
			judgeAll()
			learnt.Store(true)
		})
	}
	wg.Wait()
	if definitions.learned != 1 {
		t.Errorf("learnt %d times, want once", definitions.learned)
	}
}

var errLost = errors.New("connection lost")

// failing is a store that cannot be read: what a real one does not do on
// demand.
type failing struct{}

func (failing) Get(context.Context, string) (*mvccpb.KeyValue, error) { return nil, errLost }

// TestUnreadableOwnerDecidesNothing: neither keep nor drop may be said.
func TestUnreadableOwnerDecidesNothing(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	fails := 0
	for name, owners := range map[string]*filter.Owners{
		"owner": filter.NewOwners(failing{}, w.reader, nil),
		"kinds": filter.NewOwners(w.src, &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}, func(context.Context) error { fails++; return errLost }),
	} {
		f, err := filter.New(filter.Selection{Owner: &filter.OwnerRef{Kind: "X", Name: "x"}}, w.reader, owners)
		if err != nil {
			t.Fatal(err)
		}
		o := filter.Object{KV: &mvccpb.KeyValue{Key: []byte("k")}, Value: codec.Value{Head: codec.Head{Meta: codec.Meta{Owners: []codec.Owner{{APIVersion: "v1", Kind: "ConfigMap", Name: "c", UID: "u"}}}}}}
		if name == "kinds" {
			o.Head.Meta.Owners[0].Kind = "Unknown"
		}
		for range 2 {
			if d, err := f.Judge(t.Context(), o); !errors.Is(err, errLost) || d == filter.Keep {
				t.Errorf("%s: %v, %v; want the error", name, d, err)
			}
		}
	}
	// What failed is tried again; only success is remembered.
	if fails != 2 {
		t.Errorf("the kinds were asked for %d times, want 2", fails)
	}
}

// counting counts the reads of a source.
type counting struct {
	filter.Getter
	reads int
}

func (c *counting) Get(ctx context.Context, key string) (*mvccpb.KeyValue, error) {
	c.reads++
	return c.Getter.Get(ctx, key)
}

// TestOwnersAreReadOnce, those that are gone too.
func TestOwnersAreReadOnce(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	src := &counting{Getter: w.src}
	w.owners = filter.NewOwners(src, w.reader, nil)
	owner := &filter.OwnerRef{Group: "batch", Kind: "CronJob", Name: "none"}
	w.selects(filter.Selection{Resource: "pods", Namespace: "harbor", Owner: owner})
	if src.reads != 3 {
		t.Errorf("%d reads, want 3: a Deployment, its ReplicaSet and one that is gone", src.reads)
	}
	w.selects(filter.Selection{Resource: "pods", Namespace: "harbor", Owner: owner})
	if src.reads != 3 {
		t.Errorf("%d reads after the second time, want 3 still", src.reads)
	}
}

func TestFindKeepsNoValue(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	kv, err := w.src.Get(t.Context(), prefix+"jobs/ops-tools/error-ret")
	if err != nil {
		t.Fatal(err)
	}
	ref := codec.Owner{APIVersion: "batch/v1", Kind: "Job", Name: "error-ret", UID: codec.DecodeHead(kv.Value).Meta.UID}
	o, err := w.owners.Find(t.Context(), ref, "ops-tools")
	if err != nil || o == nil {
		t.Fatalf("Find = %v, %v", o, err)
	}
	if o.Name() != "job ops-tools/error-ret" || o.KV.ModRevision != kv.ModRevision || o.Size != int64(len(kv.Value)) || o.KV.Value != nil {
		t.Errorf("Find gives %s at %d, %d bytes, value kept %v", o.Name(), o.KV.ModRevision, o.Size, o.KV.Value != nil)
	}
	node, err := w.src.Get(t.Context(), prefix+"minions/cp-0")
	if err != nil {
		t.Fatal(err)
	}
	cp := codec.Owner{APIVersion: "v1", Kind: "Node", Name: "cp-0", UID: codec.DecodeHead(node.Value).Meta.UID}
	if o, err := w.owners.Find(t.Context(), cp, "kube-system"); err != nil || o == nil || o.Name() != "node cp-0" {
		t.Errorf("a Node, which lies in no namespace: %v, %v", o, err)
	}
	ref.UID = "other"
	if o, err := w.owners.Find(t.Context(), ref, "ops-tools"); o != nil || err != nil {
		t.Errorf("with another UID: %v, %v", o, err)
	}
}
