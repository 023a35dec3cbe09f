package codec

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

// TestEditErrors: each refusal names the path, and nothing is returned.
func TestEditErrors(t *testing.T) {
	pod := goldenValues(t)["core.v1.Pod.pb"]
	secret := goldenValues(t)["core.v1.Secret.pb"]
	const custom = `{"apiVersion":"a/v1","kind":"K","metadata":{"name":"n","labels":{"l":"1","l":"2"}},` +
		`"spec":{"s":"text","o":{"a":1},"list":[{"name":"x"},{"name":"x"},{"name":"y"},null,3],"words":["a"],"twice":1,"twice":2}}`
	js := []byte(custom)
	bad := "\xff"
	tests := []struct {
		name   string
		value  []byte
		change Change
		want   string
	}{
		{"zero change", pod, Change{}, "no change is given"},
		{"metadata by path", pod, SetField("metadata.name", "x"), "metadata.name: not a field that is changed by its path"},
		{"kind by path", js, SetField("kind", "x"), "kind: not a field"},
		{"apiVersion by path", js, RemoveField("apiVersion"), "apiVersion: not a field"},
		{"empty path", pod, SetField("", "x"), "no field name"},
		{"path begins with a bracket", js, SetField("['metadata']", "x"), "no field name"},
		{"path with an empty name", pod, SetField("spec..a", "x"), "no field name"},
		{"open bracket", pod, SetField("spec.containers[0", "x"), "not closed"},
		{"open quote", pod, SetField("spec.nodeSelector['a]", "x"), "not closed"},
		{"empty bracket", pod, SetField("spec.containers[]", "x"), "empty"},
		{"text behind a bracket", pod, SetField("spec.containers[0]image", "x"), "followed by"},
		{"too many steps", pod, SetField("a"+strings.Repeat(".a", 100), "x"), "more than 64 steps"},
		{"path too long", pod, SetField(strings.Repeat("a", 5000), "x"), "too long"},
		{"path no text", pod, SetField(bad, "x"), "no text"},
		{"value of no kind", pod, SetField("spec.priority", []int{1}), "[]int"},
		{"nil", pod, SetField("spec.priority", nil), "<nil>"},
		{"not UTF-8", pod, SetField("spec.nodeName", bad), "UTF-8"},
		{"list not UTF-8", pod, SetField("spec.nodeName", []string{"a", bad}), "UTF-8"},
		{"not a number", js, SetField("spec.s", math.NaN()), "finite"},
		{"label not UTF-8", pod, SetLabel("a", bad), "UTF-8"},
		{"empty label", pod, RemoveLabel(""), "empty name"},
		{"empty annotation", pod, SetAnnotation("", "v"), "empty name"},
		{"finalizer not UTF-8", pod, SetFinalizers("a", bad), "UTF-8"},
		{"no time", pod, SetDeletion(time.Time{}, 0), "out of range"},
		{"time too late", pod, SetDeletion(time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), 0), "out of range"},
		{"negative grace", pod, SetDeletion(testDeletion, -1), "negative"},

		{"no such field", pod, SetField("spec.nodename", "x"), `edit spec.nodename: this build knows no field "nodename"`},
		{"no such field to remove", pod, RemoveField("spec.x.y"), `no field "x"`},
		{"inlined message by its name", pod, SetField("spec.volumes[0].volumeSource", "x"), "no field"},
		{"bracket after a message", pod, SetField("spec[nodeName]", "x"), "no field"},
		{"number for text", pod, SetField("spec.nodeName", 5), "edit spec.nodeName: it takes a string"},
		{"list for text", pod, SetField("spec.nodeName", []string{"a"}), "takes a string"},
		{"text for a number", pod, SetField("spec.priority", "5"), "takes a 32-bit integer"},
		{"float for a number", pod, SetField("spec.priority", 5.0), "takes a 32-bit integer"},
		{"number too large", pod, SetField("spec.priority", 1<<31), "takes a 32-bit integer"},
		{"number too small", pod, SetField("spec.priority", math.MinInt32-1), "takes a 32-bit integer"},
		{"text for 64 bits", pod, SetField("spec.activeDeadlineSeconds", "5"), "takes an integer"},
		{"number for a bool", pod, SetField("spec.hostNetwork", 1), "takes true or false"},
		{"number too large for either", pod, SetField("spec.containers[0].livenessProbe.httpGet.port", 1<<31), "32-bit integer or a string"},
		{"bool for either", pod, SetField("spec.containers[0].livenessProbe.httpGet.port", true), "32-bit integer or a string"},
		{"no quantity", pod, SetField("spec.volumes[0].emptyDir.sizeLimit", "many"), "takes a quantity"},
		{"no time text", pod, SetField("status.startTime", "yesterday"), "takes a time"},
		{"fraction of a second", pod, SetField("status.startTime", "2031-01-01T00:00:00.5Z"), "whole seconds"},
		{"a message", pod, SetField("spec.securityContext", "x"), "no single value"},
		{"remove a message", pod, RemoveField("spec.securityContext"), "no single value"},
		{"a list of messages", pod, RemoveField("spec.containers"), "no single value"},
		{"an element", pod, SetField("spec.containers[0]", "x"), "no single value"},
		{"a map", pod, RemoveField("spec.nodeSelector"), "no single value"},
		{"bytes", secret, SetField("data[dataKey]", "x"), "edit data[dataKey]: it is no single value"},
		{"no list", pod, SetField("spec.containers[0].args", "x"), "list of strings"},
		{"remove an element", pod, RemoveField("spec.containers[0].args[0]"), "cannot be removed"},
		{"index out of range", pod, SetField("spec.containers[7].image", "x"), "1 elements, none with index 7"},
		{"huge index", pod, SetField("spec.containers[99999999999999999999].image", "x"), "give an index"},
		{"no element matches", pod, SetField("spec.containers[name=x].image", "x"), "no element"},
		{"selector by no text", pod, SetField("spec.containers[resources=x].image", "x"), "no text"},
		{"list without index", pod, SetField("spec.containers.image", "x"), "give an index"},
		{"map without key", pod, SetField("spec.nodeSelector.a", "x"), "give a key"},
		{"inside a text", pod, SetField("spec.nodeName.a", "x"), "nothing is inside"},
		{"inside an entry", pod, SetField("spec.nodeSelector[a].b", "x"), "nothing is inside"},
		{"inside a text of a list", pod, SetField("spec.containers[0].args[0].b", "x"), "nothing is inside"},
		{"no list of a wrong one", pod, SetField("spec.tolerations[0].tolerationSeconds[0]", 1), "nothing is inside"},

		{"duplicate label", js, SetLabel("l", "x"), "[l] is twice"},
		{"duplicate key", js, SetField("spec.twice", "x"), "[twice] is twice"},
		{"inside of text", js, SetField("spec.s.t", "x"), "no object"},
		{"an object", js, SetField("spec.o", "x"), "no single value"},
		{"remove an object", js, RemoveField("spec.o"), "no single value"},
		{"a list by a text", js, SetField("spec.words", "x"), "it is a list"},
		{"a list of others", js, SetField("spec.list", []string{"x"}), "it is a list"},
		{"remove a list of others", js, RemoveField("spec.list"), "it is a list"},
		{"text by a list", js, SetField("spec.s", []string{"x"}), "a single value, not a list"},
		{"several match", js, SetField("spec.list[name=x].v", 1), "several elements"},
		{"none matches", js, SetField("spec.list[name=z].v", 1), "no element"},
		{"json index out of range", js, SetField("spec.list[5].v", 1), "5 elements, none with index 5"},
		{"null element", js, SetField("spec.list[3].v", 1), "no such list element"},
		{"element is no object", js, SetField("spec.list[4].v", 1), "no object"},
		{"key into a list", js, SetField("spec.list.a", 1), "give an index"},
		{"remove a json element", js, RemoveField("spec.words[0]"), "cannot be removed"},
		{"list that is not there", js, SetField("spec.new[0].v", 1), "no such list element"},
	}
	for _, test := range tests {
		edited, inverse, err := Edit(test.value, test.change)
		if err == nil || !strings.Contains(err.Error(), test.want) || edited != nil || inverse != nil {
			t.Errorf("%s: error %v, want %q, or a value with it", test.name, err, test.want)
		}
	}
}

// TestNotEditable: values that are refused as they are, and why.
func TestNotEditable(t *testing.T) {
	tests := []struct {
		name  string
		value string
		want  error
	}{
		{"empty", "", ErrUndecodable},
		{"random", "\x01\x02", ErrUndecodable},
		{"encrypted", magicEncrypted + "aescbc:v1:key1:x", ErrEncrypted},
		{"cbor", magicCBOR + "\xa3\x4aapiVersion\x42v1\x44kind\x41K\x48metadata\xa1\x44name\x41a", nil},
		{"foreign", `{"a":1}`, errForeign},
		{"no metadata", `{"apiVersion":"v1","kind":"K"}`, ErrUndecodable},
		{"cut JSON", `{"apiVersion":"v1","kind":"K","metadata":{`, ErrUndecodable},
		{"damaged outside metadata", string(stored("v1", "Pod", wireField(1), wireField(2, []byte{0xff}))), ErrUndecodable},
		{"metadata of a list", string(stored("v1", "PodList")), nil},
		{"no metadata at all", string(stored("v1", "DeleteOptions")), nil},
	}
	for _, test := range tests {
		edited, _, err := Edit([]byte(test.value), SetLabel("a", "b"))
		if !errors.Is(err, ErrNotEditable) || test.want != nil && !errors.Is(err, test.want) || edited != nil {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

// TestVerification: a result in which anything but the asked-for field differs
// is not returned.
func TestVerification(t *testing.T) {
	name := wireField(metaName, []byte("n"))
	label := wireField(metaLabels, wireField(1, []byte("a")), wireField(2, []byte("b")))
	base := string(stored("v1", "Pod", wireField(1, name, wireField(12)), wireField(2)))
	js := `{"apiVersion":"a/v1","kind":"K","metadata":{"name":"n"},"spec":{"a":1}}`
	tests := []struct {
		name, before, after string
		change              Change
		same                bool
	}{
		{"the label", base, string(stored("v1", "Pod", wireField(1, name, label, wireField(12)), wireField(2))), SetLabel("a", "b"), true},
		{"another label", base, string(stored("v1", "Pod", wireField(1, name, label, wireField(12)), wireField(2))), SetLabel("b", "b"), false},
		{"the name", base, string(stored("v1", "Pod", wireField(1, label, wireField(12)), wireField(2))), SetLabel("a", "b"), false},
		{"an annotation", base, string(stored("v1", "Pod", wireField(1, name, label), wireField(2))), SetLabel("a", "b"), false},
		{"a field unknown here", base, string(stored("v1", "Pod", wireField(1, name, label, wireField(12)), wireField(2, wireInt(99, 1)))), SetLabel("a", "b"), false},
		{"the node", base, string(stored("v1", "Pod", wireField(1, name, wireField(12)), wireField(2, wireField(10, []byte("x"))))), SetField("spec.nodeName", "x"), true},
		{"the node by another change", base, string(stored("v1", "Pod", wireField(1, name, wireField(12)), wireField(2, wireField(10, []byte("x"))))), SetField("spec.hostname", "x"), false},
		{"the field", js, strings.Replace(js, `"a":1`, `"a":2`, 1), SetField("spec.a", 2), true},
		{"a field made on the way", js, strings.Replace(js, `"a":1`, `"a":1,"b":{"c":2}`, 1), SetField("spec.b.c", 2), true},
		{"another field", js, strings.Replace(js, `"a":1`, `"a":1,"b":2`, 1), SetField("spec.a", 2), false},
	}
	for _, test := range tests {
		before, err := examine([]byte(test.before))
		if err != nil {
			t.Fatal(err)
		}
		after, err := examine([]byte(test.after))
		if err != nil {
			t.Fatal(err)
		}
		if err := after.sameBut(before, test.change.ops[0]); (err == nil) != test.same {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	// An entry with a field of a newer release cannot be removed unnoticed.
	newer := stored("v1", "Pod", wireField(1, name, wireField(metaLabels, wireField(1, []byte("a")), wireInt(3, 1))))
	if edited, _, err := Edit(newer, RemoveLabel("a")); edited != nil || err == nil || !strings.Contains(err.Error(), "does not know") {
		t.Errorf("an unknown field is removed: %v", err)
	}
}
