package codec

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// apiObjects returns the files of k8s.io/api testdata/HEAD: one protobuf value
// of every kind and version, with every field set.
func apiObjects(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(apiTestdata(t), "HEAD", "*.pb"))
	if err != nil || len(files) < 100 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	return files
}

// TestCellsOfAllKinds shows an object of every kind of this build's k8s.io/api,
// as protobuf and as JSON: both give the same row, the name is in it, and only
// older versions of another shape have unknown cells.
func TestCellsOfAllKinds(t *testing.T) {
	c := NewCatalog()
	shown, unknown := 0, []string{}
	for _, file := range apiObjects(t) {
		value, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		base := filepath.Base(file)
		obj, err := Decode(value, 1)
		if err != nil {
			// Reviews and options are no objects and are never stored.
			continue
		}
		gvk := obj.GetObjectKind().GroupVersionKind()
		r, ok := c.ByKind(gvk.Group, gvk.Kind)
		if !ok {
			continue
		}
		shown++
		got := Cells(obj, r, viewed())
		if len(got) != len(r.Columns()) || !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "nameValue") }) {
			t.Errorf("%s: %q", base, got)
		}
		m, err := Render(obj, RenderOptions{ShowSecrets: true})
		if err != nil {
			t.Fatal(err)
		}
		fromJSON, err := newUnstructured(m)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got, Cells(fromJSON, r, viewed())); diff != "" {
			t.Errorf("%s (-protobuf +json):\n%s", base, diff)
		}
		if cmp.Equal(got, plainCells(obj, r.Columns(), viewed())) && slices.Contains(got, unknownValue) {
			unknown = append(unknown, strings.TrimSuffix(base, ".pb"))
		}
	}
	t.Logf("%d kinds and versions", shown)
	want := []string{
		"flowcontrol.apiserver.k8s.io.v1beta1.PriorityLevelConfiguration",
		"flowcontrol.apiserver.k8s.io.v1beta2.PriorityLevelConfiguration",
		"node.k8s.io.v1alpha1.RuntimeClass",
	}
	if diff := cmp.Diff(want, unknown); diff != "" || shown < 90 {
		t.Errorf("%d shown; of these only by name and age (-want +got):\n%s", shown, diff)
	}
}

// TestCellsOfOldVersions: versions that a cluster's etcd may still hold.
func TestCellsOfOldVersions(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, resource, value, want string }{
		{"CronJob", "cronjobs", `{"apiVersion":"batch/v1beta1","kind":"CronJob","metadata":{"name":"x"},"spec":{"schedule":"@daily","suspend":true}}`,
			"x|@daily|<none>|True|0|<none>|<unknown>|||<none>"},
		{"Ingress", "ingresses", `{"apiVersion":"extensions/v1beta1","kind":"Ingress","metadata":{"name":"x"},"spec":{"rules":[{"host":"h","http":{"paths":[{"backend":{"serviceName":"s","servicePort":80}}]}}]}}`,
			"x|<none>|h||80|<unknown>"},
		{"PodDisruptionBudget", "pdb", `{"apiVersion":"policy/v1beta1","kind":"PodDisruptionBudget","metadata":{"name":"x"},"spec":{"minAvailable":"50%"}}`,
			"x|50%|N/A|0|<unknown>"},
		{"HorizontalPodAutoscaler v1", "hpa", `{"apiVersion":"autoscaling/v1","kind":"HorizontalPodAutoscaler","metadata":{"name":"x"},"spec":{"scaleTargetRef":{"kind":"Deployment","name":"d"},"maxReplicas":4,"targetCPUUtilizationPercentage":80},"status":{"currentReplicas":1,"currentCPUUtilizationPercentage":7}}`,
			"x|Deployment/d|cpu: 7%/80%|<unset>|4|1|<unknown>"},
		{"HorizontalPodAutoscaler v1 with more metrics", "hpa", `{"apiVersion":"autoscaling/v1","kind":"HorizontalPodAutoscaler","metadata":{"name":"x","annotations":{"autoscaling.alpha.kubernetes.io/metrics":"[]"}},"spec":{"scaleTargetRef":{"kind":"Deployment","name":"d"},"maxReplicas":4}}`,
			"x|Deployment/d|<unknown>|<unset>|4|0|<unknown>"},
		{"HorizontalPodAutoscaler v2beta1", "hpa", `{"apiVersion":"autoscaling/v2beta1","kind":"HorizontalPodAutoscaler","metadata":{"name":"x"},"spec":{"maxReplicas":4}}`,
			"x|<unknown>|<unknown>|<unknown>|<unknown>|<unknown>|<unknown>"},
		{"Service of before 1.20", "services", `{"apiVersion":"v1","kind":"Service","metadata":{"name":"x"},"spec":{"type":"ClusterIP","clusterIP":"10.0.0.1"}}`,
			"x|ClusterIP|10.0.0.1|<none>|<none>|<unknown>|<none>"},
		{"Deployment without replicas", "deploy", `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"x"},"spec":{}}`,
			"x|0/1|0|0|<unknown>|||"},
		{"another kind", "services", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"}}`,
			"x|<unknown>|<unknown>|<unknown>|<unknown>|<unknown>|<unknown>"},
		{"an APIService with another shape", "apiservices", `{"apiVersion":"apiregistration.k8s.io/v1","kind":"APIService","metadata":{"name":"x"},"spec":{"service":"s"}}`,
			"x|<unknown>|<unknown>|<unknown>"},
	}
	c := NewCatalog()
	for _, test := range tests {
		r, _, _ := c.Lookup(test.resource)
		if got := strings.Join(Cells(mustDecode(t, test.value), r, viewed()), "|"); got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
}

// TestCellsLeaveObjectAlone: a row is made without a change to the object.
func TestCellsLeaveObjectAlone(t *testing.T) {
	t.Parallel()
	const value = `{"apiVersion":"v1","kind":"Service","metadata":{"name":"x"},"spec":{"type":"LoadBalancer","externalIPs":["b","a"]},"status":{"loadBalancer":{"ingress":[{"ip":"2"},{"ip":"1"}]}}}`
	r, _, _ := NewCatalog().Lookup("services")
	obj := mustDecode(t, value)
	for range 2 {
		if got := Cells(obj, r, time.Time{})[3]; got != "1,2,b,a" {
			t.Errorf("got %s", got)
		}
	}
	if diff := cmp.Diff(mustDecode(t, value), obj); diff != "" {
		t.Errorf("changed (-before +after):\n%s", diff)
	}
}
