package codec

import (
	"encoding/base64"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
)

// notObjects are the kinds that k8s.io/api can encode and nobody stores,
// because they have no metadata, which Show refuses.
func notObjects() []string {
	return []string{
		// Bodies of requests and of answers, and parameters of a URL.
		"admission.k8s.io.v1.AdmissionReview", "admission.k8s.io.v1beta1.AdmissionReview",
		"apps.v1beta1.DeploymentRollback", "extensions.v1beta1.DeploymentRollback",
		"core.v1.APIGroup", "core.v1.APIVersions", "core.v1.CreateOptions", "core.v1.DeleteOptions", "core.v1.GetOptions",
		"core.v1.ListOptions", "core.v1.NodeProxyOptions", "core.v1.PatchOptions", "core.v1.PodAttachOptions",
		"core.v1.PodExecOptions", "core.v1.PodLogOptions", "core.v1.PodPortForwardOptions", "core.v1.PodProxyOptions",
		"core.v1.ServiceProxyOptions", "core.v1.Status", "core.v1.UpdateOptions",
		// A frame of a watch, even without apiVersion and kind.
		"core.v1.WatchEvent",
		// Once the value of an annotation.
		"core.v1.SerializedReference",
	}
}

// goneKinds are those that an older release had and this build's k8s.io/api has
// not. They are shown by metadata.
func goneKinds() []string {
	return []string{
		"v1.33.0/autoscaling.v2beta1.HorizontalPodAutoscaler",
		"v1.33.0/autoscaling.v2beta2.HorizontalPodAutoscaler",
		"v1.33.0/networking.k8s.io.v1alpha1.IPAddress",
		"v1.33.0/networking.k8s.io.v1alpha1.ServiceCIDR",
		"v1.33.0/resource.k8s.io.v1alpha3.DeviceClass",
		"v1.33.0/resource.k8s.io.v1alpha3.ResourceClaim",
		"v1.33.0/resource.k8s.io.v1alpha3.ResourceClaimTemplate",
		"v1.33.0/resource.k8s.io.v1alpha3.ResourceSlice",
		"v1.33.0/scheduling.k8s.io.v1alpha1.PriorityClass",
		"v1.34.0/autoscaling.v2beta1.HorizontalPodAutoscaler",
		"v1.34.0/autoscaling.v2beta2.HorizontalPodAutoscaler",
		"v1.34.0/certificates.k8s.io.v1alpha1.PodCertificateRequest",
		"v1.34.0/scheduling.k8s.io.v1alpha1.PriorityClass",
		"v1.35.0/autoscaling.v2beta1.HorizontalPodAutoscaler",
		"v1.35.0/autoscaling.v2beta2.HorizontalPodAutoscaler",
		"v1.35.0/scheduling.k8s.io.v1alpha1.PriorityClass",
		"v1.35.0/scheduling.k8s.io.v1alpha1.Workload",
		"v1.36.0/scheduling.k8s.io.v1alpha2.PodGroup",
		"v1.36.0/scheduling.k8s.io.v1alpha2.Workload",
	}
}

// apiDataRevision stands for the mod revision of the key: the files hold a
// resourceVersion, which an apiserver never stores, and Show replaces it.
const apiDataRevision = 7

// apiFile is one protobuf file of k8s.io/api and the JSON of the same object.
type apiFile struct {
	name  string // HEAD/apps.v1.Deployment
	kind  string // apps.v1.Deployment
	value []byte
	want  map[string]any
}

// apiTestdata returns the folder of k8s.io/api's own golden files, one object
// of each kind with every field set, for this and earlier releases.
func apiTestdata(tb testing.TB) string {
	tb.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/api").Output()
	if err != nil {
		tb.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "testdata")
}

// apiData returns the files that the authors of the Kubernetes API keep to
// notice changes of its encoding. Of a file from an older release the JSON is
// what is left of it after decoding and encoding, where that is less.
func apiData(t *testing.T) []apiFile {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(apiTestdata(t), "*", "*.pb"))
	if err != nil {
		t.Fatal(err)
	}
	var files []apiFile
	for _, path := range paths {
		base := strings.TrimSuffix(path, ".pb")
		if strings.HasSuffix(base, ".after_roundtrip") {
			continue
		}
		f := apiFile{kind: filepath.Base(base), name: filepath.Base(filepath.Dir(base)) + "/" + filepath.Base(base)}
		if f.value, err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(base + ".after_roundtrip.json")
		if errors.Is(err, os.ErrNotExist) {
			data, err = os.ReadFile(base + ".json")
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &f.want); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

// TestAPIData compares what is shown of every kind of every group and version
// of the Kubernetes API with the JSON of the same object.
func TestAPIData(t *testing.T) {
	counts := map[string]map[string]int{}
	var gone []string
	without, filled := map[string]bool{}, map[string]bool{}
	for _, f := range apiData(t) {
		folder := filepath.Dir(f.name)
		if counts[folder] == nil {
			counts[folder] = map[string]int{}
		}
		s, err := Show(f.value, apiDataRevision, nil)
		switch {
		case err != nil:
			counts[folder]["not objects"]++
			without[f.kind] = true
			checkNotObject(t, f, err)
		case s.ByMetadata:
			counts[folder]["by metadata"]++
			gone = append(gone, f.name)
			checkGone(t, f, s)
		default:
			counts[folder]["compared"]++
			got := rendered(t, f.name, s)
			filled[f.kind] = dropClaimTypes(got) || filled[f.kind]
			f.want["metadata"].(map[string]any)["resourceVersion"] = "7"
			if diff := cmp.Diff(f.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", f.name, diff)
			}
			if folder == "HEAD" && s.Omitted != nil {
				t.Errorf("%s: omitted %q", f.name, s.Omitted)
			}
		}
	}
	t.Log(counts)
	want := notObjects()
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(without))); diff != "" {
		t.Errorf("kinds that are no objects (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(goneKinds(), gone); diff != "" {
		t.Errorf("shown by metadata (-want +got):\n%s", diff)
	}
	maps.DeleteFunc(filled, func(_ string, yes bool) bool { return !yes })
	if diff := cmp.Diff(map[string]bool{"apps.v1.StatefulSet": true}, filled); diff != "" {
		t.Errorf("kinds with fields that are filled in on read (-want +got):\n%s", diff)
	}
	if len(counts) < 5 || counts["HEAD"]["compared"] < 170 {
		t.Errorf("compared %v", counts)
	}
}

// rendered is all that is shown.
func rendered(t testing.TB, name string, s Shown) map[string]any {
	t.Helper()
	m, err := Render(s.Object, RenderOptions{ManagedFields: true, ShowSecrets: true})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return m
}

// dropClaimTypes removes what an apiserver fills in on read and the files have
// not: the type of a StatefulSet's claim templates. It reports whether it did.
func dropClaimTypes(m map[string]any) bool {
	claims, _, _ := unstructured.NestedSlice(m, "spec", "volumeClaimTemplates")
	dropped := false
	for _, claim := range claims {
		claim := claim.(map[string]any)
		if claim["apiVersion"] == "v1" && claim["kind"] == "PersistentVolumeClaim" {
			delete(claim, "apiVersion")
			delete(claim, "kind")
			dropped = true
		}
	}
	if dropped {
		_ = unstructured.SetNestedSlice(m, claims, "spec", "volumeClaimTemplates")
	}
	return dropped
}

// checkNotObject: what has no metadata is refused as that, although its type is
// known and its fields are read right.
func checkNotObject(t *testing.T, f apiFile, err error) {
	t.Helper()
	if !errors.Is(err, ErrUndecodable) {
		t.Errorf("%s: %v", f.name, err)
	}
	if f.kind == "core.v1.WatchEvent" {
		return
	}
	obj, err := decodeProtobuf(f.value[len(magicProtobuf):])
	if err != nil {
		t.Errorf("%s: %v", f.name, err)
		return
	}
	if diff := cmp.Diff(f.want, rendered(t, f.name, Shown{Object: obj})); diff != "" {
		t.Errorf("%s (-want +got):\n%s", f.name, diff)
	}
}

// checkGone: all of the metadata is there, and every text of the rest.
func checkGone(t *testing.T, f apiFile, s Shown) {
	t.Helper()
	got := rendered(t, f.name, s)
	f.want["metadata"].(map[string]any)["resourceVersion"] = "7"
	for _, name := range []string{"apiVersion", "kind", "metadata"} {
		if diff := cmp.Diff(f.want[name], got[name]); diff != "" {
			t.Errorf("%s: %s (-want +got):\n%s", f.name, name, diff)
		}
		delete(f.want, name)
		delete(got, name)
	}
	have, want := strings.Join(texts(got), "\x00"), texts(f.want)
	if len(want) == 0 || len(got) != 1 {
		t.Errorf("%s: %d texts wanted, members %v", f.name, len(want), slices.Sorted(maps.Keys(got)))
	}
	for _, text := range want {
		// Times are numbers in protobuf, and bytes are base64 in JSON only.
		if _, err := time.Parse(time.RFC3339, text); err == nil {
			continue
		}
		plain, err := base64.StdEncoding.DecodeString(text)
		if !strings.Contains(have, text) && (err != nil || !strings.Contains(have, string(plain))) {
			t.Errorf("%s: %q is not in the dump", f.name, text)
		}
	}
}

// texts returns all the strings in a JSON value.
func texts(v any) []string {
	var list []string
	switch v := v.(type) {
	case string:
		return []string{v}
	case map[string]any:
		for _, member := range v {
			list = append(list, texts(member)...)
		}
	case []any:
		for _, element := range v {
			list = append(list, texts(element)...)
		}
	}
	return list
}
