package codec

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// wireField is a length-delimited field.
func wireField(num protowire.Number, parts ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), slices.Concat(parts...))
}

func wireInt(num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), v)
}

// stored wraps a message as kube-apiserver does.
func stored(apiVersion, kind string, raw ...[]byte) []byte {
	return slices.Concat([]byte(magicProtobuf),
		wireField(envelopeType, wireField(typeAPIVersion, []byte(apiVersion)), wireField(typeKind, []byte(kind))),
		wireField(envelopeRaw, raw...), wireField(3), wireField(4))
}

// place is where a length-delimited field stands in a value: its length from
// size to from, its payload from from to to.
type place struct{ size, from, to int }

// locate finds the nth field with a number in the payload of a place.
func locate(t *testing.T, value []byte, in place, num protowire.Number, nth int) place {
	t.Helper()
	for pos := in.from; pos < in.to; {
		_, _, tag := protowire.ConsumeTag(value[pos:in.to])
		f, err := nextField(value[:in.to], pos)
		if err != nil {
			t.Fatal(err)
		}
		if f.num == num {
			if nth--; nth < 0 {
				return place{pos + tag, f.from, f.to}
			}
		}
		pos = f.to
	}
	t.Fatalf("no field %d", num)
	return place{}
}

// addField returns value with bytes added to the end of the message that a way
// of field numbers leads to, lengths around it raised.
func addField(t *testing.T, value, add []byte, way ...protowire.Number) []byte {
	t.Helper()
	at := place{0, len(magicProtobuf), len(value)}
	var around []place
	for _, num := range way {
		at = locate(t, value, at, num, 0)
		around = append(around, at)
	}
	out := slices.Insert(slices.Clone(value), at.to, add...)
	for _, p := range slices.Backward(around) {
		size := protowire.AppendVarint(nil, uint64(p.to-p.from+len(out)-len(value)))
		out = slices.Replace(out, p.size, p.from, size...)
	}
	return out
}

// newerDeployment is a Deployment of the fixture with fields of a release that
// does not exist, in four messages.
func newerDeployment(t *testing.T) []byte {
	t.Helper()
	value := zoo(t)[prefix+"deployments/team/web"].value
	value = addField(t, value, wireField(901, []byte("NEW-TOP")), envelopeRaw)
	value = addField(t, value, wireField(902, []byte("NEW-META")), envelopeRaw, objectMetadata)
	value = addField(t, value, wireField(903, []byte("NEW-SPEC")), envelopeRaw, objectSpec)
	return addField(t, value, wireField(904, []byte("NEW-CONTAINER"), wireInt(905, 1<<40)), envelopeRaw, objectSpec, 3, 2, 2)
}

// byteSplice is one change of bytes.
type byteSplice struct {
	offset   int
	old, new []byte
}

// TestEditByteByByte shows that an edit of an object with fields of a newer
// release changes the bytes of the edited fields and of the lengths around
// them, and no others. Decoding and encoding again would lose those fields.
func TestEditByteByByte(t *testing.T) {
	value := newerDeployment(t)
	whole := place{0, len(magicProtobuf), len(value)}
	raw := locate(t, value, whole, envelopeRaw, 0)
	meta := locate(t, value, raw, objectMetadata, 0)
	label := locate(t, value, meta, metaLabels, 0)
	text := locate(t, value, label, entryValue, 0)
	spec := locate(t, value, raw, objectSpec, 0)
	replicas := locate(t, value, spec, 1, 0)
	if key := locate(t, value, label, entryKey, 0); string(value[key.from:key.to]) != "app" || replicas.to-replicas.from != 1 {
		t.Fatal("the fixture is not what this test is about")
	}
	const label2 = "a-longer-name"
	grown := len(label2) - (text.to - text.from)
	size := func(p place, by int) byteSplice {
		return byteSplice{p.size, value[p.size:p.from], protowire.AppendVarint(nil, uint64(p.to-p.from+by))}
	}
	metaSize := size(meta, grown)
	if len(metaSize.new) != len(metaSize.old) {
		t.Fatal("the length grows too")
	}
	want := []byteSplice{
		size(raw, grown+1), metaSize, size(label, grown), size(text, grown),
		{text.from, value[text.from:text.to], []byte(label2)},
		size(spec, 1),
		{replicas.from, value[replicas.from:replicas.to], []byte{0xac, 0x02}},
	}
	expected, end := []byte{}, 0
	for _, s := range want {
		expected = append(append(expected, value[end:s.offset]...), s.new...)
		end = s.offset + len(s.old)
		t.Logf("%6d  %-40s -> %s", s.offset, hex.EncodeToString(s.old), hex.EncodeToString(s.new))
	}
	expected = append(expected, value[end:]...)

	edited, inverse, err := Edit(value, SetLabel("app", label2), SetField("spec.replicas", 300))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(edited, expected) {
		t.Errorf("edited:\n%s\nwant:\n%s", hex.Dump(edited), hex.Dump(expected))
	}
	t.Logf("%d bytes of %d are the same", len(value)-sumOld(want), len(value))
	if back, _, err := Edit(edited, inverse...); err != nil || !bytes.Equal(back, value) {
		t.Errorf("inverse: %v, or other bytes", err)
	}

	obj, err := Decode(edited, 0)
	if err != nil {
		t.Fatal(err)
	}
	d := obj.(*appsv1.Deployment)
	if d.Labels["app"] != label2 || *d.Spec.Replicas != 300 {
		t.Errorf("edited object: %v, %d replicas", d.Labels, *d.Spec.Replicas)
	}
	omitted := []string{"metadata.field 902", "spec.template.spec.containers[0].field 904", "spec.field 903", "field 901"}
	if got := omittedFields(obj, rawOf(t, edited)); !slices.Equal(got, omitted) {
		t.Errorf("omitted fields %q, want %q", got, omitted)
	}
	again, err := d.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, marker := range []string{"NEW-TOP", "NEW-META", "NEW-SPEC", "NEW-CONTAINER"} {
		if !bytes.Contains(edited, []byte(marker)) {
			t.Errorf("the edit lost %s", marker)
		}
		if bytes.Contains(again, []byte(marker)) {
			t.Errorf("encoding the typed object kept %s", marker)
		}
	}
}

func sumOld(splices []byteSplice) (n int) {
	for _, s := range splices {
		n += len(s.old)
	}
	return n
}

// TestEditUnknownKind: metadata is field 1 of every kind.
func TestEditUnknownKind(t *testing.T) {
	value := stored("future.k8s.io/v3", "Rover", wireField(1, wireField(metaName, []byte("r"))), wireField(2, []byte("whatever")))
	finalizers := SetFinalizers("a/b")
	edited, inverse, err := Edit(value, finalizers, SetLabel("a", "b"), SetDeletion(testDeletion, 0))
	if err != nil {
		t.Fatal(err)
	}
	h := DecodeHead(edited)
	want := DecodeHead(value)
	want.Meta.Finalizers = []string{"a/b"}
	want.Meta.Deleted = testDeletion
	labelled := DecodeHead(stored("v1", "Pod", wireField(1, wireField(metaLabels, wireField(1, []byte("a")), wireField(2, []byte("b"))))))
	want.Meta.Labels = labelled.Meta.Labels
	if diff := cmp.Diff(want, h); diff != "" {
		t.Errorf("head (-want +got):\n%s", diff)
	}
	if back, _, err := Edit(edited, inverse...); err != nil || !bytes.Equal(back, value) {
		t.Errorf("inverse: %v, or other bytes", err)
	}
	_, _, err = Edit(value, SetField("spec.power", true))
	var unknown *UnknownKindError
	if !errors.Is(err, ErrNotEditable) || !errors.As(err, &unknown) || !strings.Contains(err.Error(), "spec.power") {
		t.Errorf("a field of an unknown kind: %v", err)
	}
}

// TestEditRepeatedOccurrences: what protobuf merges is edited as it is read.
func TestEditRepeatedOccurrences(t *testing.T) {
	entry := func(key, value string) []byte {
		return wireField(metaLabels, wireField(1, []byte(key)), wireField(2, []byte(value)))
	}
	pod := func(raw ...[]byte) []byte { return stored("v1", "Pod", raw...) }
	name := wireField(metaName, []byte("p"))
	later := wireField(metaNamespace, []byte("n"))
	tests := []struct {
		name      string
		value     []byte
		change    Change
		want      []byte
		sameBytes bool // the inverse gives back the bytes, not only the meaning
	}{
		{"finalizers in two metadata",
			pod(wireField(1, name, wireField(14, []byte("a"))), wireField(1, wireField(14, []byte("b")), wireInt(99, 1)), wireField(2)),
			SetFinalizers(),
			pod(wireField(1, name), wireField(1, wireInt(99, 1)), wireField(2)), false},
		{"finalizers set over two metadata",
			pod(wireField(1, name, wireField(14, []byte("a"))), wireField(1, wireField(14, []byte("b")))),
			SetFinalizers("c", "d"),
			pod(wireField(1, name, wireField(14, []byte("c")), wireField(14, []byte("d"))), wireField(1)), false},
		{"last label wins",
			pod(wireField(1, name, entry("a", "1"), entry("b", "2")), wireField(1, entry("a", "3"))),
			SetLabel("a", "4"),
			pod(wireField(1, name, entry("a", "1"), entry("b", "2")), wireField(1, entry("a", "4"))), true},
		{"all labels go",
			pod(wireField(1, name, entry("a", "1"), entry("b", "2")), wireField(1, entry("a", "3"))),
			RemoveLabel("a"),
			pod(wireField(1, name, entry("b", "2")), wireField(1)), false},
		{"a label between others",
			pod(wireField(1, name, entry("a", "1"), entry("c", "2"), wireInt(99, 1))),
			SetLabel("b", ""),
			pod(wireField(1, name, entry("a", "1"), entry("b", ""), entry("c", "2"), wireInt(99, 1))), true},
		{"a label behind others",
			pod(wireField(1, name, entry("a", "1"), wireField(13))),
			SetLabel("b", "2"),
			pod(wireField(1, name, entry("a", "1"), entry("b", "2"), wireField(13))), true},
		{"last scalar wins",
			pod(wireField(1, name), wireField(2, wireField(10, []byte("x")), wireField(10, []byte("y"))), wireField(2, wireInt(99, 1))),
			SetField("spec.nodeName", "z"),
			pod(wireField(1, name), wireField(2, wireField(10, []byte("x")), wireField(10, []byte("z"))), wireField(2, wireInt(99, 1))), true},
		{"all scalars go",
			pod(wireField(1, name), wireField(2, wireField(10, []byte("x"))), wireField(2, wireField(10, []byte("y")))),
			RemoveField("spec.nodeName"),
			pod(wireField(1, name), wireField(2), wireField(2)), false},
		{"the time that is read",
			pod(wireField(1, name, wireField(9, wireInt(1, 5)), wireField(9, wireInt(1, 6), wireInt(2, 0), wireInt(77, 1)))),
			SetDeletion(testDeletion, 3),
			pod(wireField(1, name, wireField(9, wireInt(1, 5)), wireField(9, wireInt(1, uint64(testDeletion.Unix())), wireInt(2, 0), wireInt(77, 1)), wireInt(10, 3))), true},
		{"an element of a split list",
			pod(wireField(1, name), wireField(2, wireField(2, wireField(1, []byte("c0")))), wireField(2, wireField(2, wireField(1, []byte("c1"))))),
			SetField("spec.containers[name=c1].image", "i"),
			pod(wireField(1, name), wireField(2, wireField(2, wireField(1, []byte("c0")))), wireField(2, wireField(2, wireField(1, []byte("c1")), wireField(2, []byte("i"))))), true},
		{"a message in between is made",
			pod(wireField(1, name), wireField(3)),
			SetField("spec.securityContext.runAsUser", 5),
			pod(wireField(1, name), wireField(2, wireField(14, wireInt(2, 5))), wireField(3)), true},
		{"nothing is made for a zero", pod(wireField(1, name)), SetField("spec.nodeName", ""), pod(wireField(1, name)), true},
		{"nothing is made for a removal", pod(wireField(1, name)), RemoveField("spec.securityContext.runAsUser"), pod(wireField(1, name)), true},
		{"a pointer's zero is stored", pod(wireField(1, name)), SetField("spec.priority", 0),
			pod(wireField(1, name), wireField(2, wireInt(25, 0))), true},
		{"a number spelled at length",
			pod(wireField(1, name), wireField(2, protowire.AppendTag(nil, 25, 0), []byte{0x85, 0x80, 0x00})),
			SetField("spec.priority", 5),
			pod(wireField(1, name), wireField(2, protowire.AppendTag(nil, 25, 0), []byte{0x85, 0x80, 0x00})), true},
		{"the last raw of the envelope counts",
			slices.Concat(pod(wireField(1, wireField(1, []byte("not read")))), wireField(envelopeRaw, wireField(1, name, later))),
			SetFinalizers("f"),
			slices.Concat(pod(wireField(1, wireField(1, []byte("not read")))), wireField(envelopeRaw, wireField(1, name, later, wireField(14, []byte("f"))))), true},
		{"no object at all", slices.Concat([]byte(magicProtobuf), wireField(1, wireField(1, []byte("v1")), wireField(2, []byte("Pod")))), SetLabel("a", "b"),
			slices.Concat([]byte(magicProtobuf), wireField(1, wireField(1, []byte("v1")), wireField(2, []byte("Pod"))), wireField(2, wireField(1, entry("a", "b")))), false},
		{"an empty text is put back", pod(wireField(1, name), wireField(2, wireField(10))), RemoveField("spec.nodeName"),
			pod(wireField(1, name), wireField(2)), true},
		{"a message that is one value merges",
			stored("policy/v1", "PodDisruptionBudget", wireField(1, name), wireField(2, wireField(1, wireInt(1, 1), wireField(3, []byte("5%"))), wireField(1, wireInt(2, 7)))),
			RemoveField("spec.minAvailable"),
			stored("policy/v1", "PodDisruptionBudget", wireField(1, name), wireField(2)), false},
		{"no time becomes the epoch", pod(wireField(1, name, wireField(9), wireInt(10, 3))), SetDeletion(time.Unix(0, 0), 3),
			pod(wireField(1, name, wireField(9, wireInt(1, 0), wireInt(2, 0)), wireInt(10, 3))), true},
		{"nanoseconds are not read", pod(wireField(1, name, wireField(9, wireInt(1, 60), wireInt(2, 7)), wireInt(10, 3))), SetDeletion(time.Unix(60, 0), 3),
			pod(wireField(1, name, wireField(9, wireInt(1, 60), wireInt(2, 7)), wireInt(10, 3))), true},
		{"a tag spelled at length",
			pod(wireField(1, name), []byte{0x92, 0x00, 0x02, 0x52, 0x00}),
			SetField("spec.nodeName", "n"),
			pod(wireField(1, name), []byte{0x92, 0x00, 0x03, 0x52, 0x01, 'n'}), true},
	}
	for _, test := range tests {
		edited, inverse, err := Edit(test.value, test.change)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if !bytes.Equal(edited, test.want) {
			t.Errorf("%s:\n%s\nwant:\n%s", test.name, hex.Dump(edited), hex.Dump(test.want))
		}
		back, _, err := Edit(edited, inverse...)
		if err != nil {
			t.Errorf("%s: inverse: %v", test.name, err)
			continue
		}
		if diff := cmp.Diff(decoded(t, test.value), decoded(t, back)); diff != "" {
			t.Errorf("%s: inverse (-want +got):\n%s", test.name, diff)
		}
		if test.sameBytes && !bytes.Equal(back, test.value) {
			t.Errorf("%s: inverse:\n%s\nwant:\n%s", test.name, hex.Dump(back), hex.Dump(test.value))
		}
	}
}

// TestEditGolden sets the values that golden files hold already: one of each
// kind of field, and no byte may change; then others, and back.
func TestEditGolden(t *testing.T) {
	golden := goldenValues(t)
	tests := []struct {
		file, path  string
		same, other any
	}{
		{"core.v1.Pod.pb", "spec.volumes[0].configMap.name", "nameValue", "x"},
		{"core.v1.Pod.pb", "spec.volumes[name=nameValue].configMap.optional", true, false},
		{"core.v1.Pod.pb", "spec.containers[0].livenessProbe.httpGet.port", "portValue", 8080},
		{"core.v1.Pod.pb", "spec.containers[0].lifecycle.postStart.httpGet.path", "pathValue", ""},
		{"core.v1.Pod.pb", "spec.ephemeralContainers[0].image", "imageValue", "i"},
		{"core.v1.Pod.pb", "spec.containers[0].args", []string{"argsValue"}, []string{"a", "b"}},
		{"core.v1.Pod.pb", "spec.containers[0].args[0]", "argsValue", "b"},
		{"core.v1.Pod.pb", "spec.containers[0].resources.limits[limitsKey]", "0", "1500m"},
		{"core.v1.Pod.pb", "spec.containers[0].env[0].valueFrom.configMapKeyRef.name", "nameValue", "n"},
		{"core.v1.Pod.pb", "spec.volumes[0].emptyDir.sizeLimit", "0", "1Gi"},
		{"core.v1.Pod.pb", "status.conditions[0].lastProbeTime", "2003-01-01T01:01:01Z", "2031-01-01T01:01:01Z"},
		{"apps.v1.Deployment.pb", "spec.strategy.rollingUpdate.maxSurge", "maxSurgeValue", -1},
		{"networking.k8s.io.v1.Ingress.pb", "spec.rules[0].http.paths[0].path", "pathValue", "/"},
		{"core.v1.PersistentVolume.pb", "spec.nfs.server", "serverValue", "s"},
		{"admissionregistration.k8s.io.v1.ValidatingWebhookConfiguration.pb", "webhooks[0].failurePolicy", "failurePolicyValue", "Ignore"},
		{"coordination.k8s.io.v1.Lease.pb", "spec.renewTime", "2004-01-01T01:01:01.000004Z", "2031-01-01T01:01:01Z"},
		{"resource.k8s.io.v1.ResourceSlice.pb", "spec.devices[0].capacity[capacityKey].value", "0", "3"},
		{"rbac.authorization.k8s.io.v1.ClusterRole.pb", "rules[0].verbs", []string{"verbsValue"}, []string{}},
	}
	for _, test := range tests {
		value := golden[test.file]
		edited, _, err := Edit(value, SetField(test.path, test.same))
		if err != nil || !bytes.Equal(edited, value) {
			t.Errorf("%s: the same %s: %v, or bytes change", test.file, test.path, err)
		}
		edited, inverse, err := Edit(value, SetField(test.path, test.other))
		if err != nil {
			t.Errorf("%s: %s: %v", test.file, test.path, err)
			continue
		}
		canonical(t, test.file+" "+test.path, edited)
		if back, _, err := Edit(edited, inverse...); err != nil || !bytes.Equal(back, value) || bytes.Equal(edited, value) {
			t.Errorf("%s: inverse of %s: %v, or other bytes", test.file, test.path, err)
		}
	}
}

// canonical fails unless the generated code would have written the same bytes.
func canonical(t *testing.T, name string, value []byte) {
	t.Helper()
	obj, err := decodeProtobuf(value[len(magicProtobuf):])
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	again, err := obj.(interface{ Marshal() ([]byte, error) }).Marshal()
	if err != nil || !bytes.Equal(again, rawOf(t, value)) {
		t.Errorf("%s: not as the generated code writes it: %v", name, err)
	}
}

func TestDescribeFollowsGoTypes(t *testing.T) {
	pod := describe(reflect.TypeFor[corev1.PodSpec]())
	if f := pod.byNumber[10]; f == nil || f.name != "nodeName" || f.kind != kindString {
		t.Errorf("field 10 of a pod's spec: %+v", f)
	}
	chain := describe(reflect.TypeFor[corev1.Volume]()).byName["configMap"]
	if len(chain) != 2 || chain[0].num != 2 || chain[1].num != 19 {
		t.Errorf("configMap of a volume: %+v", chain)
	}
	if describe(reflect.TypeFor[struct{ A string }]()) != nil {
		t.Error("a type without protobuf tags is described")
	}
}
