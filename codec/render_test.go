package codec

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
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
	text, err := MarshalYAML(m)
	if err != nil || !strings.Contains(string(text), "  big: 9007199254740993\n") || !strings.Contains(string(text), "  small: -9223372036854775808\n") {
		t.Errorf("%v\n%s", err, text)
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

// TestMarshalYAMLControlCharacters: every character comes back but U+0085,
// which YAML takes for a line break, here as in kubectl.
func TestMarshalYAMLControlCharacters(t *testing.T) {
	t.Parallel()
	for r := rune(0); r <= 0x10ffff; r++ {
		if r == 0x300 { // the others are all alike, but for a few
			r = 0xd7fe
		}
		if r == 0xe010 {
			r = 0xfdd0
		}
		if r == 0x10010 {
			r = 0x1f600
		}
		if r == 0x1f610 {
			r = 0x10fff0
		}
		if r >= 0xd800 && r < 0xe000 || r == 0x85 {
			continue
		}
		checkYAML(t, map[string]any{"a" + string(r): "x" + string(r) + "y", "b": []any{string(r)}})
	}
}

// checkYAML reads back what MarshalYAML writes.
func checkYAML(t *testing.T, m map[string]any) {
	t.Helper()
	data, err := MarshalYAML(m)
	if err != nil {
		t.Errorf("%q: %v", m, err)
		return
	}
	var got map[string]any
	if err := yaml.Unmarshal(data, &got); err != nil {
		t.Errorf("%q: %v in %q", m, err, data)
		return
	}
	if diff := cmp.Diff(m, got); diff != "" {
		t.Errorf("%q (-want +got):\n%s", data, diff)
	}
}

func TestMarshalYAMLIsKubectls(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, in, want string }{
		{"controls", "a\x7f\u0080\u009f\ufffe\uffffb", `k: "a\x7F\x80\x9F\uFFFE\uFFFFb"` + "\n"},
		{"controls in JSON already", "a\x00\x1b\\u0080", `k: "a\0\e\\u0080"` + "\n"},
		{"broken UTF-8", "a\xffb", "k: a\ufffdb\n"},
		{"others", "<&>\u00a0é\ufffd", ""},
		{"lines", "a\nb\tc\n", ""},
		{"separators", "a\u2028b\u2029c\u0085d\ufeff", ""},
	} {
		m := map[string]any{"k": test.in}
		if test.want == "" {
			kubectl, err := yaml.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			test.want = string(kubectl)
		}
		if got, err := MarshalYAML(m); err != nil || string(got) != test.want {
			t.Errorf("%s: %v\n got %q\nwant %q", test.name, err, got, test.want)
		}
	}
}

// TestRenderDepth counts the object itself as the first level.
func TestRenderDepth(t *testing.T) {
	t.Parallel()
	deepSchema := func(depth int) *apiextensionsv1.JSONSchemaProps {
		s := &apiextensionsv1.JSONSchemaProps{}
		for range depth {
			s = &apiextensionsv1.JSONSchemaProps{Not: s}
		}
		return s
	}
	crd := func(depth int) runtime.Object {
		return &apiextensionsv1.CustomResourceDefinition{Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: deepSchema(depth)}}},
		}}
	}
	nested := func(open, shut string, depth int) runtime.Object {
		return mustDecode(t, `{"apiVersion":"v1","kind":"K","metadata":{},"x":`+strings.Repeat(open, depth)+`1`+strings.Repeat(shut, depth)+`}`)
	}
	raw := strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000)
	for _, test := range []struct {
		name string
		obj  runtime.Object
		want string
	}{
		{"199 lists", nested("[", "]", 199), ""},
		{"200 lists", nested("[", "]", 200), "value cannot be decoded: nested deeper than 200 levels"},
		{"199 objects", nested(`{"a":`, "}", 199), ""},
		{"200 objects", nested(`{"a":`, "}", 200), "value cannot be decoded: nested deeper than 200 levels"},
		{"9000 lists", nested("[", "]", 9000), "value cannot be decoded: nested deeper than 200 levels"},
		{"a schema", crd(194), ""},
		{"a deeper schema", crd(195), "value cannot be decoded: nested deeper than 200 levels"},
		{"more than JSON allows", &appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte(raw)}}, "value cannot be decoded: *v1.ControllerRevision has no JSON form"},
		{"no JSON", &appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte("{hunter2")}}, "value cannot be decoded: *v1.ControllerRevision has no JSON form"},
	} {
		m, err := Render(test.obj, RenderOptions{ShowSecrets: true})
		switch {
		case test.want == "" && (err != nil || m == nil):
			t.Errorf("%s: %v", test.name, err)
		case test.want != "" && (!errors.Is(err, ErrUndecodable) || err.Error() != test.want || m != nil):
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
