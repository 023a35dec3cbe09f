package codec

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
)

// bytesField and varintField append one field to a message.
func bytesField[T ~string | ~[]byte](b []byte, num protowire.Number, value T) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), []byte(value))
}

func varintField(b []byte, num protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), value)
}

// wrap makes a stored value of an object's own bytes.
func wrap(apiVersion, kind string, raw []byte) []byte {
	typeMeta := bytesField(bytesField(nil, 1, apiVersion), 2, kind)
	value := bytesField([]byte(magicProtobuf), 1, typeMeta)
	return bytesField(bytesField(bytesField(value, 2, raw), 3, ""), 4, "")
}

func testPod() *corev1.Pod {
	created := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "web-1", GenerateName: "web-", Namespace: "team", UID: "u-1", Generation: 7,
			CreationTimestamp: created, DeletionTimestamp: &metav1.Time{Time: created.Add(time.Hour)}, DeletionGracePeriodSeconds: new(int64(30)),
			Labels: map[string]string{"app": "web", "empty": ""}, Annotations: map[string]string{"a": "1", "b": "2"},
			OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "u-2", Controller: new(true), BlockOwnerDeletion: new(true)},
				{APIVersion: "v1", Kind: "Node", Name: "w-1", UID: "u-3"},
			},
			Finalizers:    []string{"example.com/a", "example.com/b"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet"}, {Manager: "kubectl"}},
		},
		Spec:   corev1.PodSpec{NodeName: "w-1", Containers: []corev1.Container{{Name: "c"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

func testPodHead() Head {
	created := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return Head{
		Status: StatusProtobuf, Node: "w-1", Phase: "Running",
		Meta: Meta{
			APIVersion: "v1", Kind: "Pod", Name: "web-1", GenerateName: "web-", Namespace: "team", UID: "u-1",
			Created: created, Deleted: created.Add(time.Hour),
			Labels:     Labels{{"app", "web"}, {"empty", ""}},
			Finalizers: []string{"example.com/a", "example.com/b"},
			Owners: []Owner{
				{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "u-2", Controller: true},
				{APIVersion: "v1", Kind: "Node", Name: "w-1", UID: "u-3"},
			},
		},
	}
}

func podValue(tb testing.TB) []byte {
	tb.Helper()
	raw, err := testPod().Marshal()
	if err != nil {
		tb.Fatal(err)
	}
	return wrap("v1", "Pod", raw)
}

func TestDecodeHeadProtobuf(t *testing.T) {
	t.Parallel()
	h := DecodeHead(podValue(t))
	if diff := cmp.Diff(testPodHead(), h); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if h.Meta.Owners[0].Group() != "apps" || h.Meta.Owners[1].Group() != "" || h.Meta.Group() != "" {
		t.Errorf("groups: %+v", h.Meta.Owners)
	}
}

func TestDecodeHeadKeepsNothingOfTheValue(t *testing.T) {
	t.Parallel()
	value := podValue(t)
	h := DecodeHead(value)
	clear(value)
	if diff := cmp.Diff(testPodHead(), h); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestHeadDecoderShares: alike values share their lists, and what is read later
// changes no head that was returned.
func TestHeadDecoderShares(t *testing.T) {
	t.Parallel()
	live := zoo(t)
	var d HeadDecoder
	var got, alone []Head
	for _, key := range slices.Sorted(maps.Keys(live)) {
		value := slices.Clone(live[key].value)
		alone = append(alone, DecodeHead(value))
		got = append(got, d.Decode(value))
		clear(value)
	}
	errorText := cmp.Comparer(func(a, b error) bool { return fmt.Sprint(a) == fmt.Sprint(b) })
	if diff := cmp.Diff(alone, got, errorText); diff != "" {
		t.Errorf("(-alone +one after the other):\n%s", diff)
	}
	first, second := d.Decode(podValue(t)).Meta, d.Decode(podValue(t)).Meta
	if &first.Labels[0] != &second.Labels[0] || &first.Owners[0] != &second.Owners[0] || &first.Finalizers[0] != &second.Finalizers[0] {
		t.Error("lists of equal values are not shared")
	}
	// A repeated metadata message adds to lists, which are shared by then.
	more := bytesField(bytesField(nil, metaLabels, bytesField(nil, entryKey, "a")), metaFinalizers, "x")
	raw, err := testPod().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	third := d.Decode(wrap("v1", "Pod", bytesField(raw, objectMetadata, more))).Meta
	if len(third.Labels) != 3 || third.Labels[0].Key != "a" || len(third.Finalizers) != 3 {
		t.Errorf("got %+v", third)
	}
	if diff := cmp.Diff(testPodHead().Meta, second); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestDecodeHeadAllocations: no more is taken than what is returned.
func TestDecodeHeadAllocations(t *testing.T) {
	pods := runawayPods(t)[:2]
	// The names (in one string); the strings of labels, owners and finalizers
	// (one), and a slice of each; the node.
	if n := testing.AllocsPerRun(100, func() { DecodeHead(pods[0]) }); n > 6 {
		t.Errorf("DecodeHead allocates %v times", n)
	}
	// The names; all else is as in the pod before.
	var d HeadDecoder
	i := 0
	if n := testing.AllocsPerRun(100, func() { i++; d.Decode(pods[i%2]) }); n > 1 {
		t.Errorf("a HeadDecoder allocates %v times", n)
	}
}

// TestDecodeHeadProtobufRules: what other encoders may write is read by the
// rules of the format, with the same outcome as the generated decoder.
func TestDecodeHeadProtobufRules(t *testing.T) {
	t.Parallel()
	meta := func(name string) []byte { return bytesField(nil, metaName, name) }
	unknown := varintField(bytesField(nil, 900, "new"), 901, 7)
	group := protowire.AppendTag(protowire.AppendTag(nil, 902, protowire.StartGroupType), 902, protowire.EndGroupType)
	tests := []struct {
		name  string
		raw   []byte
		check func(h Head) bool
	}{
		{"repeated metadata merges",
			bytesField(bytesField(nil, 1, bytesField(meta("a"), metaNamespace, "n")), 1, bytesField(nil, metaUID, "u")),
			func(h Head) bool { return h.Meta.Name == "a" && h.Meta.Namespace == "n" && h.Meta.UID == "u" }},
		{"last scalar wins, also across messages",
			bytesField(bytesField(nil, 1, bytesField(meta("a"), metaName, "b")), 1, meta("c")),
			func(h Head) bool { return h.Meta.Name == "c" }},
		{"labels and finalizers add up across messages",
			bytesField(bytesField(nil, 1, bytesField(bytesField(nil, metaLabels, bytesField(bytesField(nil, 1, "a"), 2, "1")), metaFinalizers, "x")),
				1, bytesField(bytesField(bytesField(nil, metaLabels, bytesField(bytesField(nil, 1, "a"), 2, "2")), metaLabels, bytesField(nil, 1, "b")), metaFinalizers, "y")),
			func(h Head) bool {
				return slices.Equal(h.Meta.Labels, Labels{{"a", "2"}, {"b", ""}}) && slices.Equal(h.Meta.Finalizers, []string{"x", "y"})
			}},
		{"the last of two equal labels is kept, in order",
			bytesField(nil, 1, bytesField(bytesField(bytesField(meta("a"), metaLabels, bytesField(bytesField(nil, 1, "b"), 2, "1")),
				metaLabels, bytesField(nil, 1, "a")), metaLabels, bytesField(bytesField(nil, 2, "2"), 1, "b"))),
			func(h Head) bool { return slices.Equal(h.Meta.Labels, Labels{{"a", ""}, {"b", "2"}}) }},
		{"fields in any order, after annotations and managedFields",
			bytesField(nil, 1, bytesField(bytesField(bytesField(bytesField(nil, metaManagedFields, ""), metaName, "a"), metaAnnotations, ""), metaUID, "u")),
			func(h Head) bool { return h.Meta.Name == "a" && h.Meta.UID == "u" }},
		{"unknown fields and groups are skipped",
			append(bytesField(unknown, 1, append(append(meta("a"), unknown...), group...)), group...),
			func(h Head) bool { return h.Meta.Name == "a" }},
		{"a later spec and status win",
			bytesField(bytesField(bytesField(bytesField(bytesField(nil, 1, meta("a")), 2, bytesField(nil, podSpecNode, "w-1")),
				3, bytesField(nil, statusPhase, "Running")), 2, bytesField(nil, podSpecNode, "w-2")), 3, bytesField(nil, statusPhase, "Failed")),
			func(h Head) bool { return h.Node == "w-2" && h.Phase == "Failed" }},
		{"a later empty time unsets",
			bytesField(nil, 1, bytesField(bytesField(nil, metaCreated, varintField(nil, timeSeconds, 100)), metaCreated, "")),
			func(h Head) bool { return h.Meta.Created.IsZero() }},
		{"no metadata", nil, func(h Head) bool { return h.Meta.Name == "" }},
	}
	for _, test := range tests {
		value := wrap("v1", "Pod", test.raw)
		h := DecodeHead(value)
		if h.Err != nil || !test.check(h) {
			t.Errorf("%s: got %+v", test.name, h)
		}
		want, ok := metaOf(t, value)
		if diff := cmp.Diff(want, h.Meta); !ok || diff != "" {
			t.Errorf("%s: decoded %t (-decoded +head):\n%s", test.name, ok, diff)
		}
	}
}

func TestDecodeHeadEnvelope(t *testing.T) {
	t.Parallel()
	raw := bytesField(nil, 1, bytesField(nil, metaName, "a"))
	first := bytesField(bytesField([]byte(magicProtobuf), 2, raw), 1, bytesField(nil, 1, "v1"))
	value := bytesField(bytesField(first, 1, bytesField(nil, 2, "Pod")), 77, "new")
	if h := DecodeHead(value); h.Meta.Name != "a" || h.Meta.Kind != "Pod" || h.Meta.APIVersion != "v1" {
		t.Errorf("got %+v", h)
	}
	// A kind whose spec and status this build does not know gives neither.
	status := bytesField(bytesField(raw, 2, bytesField(nil, podSpecNode, "w")), 3, bytesField(nil, statusPhase, "p"))
	if h := DecodeHead(wrap("apps/v1", "Pod", status)); h.Node != "" || h.Phase != "" || h.Meta.Name != "a" {
		t.Errorf("got %+v", h)
	}
	if h := DecodeHead(wrap("v1", "PersistentVolumeClaim", raw)); h.Phase != "Pending" {
		t.Errorf("got %+v", h)
	}
	if h := DecodeHead(wrap("v1", "Namespace", raw)); h.Phase != "Active" {
		t.Errorf("got %+v", h)
	}
}

func TestDecodeHeadJSON(t *testing.T) {
	t.Parallel()
	const value = `{"apiVersion":"batch.volcano.sh/v1alpha1","kind":"Job","metadata":{"name":"j","generateName":"j-","namespace":"team","uid":"u",
		"creationTimestamp":"2026-01-02T03:04:05Z","deletionTimestamp":null,"labels":{"a":"b"},"finalizers":["f"],"unknown":[1],"Name":"other",
		"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n","uid":"o","controller":true}]},"spec":{"nodeName":"not a pod"},"status":{"phase":"Running"}}`
	want := Head{Status: StatusJSON, Phase: "Running", Meta: Meta{
		APIVersion: "batch.volcano.sh/v1alpha1", Kind: "Job", Name: "j", GenerateName: "j-", Namespace: "team", UID: "u",
		Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Labels: Labels{{"a", "b"}}, Finalizers: []string{"f"},
		Owners: []Owner{{"v1", "Node", "n", "o", true}},
	}}
	if diff := cmp.Diff(want, DecodeHead([]byte(value))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	tests := []struct{ value, node, phase string }{
		{`{"apiVersion":"v1","kind":"Pod","metadata":{},"spec":{"nodeName":"w"},"status":{"phase":"Failed"}}`, "w", "Failed"},
		{`{"apiVersion":"a.b/v1","kind":"X","metadata":{},"spec":[],"status":{"phase":{"phase":"x"}}}`, "", ""},
		{`{"apiVersion":"a.b/v1","kind":"X","metadata":{},"spec":"\"phase\"","status":"phase"}`, "", ""},
		{`{"apiVersion":"a.b/v1","kind":"X","metadata":{},"status":{"sub":{"phase":"x"},"phase":null}}`, "", ""},
		{`{"apiVersion":"a.b/v1","kind":"X"}`, "", ""},
		{`{"apiVersion":"v1","kind":"Namespace","metadata":{}}`, "", "Active"},
	}
	for _, test := range tests {
		h := DecodeHead([]byte(test.value))
		if h.Err != nil || h.Node != test.node || h.Phase != test.phase {
			t.Errorf("%s: got %+v", test.value, h)
		}
	}
}

func TestDecodeHeadCBOR(t *testing.T) {
	t.Parallel()
	data, err := direct.Marshal(map[string]any{
		"apiVersion": "a.b/v1", "kind": "X",
		"metadata": map[string]any{"name": "x", "namespace": "n", "creationTimestamp": "2026-01-02T03:04:05Z", "labels": map[string]any{"a": "b"}},
		"spec":     map[string]any{"big": int64(9007199254740993)}, "status": map[string]any{"phase": "Done"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(data), magicCBOR) {
		data = append([]byte(magicCBOR), data...)
	}
	want := Head{Status: StatusCBOR, Phase: "Done", Meta: Meta{APIVersion: "a.b/v1", Kind: "X", Name: "x", Namespace: "n",
		Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Labels: Labels{{"a", "b"}}}}
	if diff := cmp.Diff(want, DecodeHead(data)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	obj, err := Decode(data, 9)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Render(obj, RenderOptions{})
	if err != nil || m["spec"].(map[string]any)["big"] != int64(9007199254740993) {
		t.Errorf("%v: %v", err, m)
	}
	if h := DecodeHead([]byte(magicCBOR + "\xa1")); h.Status != StatusUndecodable {
		t.Errorf("got %+v", h)
	}
}

func TestUnreadableValues(t *testing.T) {
	t.Parallel()
	tooLong := bytesField(nil, 1, "x")
	tooLong[1] = 200
	tests := []struct {
		name, value string
		status      Status
		is          error
		text        string
	}{
		{"empty", "", StatusUndecodable, ErrUndecodable, "0 bytes of no known form"},
		{"text", "1234", StatusUndecodable, ErrUndecodable, "no known form"},
		{"half a magic", "k8s", StatusUndecodable, ErrUndecodable, "no known form"},
		{"magic alone", magicProtobuf, StatusUndecodable, ErrUndecodable, "no apiVersion and kind"},
		{"envelope cut", magicProtobuf + "\x0a", StatusUndecodable, ErrUndecodable, "protobuf"},
		{"metadata is a number", string(wrap("v1", "Pod", varintField(nil, 1, 7))), StatusUndecodable, ErrUndecodable, "wire type 0"},
		{"name is a number", string(wrap("v1", "Pod", bytesField(nil, 1, varintField(nil, metaName, 7)))), StatusUndecodable, ErrUndecodable, "field 1 has wire type 0"},
		{"length too long", string(wrap("v1", "Pod", tooLong)), StatusUndecodable, ErrUndecodable, "unexpected EOF"},
		{"end of no group", string(wrap("v1", "Pod", protowire.AppendTag(nil, 9, protowire.EndGroupType))), StatusUndecodable, ErrUndecodable, "end group"},
		{"json cut", `{"kind":"Secret","data":"hunter2`, StatusUndecodable, ErrUndecodable, "json breaks at byte"},
		{"json of other shape", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x","labels":"hunter2"}}`, StatusUndecodable, ErrUndecodable, "shape of an object"},
		{"bad time", `{"apiVersion":"v1","kind":"Secret","metadata":{"creationTimestamp":"hunter2"}}`, StatusUndecodable, ErrUndecodable, "shape of an object"},
		{"foreign json", `{"hello":"hunter2"}`, StatusForeign, ErrUndecodable, "no apiVersion and kind"},
		{"encrypted", "k8s:enc:aescbc:v1:key1:hunter2", StatusEncrypted, ErrEncrypted, `by provider aescbc:v1:key1`},
		{"encrypted by kms", "k8s:enc:kms:v2:vault:hunter2", StatusEncrypted, ErrEncrypted, `by provider kms:v2:vault`},
		{"encrypted by nobody", "k8s:enc:", StatusEncrypted, ErrEncrypted, "value is encrypted"},
	}
	for _, test := range tests {
		h := DecodeHead([]byte(test.value))
		if h.Status != test.status || !errors.Is(h.Err, test.is) || !strings.Contains(h.Err.Error(), test.text) {
			t.Errorf("%s: got %+v", test.name, h)
		}
		if diff := cmp.Diff(Meta{}, h.Meta); diff != "" {
			t.Errorf("%s: metadata of an unreadable value:\n%s", test.name, diff)
		}
		if h.Err != nil && strings.Contains(h.Err.Error(), "hunter2") {
			t.Errorf("%s: the error quotes the value: %v", test.name, h.Err)
		}
		obj, err := Decode([]byte(test.value), 1)
		if err != nil && (!errors.Is(err, test.is) || strings.Contains(err.Error(), "hunter2")) || err == nil && obj == nil {
			t.Errorf("%s: Decode: %v, %v", test.name, obj, err)
		}
	}
}

func TestDecodeUnknownKind(t *testing.T) {
	t.Parallel()
	raw := bytesField(nil, 1, bytesField(nil, metaName, "a"))
	for _, test := range []struct{ apiVersion, kind string }{
		{"policy/v1beta1", "PodSecurityPolicy"}, {"v1", "Future"}, {"future.k8s.io/v1", "Thing"}, {"v1", "ListOptions"}, {"a/b/c", "Pod"},
	} {
		value := wrap(test.apiVersion, test.kind, raw)
		_, err := Decode(value, 1)
		var unknown *UnknownKindError
		if !errors.As(err, &unknown) {
			if test.kind == "ListOptions" && err != nil {
				continue
			}
			t.Errorf("%v: got %v", test, err)
			continue
		}
		if unknown.APIVersion != test.apiVersion || unknown.Kind != test.kind {
			t.Errorf("%v: got %v", test, unknown)
		}
		if h := DecodeHead(value); h.Err != nil || h.Meta.Name != "a" {
			t.Errorf("%v: head %+v", test, h)
		}
	}
}

// TestDecodeHeadTruncated: a value cut anywhere is either refused or, if the
// cut takes nothing that is read, gives the same head.
func TestDecodeHeadTruncated(t *testing.T) {
	t.Parallel()
	value := podValue(t)
	for n := range len(value) {
		h := DecodeHead(value[:n])
		if h.Err == nil && len(value)-n > len("\x1a\x00\x22\x00") {
			// Only the part of the envelope before raw is left.
			if h.Meta.Name != "" {
				t.Errorf("cut at %d of %d: got %+v", n, len(value), h)
			}
		}
	}
}

func ExampleDecodeHead() {
	h := DecodeHead([]byte(`{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"a"}}`))
	fmt.Println(h.Status, h.Meta.Kind, h.Meta.Name, h.Err)
	// Output: json Thing a <nil>
}
