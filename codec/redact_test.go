package codec

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// TestRenderHidesWhatIsNotKnown: under a key of Secrets everything is hidden
// but what is known to be open, whatever the value says of itself.
func TestRenderHidesWhatIsNotKnown(t *testing.T) {
	t.Parallel()
	const head = `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},`
	for _, test := range []struct{ name, value, want string }{
		{"sound", head + `"type":"Opaque","immutable":true,"data":{"a":"aHVudGVyMg=="},"stringData":{"b":"hunter2"}}`,
			head + `"type":"Opaque","immutable":true,"data":{"a":"<redacted: 7 bytes>"},"stringData":{"b":"<redacted: 7 bytes>"}}`},
		{"null", head + `"type":null,"immutable":null,"data":null,"stringData":null}`,
			head + `"type":null,"immutable":null,"data":null,"stringData":null}`},
		{"members of no Secret", head + `"Data":{"a":"hunter2"},"spec":["hunter2"],"text":"hunter2","none":null}`,
			head + `"Data":"<redacted: 15 bytes>","spec":"<redacted: 11 bytes>","text":"<redacted: 9 bytes>","none":"<redacted: 4 bytes>"}`},
		{"wrong types", head + `"type":["hunter2"],"immutable":"hunter2","data":"hunter2","stringData":["hunter2"]}`,
			head + `"type":"<redacted: 11 bytes>","immutable":"<redacted: 9 bytes>","data":"<redacted: 0 bytes>","stringData":"<redacted: 0 bytes>"}`},
		{"number", head + `"type":12345678,"immutable":1}`, head + `"type":"<redacted: 8 bytes>","immutable":"<redacted: 1 bytes>"}`},
		{"values", head + `"data":{"a":{"b":"hunter2"},"c":["hunter2"]}}`, head + `"data":{"a":"<redacted: 0 bytes>","c":"<redacted: 0 bytes>"}}`},
		{"another kind", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"s"},"data":{"a":"hunter2"},"binaryData":{"a":"aHVudGVyMg=="}}`,
			`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"s"},"data":{"a":"<redacted: 7 bytes>"},"binaryData":"<redacted: 20 bytes>"}`},
		{"another group", `{"apiVersion":"example.com/v1","kind":"Secret","metadata":{},"spec":{"a":"hunter2"}}`,
			`{"apiVersion":"example.com/v1","kind":"Secret","metadata":{},"spec":"<redacted: 15 bytes>"}`},
		{"list", `{"apiVersion":"v1","kind":"SecretList","metadata":{},"items":[{"data":{"a":"hunter2"}}]}`,
			`{"apiVersion":"v1","kind":"SecretList","metadata":{},"items":"<redacted: 26 bytes>"}`},
		{"apiVersion and kind", `{"apiVersion":{"a":"hunter2"},"kind":["hunter2"],"metadata":{}}`,
			`{"apiVersion":"<redacted: 15 bytes>","kind":"<redacted: 11 bytes>","metadata":{}}`},
		{"annotations", `{"metadata":{"annotations":{"kapp.k14s.io/original":"hunter2","note":"kept"}}}`,
			`{"metadata":{"annotations":{"kapp.k14s.io/original":"<redacted: 7 bytes>","note":"kept"}}}`},
		{"no annotations", `{"metadata":{"annotations":null,"labels":{"a":"b"},"ownerReferences":[{"name":"o"}]}}`,
			`{"metadata":{"annotations":null,"labels":{"a":"b"},"ownerReferences":[{"name":"o"}]}}`},
		{"annotations of a wrong type", `{"metadata":{"annotations":{"a":"b","c":["hunter2"]}}}`, `{"metadata":{"annotations":"<redacted: 25 bytes>"}}`},
		{"annotations in a list", `{"metadata":{"annotations":["hunter2"]}}`, `{"metadata":{"annotations":"<redacted: 11 bytes>"}}`},
		{"metadata", `{"metadata":"hunter2"}`, `{"metadata":"<redacted: 9 bytes>"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			obj := &unstructured.Unstructured{Object: mustUnmarshal(t, test.value)}
			got, err := Render(obj, RenderOptions{Secret: true})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(mustUnmarshal(t, test.want), got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			all, err := Render(obj, RenderOptions{Secret: true, ShowSecrets: true})
			if diff := cmp.Diff(mustUnmarshal(t, test.value), all); err != nil || diff != "" {
				t.Errorf("%v; with secrets (-want +got):\n%s", err, diff)
			}
		})
	}
}

// TestRenderKnowsSecrets: without a word of the key, a value is taken for a
// Secret by what it says of itself, or by its Go type.
func TestRenderKnowsSecrets(t *testing.T) {
	t.Parallel()
	stored := func(apiVersion, kind string) runtime.Object {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind, "data": map[string]any{"a": "hunter2"}}}
	}
	for _, test := range []struct {
		name   string
		obj    runtime.Object
		secret bool
	}{
		{"v1", stored("v1", "Secret"), true},
		{"v2", stored("v2", "Secret"), true},
		{"no version", stored("", "Secret"), true},
		{"no group", stored("/v1", "Secret"), true},
		{"not readable", stored("a/b/c", "Secret"), true},
		{"lower case", stored("v1", "secret"), true},
		{"upper case", stored("v1", "SECRET"), true},
		{"Go type without a kind", &corev1.Secret{Data: map[string][]byte{"a": []byte("hunter2")}}, true},
		{"Go type of another kind", &corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, Data: map[string][]byte{"a": []byte("hunter2")}}, true},
		{"another group", stored("example.com/v1", "Secret"), false},
		{"another kind", stored("v1", "Secrets"), false},
		{"ConfigMap", &corev1.ConfigMap{Data: map[string]string{"a": "hunter2"}}, false},
	} {
		for _, opt := range []RenderOptions{{}, {Secret: true}, {ShowSecrets: true}, {Secret: true, ShowSecrets: true}} {
			m, err := Render(test.obj, opt)
			if err != nil {
				t.Fatal(err)
			}
			want := (test.secret || opt.Secret) && !opt.ShowSecrets
			if got := m["data"].(map[string]any)["a"] == Redacted(7); got != want {
				t.Errorf("%s, %+v: redacted %t, data %v", test.name, opt, got, m["data"])
			}
		}
	}
}

// TestZooSecretsByKey: the key tells nothing new of a sound Secret, of which
// nothing but values is replaced.
func TestZooSecretsByKey(t *testing.T) {
	t.Parallel()
	live := zoo(t)
	r := zooReader(t, live)
	seen := 0
	for key, stored := range live {
		v := r.Read(t.Context(), key, stored.value)
		if v.Key.Resource == nil || v.Key.Resource.String() != "secrets" || v.Plain == nil {
			continue
		}
		s, err := Show(v.Plain, stored.mod, v.Key.Resource)
		if err != nil {
			t.Fatal(err)
		}
		byKey := mustRender(t, s.Object, RenderOptions{Secret: true})
		if diff := cmp.Diff(mustRender(t, s.Object, RenderOptions{}), byKey); diff != "" {
			t.Errorf("%s (-by value +by key):\n%s", key, diff)
		}
		want := mustRender(t, s.Object, RenderOptions{ShowSecrets: true})
		data, _ := want["data"].(map[string]any)
		for name, value := range data {
			data[name] = Redacted(base64Size(value.(string)))
		}
		annotations, _ := want["metadata"].(map[string]any)["annotations"].(map[string]any)
		for _, name := range copyAnnotations() {
			if value, ok := annotations[name].(string); ok {
				annotations[name] = Redacted(len(value))
			}
		}
		if diff := cmp.Diff(want, byKey); diff != "" {
			t.Errorf("%s: (-want +got):\n%s", key, diff)
		}
		seen++
	}
	if seen < 5 {
		t.Errorf("only %d Secrets", seen)
	}
}

func mustRender(t *testing.T, obj runtime.Object, opt RenderOptions) map[string]any {
	t.Helper()
	m, err := Render(obj, opt)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestSecretPathFollowsRender compares with what Render replaces in a Secret that has a
// value at every path.
func TestSecretPathFollowsRender(t *testing.T) {
	t.Parallel()
	const value = `{"apiVersion":"v1","kind":"Secret","type":"t","immutable":true,"metadata":{"name":"t","labels":{"data":"t"},
		"ownerReferences":[{"name":"t"}],
		"annotations":{"a":"t","kubectl.kubernetes.io/last-applied-configuration":"t","kapp.k14s.io/original":"t",
			"objectset.rio.cattle.io/applied":"t","banzaicloud.com/last-applied":"t"}},
		"data":{"x":"t","y":"t"},"stringData":{"x":"t"},"spec":{"data":"t"},"items":[{"data":"t"}],"Data":"t","unknownFields":{"2":"t"}}`
	m, err := Render(mustDecode(t, value), RenderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	var walk func(at []string, stored, shown any)
	walk = func(at []string, stored, shown any) {
		members, ok := stored.(map[string]any)
		if inner, same := shown.(map[string]any); ok && same {
			for name, member := range members {
				walk(append(slices.Clone(at), name), member, inner[name])
			}
			return
		}
		checked++
		if got, want := SecretPath(at), !cmp.Equal(stored, shown); got != want {
			t.Errorf("%v: %t, but Render shows %v", at, got, shown)
		}
	}
	stored := mustUnmarshal(t, value)
	stored["metadata"].(map[string]any)["resourceVersion"] = "1" // as Decode sets it
	walk(nil, stored, m)
	if checked != 20 {
		t.Errorf("checked %d fields", checked)
	}
	for at, want := range map[string]bool{"": true, "data": true, "unknownFields/2/1": true, "spec/data": true,
		"metadata": false, "metadata/annotations": false, "metadata/labels/a/b": false, "metadata/annotations/a/b": true,
		"metadata/annotations/a": false, "type": false, "type/a": true, "kind/a": true, "apiVersion/a": true, "immutable/a": true} {
		if got := SecretPath(strings.Split(at, "/")); got != want {
			t.Errorf("%q: %t", at, got)
		}
	}
	if SecretPath(nil) {
		t.Error("the whole object")
	}
}
