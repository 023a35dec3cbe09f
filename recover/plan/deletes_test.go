package plan

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

func report() *filter.OwnerRef {
	return &filter.OwnerRef{Group: "batch", Kind: "CronJob", Name: "report"}
}

// maker is a LiveOwner that can be compared.
func maker(resource, namespace, name string, makes int64, planned bool) LiveOwner {
	return LiveOwner{Resource: resource, Namespace: namespace, Name: name, Makes: makes, Planned: planned}
}

// TestOwnersGoBeforeWhatTheyMake, the highest first, a stage for each level.
func TestOwnersGoBeforeWhatTheyMake(t *testing.T) {
	t.Parallel()
	type S = filter.Selection
	const owner0 = "jobs/batch-jobs/report-29922668"
	tests := []struct {
		name   string
		sel    S
		stages []StageInfo
		makers []LiveOwner
		want   []string
	}{
		{"two levels", S{Resource: "pods", Owner: report()},
			[]StageInfo{{"cronjob", 1}, {"job", 2}, {"pod", 2}},
			[]LiveOwner{maker("cronjob", "batch-jobs", "report", 2, true), maker("job", "batch-jobs", "report-29922668", 1, true), maker("job", "batch-jobs", "report-manual", 1, true)},
			[]string{"0 owner cronjobs/batch-jobs/report", "1 owner " + owner0, "1 owner jobs/batch-jobs/report-manual",
				"2 selected pods/batch-jobs/report-29922668-cklnt", "2 selected pods/batch-jobs/report-manual-cwr7n"}},
		{"owners that are selected keep their place", S{Namespace: "batch-jobs", Owner: report()},
			[]StageInfo{{"cronjob", 1}, {"job", 2}, {"pod", 2}},
			[]LiveOwner{maker("cronjob", "batch-jobs", "report", 4, true), maker("job", "batch-jobs", "report-29922668", 1, true), maker("job", "batch-jobs", "report-manual", 1, true)},
			[]string{"0 owner cronjobs/batch-jobs/report", "1 selected " + owner0, "1 selected jobs/batch-jobs/report-manual",
				"2 selected pods/batch-jobs/report-29922668-cklnt", "2 selected pods/batch-jobs/report-manual-cwr7n"}},
		{"the owner itself", S{Resource: "cronjobs.batch", Namespace: "batch-jobs", Names: []string{"report"}},
			[]StageInfo{{"cronjob", 1}}, nil, []string{"0 selected cronjobs/batch-jobs/report"}},
		{"each kind of owners has a stage", S{Resource: "pods", Namespace: "ops-tools", Names: []string{"old-style-c4vfb", "gc-manual-mr7l2", "stuck-term"}},
			[]StageInfo{{"cronjob", 1}, {"job", 1}, {"replicationcontroller", 1}, {"pod", 3}},
			[]LiveOwner{maker("cronjob", "ops-tools", "gc", 1, true), maker("job", "ops-tools", "gc-manual", 1, true), maker("replicationcontroller", "ops-tools", "old-style", 1, true)},
			[]string{"0 owner cronjobs/ops-tools/gc", "1 owner jobs/ops-tools/gc-manual", "2 owner controllers/ops-tools/old-style",
				"3 selected pods/ops-tools/gc-manual-mr7l2", "3 selected pods/ops-tools/old-style-c4vfb", "3 selected pods/ops-tools/stuck-term"}},
		{"the owner is gone", S{Resource: "pods", Namespace: "harbor", Names: []string{"jobservice-5676bd8869-2t978"}},
			[]StageInfo{{"pod", 1}}, nil, []string{"0 selected pods/harbor/jobservice-5676bd8869-2t978"}},
		{"nothing selected", S{Resource: "pods", Namespace: "none"}, nil, nil, nil},
	}
	w := zoo(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := &world{t, w.src}
			req := w.request(tt.sel)
			req.WithOwners = true
			sum, lines := w.planned(req)
			if diff := cmp.Diff(tt.want, order(lines)); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.stages, sum.Stages, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("stages (-want +got):\n%s", diff)
			}
			compareMakers(t, tt.makers, sum.Makers)
		})
	}
}

func compareMakers(t *testing.T, want, got []LiveOwner) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(LiveOwner{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("makers (-want +got):\n%s", diff)
	}
}

// TestWithoutOwnersTheyAreOnlyNamed: no step for them, and none is planned.
func TestWithoutOwnersTheyAreOnlyNamed(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	sum, lines := w.planned(w.request(filter.Selection{Resource: "pods", Owner: report()}))
	if len(lines) != 2 {
		t.Errorf("steps: %v", order(lines))
	}
	compareMakers(t, []LiveOwner{
		maker("cronjob", "batch-jobs", "report", 2, false), maker("job", "batch-jobs", "report-29922668", 1, false), maker("job", "batch-jobs", "report-manual", 1, false),
	}, sum.Makers)
	for _, m := range sum.Makers {
		if m.Object().Name() != m.Resource+" "+m.Namespace+"/"+m.Name {
			t.Errorf("the object of %+v is %s", m, m.Object().Name())
		}
	}
}

// TestNodesAreNeverPlanned: the kubelet makes static pods again, and a Node is
// not what makes them.
func TestNodesAreNeverPlanned(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	req := w.request(filter.Selection{Resource: "pods", Owner: &filter.OwnerRef{Kind: "Node", Name: "cp-0"}})
	req.WithOwners = true
	sum, lines := w.planned(req)
	if len(lines) != 0 || len(sum.Makers) != 0 || len(sum.Blocked) != 1 || sum.Blocked[0].Count != 4 {
		t.Errorf("without an override: steps %v, makers %v, blocked %v", order(lines), sum.Makers, sum.Blocked)
	}
	req.Guard = w.guard(filter.Overrides{Namespaces: []string{"kube-system"}})
	sum, lines = w.planned(req)
	if len(lines) != 4 || len(sum.Blocked) != 0 {
		t.Errorf("with one: steps %v, blocked %v", order(lines), sum.Blocked)
	}
	node := maker("node", "", "cp-0", 4, false)
	node.Kubelet = true
	compareMakers(t, []LiveOwner{node}, sum.Makers)
	if diff := cmp.Diff([]StageInfo{{"pod", 4}}, sum.Stages); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
}

// TestStepSaysAllThatExecutingNeeds compares one whole step of each role.
func TestStepSaysAllThatExecutingNeeds(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	req := w.request(filter.Selection{Resource: "pods", Namespace: "batch-jobs", Names: []string{"indexed-0-fnprj"}})
	req.WithOwners = true
	_, lines := w.planned(req)
	want := func(key, resource, name string, role Role, reason string) Step {
		kv, err := w.src.Get(t.Context(), prefix+key)
		if err != nil {
			t.Fatal(err)
		}
		return Step{
			Type: "step", Action: Delete, Key: string(kv.Key), ModRevision: kv.ModRevision, CreateRevision: kv.CreateRevision,
			UID: codec.DecodeHead(kv.Value).Meta.UID, Resource: resource, Namespace: "batch-jobs", Name: name,
			Size: int64(len(kv.Value)), Role: role, Reason: reason,
		}
	}
	pod := want("pods/batch-jobs/indexed-0-fnprj", "pod", "indexed-0-fnprj", Selected, "selected by pods indexed-0-fnprj -n batch-jobs")
	pod.Warnings = []string{"1 finalizers are not waited for"}
	job := want("jobs/batch-jobs/indexed", "job", "indexed", Owner, "owns 1 of the selected objects and would make them again")
	if diff := cmp.Diff([]line{{0, "job", job}, {1, "pod", pod}}, lines); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestKeysThatAreNoObjects: what no resource owns is planned by its key alone,
// unless it lies outside the prefix.
func TestKeysThatAreNoObjects(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	req := w.request(filter.Selection{Keys: []string{"talos:v1:x", prefix + "configmaps/team/corrupt", prefix + "masterleases/192.168.7.11", prefix + "none"}})
	req.Guard = w.guard(filter.Overrides{Namespaces: []string{"kube-system", "default"}})
	sum, lines := w.planned(req)
	if diff := cmp.Diff([]string{"0 selected configmaps/team/corrupt"}, order(lines)); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	blocked := []Blocked{{Reason: "masterleases belong to the API servers alone", Count: 1}, {Reason: "keys outside /registry/ are none of Kubernetes' own", Count: 1}}
	if diff := cmp.Diff(blocked, sum.Blocked); diff != "" {
		t.Errorf("blocked (-want +got):\n%s", diff)
	}
	if s := lines[0].Step; s.UID != "" || s.CreateRevision == 0 || s.ModRevision == 0 {
		t.Errorf("a broken value is told by its revisions: %+v", s)
	}
	if diff := cmp.Diff(tallyOf(map[string]int64{"undecodable": 1}), sum.Statuses); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
}

// TestOwnerOfThePresentIsMeant: an owner of another UID, or one that is not
// the controller, makes nothing.
func TestOwnerOfThePresentIsMeant(t *testing.T) {
	t.Parallel()
	const job = prefix + "jobs/a/j"
	another := owner("batch/v1 Job", job)
	another.UID = "of the Job that had this name before"
	bystander := owner("batch/v1 Job", job)
	bystander.Controller = false
	gone := owner("batch/v1 Job", prefix+"jobs/a/gone")
	unknown := owner("example.com/v1 Thing", "x")
	for name, ref := range map[string]codec.Owner{"another UID": another, "no controller": bystander, "gone": gone, "unknown kind": unknown} {
		w := made(t, thing{key: job, kind: "batch/v1 Job"}, thing{key: prefix + "pods/a/p", kind: "v1 Pod", owners: []codec.Owner{ref}})
		req := w.request(filter.Selection{Resource: "pods", Namespace: "a"})
		req.WithOwners = true
		sum, lines := w.planned(req)
		if len(sum.Makers) != 0 || len(lines) != 1 {
			t.Errorf("%s: makers %v, steps %v", name, sum.Makers, order(lines))
		}
	}
}

// TestOwnerThatIsSelectedIsPlannedOnce: also where telling so needs the whole
// value of the owner.
func TestOwnerThatIsSelectedIsPlannedOnce(t *testing.T) {
	t.Parallel()
	const driver = prefix + "pods/a/driver"
	never := map[string]string{"restartPolicy": "Never"}
	w := made(t,
		thing{key: driver, kind: "v1 Pod", spec: never},
		thing{key: prefix + "pods/a/executor", kind: "v1 Pod", spec: never, owners: []codec.Owner{owner("v1 Pod", driver)}})
	for _, sel := range []filter.Selection{
		{Resource: "pods", Namespace: "a"},
		{Resource: "pods", Fields: "spec.restartPolicy=Never"},
	} {
		req := w.request(sel)
		req.WithOwners = true
		sum, lines := w.planned(req)
		if diff := cmp.Diff([]string{"0 selected pods/a/driver", "1 selected pods/a/executor"}, order(lines)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", sel, diff)
		}
		compareMakers(t, []LiveOwner{maker("pod", "a", "driver", 1, true)}, sum.Makers)
	}
	req := w.request(filter.Selection{Resource: "pods", Fields: "spec.restartPolicy=Never,metadata.name!=driver"})
	req.WithOwners = true
	if _, lines := w.planned(req); len(lines) != 2 || lines[0].Step.Role != Owner {
		t.Errorf("with the driver not selected: %v", order(lines))
	}
}

// TestUnreadableOwnerIsNamedButNotPlanned: it may be the one that makes the
// objects, or another of its name.
func TestUnreadableOwnerIsNamedButNotPlanned(t *testing.T) {
	t.Parallel()
	const job, pod = prefix + "jobs/a/j", prefix + "pods/a/p"
	kvs := []*mvccpb.KeyValue{
		{Key: []byte(job), Value: []byte("k8s:enc:aescbc:v1:key1:\x00"), CreateRevision: 1, ModRevision: 1, Version: 1},
		thing{key: pod, kind: "v1 Pod", owners: []codec.Owner{owner("batch/v1 Job", job)}}.entry(2),
	}
	w := &world{t, keyspace.FromFile(archive(t, time.Time{}, nil, kvs))}
	want := maker("job", "a", "j", 1, false)
	want.Unreadable = true
	for _, sel := range []filter.Selection{{Resource: "pods", Namespace: "a"}, {Resource: "pods", Labels: "!x"}} {
		req := w.request(sel)
		req.WithOwners = true
		sum, lines := w.planned(req)
		compareMakers(t, []LiveOwner{want}, sum.Makers)
		if diff := cmp.Diff([]string{"0 selected pods/a/p"}, order(lines)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", sel, diff)
		}
	}
	// Selected itself, it is planned as what it is.
	req := w.request(filter.Selection{Namespace: "a"})
	req.WithOwners = true
	sum, lines := w.planned(req)
	want.Planned = true
	compareMakers(t, []LiveOwner{want}, sum.Makers)
	if diff := cmp.Diff([]string{"0 selected jobs/a/j", "1 selected pods/a/p"}, order(lines)); diff != "" {
		t.Errorf("a whole namespace (-want +got):\n%s", diff)
	}
}

// TestBlockedOwnerIsNotPlanned: it gets no step and is not said to have one.
func TestBlockedOwnerIsNotPlanned(t *testing.T) {
	t.Parallel()
	const pv = prefix + "persistentvolumes/pv"
	w := made(t, thing{key: pv, kind: "v1 PersistentVolume", labels: "app=x"},
		thing{key: prefix + "configmaps/a/m", kind: "v1 ConfigMap", labels: "app=x", owners: []codec.Owner{owner("v1 PersistentVolume", pv)}})
	for _, sel := range []filter.Selection{{Namespace: "a"}, {Labels: "app=x"}} {
		req := w.request(sel)
		req.WithOwners = true
		sum, lines := w.planned(req)
		if len(lines) != 1 || len(sum.Blocked) != 1 || sum.Blocked[0].Count != 1 {
			t.Errorf("%v: steps %v, blocked %v", sel, order(lines), sum.Blocked)
		}
		compareMakers(t, []LiveOwner{maker("persistentvolume", "", "pv", 1, false)}, sum.Makers)
	}
}

// TestCircleOfOwnersIsPlannedOnce: it ends, and nothing is counted twice.
func TestCircleOfOwnersIsPlannedOnce(t *testing.T) {
	t.Parallel()
	var all []codec.Owner
	var things []thing
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"} {
		all = append(all, owner("v1 ConfigMap", prefix+"configmaps/x/"+name))
	}
	for _, ref := range all {
		things = append(things, thing{key: prefix + "configmaps/x/" + ref.Name, kind: "v1 ConfigMap", owners: all})
	}
	for _, pod := range []string{"p", "q", "r"} {
		things = append(things, thing{key: prefix + "pods/x/" + pod, kind: "v1 Pod", owners: all[:1]})
	}
	w := made(t, things...)
	req := w.request(filter.Selection{Resource: "pods", Namespace: "x"})
	req.WithOwners = true
	sum, lines := w.planned(req)
	if len(lines) != len(all)+3 {
		t.Errorf("steps: %v", order(lines))
	}
	for _, m := range sum.Makers {
		if m.Makes != 3 {
			t.Errorf("%s makes %d, want 3", m.Name, m.Makes)
		}
	}
	if last := lines[len(lines)-1]; last.Step.Name != "r" || last.Step.Role != Selected {
		t.Errorf("the last step is %v", last)
	}
}

// TestMakersCountWhatIsBelowThem, whatever the number of levels.
func TestMakersCountWhatIsBelowThem(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	sum, _ := w.planned(w.request(filter.Selection{Resource: "pods", Namespace: "team", Labels: "app=web"}))
	want := map[string]int64{"web": 13, "web-56bccb6868": 3, "web-67895dd46c": 2, "web-6ff79d668b": 2, "web-749fccdf65": 3, "web-7c998f9cdf": 3}
	got := map[string]int64{}
	for i, m := range sum.Makers {
		got[m.Name] = m.Makes
		if (i == 0) != (m.Resource == "deployment") {
			t.Errorf("%d: %+v", i, m)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

var errLost = errors.New("connection lost")

// failing is a store whose scan breaks off: what a real one does not do on
// demand.
type failing struct {
	keyspace.Source
	after int
}

func (f failing) Scan(ctx context.Context, r keyspace.Range, keysOnly bool, fn func(*mvccpb.KeyValue) error) error {
	n := 0
	return f.Source.Scan(ctx, r, keysOnly, func(kv *mvccpb.KeyValue) error {
		if n++; n > f.after {
			return errLost
		}
		return fn(kv)
	})
}

// TestBrokenReadLeavesNoPlan: half a selection must not look like a plan.
func TestBrokenReadLeavesNoPlan(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	for _, after := range []int{0, 1, 20} {
		req := w.request(filter.Selection{Resource: "pods", Namespace: "team"})
		req.Source = failing{w.src, after}
		dir := t.TempDir()
		out, err := Create(filepath.Join(dir, "p.jsonl"), testHeader())
		if err != nil {
			t.Fatal(err)
		}
		if sum, err := Deletes(t.Context(), req, out); !errors.Is(err, errLost) || sum != nil {
			t.Errorf("after %d keys: %v, %v; want the error", after, sum, err)
		}
		out.Abort()
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// TestPlanningChangesNothing, whether previewed or written.
func TestPlanningChangesNothing(t *testing.T) {
	t.Parallel()
	_, client := lab.Box(t, sandbox.Options{Snapshot: zooFile, Mode: sandbox.InProcess, NoFsync: true})
	pin := func() (keyspace.Source, int64) {
		src, err := keyspace.Pin(t.Context(), client, prefix, keyspace.Options{Timeout: testTimeout})
		if err != nil {
			t.Fatal(err)
		}
		n, err := src.Count(t.Context(), keyspace.Prefix("/"))
		if err != nil {
			t.Fatal(err)
		}
		return src, n
	}
	before, keys := pin()
	w := &world{t, before}
	req := w.request(filter.Selection{Resource: "pods", Namespace: "batch-jobs"})
	req.WithOwners = true
	live, lines := w.planned(req)
	file := &world{t, zoo(t).src}
	req = file.request(filter.Selection{Resource: "pods", Namespace: "batch-jobs"})
	req.WithOwners = true
	saved, fromFile := file.planned(req)
	if diff := cmp.Diff(fromFile, lines); diff != "" || len(lines) == 0 {
		t.Errorf("the plan of a snapshot differs from that of its etcd (-file +live):\n%s", diff)
	}
	if diff := cmp.Diff(saved, live, cmpopts.IgnoreUnexported(LiveOwner{})); diff != "" {
		t.Errorf("so does the summary (-file +live):\n%s", diff)
	}
	if after, now := pin(); after.Revision() != before.Revision() || now != keys {
		t.Errorf("revision %d and %d keys became %d and %d", before.Revision(), keys, after.Revision(), now)
	}
}
