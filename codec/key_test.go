package codec

import (
	"fmt"
	"math/rand"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	volcanoJobCRD = `{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1beta1","metadata":{"name":"jobs.batch.volcano.sh"},
		"spec":{"group":"batch.volcano.sh","version":"v1alpha1","names":{"plural":"jobs","singular":"job","shortNames":["vcjob","vj"],"kind":"Job"},"scope":"Namespaced"}}`
	queueCRD = `{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","metadata":{"name":"queues.scheduling.volcano.sh"},
		"spec":{"group":"scheduling.volcano.sh","names":{"plural":"queues","kind":"Queue","shortNames":["q"]},"scope":"Cluster",
		"versions":[{"name":"v1beta1","selectableFields":[{"jsonPath":".spec.weight"}]},{"name":"v1","selectableFields":[{"jsonPath":".spec.weight"},{"jsonPath":".status.state"}]}]}}`
	podGroupCRD = `{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","metadata":{"name":"podgroups.scheduling.volcano.sh"},
		"spec":{"group":"scheduling.volcano.sh","names":{"plural":"podgroups","singular":"podgroup","kind":"PodGroup","shortNames":["pg","po"]},"scope":"Namespaced"}}`
)

func volcanoCatalog(tb testing.TB) *Catalog {
	tb.Helper()
	c := NewCatalog()
	for _, crd := range []string{volcanoJobCRD, queueCRD, podGroupCRD} {
		if _, err := c.AddCRD([]byte(crd)); err != nil {
			tb.Fatal(err)
		}
	}
	return c
}

func TestParseKey(t *testing.T) {
	t.Parallel()
	c := volcanoCatalog(t)
	tests := []struct {
		key       string
		resource  string // "" if not understood
		namespace string
		name      string
	}{
		{"/registry/pods/team/web-1", "pods", "team", "web-1"},
		{"/registry/pods/team-x/web-1", "pods", "team-x", "web-1"},
		{"/registry/podsecuritypolicy/restricted", "podsecuritypolicies.policy", "", "restricted"},
		{"/registry/podschedulings/team/a", "podschedulings.resource.k8s.io", "team", "a"},
		{"/registry/podschedulingcontexts/team/a", "podschedulingcontexts.resource.k8s.io", "team", "a"},
		{"/registry/ingress/team/web", "ingresses.networking.k8s.io", "team", "web"},
		{"/registry/ingressclasses/nginx", "ingressclasses.networking.k8s.io", "", "nginx"},
		{"/registry/services/specs/team/web", "services", "team", "web"},
		{"/registry/services/endpoints/team/web", "endpoints", "team", "web"},
		{"/registry/minions/w-1", "nodes", "", "w-1"},
		{"/registry/controllers/team/rc", "replicationcontrollers", "team", "rc"},
		{"/registry/events/team/web.17a", "events", "team", "web.17a"},
		{"/registry/jobs/team/job", "jobs.batch", "team", "job"},
		{"/registry/batch.volcano.sh/jobs/team/job", "jobs.batch.volcano.sh", "team", "job"},
		{"/registry/scheduling.volcano.sh/queues/default", "queues.scheduling.volcano.sh", "", "default"},
		{"/registry/clusterroles/system:node", "clusterroles.rbac.authorization.k8s.io", "", "system:node"},
		{"/registry/apiextensions.k8s.io/customresourcedefinitions/jobs.batch.volcano.sh", "customresourcedefinitions.apiextensions.k8s.io", "", "jobs.batch.volcano.sh"},
		{"/registry/apiregistration.k8s.io/apiservices/v1.", "apiservices.apiregistration.k8s.io", "", "v1."},
		{"/registry/masterleases/10.0.0.1", "masterleases", "", "10.0.0.1"},
		{"/registry/masterleases/fd00::1", "masterleases", "", "fd00::1"},
		{"/registry/ranges/serviceips", "ranges", "", "serviceips"},
		{"/registry/unknown.example.com/things/team/a", "things.unknown.example.com", "team", "a"},
		{"/registry/unknown.example.com/clusterthings/a", "clusterthings.unknown.example.com", "", "a"},
		{"/registry/pods/team/..a", "pods", "team", "..a"},

		{"/registry/pods/team", "", "", ""},
		{"/registry/pods/team/", "", "", ""},
		{"/registry/pods//web", "", "", ""},
		{"/registry/pods/team/web/extra", "", "", ""},
		{"/registry/pods/team/..", "", "", ""},
		{"/registry/pods/./web", "", "", ""},
		{"/registry/pods/team/a%2fb", "", "", ""},
		{"/registry/pods", "", "", ""},
		{"/registry/", "", "", ""},
		{"/registry", "", "", ""},
		{"/registry/minions/team/w-1", "", "", ""},
		{"/registry/services/team/web", "", "", ""},
		{"/registry/services/specs/web", "", "", ""},
		{"/registry/things/team/a", "", "", ""},
		{"/registry/scheduling.volcano.sh/queues/team/default", "", "", ""},
		{"/registry/batch.volcano.sh/jobs/job", "", "", ""},
		{"/registry/unknown.example.com/things", "", "", ""},
		{"/registry/unknown.example.com/things/a/b/c", "", "", ""},
		{"/registry/unknown.example.com//a", "", "", ""},
		{"/registry-other/pods/team/web", "", "", ""},
		{"/registrypods/team/web", "", "", ""},
		{"talos:v1:x", "", "", ""},
		{"compact_rev_key", "", "", ""},
		{"", "", "", ""},
	}
	for _, test := range tests {
		k, ok := c.ParseKey("/registry/", test.key)
		if ok != (test.resource != "") {
			t.Errorf("%q: understood %t", test.key, ok)
			continue
		}
		if !ok {
			continue
		}
		if k.Resource.String() != test.resource || k.Namespace != test.namespace || k.Name != test.name {
			t.Errorf("%q: got %s %q %q", test.key, k.Resource, k.Namespace, k.Name)
		}
		if path := k.Path("/registry/"); path != test.key {
			t.Errorf("%q: path %q", test.key, path)
		}
		if again, ok := c.ParseKey("/registry", test.key); !ok || again.Path("/registry") != test.key {
			t.Errorf("%q: differs without the prefix's slash", test.key)
		}
	}
}

func TestParseKeyOfUnknownCustomResource(t *testing.T) {
	t.Parallel()
	k, ok := NewCatalog().ParseKey(prefix, "/registry/batch.volcano.sh/jobs/team/train")
	want := &Resource{Group: "batch.volcano.sh", Plural: "jobs", Namespaced: true, Prefix: "batch.volcano.sh/jobs/", Custom: true}
	if !ok || !cmp.Equal(k.Resource, want) {
		t.Errorf("got %+v", k.Resource)
	}
	if name := k.Resource.SingularName(); name != "jobs.batch.volcano.sh" {
		t.Errorf("singular name %q", name)
	}
}

// TestPathThenParse checks the identity from the other side: a key made from
// any resource and any names is read back as it was.
func TestPathThenParse(t *testing.T) {
	t.Parallel()
	c := volcanoCatalog(t)
	random := rand.New(rand.NewSource(1))
	segment := func() string {
		const letters = "abz09-.:_~ é"
		for {
			var b strings.Builder
			for range 1 + random.Intn(8) {
				b.WriteString(string([]rune(letters)[random.Intn(len([]rune(letters)))]))
			}
			if validSegment(b.String()) {
				return b.String()
			}
		}
	}
	for _, r := range c.Resources() {
		for range 50 {
			want := Key{Resource: r, Name: segment()}
			if r.Namespaced {
				want.Namespace = segment()
			}
			for _, prefix := range []string{"/registry/", "/kubernetes.io/", "/", "/a/b/"} {
				path := want.Path(prefix)
				got, ok := c.ParseKey(prefix, path)
				if !ok || got != want {
					t.Fatalf("%q: got %+v, %t", path, got, ok)
				}
			}
		}
	}
}

func TestRange(t *testing.T) {
	t.Parallel()
	c := volcanoCatalog(t)
	tests := []struct {
		resource, namespace string
		start, end          string
		out                 []string
	}{
		{"pods", "", "/registry/pods/", "/registry/pods0", []string{"/registry/podsecuritypolicy/a", "/registry/podschedulings/a/b", "/registry/podtemplates/a/b"}},
		{"events", "team", "/registry/events/team/", "/registry/events/team0", []string{"/registry/events/team-x/a", "/registry/events/team0/a", "/registry/events/team"}},
		{"ingresses", "", "/registry/ingress/", "/registry/ingress0", []string{"/registry/ingressclasses/nginx"}},
		{"services", "", "/registry/services/specs/", "/registry/services/specs0", []string{"/registry/services/endpoints/a/b"}},
		{"nodes", "ignored", "/registry/minions/", "/registry/minions0", nil},
		{"jobs.batch.volcano.sh", "team", "/registry/batch.volcano.sh/jobs/team/", "/registry/batch.volcano.sh/jobs/team0", []string{"/registry/jobs/team/a"}},
	}
	for _, test := range tests {
		r, _, ok := c.Lookup(test.resource)
		if !ok {
			t.Fatalf("no %s", test.resource)
		}
		start, end := r.Range("/registry/", test.namespace)
		if start != test.start || end != test.end {
			t.Errorf("%s: [%q, %q), want [%q, %q)", test.resource, start, end, test.start, test.end)
		}
		if s, e := r.Range("/registry", test.namespace); s != start || e != end {
			t.Errorf("%s: range differs without the prefix's slash", test.resource)
		}
		for _, key := range test.out {
			if key >= start && key < end {
				t.Errorf("%s: range takes %q", test.resource, key)
			}
		}
	}
}

// TestRangesDoNotOverlap: no key of one resource stands in the range of
// another, for every pair in the catalog.
func TestRangesDoNotOverlap(t *testing.T) {
	t.Parallel()
	list := volcanoCatalog(t).Resources()
	for _, a := range list {
		start, end := a.Range(prefix, "")
		for _, b := range list {
			key := Key{Resource: b, Namespace: "n", Name: "x"}.Path(prefix)
			if (key >= start && key < end) != (a == b) {
				t.Errorf("%s and %s", a, b)
			}
		}
	}
}

func TestNormalizePrefix(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"/registry": "/registry/", "/registry/": "/registry/", "kubernetes.io": "/kubernetes.io/", "": "/", "/": "/", "a/b": "/a/b/",
	} {
		if got := NormalizePrefix(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestMetaMatchesKey(t *testing.T) {
	t.Parallel()
	c := NewCatalog()
	pod, _ := c.ParseKey(prefix, "/registry/pods/team/web")
	node, _ := c.ParseKey(prefix, "/registry/minions/w-1")
	lease, _ := c.ParseKey(prefix, "/registry/masterleases/10.0.0.1")
	tests := []struct {
		head Head
		key  Key
		want bool
	}{
		{Head{Meta: Meta{Namespace: "team", Name: "web"}}, pod, true},
		{Head{Meta: Meta{Namespace: "team", Name: "web2"}}, pod, false},
		{Head{Meta: Meta{Namespace: "team-x", Name: "web"}}, pod, false},
		{Head{Meta: Meta{Name: "web"}}, pod, false},
		{Head{Meta: Meta{Name: "w-1"}}, node, true},
		{Head{Meta: Meta{Namespace: "team", Name: "w-1"}}, node, false},
		{Head{}, lease, true},
		{Head{Status: StatusEncrypted, Err: ErrEncrypted}, pod, true},
		{Head{Status: StatusUndecodable, Err: ErrUndecodable}, pod, true},
	}
	for i, test := range tests {
		if got := MetaMatchesKey(test.head, test.key); got != test.want {
			t.Errorf("%d: got %t", i, got)
		}
	}
}

func ExampleCatalog_ParseKey() {
	c := NewCatalog()
	k, _ := c.ParseKey("/registry/", "/registry/services/specs/team/web")
	fmt.Println(k.Resource, k.Namespace, k.Name)
	// Output: services team web
}
