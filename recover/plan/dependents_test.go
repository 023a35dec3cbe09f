package plan

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

const (
	kindCron, kindJob, kindPod, kindApp = "batch/v1 CronJob", "batch/v1 Job", "v1 Pod", "example.com/v1 App"
)

// TestDependents: everything below what is selected, of any resource, in the
// owner's namespace; and nothing else.
func TestDependents(t *testing.T) {
	t.Parallel()
	w := made(t,
		thing{key: prefix + "cronjobs/a/c", kind: kindCron},
		thing{key: prefix + "cronjobs/a/other", kind: kindCron},
		controlled("jobs/a/j", kindJob, kindCron, "cronjobs/a/c"),
		controlled("jobs/a/other", kindJob, kindCron, "cronjobs/a/other"),
		controlled("pods/a/p", kindPod, kindJob, "jobs/a/j"),
		controlled("pods/a/other", kindPod, kindJob, "jobs/a/other"),
		// Its Job is gone, and nothing says to whom that belonged.
		controlled("pods/a/lost", kindPod, kindJob, "jobs/a/gone"),
		// References do not reach other namespaces.
		controlled("pods/b/p", kindPod, kindJob, "jobs/a/j"),
		controlled("example.com/apps/a/app", kindApp, kindPod, "pods/a/p"),
		thing{key: prefix + "configmaps/a/second", kind: "v1 ConfigMap", owners: []codec.Owner{
			owner(kindApp, prefix+"example.com/apps/a/app"), {APIVersion: "batch/v1", Kind: "Job", Name: "j", UID: uidOf(prefix + "jobs/a/j")}}},
		// Another owner stays, or may: the garbage collector keeps these too.
		thing{key: prefix + "configmaps/a/shared", kind: "v1 ConfigMap", owners: []codec.Owner{
			owner(kindJob, prefix+"jobs/a/j"), {APIVersion: "batch/v1", Kind: "Job", Name: "other", UID: uidOf(prefix + "jobs/a/other")}}},
		thing{key: prefix + "configmaps/a/unknown", kind: "v1 ConfigMap", owners: []codec.Owner{
			owner(kindJob, prefix+"jobs/a/j"), {APIVersion: "no.example.com/v1", Kind: "Nothing", Name: "x", UID: "x"}}},
		// One that is gone does not keep it.
		thing{key: prefix + "configmaps/a/widow", kind: "v1 ConfigMap", owners: []codec.Owner{
			owner(kindJob, prefix+"jobs/a/j"), {APIVersion: "batch/v1", Kind: "Job", Name: "gone", UID: "gone"}}},
	)
	req := w.request(filter.Selection{Resource: "cronjobs.batch", Namespace: "a", Names: []string{"c"}})
	req.WithDependents = true
	sum, lines := w.planned(req)
	want := []string{
		"0 selected cronjobs/a/c", "1 dependent jobs/a/j", "2 dependent pods/a/p", "3 dependent example.com/apps/a/app",
		"4 dependent configmaps/a/second", "4 dependent configmaps/a/widow",
	}
	if diff := cmp.Diff(want, order(lines)); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if sum.Shared != 2 || sum.Dependents != 5 || len(sum.Makers) != 0 {
		t.Errorf("%d shared, %d dependents, makers %v", sum.Shared, sum.Dependents, sum.Makers)
	}
	pod := lines[2].Step
	if pod.OwnerUID != uidOf(prefix+"jobs/a/j") || pod.Reason != "owned by job/j" {
		t.Errorf("%+v", pod)
	}
}

// TestCopyOfADependentIsOneToo, although it has the same UID; and so is one of
// an object that was selected.
func TestCopyOfADependentIsOneToo(t *testing.T) {
	t.Parallel()
	const key = "pods/a/p"
	pod := controlled(key, kindPod, kindJob, "jobs/a/j")
	value := pod.value()
	kvs := []*mvccpb.KeyValue{
		thing{key: prefix + "jobs/a/j", kind: kindJob}.entry(1),
		{Key: []byte(prefix + "pods/a/copy"), Value: value, CreateRevision: 2, ModRevision: 2, Version: 1},
		pod.entry(3),
	}
	w := &world{t, keyspace.FromFile(archive(t, time.Time{}, nil, kvs))}
	for _, sel := range []filter.Selection{
		{Resource: "jobs.batch", Namespace: "a", Names: []string{"j"}},
		{Namespace: "a", Where: "key != '/registry/pods/a/copy'"},
	} {
		req := w.request(sel)
		req.WithDependents = true
		if sum, lines := w.planned(req); sum.Steps != 3 {
			t.Errorf("%v: %v", sel, order(lines))
		}
	}
}

// TestDependentsOfOwners: what makes the selected objects goes first, and what
// they own after them.
func TestDependentsOfOwners(t *testing.T) {
	t.Parallel()
	w := made(t,
		thing{key: prefix + "cronjobs/a/c", kind: kindCron},
		controlled("jobs/a/j", kindJob, kindCron, "cronjobs/a/c"),
		controlled("jobs/a/k", kindJob, kindCron, "cronjobs/a/c"),
		controlled("pods/a/p", kindPod, kindJob, "jobs/a/j"))
	req := w.request(filter.Selection{Resource: "jobs.batch", Namespace: "a", Names: []string{"j"}})
	req.WithDependents = true
	sum, _ := w.planned(req)
	compareMakers(t, []LiveOwner{maker("cronjob", "a", "c", 2, false)}, sum.Makers)
	req = w.request(filter.Selection{Resource: "jobs.batch", Namespace: "a", Names: []string{"j"}})
	req.WithDependents, req.WithOwners = true, true
	_, lines := w.planned(req)
	if diff := cmp.Diff([]string{"0 owner cronjobs/a/c", "1 selected jobs/a/j", "2 dependent pods/a/p"}, order(lines)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestDependentsOfClusterScopedObjects are anywhere.
func TestDependentsOfClusterScopedObjects(t *testing.T) {
	t.Parallel()
	w := made(t,
		thing{key: prefix + "clusterroles/r", kind: "rbac.authorization.k8s.io/v1 ClusterRole"},
		controlled("configmaps/a/c", "v1 ConfigMap", "rbac.authorization.k8s.io/v1 ClusterRole", "clusterroles/r"),
		controlled("configmaps/b/c", "v1 ConfigMap", "rbac.authorization.k8s.io/v1 ClusterRole", "clusterroles/r"),
		controlled("clusterroles/s", "rbac.authorization.k8s.io/v1 ClusterRole", "rbac.authorization.k8s.io/v1 ClusterRole", "clusterroles/r"),
		controlled("novelties/b/n", "novel.k8s.io/v1 Novelty", "rbac.authorization.k8s.io/v1 ClusterRole", "clusterroles/r"))
	req := w.request(filter.Selection{Resource: "clusterroles.rbac.authorization.k8s.io", Names: []string{"r"}})
	req.WithDependents = true
	sum, _ := w.planned(req)
	if sum.Dependents != 4 {
		t.Errorf("%d dependents of 4", sum.Dependents)
	}
}

// TestNamespaceIsNeverTakenAlong, as a dependent or as an owner: its own key
// alone would leave behind what is in it.
func TestNamespaceIsNeverTakenAlong(t *testing.T) {
	t.Parallel()
	const kindTenant, kindNamespace = "rbac.authorization.k8s.io/v1 ClusterRole", "v1 Namespace"
	w := made(t,
		thing{key: prefix + "clusterroles/tenant", kind: kindTenant},
		controlled("namespaces/a", kindNamespace, kindTenant, "clusterroles/tenant"),
		controlled("configmaps/a/c", "v1 ConfigMap", kindNamespace, "namespaces/a"),
		thing{key: prefix + "configmaps/a/other", kind: "v1 ConfigMap"})
	req := w.request(filter.Selection{Resource: "clusterroles.rbac.authorization.k8s.io", Names: []string{"tenant"}})
	req.WithDependents = true
	sum, lines := w.planned(req)
	if diff := cmp.Diff([]string{"0 selected clusterroles/tenant", "1 dependent configmaps/a/c"}, order(lines)); diff != "" {
		t.Errorf("as a dependent (-want +got):\n%s", diff)
	}
	if sum.Spaces != 1 || !slices.Equal(sum.LeftSpaces, []string{"a"}) {
		t.Errorf("left %d: %v", sum.Spaces, sum.LeftSpaces)
	}
	only := wholly("a")
	only.Contents.Only = true
	for _, sel := range []filter.Selection{{Resource: "configmaps", Namespace: "a", Names: []string{"c"}}, only} {
		req = w.request(sel)
		req.WithOwners = true
		sum, lines = w.planned(req)
		if lines[0].Step.Role != Owner || slices.ContainsFunc(lines, func(l line) bool { return l.Step.Resource == "namespace" }) {
			t.Errorf("%v, as an owner: %v", sel, order(lines))
		}
		compareMakers(t, []LiveOwner{maker("clusterrole", "", "tenant", 1, true), maker("namespace", "", "a", 1, false)}, sum.Makers)
	}
}

// TestUnreadableIsNotDecided: what may be a dependent is counted, unless it is
// selected, or was counted before.
func TestUnreadableIsNotDecided(t *testing.T) {
	t.Parallel()
	sealed := func(key string, rev int64) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{Key: []byte(prefix + key), Value: []byte("k8s:enc:aescbc:v1:key1:\x00"), CreateRevision: rev, ModRevision: rev, Version: 1}
	}
	w := &world{t, keyspace.FromFile(archive(t, time.Time{}, nil, []*mvccpb.KeyValue{
		thing{key: prefix + "jobs/a/j", kind: kindJob}.entry(1), sealed("secrets/a/s", 2), sealed("secrets/b/s", 3), sealed("jobs/a/k", 4),
	}))}
	for _, test := range []struct {
		sel  filter.Selection
		want int64
	}{
		{filter.Selection{Resource: "jobs.batch", Namespace: "a", Names: []string{"j"}}, 2},
		{filter.Selection{Resource: "jobs.batch", Labels: "!x"}, 2},
		{filter.Selection{Namespace: "a"}, 0},
		{wholly("a"), 0},
	} {
		req := w.request(test.sel)
		req.WithDependents = true
		sum, _ := w.planned(req)
		if reasons, _ := req.Filter.WhyUndecided(); sum.Undecided != test.want || (len(reasons) == 1) != (test.want > 0) {
			t.Errorf("%v: %d not decided, %v", test.sel, sum.Undecided, reasons)
		}
	}
}

// TestDependentsOfWhatIsGone: a later pass finds what was made for an owner
// that an earlier one deleted, and nothing of one that was left alone.
func TestDependentsOfWhatIsGone(t *testing.T) {
	t.Parallel()
	before := made(t,
		thing{key: prefix + "jobs/a/j", kind: kindJob}, thing{key: prefix + "jobs/a/left", kind: kindJob},
		controlled("pods/a/p", kindPod, kindJob, "jobs/a/j"))
	names := []string{"j", "left"}
	gone := &Planned{}
	first := before.request(filter.Selection{Resource: "jobs.batch", Namespace: "a", Names: names})
	first.WithDependents, first.Gone = true, gone
	sum, err := Deletes(t.Context(), first, nil)
	if err != nil || sum.Steps != 3 || gone.uids.Len() != 3 {
		t.Fatalf("%+v, %d noted, %v", sum, gone.uids.Len(), err)
	}
	after := made(t,
		thing{key: prefix + "jobs/a/left", kind: kindJob, labels: "app=changed"},
		controlled("pods/a/late", kindPod, kindJob, "jobs/a/j"),
		controlled("configmaps/a/late", "v1 ConfigMap", kindPod, "pods/a/p"),
		controlled("pods/a/stays", kindPod, kindJob, "jobs/a/left"))
	second := after.request(filter.Selection{Resource: "jobs.batch", Namespace: "a", Names: names, Labels: "app!=changed"})
	second.WithDependents = true
	second.Gone = gone
	path := throughFile(t, func(out *Writer) error {
		_, err := Deletes(t.Context(), second, out)
		return err
	})
	if diff := cmp.Diff([]string{"0 dependent pods/a/late", "1 dependent configmaps/a/late"}, order(path)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestPlacesOfDependents: a few namespaces, or everywhere.
func TestPlacesOfDependents(t *testing.T) {
	t.Parallel()
	planned := func(namespaces ...string) *Planned {
		p := &Planned{}
		for _, ns := range namespaces {
			if err := p.add(ns, "uid"); err != nil {
				t.Fatal(err)
			}
		}
		return p
	}
	var many []string
	for i := range maxSpaces + 1 {
		many = append(many, fmt.Sprint("n", i))
	}
	for _, tt := range []struct {
		a, b *Planned
		want []string
	}{
		{planned("b", "a"), planned("a", "c"), []string{"a", "b", "c"}},
		{planned("a"), planned(), []string{"a"}},
		{planned("a"), planned(""), nil},
		{planned(many...), planned(), nil},
		{planned(many[1:]...), planned(many[0]), nil},
	} {
		if diff := cmp.Diff(tt.want, tt.a.places(tt.b)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if err := tt.b.addAll(tt.a); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, tt.b.places(&Planned{})); diff != "" {
			t.Errorf("added (-want +got):\n%s", diff)
		}
	}
}

// TestJudgeOfDependents: it still names the owner by which it goes.
func TestJudgeOfDependents(t *testing.T) {
	t.Parallel()
	pod := controlled("pods/a/p", kindPod, kindJob, "jobs/a/j")
	orphan := pod
	orphan.owners = nil
	w := made(t, pod)
	f := w.request(filter.Selection{Resource: "jobs.batch", Namespace: "a", Names: []string{"j"}}).Filter
	judge := Judge{Filter: f, Guard: f.Guard(w.src)}
	s := Step{Key: pod.key, UID: uidOf(pod.key), Role: Dependent, OwnerUID: uidOf(prefix + "jobs/a/j")}
	for _, tt := range []struct {
		now   thing
		meant bool
	}{{pod, true}, {orphan, false}} {
		meant, why, err := judge.StillMeant(t.Context(), s, tt.now.entry(9))
		if err != nil || meant != tt.meant || meant != (why == "") {
			t.Errorf("%v, %q, %v; want %v", meant, why, err, tt.meant)
		}
	}
	s = Step{Key: pod.key, UID: uidOf(pod.key), Role: Content}
	if meant, why, err := judge.StillMeant(t.Context(), s, orphan.entry(9)); err != nil || !meant {
		t.Errorf("content of a namespace: %v, %q, %v", meant, why, err)
	}
	s.UID = "another"
	if meant, _, err := judge.StillMeant(t.Context(), s, orphan.entry(9)); err != nil || meant {
		t.Errorf("another life of it: %v, %v", meant, err)
	}
}

// TestUIDs is the set against a map.
func TestUIDs(t *testing.T) {
	t.Parallel()
	var none *filter.UIDs
	u, want := &filter.UIDs{}, map[string]bool{}
	if none.Has("a", "x") || u.Has("a", "x") || none.Len() != 0 {
		t.Error("an empty set holds something")
	}
	for i := range 5000 {
		ns, uid := fmt.Sprint("n", i%7), fmt.Sprint(i%3000)
		if err := u.Add(ns, uid); err != nil {
			t.Fatal(err)
		}
		want[ns+"/"+uid] = true
	}
	other := &filter.UIDs{}
	if err := errors.Join(other.Add("n0", "0"), other.Add("new", "0"), other.Add("", ""), u.AddAll(other)); err != nil {
		t.Fatal(err)
	}
	want["new/0"] = true
	if u.Len() != len(want) || other.Len() != 2 {
		t.Errorf("%d entries, want %d; %d, want 2", u.Len(), len(want), other.Len())
	}
	for i := range 3000 {
		for j := range 7 {
			ns, uid := fmt.Sprint("n", j), fmt.Sprint(i)
			if u.Has(ns, uid) != want[ns+"/"+uid] {
				t.Fatalf("%s/%s: %v", ns, uid, u.Has(ns, uid))
			}
		}
	}
}
