package plan

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// matched is one key as the count below sees it.
type matched struct {
	kv   *mvccpb.KeyValue
	path []string // the key's segments below the prefix
	head codec.Head
}

func (m matched) broken() bool { return m.head.Err != nil }

// namespace by the shape of the zoo's keys.
func (m matched) namespace() string {
	switch {
	case len(m.path) == 3 && m.path[0] != "apiextensions.k8s.io" && m.path[0] != "apiregistration.k8s.io" && m.path[0] != "scheduling.volcano.sh":
		return m.path[1]
	case len(m.path) == 4:
		return m.path[2]
	}
	return ""
}

// count goes over all keys with a predicate of the test's own and adds up what
// a Summary must say. It shares no code with the package but the decoding.
func (w *world) count(match func(matched) bool) *Summary {
	w.t.Helper()
	sum := newSummary()
	blocked := map[Blocked]int64{}
	err := w.src.Scan(w.t.Context(), keyspace.Prefix(prefix), false, func(kv *mvccpb.KeyValue) error {
		m := matched{kv, strings.Split(strings.TrimPrefix(string(kv.Key), prefix), "/"), codec.DecodeHead(kv.Value)}
		if !match(m) {
			return nil
		}
		if b := m.blocked(); b != nil {
			blocked[*b]++
			return nil
		}
		sum.countOne(m)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	for b, n := range blocked {
		b.Count = n
		sum.Blocked = append(sum.Blocked, b)
	}
	return sum
}

// blocked tells what a guard stops of pods and of what lies in system namespaces;
// in the zoo all nodes of a StatefulSet's pods exist, and none of these has
// finished.
func (m matched) blocked() *Blocked {
	if ns := m.namespace(); strings.HasPrefix(ns, "kube-") {
		return &Blocked{Reason: "namespace " + ns + " holds what the cluster itself runs on", Allow: "--unsafe-namespace " + ns}
	}
	if m.path[0] == "pods" && slices.ContainsFunc(m.head.Meta.Owners, func(o codec.Owner) bool { return o.Kind == "StatefulSet" }) {
		return &Blocked{
			Reason: "the node of a StatefulSet's pod may still run it: its successor has the same name and volumes, and both may write to them",
			Allow:  "--unsafe-kind statefulset-pods",
		}
	}
	return nil
}

func (s *Summary) countOne(m matched) {
	s.Steps++
	s.Bytes += int64(len(m.kv.Value))
	if ns := m.namespace(); ns != "" {
		s.Namespaces.Add(ns)
	}
	if m.broken() {
		s.Statuses.Add(string(m.head.Status))
		return
	}
	meta := m.head.Meta
	for _, o := range meta.Owners {
		s.Owners.Add(strings.ToLower(o.Kind) + "/" + o.Name)
	}
	for _, f := range meta.Finalizers {
		s.Finalizers.Add(f)
	}
	if m.head.Phase != "" {
		s.Phases.Add(m.head.Phase)
	}
	if m.head.Node != "" {
		s.Nodes.Add(m.head.Node)
	}
	if c := meta.Created; !c.IsZero() {
		if s.Oldest.Created.IsZero() || c.Before(s.Oldest.Created) {
			s.Oldest.Created = c
		}
		if c.After(s.Newest.Created) {
			s.Newest.Created = c
		}
	}
}

func TestSummaryAgreesWithACount(t *testing.T) {
	t.Parallel()
	type S = filter.Selection
	pods := func(m matched) bool { return m.path[0] == "pods" }
	tests := []struct {
		sel       S
		match     func(matched) bool
		undecided int64
	}{
		{S{Resource: "pods"}, pods, 0},
		{S{Resource: "pods", Namespace: "team"}, func(m matched) bool { return pods(m) && m.path[1] == "team" }, 0},
		{S{Resource: "pods", Node: "w-9"}, func(m matched) bool { return m.head.Node == "w-9" }, 0},
		{S{Resource: "pods", Phase: "Failed"}, func(m matched) bool { return pods(m) && m.head.Phase == "Failed" }, 0},
		{S{Resource: "pods", Fields: "status.phase!=Running"}, func(m matched) bool { return pods(m) && m.head.Phase != "Running" }, 0},
		{S{Resource: "secrets"}, func(m matched) bool { return m.path[0] == "secrets" }, 0},
		{S{Resource: "configmaps", Namespace: "team", Labels: "!none"}, func(m matched) bool {
			return m.path[0] == "configmaps" && m.namespace() == "team" && !m.broken()
		}, 15},
		{S{Resource: "events", Namespace: "team-x"}, func(m matched) bool { return m.path[0] == "events" && m.path[1] == "team-x" }, 0},
		{S{Namespace: "team"}, func(m matched) bool { return m.namespace() == "team" }, 0},
		{S{Namespace: "team-x"}, func(m matched) bool { return m.namespace() == "team-x" }, 0},
		{S{Terminating: true}, func(m matched) bool { return !m.head.Meta.Deleted.IsZero() }, 70},
		{S{Finalizer: "batch.kubernetes.io/job-tracking"}, func(m matched) bool {
			return slices.Contains(m.head.Meta.Finalizers, "batch.kubernetes.io/job-tracking")
		}, 70},
		{S{Labels: "app"}, func(m matched) bool { return m.head.Meta.Labels.Get("app") != "" }, 70},
		{S{Resource: "pods", Namespace: "none"}, func(matched) bool { return false }, 0},
	}
	w := zoo(t)
	for _, tt := range tests {
		t.Run(tt.sel.String(), func(t *testing.T) {
			w := &world{t, w.src}
			got, lines := w.planned(w.request(tt.sel))
			want := w.count(tt.match)
			want.Undecided = tt.undecided
			compareSummary(t, want, got)
			for _, l := range lines {
				if l.Stage != 0 && tt.sel.Resource != "" || l.Step.Role != Selected || l.Step.Action != Delete {
					t.Errorf("%+v", l)
				}
			}
		})
	}
}

// compareSummary leaves out what the count does not know: makers, stages, the
// names of the oldest and newest, the words for resources, and warnings.
func compareSummary(t *testing.T, want, got *Summary) {
	t.Helper()
	var byResource int64
	resources, _ := got.Resources.Largest(0)
	for _, share := range resources {
		byResource += share.Count
	}
	if byResource != got.Steps {
		t.Errorf("resources add up to %d, want %d", byResource, got.Steps)
	}
	if (got.Oldest.Name == "") != got.Oldest.Created.IsZero() || (got.Newest.Name == "") != got.Newest.Created.IsZero() {
		t.Errorf("oldest %v, newest %v", got.Oldest, got.Newest)
	}
	diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Summary{}, "Makers", "MakersTotal", "MakersPlanned", "Stages", "First", "Resources", "Warned"),
		cmpopts.IgnoreFields(Aged{}, "Name"), cmpopts.EquateEmpty(),
		cmpopts.SortSlices(func(a, b Blocked) bool { return a.Reason < b.Reason }))
	if diff != "" {
		t.Errorf("summary (-counted +got):\n%s", diff)
	}
}

// TestSummaryOfTheIncident plans the deletion of 30,000 pods and their Job.
func TestSummaryOfTheIncident(t *testing.T) {
	t.Parallel()
	path, err := sandbox.FixtureFile(t.Context(), sandbox.Runaway30k, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t, keyspace.FromFile(openFile(t, path))}
	req := w.request(filter.Selection{Resource: "pods", Namespace: "ops-tools", Owner: &filter.OwnerRef{Group: "batch", Kind: "Job", Name: "error-ret"}})
	req.WithOwners = true
	got, lines := w.planned(req)
	want := w.count(func(m matched) bool {
		return m.path[0] == "pods" || string(m.kv.Key) == prefix+"jobs/ops-tools/error-ret"
	})
	compareSummary(t, want, got)
	job, err := w.src.Get(t.Context(), prefix+"jobs/ops-tools/error-ret")
	if err != nil {
		t.Fatal(err)
	}
	for what, ok := range map[string]bool{
		"steps":      got.Steps == 30_001 && len(lines) == 30_001,
		"bytes":      got.Bytes == 49_350_000+int64(len(job.Value)),
		"resources":  cmp.Equal(got.Resources, tallyOf(map[string]int64{"pods": 30_000, "jobs.batch": 1})),
		"owners":     cmp.Equal(got.Owners, tallyOf(map[string]int64{"job/error-ret": 30_000})),
		"nodes":      cmp.Equal(got.Nodes, tallyOf(map[string]int64{"node7": 30_000})),
		"finalizers": cmp.Equal(got.Finalizers, tallyOf(map[string]int64{"batch.kubernetes.io/job-tracking": 30_000})),
		"stages":     cmp.Equal(got.Stages, []StageInfo{{"job", 1}, {"pod", 30_000}}),
	} {
		if !ok {
			t.Errorf("%s are wrong: %+v", what, got)
		}
	}
	if lines[0].Step.Key != string(job.Key) || lines[0].Stage != 0 || lines[1].Stage != 1 {
		t.Errorf("the plan begins with %v", lines[:2])
	}
}
