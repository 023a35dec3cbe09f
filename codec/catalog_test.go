package codec

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
)

func names(list []*Resource) []string {
	var out []string
	for _, r := range list {
		out = append(out, r.String())
	}
	return out
}

func TestLookup(t *testing.T) {
	t.Parallel()
	c := volcanoCatalog(t)
	tests := []struct {
		name   string
		want   string // "" if not found
		others []string
	}{
		{"pods", "pods", nil},
		{"pod", "pods", nil},
		{"po", "pods", []string{"podgroups.scheduling.volcano.sh"}},
		{"Pod", "pods", nil},
		{"PODS", "pods", nil},
		{"pods.v1.", "pods", nil},
		{"pods.", "pods", nil},
		{"pods.v1", "", nil},
		{"svc", "services", nil},
		{"ep", "endpoints", nil},
		{"endpoints", "endpoints", nil},
		{"no", "nodes", nil},
		{"rc", "replicationcontrollers", nil},
		{"crd", "customresourcedefinitions.apiextensions.k8s.io", nil},
		{"crds", "customresourcedefinitions.apiextensions.k8s.io", nil},
		{"netpol", "networkpolicies.networking.k8s.io", nil},
		{"networkpolicy", "networkpolicies.networking.k8s.io", nil},
		{"psp", "podsecuritypolicies.policy", nil},
		{"psp.extensions", "podsecuritypolicies.policy", nil},
		{"podpresets", "podpresets.settings.k8s.io", nil},
		{"deploy", "deployments.apps", nil},
		{"deployments.apps", "deployments.apps", nil},
		{"deployments.v1.apps", "deployments.apps", nil},
		{"deployments.v1beta1.extensions", "deployments.apps", nil},
		{"deployments.extensions", "deployments.apps", nil},
		{"deployments.batch", "", nil},
		{"ingress", "ingresses.networking.k8s.io", nil},
		{"ing.extensions", "ingresses.networking.k8s.io", nil},
		{"ingressclass", "ingressclasses.networking.k8s.io", nil},
		{"ev", "events", nil},
		{"events.events.k8s.io", "events.events.k8s.io", nil},
		{"events.v1.events.k8s.io", "events.events.k8s.io", nil},
		{"ev.events.k8s.io", "events.events.k8s.io", nil},
		{"Event.v1beta1.events.k8s.io", "events.events.k8s.io", nil},
		{"events.", "events", nil},
		{"events.v1.", "events", nil},
		{"events.v1", "", nil},
		{"events", "events", nil},
		{"jobs", "jobs.batch", []string{"jobs.batch.volcano.sh"}},
		{"job", "jobs.batch", []string{"jobs.batch.volcano.sh"}},
		{"jobs.batch", "jobs.batch", nil},
		{"jobs.batch.volcano.sh", "jobs.batch.volcano.sh", nil},
		{"Job.batch.volcano.sh", "jobs.batch.volcano.sh", nil},
		{"jobs.v1alpha1.batch.volcano.sh", "jobs.batch.volcano.sh", nil},
		{"jobs.batch.volcano", "", nil},
		{"vcjob", "jobs.batch.volcano.sh", nil},
		{"q", "queues.scheduling.volcano.sh", nil},
		{"queue", "queues.scheduling.volcano.sh", nil},
		{"podgroups", "podgroups.scheduling.k8s.io", []string{"podgroups.scheduling.volcano.sh"}},
		{"masterleases", "masterleases", nil},
		{"ranges", "ranges", nil},
		{"rangeallocation", "", nil},
		{"minions", "", nil},
		{"", "", nil},
		{".", "", nil},
		{"all", "", nil},
	}
	for _, test := range tests {
		r, others, ok := c.Lookup(test.name)
		if ok != (test.want != "") {
			t.Errorf("%q: found %v, %t", test.name, r, ok)
			continue
		}
		if ok && r.String() != test.want {
			t.Errorf("%q: got %s, want %s", test.name, r, test.want)
		}
		if diff := cmp.Diff(test.others, names(others)); diff != "" {
			t.Errorf("%q: others (-want +got):\n%s", test.name, diff)
		}
	}
}

// TestLookupOwnNames: every name of a resource, qualified by its group, finds
// the resource and nothing else.
func TestLookupOwnNames(t *testing.T) {
	t.Parallel()
	c := volcanoCatalog(t)
	for _, r := range c.Resources() {
		if r.Internal {
			continue
		}
		for _, name := range append([]string{r.Plural, r.Singular, r.Kind}, r.ShortNames...) {
			got, others, ok := c.Lookup(name + "." + r.Group)
			if !ok || got != r || len(others) != 0 {
				t.Errorf("%s.%s: got %v and %v", name, r.Group, got, names(others))
			}
			if _, _, ok := c.Lookup(name); !ok {
				t.Errorf("%s: not found", name)
			}
		}
		if got, _, ok := c.Lookup(r.SingularName()); !ok || r.Group != "" && got != r {
			t.Errorf("%s: got %v", r.SingularName(), got)
		}
	}
}

func TestByKind(t *testing.T) {
	t.Parallel()
	c := volcanoCatalog(t)
	tests := []struct{ group, kind, want string }{
		{"", "Pod", "pods"},
		{"", "Endpoints", "endpoints"},
		{"apps", "ReplicaSet", "replicasets.apps"},
		{"extensions", "ReplicaSet", "replicasets.apps"},
		{"extensions", "Ingress", "ingresses.networking.k8s.io"},
		{"events.k8s.io", "Event", "events"},
		{"", "Event", "events"},
		{"batch", "Job", "jobs.batch"},
		{"batch.volcano.sh", "Job", "jobs.batch.volcano.sh"},
		{"apps", "Job", ""},
		{"", "pod", ""},
		{"", "RangeAllocation", ""},
	}
	for _, test := range tests {
		r, ok := c.ByKind(test.group, test.kind)
		if ok != (test.want != "") || ok && r.String() != test.want {
			t.Errorf("%q %q: got %v, %t", test.group, test.kind, r, ok)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	c := volcanoCatalog(t)
	for name, want := range map[string]string{
		"pods": "pod", "jobs.batch": "job.batch", "endpoints": "endpoints", "ingresses": "ingress.networking.k8s.io",
		"queues.scheduling.volcano.sh": "queue.scheduling.volcano.sh",
	} {
		r, _, _ := c.Lookup(name)
		if got := r.SingularName(); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

func TestAddCRD(t *testing.T) {
	t.Parallel()
	c := NewCatalog()
	got, err := c.AddCRD([]byte(queueCRD))
	want := &Resource{
		Group: "scheduling.volcano.sh", Kind: "Queue", Plural: "queues", Singular: "queue", ShortNames: []string{"q"},
		Prefix: "scheduling.volcano.sh/queues/", Custom: true, Selectable: []string{"spec.weight", "status.state"},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatalf("%v (-want +got):\n%s", err, diff)
	}
	before := len(c.Resources())
	again, err := c.AddCRD([]byte(strings.ReplaceAll(queueCRD, `"Cluster"`, `"Namespaced"`)))
	if err != nil || !again.Namespaced || len(c.Resources()) != before {
		t.Errorf("added again: %+v, %v, %d resources", again, err, len(c.Resources()))
	}
	if r, others, _ := c.Lookup("queues"); r != again || len(others) != 0 {
		t.Errorf("lookup finds %v and %v", r, names(others))
	}
}

func TestAddCRDRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, crd, want string }{
		{"no JSON", `{"kind":`, "json breaks"},
		{"not a CRD", `{"kind":"Pod","apiVersion":"v1"}`, "another kind"},
		{"other group", strings.ReplaceAll(queueCRD, "apiextensions.k8s.io", "example.com"), "another kind"},
		{"group without dot", strings.ReplaceAll(queueCRD, `"group":"scheduling.volcano.sh"`, `"group":"volcano"`), "make no key"},
		{"slash in plural", strings.ReplaceAll(queueCRD, `"plural":"queues"`, `"plural":"a/b"`), "make no key"},
		{"no scope", strings.ReplaceAll(queueCRD, `"Cluster"`, `""`), "unknown scope"},
		{"built-in keys", strings.NewReplacer(`"group":"scheduling.volcano.sh"`, `"group":"apiregistration.k8s.io"`, `"queues"`, `"apiservices"`).Replace(queueCRD), "belong to built-in"},
	}
	for _, test := range tests {
		c := NewCatalog()
		before := len(c.Resources())
		_, err := c.AddCRD([]byte(test.crd))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
		if len(c.Resources()) != before {
			t.Errorf("%s: catalog changed", test.name)
		}
	}
	if _, err := NewCatalog().AddCRD([]byte("{")); !errors.Is(err, ErrUndecodable) {
		t.Errorf("got %v", err)
	}
}

func TestCatalogIsConsistent(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, r := range NewCatalog().Resources() {
		if seen[r.String()] {
			t.Errorf("%s twice", r)
		}
		seen[r.String()] = true
		if !strings.HasSuffix(r.Prefix, "/") || strings.HasPrefix(r.Prefix, "/") {
			t.Errorf("%s: prefix %q", r, r.Prefix)
		}
		if r.Plural != strings.ToLower(r.Plural) || r.Singular != strings.ToLower(r.Singular) || r.Kind == "" {
			t.Errorf("%s: %+v", r, r)
		}
		// A first segment with a dot is read as the group of a custom resource.
		if first, _, _ := strings.Cut(r.Prefix, "/"); strings.Contains(first, ".") && first != r.Group {
			t.Errorf("%s: prefix %q", r, r.Prefix)
		}
	}
	if got := len(builtins()); got != len(seen) {
		t.Errorf("%d of %d built-in resources share a prefix with another", len(seen), got)
	}
}

// TestCatalogHasEveryKind: each kind in this build's k8s.io/api that has
// metadata and is not in a list of those that are never stored is in the
// catalog, with the group it is served under.
func TestCatalogHasEveryKind(t *testing.T) {
	t.Parallel()
	notStored := []string{
		"Binding", "ComponentStatus", "RangeAllocation", "PodStatusResult", "Scale", "PodProxyOptions", "SerializedReference",
		"DeploymentRollback", "TokenRequest", "TokenReview", "SelfSubjectReview", "ImageReview",
		"LocalSubjectAccessReview", "SelfSubjectAccessReview", "SelfSubjectRulesReview", "SubjectAccessReview",
	}
	c := NewCatalog()
	checked := 0
	for gvk := range scheme.Scheme.AllKnownTypes() {
		obj, err := scheme.Scheme.New(gvk)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := obj.(metav1.Object); !ok || slices.Contains(notStored, gvk.Kind) {
			continue
		}
		// policy/v1 Eviction is a subresource of pods; lifecycle.k8s.io has a
		// stored kind of that name.
		if gvk.Kind == "Eviction" && gvk.Group == "policy" {
			continue
		}
		checked++
		if _, ok := c.ByKind(gvk.Group, gvk.Kind); !ok {
			t.Errorf("%s is not in the catalog", gvk)
		}
	}
	if checked < 60 {
		t.Errorf("checked only %d kinds", checked)
	}
}
