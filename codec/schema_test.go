package codec

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// rawOf returns the message inside the envelope of a protobuf value.
func rawOf(tb testing.TB, value []byte) []byte {
	tb.Helper()
	e, err := openEnvelope(value[len(magicProtobuf):])
	if err != nil {
		tb.Fatal(err)
	}
	return e.raw
}

// goldenValues returns the protobuf golden files of k8s.io/api whose kind this
// build knows, by file name.
func goldenValues(tb testing.TB) map[string][]byte {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(apiTestdata(tb), "HEAD", "*.pb"))
	if err != nil || len(files) == 0 {
		tb.Fatalf("%d golden files, %v", len(files), err)
	}
	values := map[string][]byte{}
	for _, file := range files {
		value, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := decodeProtobuf(value[len(magicProtobuf):]); err == nil {
			values[filepath.Base(file)] = value
		}
	}
	return values
}

func TestNothingOmitted(t *testing.T) {
	golden := goldenValues(t)
	live := zoo(t)
	r := zooReader(t, live)
	values := 0
	for key, stored := range live {
		v := r.Read(t.Context(), key, stored.value)
		if v.Head.Status == StatusProtobuf {
			golden[key] = v.Plain
			values++
		}
	}
	for name, value := range golden {
		obj, err := decodeProtobuf(value[len(magicProtobuf):])
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := omittedFields(obj, rawOf(t, value)); got != nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	t.Logf("%d golden files, %d values of the fixture", len(golden)-values, values)
	if len(golden)-values < 150 || values < 500 {
		t.Error("too few")
	}
}

// injected is a value with one unknown field, and where that is.
type injected struct {
	raw  []byte
	path string
}

// inject returns raw with field 9999 added to each message in it, one at a
// time. It walks by Go type and JSON tag on its own, apart from the code under
// test.
func inject(t *testing.T, typ reflect.Type, raw []byte, path string) []injected {
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 9999, protowire.VarintType), 7)
	all := []injected{{slices.Concat(raw, unknown), joinPath(path, "field 9999")}}
	counts := map[protowire.Number]int{}
	for pos := 0; pos < len(raw); {
		f, err := nextField(raw, pos)
		if err != nil {
			t.Fatal(err)
		}
		start := pos
		pos = f.to
		n := counts[f.num]
		counts[f.num]++
		elem, at := fieldOfType(typ, f.num, path, n, raw[f.from:f.to])
		if elem == nil || f.typ != protowire.BytesType {
			continue
		}
		for _, in := range inject(t, elem, raw[f.from:f.to], at) {
			part := protowire.AppendBytes(protowire.AppendTag(nil, f.num, f.typ), in.raw)
			all = append(all, injected{slices.Concat(raw[:start], part, raw[f.to:]), in.path})
		}
	}
	return all
}

func joinPath(path, name string) string { return strings.TrimPrefix(path+"."+name, ".") }

// mapEntryOf stands for the entry message of a map.
type mapEntryOf struct{ reflect.Type }

// fieldOfType returns the type of the message in one field, nil if it is none,
// and its path.
func fieldOfType(typ reflect.Type, num protowire.Number, path string, n int, payload []byte) (reflect.Type, string) {
	if entry, ok := typ.(mapEntryOf); ok {
		if num == entryValue && isMessage(entry.Type) {
			return entry.Type, path
		}
		return nil, ""
	}
	if typ.Kind() != reflect.Struct {
		return nil, ""
	}
	for sf := range typ.Fields() {
		if !strings.Contains(sf.Tag.Get("protobuf"), fmt.Sprintf(",%d,", num)) && !strings.HasSuffix(sf.Tag.Get("protobuf"), fmt.Sprintf(",%d", num)) {
			continue
		}
		ft := sf.Type
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		if name, _, _ := strings.Cut(sf.Tag.Get("json"), ","); name != "" {
			path = joinPath(path, name)
		}
		switch {
		case ft.Kind() == reflect.Map:
			key, _ := lastString(payload, entryKey)
			return mapEntryOf{ft.Elem()}, path + "[" + string(key) + "]"
		case isMessage(ft):
			return ft, path
		case ft.Kind() == reflect.Slice && isMessage(ft.Elem()):
			return ft.Elem(), fmt.Sprintf("%s[%d]", path, n)
		}
		return nil, ""
	}
	return nil, ""
}

func TestOmittedFieldIsFoundEverywhere(t *testing.T) {
	golden := goldenValues(t)
	total, seen := 0, map[string]bool{}
	for name, value := range golden {
		if len(value) > 10000 && name != "core.v1.Pod.pb" && name != "apps.v1.Deployment.pb" {
			continue // one more pod template
		}
		obj, err := decodeProtobuf(value[len(magicProtobuf):])
		if err != nil {
			t.Fatal(err)
		}
		typ := reflect.TypeOf(obj).Elem()
		for _, in := range inject(t, typ, rawOf(t, value), "") {
			if got := omittedFields(obj, in.raw); !slices.Equal(got, []string{in.path}) {
				t.Errorf("%s: %q, want %q", name, got, in.path)
			}
			// The generated decoder must have known the message, or the
			// position is no position.
			if err := obj.(interface{ Unmarshal([]byte) error }).Unmarshal(in.raw); err != nil {
				t.Errorf("%s: %s: %v", name, in.path, err)
			}
			seen[in.path] = true
			total++
		}
	}
	t.Logf("%d positions in %d values", total, len(golden))
	for _, path := range []string{
		"field 9999", "metadata.creationTimestamp.field 9999", "metadata.managedFields[0].fieldsV1.field 9999",
		"spec.template.spec.containers[0].resources.limits[limitsKey].field 9999", "metadata.labels[labelsKey].field 9999",
		"spec.volumes[0].configMap.items[0].field 9999", "spec.extra[extraKey].field 9999",
		"spec.template.spec.containers[0].livenessProbe.httpGet.port.field 9999",
	} {
		if !seen[path] {
			t.Errorf("no value has %s", path)
		}
	}
}

func TestOmittedFieldsOfSplitAndHostileValues(t *testing.T) {
	bytesField := func(num protowire.Number, parts ...[]byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), slices.Concat(parts...))
	}
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1)
	container := func(b []byte) []byte { return bytesField(2, b) }
	spec := func(parts ...[]byte) []byte { return bytesField(2, parts...) }
	entry := func(key string) []byte {
		return bytesField(1, bytesField(11, bytesField(1, []byte(key)), unknown))
	}
	var many []string
	for i := range maxOmitted {
		many = append(many, fmt.Sprintf("spec.containers[%d].field 99", i))
	}
	var deep []byte
	for range 500 {
		deep = bytesField(2, deep, unknown)
	}
	tests := []struct {
		name string
		raw  []byte
		want []string
	}{
		{"a spec in two parts", slices.Concat(spec(container(nil)), unknown, spec(container(nil), container(unknown))),
			[]string{"field 99", "spec.containers[2].field 99"}},
		{"more than are listed", spec(slices.Repeat(container(unknown), 25)), append(slices.Clone(many), "and 5 more")},
		{"as many as are listed", spec(slices.Repeat(container(unknown), maxOmitted)), many},
		{"damaged behind it", slices.Concat(unknown, []byte{0xff}), []string{"field 99"}},
		{"a group", slices.Concat(protowire.AppendTag(nil, 99, protowire.StartGroupType), protowire.AppendTag(nil, 99, protowire.EndGroupType)), []string{"field 99"}},
		{"key like an index", entry("7"), []string{"metadata.labels['7'].field 99"}},
		{"key with a bracket", entry("a]"), []string{"metadata.labels['a]'].field 99"}},
		{"key with a line break", entry("a\n"), []string{`metadata.labels["a\n"].field 99`}},
		{"long key", entry(strings.Repeat("k", 10000)), []string{`metadata.labels["` + strings.Repeat("k", maxPathKey) + `"...].field 99`}},
		{"nothing", nil, nil},
	}
	for _, test := range tests {
		got := omittedFields(&corev1.Pod{}, test.raw)
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	// Only what the type nests is walked.
	if got := omittedFields(&corev1.Pod{}, spec(deep)); !slices.Equal(got, []string{"spec.containers[0].field 99"}) {
		t.Errorf("deeper than the type: %q", got)
	}
	for _, opaque := range []runtime.Object{nil, &metav1.InternalEvent{}} {
		if got := omittedFields(opaque, unknown); got != nil {
			t.Errorf("%T: %q", opaque, got)
		}
	}
}

func BenchmarkOmittedFields(b *testing.B) {
	value := goldenValues(b)["core.v1.Pod.pb"]
	obj, err := decodeProtobuf(value[len(magicProtobuf):])
	if err != nil {
		b.Fatal(err)
	}
	raw := rawOf(b, value)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		omittedFields(obj, raw)
	}
}
