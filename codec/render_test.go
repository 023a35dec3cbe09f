package codec

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestRenderRedactsSecrets(t *testing.T) {
	t.Parallel()
	typed := &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Name: "s", Annotations: map[string]string{
			"kubectl.kubernetes.io/last-applied-configuration": `{"data":{"password":"aHVudGVyMg=="}}`,
			"objectset.rio.cattle.io/applied":                  "hunter2",
			"note":                                             "kept",
		}},
		Data:       map[string][]byte{"password": []byte("hunter2"), "empty": {}},
		StringData: map[string]string{"token": "hunter2!"},
		Type:       "Opaque",
	}
	stored := mustDecode(t, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","annotations":{"kapp.k14s.io/original":"hunter2"}},
		"data":{"password":"aHVudGVyMg==","broken":"not base64","number":7},"stringData":["hunter2"]}`)
	m, err := Render(typed, RenderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"password": "<redacted: 7 bytes>", "empty": "<redacted: 0 bytes>"}
	if diff := cmp.Diff(want, m["data"]); diff != "" {
		t.Errorf("data (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]any{"token": "<redacted: 8 bytes>"}, m["stringData"]); diff != "" {
		t.Errorf("stringData (-want +got):\n%s", diff)
	}
	annotations := m["metadata"].(map[string]any)["annotations"].(map[string]any)
	if annotations["kubectl.kubernetes.io/last-applied-configuration"] != "<redacted: 36 bytes>" || annotations["note"] != "kept" {
		t.Errorf("annotations: %v", annotations)
	}
	if typed.Data["password"] == nil || string(typed.Data["password"]) != "hunter2" {
		t.Error("the object itself was changed")
	}
	m2, err := Render(stored, RenderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want = map[string]any{"password": "<redacted: 7 bytes>", "broken": "<redacted: 10 bytes>", "number": "<redacted: 0 bytes>"}
	if diff := cmp.Diff(want, m2["data"]); diff != "" {
		t.Errorf("stored as JSON (-want +got):\n%s", diff)
	}
	for _, m := range []map[string]any{m, m2} {
		data, err := MarshalJSON(m, "")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), "hunter2") || strings.Contains(string(data), "aHVudGVyMg") {
			t.Errorf("secret data in %s", data)
		}
	}
	shown, err := Render(typed, RenderOptions{ShowSecrets: true})
	if err != nil || shown["data"].(map[string]any)["password"] != "aHVudGVyMg==" {
		t.Errorf("shown: %v, %v", shown["data"], err)
	}
}

func TestRenderLeavesOtherKinds(t *testing.T) {
	t.Parallel()
	for _, value := range []string{
		`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"b"}}`,
		`{"apiVersion":"example.com/v1","kind":"Secret","metadata":{"name":"c"},"data":{"a":"b"}}`,
	} {
		m, err := Render(mustDecode(t, value), RenderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if m["data"].(map[string]any)["a"] != "b" {
			t.Errorf("%s: %v", value, m)
		}
	}
}

func TestRedactedIsNotBase64(t *testing.T) {
	t.Parallel()
	for size := range 200 {
		if _, err := base64.StdEncoding.DecodeString(Redacted(size)); err == nil {
			t.Errorf("%s is base64", Redacted(size))
		}
	}
}

func TestRenderManagedFields(t *testing.T) {
	t.Parallel()
	const value = `{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"c","managedFields":[{"manager":"m"}]}}`
	obj := mustDecode(t, value)
	without, err := Render(obj, RenderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := without["metadata"].(map[string]any)["managedFields"]; ok {
		t.Error("managedFields shown")
	}
	with, err := Render(obj, RenderOptions{ManagedFields: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := with["metadata"].(map[string]any)["managedFields"]; !ok {
		t.Error("managedFields lost, or taken from the object itself")
	}
}

func TestIntegersStayIntegers(t *testing.T) {
	t.Parallel()
	const value = `{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"generation":1,"name":"c"},"spec":{"big":9007199254740993,"ratio":0.5,"small":-9223372036854775808}}`
	m, err := Render(mustDecode(t, value), RenderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	delete(m["metadata"].(map[string]any), "resourceVersion")
	data, err := MarshalJSON(m, "")
	if err != nil || string(data) != value+"\n" {
		t.Errorf("%v\n got %s\nwant %s", err, data, value)
	}
	yaml, err := MarshalYAML(m)
	if err != nil || !strings.Contains(string(yaml), "  big: 9007199254740993\n") || !strings.Contains(string(yaml), "  small: -9223372036854775808\n") {
		t.Errorf("%v\n%s", err, yaml)
	}
}

func TestMarshal(t *testing.T) {
	t.Parallel()
	m := mustUnmarshal(t, `{"kind":"Pod","apiVersion":"v1","spec":{"args":["a && b < c"],"n":3}}`)
	wantJSON := "{\n    \"apiVersion\": \"v1\",\n    \"kind\": \"Pod\",\n    \"spec\": {\n        \"args\": [\n            \"a \\u0026\\u0026 b \\u003c c\"\n        ],\n        \"n\": 3\n    }\n}\n"
	if got, err := MarshalJSON(m, "    "); err != nil || string(got) != wantJSON {
		t.Errorf("%v\n got %s\nwant %s", err, got, wantJSON)
	}
	wantLine := `{"apiVersion":"v1","kind":"Pod","spec":{"args":["a \u0026\u0026 b \u003c c"],"n":3}}` + "\n"
	if got, err := MarshalJSON(m, ""); err != nil || string(got) != wantLine {
		t.Errorf("%v\n got %s\nwant %s", err, got, wantLine)
	}
	wantYAML := "apiVersion: v1\nkind: Pod\nspec:\n  args:\n  - a && b < c\n  \"n\": 3\n"
	if got, err := MarshalYAML(m); err != nil || string(got) != wantYAML {
		t.Errorf("%v\n got %s\nwant %s", err, got, wantYAML)
	}
}
