package codec

import (
	"errors"
	"fmt"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/util/json"
	kjson "sigs.k8s.io/json"
)

// decodedManaged is what Managed should find, by way of the whole object.
func decodedManaged(tb testing.TB, plain []byte) (ManagedInfo, bool) {
	tb.Helper()
	obj, err := Decode(plain, 0)
	if err != nil {
		return ManagedInfo{}, false
	}
	o, err := meta.Accessor(obj)
	if err != nil {
		tb.Fatal(err)
	}
	var info ManagedInfo
	for _, e := range o.GetManagedFields() {
		entry := ManagedEntry{Manager: e.Manager, Operation: string(e.Operation), Subresource: e.Subresource, APIVersion: e.APIVersion}
		if e.Time != nil {
			entry.Time = utc(*e.Time)
		}
		info.add(entry)
		info.Bytes += int64(protowire.SizeTag(metaManagedFields) + protowire.SizeBytes(e.Size()))
	}
	if statusOf(plain) == StatusJSON {
		info.Bytes = withoutManaged(tb, plain)
	}
	return info, true
}

// withoutManaged is how much shorter JSON gets without managedFields.
func withoutManaged(tb testing.TB, plain []byte) int64 {
	tb.Helper()
	size := func(m map[string]any) int {
		data, err := json.Marshal(m)
		if err != nil {
			tb.Fatal(err)
		}
		return len(data)
	}
	var m map[string]any
	if err := json.Unmarshal(plain, &m); err != nil {
		tb.Fatal(err)
	}
	whole := size(m)
	metadata, _ := m["metadata"].(map[string]any)
	delete(metadata, "managedFields")
	return int64(whole - size(m))
}

// TestZooManaged: what is read at wire level is what the whole objects have,
// and what kubectl showed.
func TestZooManaged(t *testing.T) {
	live := zoo(t)
	reader := zooReader(t, live)
	expected := expectedObjects(t)
	compared, shown, withBytes := 0, 0, map[Status]int{}
	for key, stored := range live {
		v := reader.Read(t.Context(), key, stored.value)
		got, err := Managed(v.Plain)
		want, ok := decodedManaged(t, v.Plain)
		if ok != (err == nil) {
			t.Errorf("%s: error %v, decoded %t", key, err, ok)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-decoded +managed):\n%s", key, diff)
		}
		compared++
		if got.Bytes > 0 {
			withBytes[v.Head.Status]++
		}
		if v.Key.Resource == nil {
			continue
		}
		item := expected[v.Key.Resource.String()][v.Key.Namespace+"/"+v.Key.Name]
		if item == nil {
			continue
		}
		shown++
		m, _ := item["metadata"].(map[string]any)
		list, _ := m["managedFields"].([]any)
		if len(list) != len(got.Entries) {
			t.Errorf("%s: %d entries, kubectl showed %d", key, len(got.Entries), len(list))
			continue
		}
		for i, e := range list {
			entry := e.(map[string]any)
			text := fmt.Sprint(entry["manager"], entry["operation"], entry["apiVersion"], entry["time"])
			at := "<nil>" // an entry for the subresource scale has none
			if !got.Entries[i].Time.IsZero() {
				at = got.Entries[i].Time.Format(time.RFC3339)
			}
			if g := got.Entries[i]; fmt.Sprint(g.Manager, g.Operation, g.APIVersion, at) != text {
				t.Errorf("%s: %+v, kubectl showed %s", key, g, text)
			}
		}
	}
	t.Log(compared, shown, withBytes)
	if compared < 780 || shown < 780 || withBytes[StatusProtobuf] < 700 || withBytes[StatusJSON] < 40 {
		t.Errorf("compared %d, with kubectl %d, with managedFields %v", compared, shown, withBytes)
	}
}

func TestManaged(t *testing.T) {
	head := `{"apiVersion":"v1","kind":"X","metadata":`
	one := `{"manager":"m","operation":"Apply","apiVersion":"v1","time":"2026-01-02T03:04:05Z","subresource":"status","fieldsV1":{"f:x":{",\"}":{}}}}`
	entry := ManagedEntry{"m", "Apply", "status", "v1", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	list := `"managedFields":[` + one + `]`
	for _, tc := range []struct {
		name, value string
		want        ManagedInfo
		err         error
	}{
		{"first of two", head + `{` + list + `,"name":"x"}}`, ManagedInfo{Bytes: int64(len(list) + 1), Entries: []ManagedEntry{entry}}, nil},
		{"last of two", head + `{"name":"x",` + list + `}}` + "\n", ManagedInfo{Bytes: int64(len(list) + 1), Entries: []ManagedEntry{entry}}, nil},
		{"alone", head + `{` + list + `}}`, ManagedInfo{Bytes: int64(len(list)), Entries: []ManagedEntry{entry}}, nil},
		{"twice", head + `{` + list + `,"managedFields":[]}}`, ManagedInfo{Bytes: int64(len(list)+1) + 19}, nil},
		{"escaped key", head + `{"managed\u0046ields" : [ ` + one + ` ] }}`, ManagedInfo{Bytes: int64(len(list) + 9), Entries: []ManagedEntry{entry}}, nil},
		{"null", head + `{"managedFields":null}}`, ManagedInfo{Bytes: 20}, nil},
		{"none", head + `{"name":"x"}}`, ManagedInfo{}, nil},
		{"elsewhere", `{"apiVersion":"v1","kind":"X","spec":{"metadata":{` + list + `}},"managedFields":[1]}`, ManagedInfo{}, nil},
		{"metadata of no shape", `{"metadata":[{` + list + `}]}`, ManagedInfo{}, nil},
		{"no list", head + `{"managedFields":{}}}`, ManagedInfo{}, ErrUndecodable},
		{"no entry", head + `{"managedFields":[1]}}`, ManagedInfo{}, ErrUndecodable},
		{"no time", head + `{"managedFields":[{"time":"secret"}]}}`, ManagedInfo{}, ErrUndecodable},
		{"broken", head + `{"managedFields":[`, ManagedInfo{}, ErrUndecodable},
		{"too deep", strings.Repeat(`{"metadata":`, 20000) + `1` + strings.Repeat(`}`, 20000), ManagedInfo{}, ErrUndecodable},
		{"encrypted", "k8s:enc:aescbc:v1:key1:xyz", ManagedInfo{}, ErrEncrypted},
		{"no form", "value", ManagedInfo{}, ErrUndecodable},
		{"no envelope", "k8s\x00\xff", ManagedInfo{}, ErrUndecodable},
		{"protobuf of another wire type", "k8s\x00" + protoObject("\x88\x01\x05"), ManagedInfo{}, ErrUndecodable},
		{"empty protobuf entry", "k8s\x00" + protoObject("\x8a\x01\x00"), ManagedInfo{Bytes: 3, Entries: []ManagedEntry{{}}}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Managed([]byte(tc.value))
			if diff := cmp.Diff(tc.want, got); diff != "" || !errors.Is(err, tc.err) {
				t.Errorf("%v, (-want +got):\n%s", err, diff)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error quotes the value: %v", err)
			}
		})
	}
}

// protoObject is an object whose metadata is the given message.
func protoObject(metadata string) string {
	object := protowire.AppendString([]byte{objectMetadata<<3 | 2}, metadata)
	b := protowire.AppendString([]byte{envelopeType<<3 | 2}, "\x0a\x02v1\x12\x03Pod")
	return string(protowire.AppendBytes(append(b, envelopeRaw<<3|2), object))
}

func TestManagedIsBounded(t *testing.T) {
	const n = 100_000
	value := []byte("k8s\x00" + protoObject(strings.Repeat("\x8a\x01\x03\x0a\x01m", n)))
	got, err := Managed(value)
	if err != nil || len(got.Entries) != maxManaged || got.More != n-maxManaged || got.Bytes != 6*n {
		t.Errorf("%d entries and %d more, %d bytes, %v", len(got.Entries), got.More, got.Bytes, err)
	}
	value = []byte(`{"metadata":{"managedFields":[` + strings.TrimSuffix(strings.Repeat(`{},`, n), ",") + `]}}`)
	got, err = Managed(value)
	if err != nil || len(got.Entries) != maxManaged || got.More != n-maxManaged {
		t.Errorf("%d entries and %d more, %v", len(got.Entries), got.More, err)
	}
}

func TestManagedCBOR(t *testing.T) {
	object := func(metadata map[string]any) []byte {
		b, err := direct.Marshal(map[string]any{"apiVersion": "example.com/v1", "kind": "Bar", "metadata": metadata})
		if err != nil {
			t.Fatal(err)
		}
		return append([]byte(magicCBOR), b...)
	}
	name := map[string]any{"name": "x"}
	whole := map[string]any{"name": "x", "managedFields": []any{map[string]any{"manager": "m", "operation": "Update", "time": "2026-01-02T03:04:05Z", "fieldsV1": map[string]any{"f:x": map[string]any{}}}}}
	got, err := Managed(object(whole))
	want := ManagedInfo{
		Bytes:   int64(len(object(whole)) - len(object(name))),
		Entries: []ManagedEntry{{Manager: "m", Operation: "Update", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v, (-want +got):\n%s", err, diff)
	}
	if got, err := Managed(object(name)); err != nil || got.Bytes != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := Managed([]byte(magicCBOR + "\xff")); !errors.Is(err, ErrUndecodable) {
		t.Errorf("error %v", err)
	}
}

func TestManagedNewest(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(s, 0).UTC() }
	for _, tc := range []struct {
		name    string
		entries []ManagedEntry
		want    string
		ok      bool
	}{
		{"none", nil, "", false},
		{"without a time", []ManagedEntry{{Manager: "a"}}, "", false},
		{"the newest", []ManagedEntry{{Manager: "a", Time: at(3)}, {Manager: "b", Time: at(2)}, {Manager: "c"}}, "a", true},
		{"the last of the same second", []ManagedEntry{{Manager: "a", Time: at(3)}, {Manager: "b", Time: at(3)}}, "b", true},
	} {
		info := ManagedInfo{Entries: tc.entries}
		if e, ok := info.Newest(); e.Manager != tc.want || ok != tc.ok {
			t.Errorf("%s: %q, %t", tc.name, e.Manager, ok)
		}
	}
}

func FuzzManaged(f *testing.F) {
	values, _ := zooSeeds(f)
	for _, value := range append(values, podValue(f)) {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value []byte) { checkManaged(t, value) })
}

// checkManaged: what is found is within the value, and what the whole object
// has where that can be decoded.
func checkManaged(t *testing.T, value []byte) {
	t.Helper()
	got, err := Managed(value)
	if err != nil {
		if !errors.Is(err, ErrEncrypted) && !errors.Is(err, ErrUndecodable) {
			t.Fatalf("error of no kind: %v", err)
		}
		return
	}
	if got.Bytes < 0 || statusOf(value) != StatusCBOR && got.Bytes > int64(len(value)) || len(got.Entries) > maxManaged {
		t.Fatalf("%d bytes, %d entries of %d bytes", got.Bytes, len(got.Entries), len(value))
	}
	want, ok := decodedManaged(t, value)
	switch {
	case !ok || len(got.Entries) == maxManaged:
		return
	case statusOf(value) != StatusProtobuf:
		var m map[string]any
		strict, err := kjson.UnmarshalStrict(value, &m)
		if err != nil || len(strict) > 0 || len(want.Entries) != len(got.Entries) {
			return // a key that stands twice has no one meaning; accessors drop a list of which one entry is odd
		}
	}
	got.Bytes = want.Bytes // other writers take other lengths for the same
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%q (-decoded +managed):\n%s", value, diff)
	}
}

func TestManagedOfDamaged(t *testing.T) {
	values, _ := zooSeeds(t)
	values = append(values, podValue(t))
	random := rand.New(rand.NewSource(2))
	rounds := 20
	if testing.Short() {
		rounds = 2
	}
	for range rounds {
		for i, value := range values {
			checkManaged(t, mutate(random, value, values[(i+1)%len(values)]))
		}
	}
}

func BenchmarkManaged(b *testing.B) {
	value := podValue(b)
	b.SetBytes(int64(len(value)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Managed(value); err != nil {
			b.Fatal(err)
		}
	}
}
