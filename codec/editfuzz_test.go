package codec

import (
	"bytes"
	"errors"
	"math/rand"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"
)

// fuzzChanges are the changes that the fuzzer chooses from; text is its own.
func fuzzChanges(text string) []Change {
	changes := []Change{
		SetLabel(text, text), RemoveLabel(text), SetAnnotation("a", text), SetFinalizers(text, "b"),
		SetField(text, text), RemoveField(text), SetField("spec.nodeSelector["+text+"]", text), SetField("spec.nodeName", text),
	}
	for _, c := range metaCases() {
		changes = append(changes, c.change)
	}
	for _, kind := range []string{"Deployment", "Job", "Namespace", "Lease", "Pod", "PodDisruptionBudget", "Secret", "ConfigMap", "Gateway"} {
		for _, c := range fieldCases(kind) {
			changes = append(changes, c.change)
		}
	}
	return changes
}

func FuzzEdit(f *testing.F) {
	values, _ := zooSeeds(f)
	n := len(fuzzChanges(""))
	for i, value := range append(values, podValue(f)) {
		f.Add(value, byte(i%n), byte((i+5)%n), "app")
		f.Add(value, byte((i+11)%n), byte((i+17)%n), "spec.containers[name=web].image")
	}
	f.Fuzz(checkEdit)
}

// checkEdit: an edit is refused or verified, grows the value by no more than
// what was asked for, leaves its argument alone, and its inverse restores the
// meaning, and the bytes if the value was canonical.
func checkEdit(t *testing.T, value []byte, first, second byte, text string) {
	all := fuzzChanges(text)
	changes := []Change{all[int(first)%len(all)], all[int(second)%len(all)]}
	before := bytes.Clone(value)
	edited, inverse, err := Edit(value, changes...)
	if !bytes.Equal(before, value) {
		t.Fatal("wrote into its argument")
	}
	if err != nil {
		if edited != nil || inverse != nil {
			t.Fatalf("an error and a value: %v", err)
		}
		if DecodeHead(value).Err != nil && changes[0].err == nil && !errors.Is(err, ErrNotEditable) {
			t.Fatalf("error of no kind: %v", err)
		}
		return
	}
	if most := len(value) + 12*len(text) + 512; len(edited) > most {
		t.Fatalf("%d bytes from %d", len(edited), len(value))
	}
	back, _, err := Edit(edited, inverse...)
	if err != nil {
		t.Fatalf("%q: %s, %s: inverse: %v", value, changes[0], changes[1], err)
	}
	if diff := cmp.Diff(meaning(t, value), meaning(t, back)); diff != "" {
		t.Fatalf("%q: %s, %s: inverse (-want +got):\n%s", value, changes[0], changes[1], diff)
	}
	if isCanonical(value) && !bytes.Equal(value, back) {
		t.Fatalf("%q: %s, %s: inverse gives other bytes: %q", value, changes[0], changes[1], back)
	}
}

// meaning is what a value says: the object as it is shown, and the paths of
// what is not known; of an unknown kind, its metadata.
func meaning(t *testing.T, value []byte) any {
	t.Helper()
	obj, err := Decode(value, 0)
	if err != nil {
		e, err := openEnvelope(value[len(magicProtobuf):])
		if err != nil {
			t.Fatal(err)
		}
		m, err := objectMeta(e.raw)
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Labels) == 0 {
			m.Labels = nil
		}
		if len(m.Annotations) == 0 {
			m.Annotations = nil
		}
		return metav1.ObjectMeta(*m)
	}
	m, err := Render(obj, RenderOptions{ManagedFields: true, ShowSecrets: true})
	if err != nil {
		// A time beyond the year 9999 cannot be shown.
		return nil
	}
	return m
}

// isCanonical reports whether a value is as kube-apiserver would write it, or
// JSON in which no key is twice.
func isCanonical(value []byte) bool {
	if statusOf(value) == StatusJSON {
		var m map[string]any
		strict, err := kjson.UnmarshalStrict(value, &m)
		return err == nil && len(strict) == 0
	}
	obj, err := decodeProtobuf(value[len(magicProtobuf):])
	if err != nil {
		return false
	}
	raw, err := obj.(interface{ Marshal() ([]byte, error) }).Marshal()
	if err != nil {
		return false
	}
	gvk := obj.GetObjectKind().GroupVersionKind()
	apiVersion, kind := gvk.ToAPIVersionAndKind()
	return bytes.Equal(value, stored(apiVersion, kind, raw))
}

// TestEditMutations runs the same check on damaged values at the speed of a
// build without the fuzzer's instrumentation.
func TestEditMutations(t *testing.T) {
	values, _ := zooSeeds(t)
	values = append(values, podValue(t))
	random := rand.New(rand.NewSource(2))
	texts := []string{"app", "spec.replicas", "spec.x[0].y", "a.b", "ü'"}
	rounds := 20
	if testing.Short() {
		rounds = 2
	}
	canonical, edits := 0, 0
	for range rounds {
		for i, value := range values {
			text := texts[random.Intn(len(texts))]
			damaged := mutate(random, value, values[(i+1)%len(values)])
			checkEdit(t, damaged, byte(random.Intn(256)), byte(random.Intn(256)), text)
			checkEdit(t, value, byte(random.Intn(256)), byte(random.Intn(256)), text)
			if DecodeHead(damaged).Err == nil {
				edits++
			}
			if len(value) > 0 && DecodeHead(value).Err == nil && isCanonical(value) {
				canonical++
			}
		}
	}
	t.Logf("%d damaged values with a sound head, %d canonical", edits, canonical)
	if edits == 0 || canonical == 0 {
		t.Error("nothing was tried")
	}
}

// TestEditMergedMutations makes the same check on values whose messages are
// split, whose fields are repeated and out of order: protobuf merges them, and
// kube-apiserver would read them.
func TestEditMergedMutations(t *testing.T) {
	values, _ := zooSeeds(t)
	values = append(values, podValue(t))
	random := rand.New(rand.NewSource(3))
	rounds := 60
	if testing.Short() {
		rounds = 6
	}
	tried, sound := 0, 0
	for range rounds {
		for _, value := range values {
			if statusOf(value) != StatusProtobuf {
				continue
			}
			e, err := openEnvelope(value[len(magicProtobuf):])
			if err != nil {
				t.Fatal(err)
			}
			split := stored(string(e.apiVersion), string(e.kind), scramble(random, e.raw, 4))
			tried++
			if _, err := Decode(split, 0); err == nil {
				sound++
			}
			checkEdit(t, split, byte(random.Intn(256)), byte(random.Intn(256)), "app")
		}
	}
	t.Logf("%d of %d values can be decoded", sound, tried)
	if sound < tried/10 {
		t.Error("too few values can be decoded")
	}
}

// scramble repeats, splits and moves a few fields of a message.
func scramble(random *rand.Rand, b []byte, depth int) []byte {
	m, err := takeApart(b)
	if err != nil || len(m.parts) == 0 || depth == 0 {
		return b
	}
	for range 1 + random.Intn(2) {
		i := random.Intn(len(m.parts))
		if random.Intn(2) == 0 {
			i = random.Intn(min(2, len(m.parts))) // metadata and spec
		}
		p := m.parts[i]
		switch random.Intn(4) {
		case 0:
			j := random.Intn(len(m.parts) + 1)
			m.parts = slices.Insert(m.parts, j, p)
		case 1:
			m.parts = slices.Delete(m.parts, i, i+1)
			m.parts = slices.Insert(m.parts, random.Intn(len(m.parts)+1), p)
		default:
			sub, err := takeApart(p.payload)
			if p.typ != protowire.BytesType || err != nil || len(sub.parts) == 0 {
				continue
			}
			at := random.Intn(len(sub.parts))
			front, back := wireMessage{parts: sub.parts[:at]}, wireMessage{parts: sub.parts[at:]}
			m.parts[i] = newPart(p.num, p.typ, scramble(random, front.bytes(), depth-1))
			m.parts = slices.Insert(m.parts, i+1, newPart(p.num, p.typ, scramble(random, back.bytes(), depth-1)))
		}
	}
	return m.bytes()
}
