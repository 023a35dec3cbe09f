package codec

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
)

// TestSchemeHasEveryVersion: each package of k8s.io/api that registers kinds is
// in the scheme.
func TestSchemeHasEveryVersion(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{.Imports}}", "k8s.io/api/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	// The folder of a group has the first word of its name, but for these.
	names := map[string]string{"apiserverinternal": "internal", "core": ""}
	known := map[string]bool{}
	for _, gv := range apiScheme().PrioritizedVersionsAllGroups() {
		group, _, _ := strings.Cut(gv.Group, ".")
		known[group+"/"+gv.Version] = true
	}
	packages := 0
	for line := range strings.Lines(string(out)) {
		name, imports, _ := strings.Cut(line, " ")
		if !strings.Contains(imports, "k8s.io/apimachinery/pkg/runtime/schema") {
			continue
		}
		packages++
		version := path.Base(name)
		group := path.Base(path.Dir(name))
		if alias, ok := names[group]; ok {
			group = alias
		}
		if !known[group+"/"+version] {
			t.Errorf("%s is not in the scheme", name)
		}
	}
	if packages < 55 {
		t.Errorf("%d packages", packages)
	}
}

// renamed returns a protobuf value with another kind in its envelope.
func renamed(t *testing.T, value []byte, apiVersion, kind string) []byte {
	t.Helper()
	e, err := openEnvelope(value[len(magicProtobuf):])
	if err != nil {
		t.Fatal(err)
	}
	return wrap(apiVersion, kind, e.raw)
}

func TestShowUnknownKind(t *testing.T) {
	t.Parallel()
	stored := zoo(t)[prefix+"deployments/team/web"]
	known := mustShow(t, "web", stored.value, stored.mod, nil)
	s, err := Show(renamed(t, stored.value, "apps/v1", "Deployment2"), stored.mod, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !s.ByMetadata || s.Omitted != nil {
		t.Errorf("by metadata %t, omitted %q", s.ByMetadata, s.Omitted)
	}
	got := rendered(t, "web", s)
	if diff := cmp.Diff(known["metadata"], got["metadata"]); diff != "" {
		t.Errorf("metadata (-known +got):\n%s", diff)
	}
	if got["apiVersion"] != "apps/v1" || got["kind"] != "Deployment2" || len(got) != 4 {
		t.Errorf("%v %v, %d members", got["apiVersion"], got["kind"], len(got))
	}
	for _, test := range []struct {
		path []string
		want any
	}{
		{[]string{"1"}, nil}, // metadata
		{[]string{"2", "1"}, int64(3)},
		{[]string{"2", "2"}, map[string]any{"1": map[string]any{"1": "app", "2": "web"}}},
		{[]string{"2", "3", "2", "2", "2"}, "harbor.example/team/web:1.4.4"},
		{[]string{"2", "3", "2", "2", "8", "2"}, []any{
			map[string]any{"1": "cpu", "2": map[string]any{"1": "100m"}},
			map[string]any{"1": "memory", "2": map[string]any{"1": "128Mi"}},
		}},
		{[]string{"2", "4", "1"}, "RollingUpdate"},
		{[]string{"3", "1"}, int64(6)},
	} {
		value, _, err := unstructured.NestedFieldNoCopy(got, append([]string{"unknownFields"}, test.path...)...)
		if err != nil {
			t.Errorf("%v: %v", test.path, err)
		}
		if diff := cmp.Diff(test.want, value); diff != "" {
			t.Errorf("%v (-want +got):\n%s", test.path, diff)
		}
	}
}

// TestShowUnknownKindMetadata: metadata in several parts is merged as a
// generated decoder merges it, and what cannot be read is no object.
func TestShowUnknownKindMetadata(t *testing.T) {
	t.Parallel()
	parts := bytesField(bytesField(nil, 1, bytesField(bytesField(nil, metaName, "old"), metaNamespace, "team")), 2, "spec")
	parts = bytesField(parts, 1, bytesField(bytesField(nil, metaName, "web"), metaFinalizers, "example.com/f"))
	s, err := Show(wrap("example/v1", "New", parts), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"apiVersion": "example/v1", "kind": "New", "unknownFields": map[string]any{"2": "spec"},
		"metadata": map[string]any{"name": "web", "namespace": "team", "finalizers": []any{"example.com/f"}},
	}
	if diff := cmp.Diff(want, rendered(t, "parts", s)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	managed := bytesField(nil, 7, bytesField(nil, 1, "{broken"))
	for name, raw := range map[string][]byte{
		"none":          bytesField(nil, 2, "spec"),
		"empty":         nil,
		"varint":        varintField(nil, 1, 5),
		"damaged":       bytesField(nil, 1, "\xff\xff"),
		"cut after it":  append(bytesField(nil, 1, bytesField(nil, metaName, "a")), 0x12, 0x7f),
		"managedFields": bytesField(nil, 1, bytesField(nil, metaManagedFields, managed)),
	} {
		if s, err := Show(wrap("example/v1", "New", raw), 1, nil); !errors.Is(err, ErrUndecodable) || s.Object != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// cborValues returns the fixture's custom resources as an apiserver with the
// CBORServingAndStorage feature stores them, by key.
func cborValues(tb testing.TB, live map[string]zooValue) map[string][]byte {
	tb.Helper()
	scheme := runtime.NewScheme()
	serializer := cbor.NewSerializer(scheme, scheme)
	r := zooReader(tb, live)
	values := map[string][]byte{}
	for key, stored := range live {
		v := r.Read(tb.Context(), key, stored.value)
		if v.Key.Resource == nil || !v.Key.Resource.Custom {
			continue
		}
		obj, err := Decode(v.Plain, 0)
		if err != nil {
			tb.Fatal(err)
		}
		var buf bytes.Buffer
		if err := serializer.Encode(obj, &buf); err != nil {
			tb.Fatal(err)
		}
		values[key] = buf.Bytes()
	}
	return values
}

func TestZooCBOR(t *testing.T) {
	t.Parallel()
	live := zoo(t)
	r := zooReader(t, live)
	values := cborValues(t, live)
	for key, value := range values {
		v := r.Read(t.Context(), key, live[key].value)
		got := r.Read(t.Context(), key, value)
		if got.Head.Status != StatusCBOR || got.Head.Err != nil {
			t.Errorf("%s: %s, %v", key, got.Head.Status, got.Head.Err)
		}
		if diff := cmp.Diff(v.Head.Meta, got.Head.Meta); diff != "" {
			t.Errorf("%s: head (-json +cbor):\n%s", key, diff)
		}
		want := mustShow(t, key, v.Plain, 7, v.Key.Resource)
		if diff := cmp.Diff(want, mustShow(t, key, value, 7, v.Key.Resource)); diff != "" {
			t.Errorf("%s (-json +cbor):\n%s", key, diff)
		}
	}
	t.Logf("%d custom resources", len(values))
	if len(values) < 10 {
		t.Errorf("only %d custom resources", len(values))
	}
}

// TestSecretOfUnknownVersion: a Secret that only its metadata is known of gives
// away nothing.
func TestSecretOfUnknownVersion(t *testing.T) {
	t.Parallel()
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "s", Annotations: map[string]string{"kapp.k14s.io/original": "hunter2", "note": "kept"}},
		Data:       map[string][]byte{"password": []byte("hunter2")},
	}
	raw, err := secret.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for apiVersion, hidden := range map[string]bool{"v2": true, "v1beta1": true, "a/b/c": true, "example/v2": false} {
		s, err := Show(wrap(apiVersion, "Secret", raw), 1, nil)
		if err != nil || !s.ByMetadata {
			t.Fatalf("%s: %v, by metadata %t", apiVersion, err, s.ByMetadata)
		}
		m, err := Render(s.Object, RenderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		data, err := MarshalJSON(m, "")
		if err != nil || strings.Contains(string(data), "hunter2") == hidden {
			t.Errorf("%s: %v, %s", apiVersion, err, data)
		}
		if hidden && m["unknownFields"] != `<redacted: 43 bytes>` {
			t.Errorf("%s: %v", apiVersion, m["unknownFields"])
		}
		all := rendered(t, apiVersion, s)
		if _, ok := all["unknownFields"].(map[string]any); !ok {
			t.Errorf("%s: %v with secrets", apiVersion, all["unknownFields"])
		}
	}
}

// showSeeds are zooSeeds, in kinds that nobody knows too, and CBOR.
func showSeeds(tb testing.TB) [][]byte {
	tb.Helper()
	seeds, _ := zooSeeds(tb)
	for _, value := range append(seeds, podValue(tb)) {
		if bytes.HasPrefix(value, []byte(magicProtobuf)) {
			if e, err := openEnvelope(value[len(magicProtobuf):]); err == nil {
				seeds = append(seeds, wrap("example/v9", "New", e.raw), wrap("v9", "Secret", e.raw))
			}
		}
	}
	// The smallest custom resource of each kind is enough.
	smallest := map[string][]byte{}
	for key, value := range cborValues(tb, zoo(tb)) {
		kind := path.Dir(path.Dir(key))
		if old, ok := smallest[kind]; !ok || len(value) < len(old) {
			smallest[kind] = value
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(smallest)) {
		seeds = append(seeds, smallest[kind])
	}
	return seeds
}

func FuzzShow(f *testing.F) {
	for _, value := range showSeeds(f) {
		f.Add(value)
	}
	c := NewCatalog()
	f.Fuzz(func(t *testing.T, value []byte) { checkShow(t, c, value) })
}

// checkShow: showing never panics, is the same twice, stays in proportion to
// the value, and what is shown can be written.
func checkShow(t *testing.T, c *Catalog, value []byte) {
	for _, name := range []string{"events", "events.events.k8s.io", "pods"} {
		r, _, _ := c.Lookup(name)
		s, err := Show(value, 7, r)
		if err != nil {
			if !errors.Is(err, ErrEncrypted) && !errors.Is(err, ErrUndecodable) || s.Object != nil {
				t.Fatalf("error of no kind: %v", err)
			}
			continue
		}
		m, err := Render(s.Object, RenderOptions{})
		if err != nil {
			continue
		}
		data, err := MarshalJSON(m, "")
		if err != nil {
			t.Fatal(err)
		}
		if s.ByMetadata && len(data) > 40*len(value)+1000 {
			t.Fatalf("%d bytes from %d", len(data), len(value))
		}
		gv, _ := schema.ParseGroupVersion(fmt.Sprint(m["apiVersion"]))
		if _, ok := m[memberUnknown].(map[string]any); ok && m["kind"] == "Secret" && gv.Group == "" {
			t.Fatalf("fields of a Secret: %s", data)
		}
		again, err := Show(value, 7, r)
		if err != nil {
			t.Fatal(err)
		}
		m2, _ := Render(again.Object, RenderOptions{})
		if !cmp.Equal(m, m2) || !slices.Equal(s.Omitted, again.Omitted) {
			t.Fatal("shown differently the second time")
		}
	}
}

// TestShowMutations runs the fuzzer's check on damaged values.
func TestShowMutations(t *testing.T) {
	t.Parallel()
	c := NewCatalog()
	values := showSeeds(t)
	random := rand.New(rand.NewSource(1))
	rounds := 5
	if testing.Short() {
		rounds = 1
	}
	for range rounds {
		for i, value := range values {
			checkShow(t, c, mutate(random, value, values[(i+1)%len(values)]))
		}
	}
}
