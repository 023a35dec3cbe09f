package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// controlled is a thing with one controller.
func controlled(key, kind, ownerKind, ownerKey string) thing {
	return thing{key: prefix + key, kind: kind, owners: []codec.Owner{owner(ownerKind, prefix+ownerKey)}}
}

// TestSourcesGoFirst: whatever the keys' order, each object stands below its
// controller and no higher than its kind's rank.
func TestSourcesGoFirst(t *testing.T) {
	t.Parallel()
	free := func(key, kind string) thing { return thing{key: prefix + key, kind: kind} }
	w := made(t,
		free("configmaps/a/c", "v1 ConfigMap"),
		controlled("controllerrevisions/a/r", "apps/v1 ControllerRevision", "apps/v1 StatefulSet", "statefulsets/a/s"),
		free("cronjobs/a/c", "batch/v1 CronJob"),
		free("daemonsets/a/d", "apps/v1 DaemonSet"),
		controlled("deployments/a/d", "apps/v1 Deployment", "example.com/v1 App", "example.com/apps/a/app"),
		free("example.com/apps/a/app", "example.com/v1 App"),
		controlled("jobs/a/j", "batch/v1 Job", "batch/v1 CronJob", "cronjobs/a/c"),
		free("namespaces/a", "v1 Namespace"),
		controlled("pods/a/p", "v1 Pod", "apps/v1 ReplicaSet", "replicasets/a/r"),
		controlled("replicasets/a/r", "apps/v1 ReplicaSet", "apps/v1 Deployment", "deployments/a/d"),
		controlled("zoo.example.com/cages/a/c", "zoo.example.com/v1 Cage", "v1 Pod", "pods/a/p"),
		free("statefulsets/a/s", "apps/v1 StatefulSet"),
	)
	sum, lines := w.planned(w.request(wholly("a")))
	want := []string{
		"0 content example.com/apps/a/app",
		"1 content cronjobs/a/c",
		"2 content deployments/a/d",
		"3 content statefulsets/a/s",
		"4 content daemonsets/a/d",
		"5 content jobs/a/j",
		"6 content replicasets/a/r",
		"7 content pods/a/p",
		"8 content zoo.example.com/cages/a/c",
		"9 content configmaps/a/c",
		"9 content controllerrevisions/a/r",
		"10 selected namespaces/a",
	}
	if diff := cmp.Diff(want, order(lines)); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if got := sum.Stages[9]; got != (StageInfo{"object", 2}) || sum.Stages[10] != (StageInfo{"namespace", 1}) || lines[9].What != "object" {
		t.Errorf("stages %v, in the file %q", sum.Stages, lines[9].What)
	}
	if len(sum.Makers) != 0 {
		t.Errorf("makers %v: all of them go", sum.Makers)
	}
}

// TestChainsOfOneKind, as deep as any, stand below one another.
func TestChainsOfOneKind(t *testing.T) {
	t.Parallel()
	kind := func(key string) thing { return thing{key: prefix + "pods/a/" + key, kind: "v1 Pod"} }
	things := []thing{kind("a00")}
	for i := 1; i < maxOwnerDepth; i++ {
		key := string(rune('a'+i)) + "00"
		things = append(things, controlled("pods/a/"+key, "v1 Pod", "v1 Pod", things[i-1].key[len(prefix):]))
	}
	w := made(t, things...)
	sum, lines := w.planned(w.request(filter.Selection{Resource: "pods", Namespace: "a"}))
	if len(sum.Stages) != maxOwnerDepth {
		t.Errorf("%d stages for a chain of %d", len(sum.Stages), maxOwnerDepth)
	}
	for i, l := range lines {
		if l.Stage != i || l.Step.Key != things[i].key {
			t.Errorf("%d: %d %s", i, l.Stage, l.Step.Key)
		}
	}
}

// TestCirclesOfSelectedOwnersEnd: each is planned once.
func TestCirclesOfSelectedOwnersEnd(t *testing.T) {
	t.Parallel()
	w := made(t,
		controlled("example.com/rings/a/x", "example.com/v1 Ring", "example.com/v1 Ring", "example.com/rings/a/y"),
		controlled("example.com/rings/a/y", "example.com/v1 Ring", "example.com/v1 Ring", "example.com/rings/a/x"),
		controlled("pods/a/p", "v1 Pod", "example.com/v1 Ring", "example.com/rings/a/x"))
	lines := throughFile(t, func(out *Writer) error {
		_, err := Deletes(t.Context(), w.request(wholly("a")), out)
		return err
	})
	if len(lines) != 3 || lines[2].Step.Name != "p" {
		t.Errorf("steps %v", order(lines))
	}
}

// TestOneKindCostsNoLookUps beyond those that tell who makes the objects.
func TestOneKindCostsNoLookUps(t *testing.T) {
	const pods = 5000
	f := newFlood(t, pods, 10, true)
	sum, err := Deletes(t.Context(), f.request(t, everyPod()), nil)
	if err != nil || sum.Steps != pods {
		t.Fatalf("%d steps, %v", sum.Steps, err)
	}
	plain := f.gets
	mixed := newFlood(t, pods, 10, true)
	req := mixed.request(t, everyPod())
	b := &builder{Request: req, sum: newSummary(), stages: stages{}}
	b.order, b.guards = newOrdering(req.Owners, nil, b.add), req.Filter.Guard(mixed).Guarding(b.guarded)
	b.refs = b.newSpill()
	for _, part := range []func() error{
		func() error { return b.addSelected(t.Context()) }, func() error { return b.order.flush(t.Context()) },
	} {
		if err := part(); err != nil {
			t.Fatal(err)
		}
	}
	only := newFlood(t, pods, 10, true)
	req = only.request(t, everyPod())
	b = &builder{Request: req, sum: newSummary(), stages: stages{}}
	b.order, b.guards = newOrdering(req.Owners, b.onlyKind(), b.add), req.Filter.Guard(only).Guarding(b.guarded)
	b.refs = b.newSpill()
	if err := b.addSelected(t.Context()); err != nil {
		t.Fatal(err)
	}
	if only.gets != 0 || mixed.gets == 0 || plain == 0 {
		t.Errorf("%d requests to order one kind, %d to order several, %d to find owners", only.gets, mixed.gets, plain)
	}
}
