package plan

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// The reasons why a step is not meant any more.
const (
	whyAgain    = "it was deleted and made again meanwhile"
	whyKeyAgain = "the key was deleted and made again meanwhile"
	whyChanged  = "it changed and is not selected any more"
	whySystem   = "namespace kube-system holds what the cluster itself runs on"
)

// TestStillMeant: a key changed since the plan was made. The step goes on for
// the same object while it is still selected.
func TestStillMeant(t *testing.T) {
	t.Parallel()
	type S = filter.Selection
	pod := thing{key: podKey, kind: "v1 Pod", labels: "app=web", owners: []codec.Owner{owner("batch/v1 Job", jobKey)}}
	relabelled, disowned := pod, pod
	relabelled.labels, disowned.owners = "app=other", nil
	inSystem := thing{key: prefix + "pods/kube-system/p", kind: "v1 Pod"}
	web, ofJob := S{Resource: "pods", Labels: "app=web"}, S{Resource: "pods", Owner: &filter.OwnerRef{Group: "batch", Kind: "Job", Name: "j"}}
	selected := Step{Key: podKey, UID: uidOf(podKey), ModRevision: 1, CreateRevision: 1, Role: Selected}
	asOwner, other, unread, systems := selected, selected, selected, selected
	asOwner.Role, other.UID, unread.UID = Owner, "another", ""
	systems.Key, systems.UID = inSystem.key, uidOf(inSystem.key)
	otherOwner := other
	otherOwner.Role = Owner
	encrypted := func(create int64) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{Key: []byte(podKey), Value: []byte("k8s:enc:aescbc:v1:key1:xyz"), CreateRevision: create, ModRevision: 9}
	}
	tests := []struct {
		name  string
		sel   S
		step  Step
		now   *mvccpb.KeyValue
		allow []string
		why   string // empty if it is still meant
	}{
		{"unchanged but for its revision", web, selected, pod.entry(9), nil, ""},
		{"another life of the key, the same UID", web, selected, pod.entry(5), nil, ""},
		{"made again", web, other, pod.entry(9), nil, whyAgain},
		{"label gone", web, selected, relabelled.entry(9), nil, whyChanged},
		{"owner gone", ofJob, selected, disowned.entry(9), nil, whyChanged},
		{"something else changed", ofJob, selected, relabelled.entry(9), nil, ""},
		{"by name, something changed", S{Resource: "pods", Namespace: "a", Names: []string{"p"}}, selected, relabelled.entry(9), nil, ""},
		{"readable no more", web, selected, encrypted(1), nil, "it changed, and cannot be decoded any more"},
		{"never readable, the same life", S{Keys: []string{podKey}}, unread, encrypted(1), nil, ""},
		{"never readable, made again", S{Keys: []string{podKey}}, unread, encrypted(8), nil, whyKeyAgain},
		{"never readable, not decided on", web, unread, encrypted(1), nil, whyChanged},
		{"an owner is not judged by the selection", web, asOwner, relabelled.entry(9), nil, ""},
		{"an owner made again", web, otherOwner, pod.entry(9), nil, whyAgain},
		{"blocked", S{Resource: "pods"}, systems, inSystem.entry(9), nil, whySystem},
		{"not blocked with an override", S{Resource: "pods"}, systems, inSystem.entry(9), []string{"kube-system"}, ""},
		{"made again and blocked", S{Resource: "pods"}, selected, inSystem.entry(9), nil, whyAgain},
	}
	w := made(t, pod)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := &world{t, w.src}
			j := Judge{Filter: w.request(tt.sel).Filter, Guard: w.guard(filter.Overrides{Namespaces: tt.allow})}
			before := string(tt.now.Value)
			meant, why, err := j.StillMeant(t.Context(), tt.step, tt.now)
			if err != nil || meant != (tt.why == "") || why != tt.why {
				t.Errorf("StillMeant = %v, %q, %v; want %q", meant, why, err, tt.why)
			}
			if string(tt.now.Value) != before {
				t.Error("judging changed the value that is to be archived")
			}
		})
	}
}

// lost is a store whose owners cannot be read.
type lost struct{}

func (lost) Get(context.Context, string) (*mvccpb.KeyValue, error) { return nil, errLost }

// TestUnreadableOwnerIsAnError: neither meant nor not meant.
func TestUnreadableOwnerIsAnError(t *testing.T) {
	t.Parallel()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	sel := filter.Selection{Resource: "pods", Owner: &filter.OwnerRef{Group: "batch", Kind: "CronJob", Name: "c"}}
	f, err := filter.New(sel, reader, filter.NewOwners(lost{}, reader, nil))
	if err != nil {
		t.Fatal(err)
	}
	kv := pods("x", 1, 8)[0]
	meant, why, err := Judge{Filter: f, Guard: f.Guard(zoo(t).src)}.StillMeant(t.Context(), Step{Key: string(kv.Key), UID: uidOf(string(kv.Key)), Role: Selected}, kv)
	if meant || why != "" || !errors.Is(err, errLost) {
		t.Errorf("StillMeant = %v, %q, %v; want the error", meant, why, err)
	}
}

func TestStepsAreNamedAsPeopleDo(t *testing.T) {
	t.Parallel()
	for want, s := range map[string]Step{
		"delete pod a/p":          {Action: Delete, Key: podKey, Resource: "pod", Namespace: "a", Name: "p"},
		"put node w-9":            {Action: Put, Key: prefix + "minions/w-9", Resource: "node", Name: "w-9"},
		"delete /registry/x":      {Action: Delete, Key: prefix + "x"},
		"put job.batch.v.io a/j1": {Action: Put, Resource: "job.batch.v.io", Namespace: "a", Name: "j1"},
	} {
		if got := s.String(); got != want {
			t.Errorf("String = %q, want %q", got, want)
		}
	}
}

// TestSummaryOfASavedPlan counts steps as they are read.
func TestSummaryOfASavedPlan(t *testing.T) {
	t.Parallel()
	sum := newSummary()
	stage := -1
	for i := range 2 * FirstSteps {
		s := Step{Action: Put, Key: podKey, Resource: "pod", Namespace: "a", Owned: true}
		if i < 3 {
			s = Step{Action: Put, Key: prefix + "strange"}
		}
		if i == 0 || i == 3 {
			stage++
			sum.Stages = append(sum.Stages, StageInfo{What: s.Resource})
		}
		sum.Add(s)
	}
	if sum.Steps != 20 || sum.Owned != 17 || len(sum.First) != FirstSteps || sum.First[0].Key != prefix+"strange" {
		t.Errorf("%d steps, %d owned, %d shown first", sum.Steps, sum.Owned, len(sum.First))
	}
	if !cmp.Equal(sum.Resources, tallyOf(map[string]int64{"pod": 17})) || !cmp.Equal(sum.Namespaces, tallyOf(map[string]int64{"a": 17})) || !cmp.Equal(sum.Stages, []StageInfo{{"", 3}, {"pod", 17}}) {
		t.Errorf("resources %v, namespaces %v, stages %v", sum.Resources, sum.Namespaces, sum.Stages)
	}
}
