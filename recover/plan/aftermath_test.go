package plan

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/etcd-rescue/etcd-rescue/codec"
)

func TestAftermath(t *testing.T) {
	t.Parallel()
	both, server, none := Alive{Server: true, Manager: true}, Alive{Server: true}, Alive{}
	quota := Consequence{Text: quotaAfter}
	const (
		kill    = "kubelets kill their containers, within each pod's grace period; "
		replace = "controllers that are left make new ones at once, which may run beside the old (a StatefulSet promises that they never do)"
		follow  = "the garbage collector deletes what they own, about 20 a second: their pods, once the finalizer job-tracking is taken off them"
	)
	tests := []struct {
		name      string
		resources []string
		alive     Alive
		want      []Consequence
	}{
		{"nothing", nil, none, nil},
		{"pods", []string{"pods"}, both, []Consequence{{"pods", kill + replace}, quota}},
		{"pods without controllers", []string{"pods"}, server, []Consequence{{"pods", kill + "once kube-controller-manager runs again, " + replace}}},
		{"pods, nothing alive", []string{"pods"}, none, []Consequence{{"", nothingLives}, {"pods", kill + replace}, quota}},
		{"the words of a saved plan", []string{"pod", "job"}, both, []Consequence{{"jobs", follow}, {"pods", kill + replace}, quota}},
		{"both names", []string{"pod", "pods"}, both, []Consequence{{"pods", kill + replace}, quota}},
		{"the same twice", []string{"pods", "pods"}, both, []Consequence{{"pods", kill + replace}, quota}},
		{"events", []string{"events"}, both, []Consequence{{"events", "nothing, nobody acts on them"}}},
		{"a custom kind of a known name", []string{"jobs.batch.volcano.sh"}, both,
			[]Consequence{{"", anyDeletedServed + "; " + anyDeletedManaged}, quota}},
		{"any number of unknown ones", []string{"a.b", "c.d", "nodes"}, server, []Consequence{
			{"nodes", "their kubelets do not register them again before they restart; once kube-controller-manager runs again, " +
				"after about a minute the pods bound to them are deleted by force, whether or not their containers still run"},
			{"", anyDeletedServed + "; once kube-controller-manager runs again, " + anyDeletedManaged}}},
		{"data first", []string{"configmaps", "persistentvolumeclaims"}, both, []Consequence{
			{"persistentvolumeclaims", "pods that mount them run on, but cannot start again; " +
				"their volumes become Released and the volumes' reclaim policy is carried out: Delete destroys the data"},
			{"configmaps", "running pods keep what they have mounted, new ones that need them do not start; a namespace's kube-root-ca.crt is made again"}, quota}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, Aftermath(test.resources, test.alive)); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestUndoAftermath(t *testing.T) {
	t.Parallel()
	const pods = "kubelets start the containers again of those that had not finished; controllers count them in, and delete what is more than they want"
	memory := Consequence{Text: remembered}
	tests := []struct {
		name      string
		resources []string
		owned     int64
		alive     Alive
		want      []Consequence
	}{
		{"nothing", nil, 0, Alive{}, nil},
		{"pods", []string{"pods"}, 40, Alive{true, true}, []Consequence{{Text: seenAdded}, memory, {"pods", pods}}},
		{"pods, nothing alive", []string{"pods"}, 40, Alive{}, []Consequence{{Text: nothingLives}, {Text: seenAdded}, memory, {"pods", pods}}},
		{"a kind without a rule", []string{"x.y"}, 0, Alive{}, []Consequence{{Text: nothingLives}, {Text: seenAdded}}},
		{"one with an owner", []string{"x.y"}, 1, Alive{true, true}, []Consequence{{Text: seenAdded}, {Text: remembered}}},
		{"Jobs without controllers", []string{"job"}, 0, Alive{Server: true}, []Consequence{{Text: seenAdded},
			{"jobs", "once kube-controller-manager runs again, they go on where their status stands, with new pods up to their parallelism"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, UndoAftermath(test.resources, test.owned, test.alive)); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

// TestAftermathNames holds that every rule names a resource of the catalog, in
// both ways, and says something short that fits behind a colon.
func TestAftermathNames(t *testing.T) {
	t.Parallel()
	c := codec.NewCatalog()
	for _, rules := range [][]rule{deleteRules(), undoRules()} {
		seen := map[string]bool{}
		for _, r := range rules {
			known, _, ok := c.Lookup(r.resource)
			if !ok || known.String() != r.resource || known.Word() != r.word {
				t.Errorf("%s, %s: the catalog has %v, %t", r.resource, r.word, known, ok)
			}
			if seen[r.resource] {
				t.Errorf("%s is there twice", r.resource)
			}
			seen[r.resource] = true
			for _, text := range []string{r.served, r.managed} {
				if len(text) > 200 || strings.Contains(text, ". ") || strings.HasSuffix(text, ".") {
					t.Errorf("%s: %q", r.resource, text)
				}
			}
			if r.served+r.managed == "" {
				t.Errorf("%s has no text", r.resource)
			}
		}
	}
}

// TestAftermathOfAll holds that every resource of the catalog is told in a
// bounded number of lines, each with a text.
func TestAftermathOfAll(t *testing.T) {
	t.Parallel()
	all := []string{"events.events.k8s.io"} // a view, which the catalog does not list
	for _, r := range codec.NewCatalog().Resources() {
		all = append(all, r.String())
	}
	for i := range 10_000 {
		all = append(all, fmt.Sprintf("kinds%d.example.com", i))
	}
	next := Aftermath(all, Alive{})
	if want := len(deleteRules()) + 3; len(next) != want {
		t.Errorf("%d lines, want one for each rule and 3: %d", len(next), want)
	}
	for _, c := range next {
		if c.Text == "" {
			t.Errorf("%s has no text", c.Resource)
		}
	}
}
