package codec

import (
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	kjson "sigs.k8s.io/json"
)

// zooSeeds returns the smallest stored value of each kind and form in the
// fixture, and a key of each resource: the fuzzer's time goes into mutations,
// not into values that are alike.
func zooSeeds(tb testing.TB) (values [][]byte, keys []string) {
	tb.Helper()
	live := zoo(tb)
	c := NewCatalog()
	smallest := map[string]string{}
	resources := map[string]string{}
	for key, v := range live {
		h := DecodeHead(v.value)
		kind := string(h.Status) + h.Meta.APIVersion + h.Meta.Kind
		if old, ok := smallest[kind]; !ok || len(v.value) < len(live[old].value) {
			smallest[kind] = key
		}
		k, ok := c.ParseKey(prefix, key)
		if !ok {
			keys = append(keys, key)
		} else if name := k.Resource.String(); resources[name] == "" || key < resources[name] {
			resources[name] = key
		}
	}
	for _, key := range smallest {
		values = append(values, live[key].value)
	}
	for _, key := range resources {
		keys = append(keys, key)
	}
	slices.SortFunc(values, slices.Compare)
	slices.Sort(keys)
	return values, keys
}

func FuzzParseKey(f *testing.F) {
	_, keys := zooSeeds(f)
	for _, key := range keys {
		f.Add("/registry/", key)
	}
	f.Add("/", "/pods/a/b")
	f.Add("", "/pods/a/b")
	c := volcanoCatalog(f)
	f.Fuzz(func(t *testing.T, prefix, key string) { checkKey(t, c, prefix, key) })
}

// checkKey: ParseKey followed by Path is the identity, and the key stands in
// the range of what it was taken for.
func checkKey(t *testing.T, c *Catalog, prefix, key string) {
	k, ok := c.ParseKey(prefix, key)
	if !ok {
		return
	}
	if path := k.Path(prefix); path != key {
		t.Fatalf("prefix %q: key %q became %q", prefix, key, path)
	}
	start, end := k.Resource.Range(prefix, k.Namespace)
	if key < start || key >= end {
		t.Fatalf("key %q is not in [%q, %q)", key, start, end)
	}
	if k.Resource.Namespaced != (k.Namespace != "") || k.Name == "" {
		t.Fatalf("key %q: %+v", key, k)
	}
}

func FuzzDecodeHead(f *testing.F) {
	values, _ := zooSeeds(f)
	for _, value := range append(values, podValue(f)) {
		f.Add(value)
	}
	f.Fuzz(checkHead)
}

// checkDecoder: what a decoder has read before makes no difference.
func checkDecoder(t *testing.T, value []byte, want Head) {
	t.Helper()
	var d HeadDecoder
	d.Decode(podValue(t))
	for range 2 {
		got := d.Decode(value)
		if fmt.Sprint(got.Err) != fmt.Sprint(want.Err) {
			t.Fatalf("error %v, alone %v", got.Err, want.Err)
		}
		got.Err = want.Err
		if diff := cmp.Diff(want, got, cmpopts.EquateErrors()); diff != "" {
			t.Fatalf("%q (-alone +after others):\n%s", value, diff)
		}
	}
	if diff := cmp.Diff(testPodHead(), d.Decode(podValue(t))); diff != "" {
		t.Fatalf("after %q (-want +got):\n%s", value, diff)
	}
}

// checkHead: a head is sound or empty, no larger than its value, and agrees
// with the whole object where that can be decoded.
func checkHead(t *testing.T, value []byte) {
	h := DecodeHead(value)
	checkDecoder(t, value, h)
	sound := h.Status == StatusProtobuf || h.Status == StatusJSON || h.Status == StatusCBOR
	if sound != (h.Err == nil) {
		t.Fatalf("status %s, error %v", h.Status, h.Err)
	}
	if h.Err != nil && !cmp.Equal(h, Head{Status: h.Status, Err: h.Err}, cmp.Comparer(func(a, b error) bool { return a == b })) {
		t.Fatalf("an unreadable value has %+v", h)
	}
	size := len(h.Meta.Name) + len(h.Meta.Namespace) + len(h.Meta.UID) + len(h.Meta.Finalizers) + len(h.Meta.Labels) + len(h.Meta.Owners)
	if size > 3*len(value) { // invalid UTF-8 in JSON grows to three bytes
		t.Fatalf("%d bytes of metadata from %d", size, len(value))
	}
	want, ok := metaOf(t, value)
	if !ok || h.Err != nil {
		return
	}
	if h.Status != StatusProtobuf {
		// Accessors of unstructured objects forgive what the head refuses,
		// and JSON with a key twice has no one meaning.
		var m map[string]any
		if strict, err := kjson.UnmarshalStrict(value, &m); err != nil || len(strict) > 0 {
			return
		}
		want.Created, want.Deleted, want.Labels = h.Meta.Created, h.Meta.Deleted, h.Meta.Labels
		want.Finalizers, want.Owners = h.Meta.Finalizers, h.Meta.Owners
	}
	if diff := cmp.Diff(want, h.Meta); diff != "" {
		t.Fatalf("%q (-decoded +head):\n%s", value, diff)
	}
}

func FuzzDecode(f *testing.F) {
	values, _ := zooSeeds(f)
	for _, value := range append(values, podValue(f)) {
		f.Add(value)
	}
	c := NewCatalog()
	f.Fuzz(func(t *testing.T, value []byte) { checkDecode(t, c, value) })
}

// checkDecode: decoding never panics, and what comes out can be shown, which
// walks all of the object.
func checkDecode(t *testing.T, c *Catalog, value []byte) {
	obj, err := Decode(value, 1)
	if err != nil {
		var unknown *UnknownKindError
		if !errors.Is(err, ErrEncrypted) && !errors.Is(err, ErrUndecodable) && !errors.As(err, &unknown) {
			t.Fatalf("error of no kind: %v", err)
		}
		return
	}
	if m, err := Render(obj, RenderOptions{}); err == nil {
		if _, err := MarshalJSON(m, ""); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"pods", "jobs", "namespaces", "events", "services", "configmaps"} {
		r, _, _ := c.Lookup(name)
		Cells(obj, r, viewed())
		_, _ = FieldSet(obj, r)
	}
}

// TestMutations runs the same checks on damaged values at the speed of a
// build without the fuzzer's instrumentation.
func TestMutations(t *testing.T) {
	values, keys := zooSeeds(t)
	values = append(values, podValue(t))
	c := volcanoCatalog(t)
	random := rand.New(rand.NewSource(1))
	rounds := 20
	if testing.Short() {
		rounds = 2
	}
	for range rounds {
		for i, value := range values {
			damaged := mutate(random, value, values[(i+1)%len(values)])
			checkHead(t, damaged)
			checkDecode(t, c, damaged)
		}
		for i, key := range keys {
			checkKey(t, c, prefix, string(mutate(random, []byte(key), []byte(keys[(i+1)%len(keys)]))))
		}
	}
}

// mutate changes a few bytes, and sometimes cuts the value or continues it
// with another.
func mutate(random *rand.Rand, value, other []byte) []byte {
	out := slices.Clone(value)
	for range 1 + random.Intn(4) {
		i := random.Intn(len(out))
		switch random.Intn(4) {
		case 0:
			out[i] ^= 1 << random.Intn(8)
		case 1:
			out[i] = byte(random.Intn(256))
		case 2:
			out = slices.Insert(out, i, byte(random.Intn(256)))
		case 3:
			out = slices.Delete(out, i, i+1)
		}
		if len(out) == 0 {
			return out
		}
	}
	switch random.Intn(8) {
	case 0:
		out = out[:random.Intn(len(out))]
	case 1:
		out = append(out[:random.Intn(len(out))], other[random.Intn(len(other)):]...)
	}
	return out
}
