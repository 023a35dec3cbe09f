package codec

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"google.golang.org/protobuf/encoding/protowire"
)

// TestWildQuantities: a quantity that nobody can work out is refused, not
// tried. Parsed, each of these would keep a processor busy for hours.
func TestWildQuantities(t *testing.T) {
	message := func(parts ...any) []byte {
		var b []byte
		for i := 0; i < len(parts); i += 2 {
			b = protowire.AppendTag(b, protowire.Number(parts[i].(int)), protowire.BytesType)
			switch v := parts[i+1].(type) {
			case string:
				b = protowire.AppendString(b, v)
			case []byte:
				b = protowire.AppendBytes(b, v)
			}
		}
		return b
	}
	envelope := func(kind string, raw []byte) []byte {
		u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: kind}, Raw: raw}
		b, err := u.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return append([]byte(magicProtobuf), b...)
	}
	for _, text := range []string{"1e-1000000000", "1E1000000000", "0.5e-9223372036854775807", "1e+100000000000"} {
		quantity := message(1, text)
		for name, value := range map[string][]byte{
			// PersistentVolume.spec.capacity, Pod.spec.volumes.emptyDir.sizeLimit.
			"in a map":   envelope("PersistentVolume", message(1, message(1, "pv"), 2, message(1, message(1, "storage", 2, quantity)))),
			"in a field": envelope("Pod", message(1, message(1, "p"), 2, message(1, message(1, "v", 2, message(2, message(2, quantity)))))),
		} {
			if _, err := Decode(value, 1); !errors.Is(err, ErrUndecodable) {
				t.Errorf("%s %s: %v", text, name, err)
			}
			if h := DecodeHead(value); h.Err != nil || h.Meta.Name == "" {
				t.Errorf("%s %s: the head is gone: %+v", text, name, h)
			}
		}
		r, _, _ := NewCatalog().Lookup("pv")
		json := []byte(`{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"pv"},"spec":{"capacity":{"storage":"` + text + `"}}}`)
		obj, err := Decode(json, 1)
		if err != nil {
			t.Fatal(err)
		}
		if cells := Cells(obj, r, viewed()); cells[0] != "pv" {
			t.Errorf("%s in JSON: %v", text, cells)
		}
	}
	for _, text := range []string{"1e3", "100Mi", "1e-64", "12E", "0.1", "1Ei", "nonsense", ""} {
		if !QuantityFits(text) {
			t.Errorf("%q does not fit", text)
		}
	}
	// What looks like one and is none stays as it is.
	pod := corev1.Pod{}
	pod.Name, pod.Annotations = "p", map[string]string{"a": "1e-1000000000"}
	raw, err := pod.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(envelope("Pod", raw), 1); err != nil {
		t.Error(err)
	}
}
