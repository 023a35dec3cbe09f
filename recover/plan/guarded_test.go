package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

const (
	whyTwin    = "the node of a StatefulSet's pod may still run it: its successor has the same name and volumes, and both may write to them"
	whyGone    = "the Node of a StatefulSet's pod is gone; if that machine still runs, so may the pod, next to its successor"
	whyRetain  = "the volume stays (reclaim policy Retain), but no other claim can have it until its claimRef is removed"
	whyDestroy = "data loss: the volume itself is destroyed once its claim is gone (reclaim policy Delete)"
)

// shop is a store with pods of a StatefulSet and claims.
func shop(t *testing.T) *world {
	const set = prefix + "statefulsets/a/db"
	pod := func(name, node string) thing {
		return thing{key: prefix + "pods/a/" + name, kind: "v1 Pod", owners: []codec.Owner{owner("apps/v1 StatefulSet", set)}, spec: map[string]string{"nodeName": node}}
	}
	claim := func(name, volume string) thing {
		return thing{key: prefix + "persistentvolumeclaims/a/" + name, kind: "v1 PersistentVolumeClaim", spec: map[string]string{"volumeName": volume}}
	}
	volume := func(name, policy string) thing {
		return thing{key: prefix + "persistentvolumes/" + name, kind: "v1 PersistentVolume", spec: map[string]string{"persistentVolumeReclaimPolicy": policy}}
	}
	return made(t, thing{key: prefix + "minions/w-1", kind: "v1 Node"}, thing{key: set, kind: "apps/v1 StatefulSet"},
		pod("db-0", "w-1"), pod("db-1", "gone"), pod("db-2", "w-1"),
		volume("v-0", "Retain"), volume("v-1", "Delete"), claim("data-0", "v-0"), claim("data-1", "v-1"))
}

// TestGuardsInAPlan: what is blocked gets no step and is counted, what is
// warned of gets one that says so, and so does what an override allows.
func TestGuardsInAPlan(t *testing.T) {
	t.Parallel()
	w := shop(t)
	type S = filter.Selection
	twins := Blocked{whyTwin, "--unsafe-kind statefulset-pods", 2}
	destroyed := Blocked{whyDestroy, "--unsafe-kind persistentvolumeclaims", 1}
	tests := []struct {
		name    string
		sel     S
		kinds   []string
		blocked []Blocked
		warned  []Warned
		steps   map[string][]string // to the warnings
	}{
		{"pods", S{Resource: "pods", Namespace: "a"}, nil, []Blocked{twins}, []Warned{{whyGone, 1}}, map[string][]string{"db-1": {whyGone}}},
		{"pods allowed", S{Resource: "pods", Namespace: "a"}, []string{"statefulset-pods"}, nil, []Warned{{whyTwin, 2}, {whyGone, 1}},
			map[string][]string{"db-0": {whyTwin + ": Node w-1"}, "db-1": {whyGone}, "db-2": {whyTwin + ": Node w-1"}}},
		{"claims", S{Resource: "persistentvolumeclaims", Namespace: "a"}, []string{"persistentvolumes"}, []Blocked{destroyed}, []Warned{{whyRetain, 1}},
			map[string][]string{"data-0": {whyRetain + ": PersistentVolume v-0"}}},
		{"all", S{Namespace: "a"}, nil, []Blocked{destroyed, twins}, []Warned{{whyRetain, 1}, {whyGone, 1}},
			map[string][]string{"data-0": {whyRetain + ": PersistentVolume v-0"}, "db": nil, "db-1": {whyGone}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := &world{t, w.src}
			req := w.request(tt.sel)
			req.Guard = w.guard(filter.Overrides{Kinds: tt.kinds})
			sum, lines := w.planned(req)
			steps := map[string][]string{}
			for _, l := range lines {
				steps[l.Step.Name] = l.Step.Warnings
			}
			if diff := cmp.Diff(tt.blocked, sum.Blocked); diff != "" {
				t.Errorf("blocked (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.warned, sum.Warned); diff != "" {
				t.Errorf("warned (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.steps, steps); diff != "" {
				t.Errorf("warnings of steps (-want +got):\n%s", diff)
			}
		})
	}
}

// TestOwnersAreGuardedToo: by their values, before these are forgotten.
func TestOwnersAreGuardedToo(t *testing.T) {
	t.Parallel()
	const claim, pod = prefix + "persistentvolumeclaims/a/c", prefix + "pods/a/p"
	for policy, want := range map[string][]Blocked{"Retain": nil, "Delete": {{whyDestroy, "--unsafe-kind persistentvolumeclaims", 1}}} {
		w := made(t, thing{key: claim, kind: "v1 PersistentVolumeClaim", spec: map[string]string{"volumeName": "v"}},
			thing{key: prefix + "persistentvolumes/v", kind: "v1 PersistentVolume", spec: map[string]string{"persistentVolumeReclaimPolicy": policy}},
			thing{key: pod, kind: "v1 Pod", owners: []codec.Owner{owner("v1 PersistentVolumeClaim", claim)}})
		req := w.request(filter.Selection{Resource: "pods", Namespace: "a"})
		req.WithOwners = true
		sum, lines := w.planned(req)
		if diff := cmp.Diff(want, sum.Blocked); diff != "" {
			t.Errorf("%s: blocked (-want +got):\n%s", policy, diff)
		}
		if want == nil && (len(lines) != 2 || !cmp.Equal(lines[0].Step.Warnings, []string{whyRetain + ": PersistentVolume v"})) {
			t.Errorf("%s: steps %+v", policy, lines)
		}
	}
}

// TestStillMeantLooksAgain: a guard judges a changed key by what is there now.
func TestStillMeantLooksAgain(t *testing.T) {
	t.Parallel()
	w := shop(t)
	for name, want := range map[string]string{"db-0": whyTwin, "db-1": ""} {
		key := prefix + "pods/a/" + name
		kv, err := w.src.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		step := Step{Key: key, UID: uidOf(key), Role: Selected}
		for _, kinds := range [][]string{nil, {"statefulset-pods"}} {
			if kinds != nil {
				want = ""
			}
			j := Judge{Filter: w.request(filter.Selection{Resource: "pods", Namespace: "a"}).Filter, Guard: w.guard(filter.Overrides{Kinds: kinds})}
			meant, why, err := j.StillMeant(t.Context(), step, &mvccpb.KeyValue{Key: kv.Key, Value: kv.Value, ModRevision: 99})
			if err != nil || meant != (want == "") || why != want {
				t.Errorf("%s with %v: %v, %q, %v; want %q", name, kinds, meant, why, err, want)
			}
		}
	}
	// What is judged without a guard is not deleted.
	key := prefix + "statefulsets/a/db"
	kv, err := w.src.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	j := Judge{Filter: w.request(filter.Selection{Namespace: "a"}).Filter}
	if meant, why, err := j.StillMeant(t.Context(), Step{Key: key, UID: uidOf(key), Role: Selected}, kv); meant || why != "" || err == nil {
		t.Errorf("without a guard: %v, %q, %v; want an error", meant, why, err)
	}
}
