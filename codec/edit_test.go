package codec

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// testDeletion is a time that no object of the fixture has.
var testDeletion = time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)

// decoded is the object in a plain value, in full.
func decoded(tb testing.TB, value []byte) map[string]any {
	tb.Helper()
	obj, err := Decode(value, 0)
	if err != nil {
		tb.Fatal(err)
	}
	return rendered(tb, "value", Shown{Object: obj})
}

// put sets what a change means in a rendered object; nil removes.
func put(m map[string]any, value any, keys ...string) {
	for _, key := range keys[:len(keys)-1] {
		if _, ok := m[key].(map[string]any); !ok {
			m[key] = map[string]any{}
		}
		m = m[key].(map[string]any)
	}
	if last := keys[len(keys)-1]; value == nil {
		delete(m, last)
	} else {
		m[last] = value
	}
}

// tidy drops the empty maps that an object may show or not.
func tidy(m map[string]any) map[string]any {
	for _, keys := range [][]string{{"metadata", "labels"}, {"metadata", "annotations"}} {
		inner, _ := m[keys[0]].(map[string]any)
		if found, ok := inner[keys[1]].(map[string]any); ok && len(found) == 0 {
			delete(inner, keys[1])
		}
	}
	return m
}

// editCase is a change and what it means, told apart from the code under test.
type editCase struct {
	change Change
	name   string
	model  func(m map[string]any)
}

func metaCases() []editCase {
	one := func(c Change, name string, value any, keys ...string) editCase {
		return editCase{c, name, func(m map[string]any) { put(m, value, append([]string{"metadata"}, keys...)...) }}
	}
	return []editCase{
		one(SetFinalizers("example.com/a", "example.com/b"), "metadata.finalizers", []any{"example.com/a", "example.com/b"}, "finalizers"),
		one(SetFinalizers(), "metadata.finalizers", nil, "finalizers"),
		one(SetLabel("app", "other"), "metadata.labels[app]", "other", "labels", "app"),
		one(SetLabel("example.com/new", ""), "metadata.labels[example.com/new]", "", "labels", "example.com/new"),
		one(SetLabel("12", "<ü>"), "metadata.labels['12']", "<ü>", "labels", "12"),
		one(RemoveLabel("app"), "metadata.labels[app]", nil, "labels", "app"),
		one(SetAnnotation("a", "b\n\"c\""), "metadata.annotations[a]", "b\n\"c\"", "annotations", "a"),
		one(RemoveAnnotation("deployment.kubernetes.io/revision"), "metadata.annotations[deployment.kubernetes.io/revision]", nil, "annotations", "deployment.kubernetes.io/revision"),
		one(SetGeneration(12345678901), "metadata.generation", int64(12345678901), "generation"),
		{SetDeletion(testDeletion.Add(time.Millisecond), 30), "metadata.deletionTimestamp", func(m map[string]any) {
			put(m, "2031-05-06T07:08:09Z", "metadata", "deletionTimestamp")
			put(m, int64(30), "metadata", "deletionGracePeriodSeconds")
		}},
		{ClearDeletion(), "metadata.deletionTimestamp", func(m map[string]any) {
			put(m, nil, "metadata", "deletionTimestamp")
			put(m, nil, "metadata", "deletionGracePeriodSeconds")
		}},
	}
}

func fieldCase(c Change, value any, keys ...string) editCase {
	return editCase{c, c.String(), func(m map[string]any) { put(m, value, keys...) }}
}

// fieldCases are changes outside metadata of one kind.
func fieldCases(kind string) []editCase {
	switch kind {
	case "Deployment", "StatefulSet":
		return []editCase{
			fieldCase(SetField("spec.replicas", 7), int64(7), "spec", "replicas"),
			fieldCase(SetField("spec.replicas", int64(0)), int64(0), "spec", "replicas"),
			fieldCase(SetField("spec.selector.matchLabels[app]", "x"), "x", "spec", "selector", "matchLabels", "app"),
			fieldCase(SetField("spec.template.metadata.labels['new.io/x']", "y"), "y", "spec", "template", "metadata", "labels", "new.io/x"),
			fieldCase(SetField("spec.template.spec.securityContext.runAsNonRoot", true), true, "spec", "template", "spec", "securityContext", "runAsNonRoot"),
			{SetField("spec.template.spec.containers[0].image", "example.com/i:2"), "spec.template.spec.containers[0].image", func(m map[string]any) {
				firstContainer(m)["image"] = "example.com/i:2"
			}},
			{SetField("spec.template.spec.containers[0].resources.limits[cpu]", "1500m"), "spec.template.spec.containers[0].resources.limits[cpu]", func(m map[string]any) {
				put(firstContainer(m), "1500m", "resources", "limits", "cpu")
			}},
			{SetField("spec.template.spec.containers[0].args", []string{"-v", "2"}), "spec.template.spec.containers[0].args", func(m map[string]any) {
				firstContainer(m)["args"] = []any{"-v", "2"}
			}},
		}
	case "Job":
		return []editCase{fieldCase(SetField("spec.suspend", true), true, "spec", "suspend"), fieldCase(RemoveField("spec.suspend"), nil, "spec", "suspend")}
	case "Namespace":
		return []editCase{
			fieldCase(SetField("spec.finalizers", []string{"kubernetes", "a/b"}), []any{"kubernetes", "a/b"}, "spec", "finalizers"),
			fieldCase(RemoveField("spec.finalizers"), nil, "spec", "finalizers"),
			fieldCase(SetField("status.phase", "Active"), "Active", "status", "phase"),
		}
	case "Lease":
		return []editCase{fieldCase(SetField("spec.renewTime", "2031-05-06T07:08:09.123456Z"), "2031-05-06T07:08:09.123456Z", "spec", "renewTime")}
	case "Pod":
		return []editCase{
			fieldCase(SetField("spec.nodeName", "w-77"), "w-77", "spec", "nodeName"),
			fieldCase(SetField("spec.nodeSelector[kubernetes.io/arch]", "arm64"), "arm64", "spec", "nodeSelector", "kubernetes.io/arch"),
			fieldCase(SetField("status.phase", "Failed"), "Failed", "status", "phase"),
			fieldCase(SetField("status.startTime", "2031-05-06T07:08:09Z"), "2031-05-06T07:08:09Z", "status", "startTime"),
		}
	case "PodDisruptionBudget":
		return []editCase{
			fieldCase(SetField("spec.minAvailable", "50%"), "50%", "spec", "minAvailable"),
			fieldCase(SetField("spec.minAvailable", 3), int64(3), "spec", "minAvailable"),
			fieldCase(RemoveField("spec.minAvailable"), nil, "spec", "minAvailable"),
		}
	case "Secret":
		return []editCase{fieldCase(SetField("type", "Opaque"), "Opaque", "type"), fieldCase(SetField("immutable", true), true, "immutable")}
	case "ConfigMap":
		return []editCase{fieldCase(SetField("data[new.conf]", "a=b"), "a=b", "data", "new.conf")}
	case "Gateway", "Queue", "CustomResourceDefinition", "APIService":
		return []editCase{
			fieldCase(SetField("spec.weight", 9.5), 9.5, "spec", "weight"),
			fieldCase(SetField("status.made.on.the.way", "<&>"), "<&>", "status", "made", "on", "the", "way"),
			fieldCase(SetField("spec.list", []string{"a", "b"}), []any{"a", "b"}, "spec", "list"),
		}
	}
	return nil
}

func firstContainer(m map[string]any) map[string]any {
	spec := m["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
	return spec["containers"].([]any)[0].(map[string]any)
}

// checkCase makes one change in a value and undoes it.
func checkCase(t *testing.T, name string, plain []byte, c editCase) (changed bool) {
	t.Helper()
	if c.change.String() != c.name {
		t.Errorf("change is named %q, want %q", c.change, c.name)
	}
	before := slices.Clone(plain)
	edited, inverse, err := Edit(plain, c.change)
	if err != nil {
		t.Errorf("%s: %s: %v", name, c.name, err)
		return false
	}
	want := decoded(t, plain)
	c.model(want)
	if diff := cmp.Diff(tidy(want), tidy(decoded(t, edited))); diff != "" {
		t.Errorf("%s: %s (-want +got):\n%s", name, c.name, diff)
	}
	if again, _, err := Edit(edited, c.change); err != nil || !bytes.Equal(again, edited) {
		t.Errorf("%s: %s a second time: %v, or bytes change", name, c.name, err)
	}
	back, _, err := Edit(edited, inverse...)
	if err != nil || !bytes.Equal(back, plain) {
		t.Errorf("%s: inverse of %s: %v\n got %q\nwant %q", name, c.name, err, back, plain)
	}
	if !bytes.Equal(before, plain) {
		t.Fatalf("%s: %s wrote into its argument", name, c.name)
	}
	return !bytes.Equal(edited, plain)
}

// zooPlain returns every decodable value of the fixture, decrypted.
func zooPlain(tb testing.TB) map[string]Value {
	live := zoo(tb)
	r := zooReader(tb, live)
	plain := map[string]Value{}
	for key, stored := range live {
		if v := r.Read(tb.Context(), key, stored.value); v.Head.Err == nil {
			plain[key] = v
		}
	}
	return plain
}

func TestEditZoo(t *testing.T) {
	changed, kinds, seen := map[string]int{}, map[string]bool{}, map[string]int{}
	for key, v := range zooPlain(t) {
		kind := v.Head.Meta.Kind
		if seen[kind]++; seen[kind] > 3 && testing.Short() {
			continue
		}
		cases := metaCases()
		for _, c := range fieldCases(kind) {
			cases = append(cases, c)
			kinds[kind] = true
		}
		for _, c := range cases {
			if checkCase(t, key, v.Plain, c) {
				changed[string(v.Head.Status)+" "+c.name]++
			}
		}
	}
	for _, c := range metaCases() {
		for _, status := range []Status{StatusProtobuf, StatusJSON} {
			none := status == StatusJSON && (strings.Contains(c.name, "revision") || c.name == "metadata.deletionTimestamp")
			if n := changed[string(status)+" "+c.name]; n == 0 && !none {
				t.Errorf("no %s value is changed by %s", status, c.name)
			}
		}
	}
	for _, kind := range []string{"Deployment", "StatefulSet", "Job", "Namespace", "Lease", "Pod", "PodDisruptionBudget", "Secret", "ConfigMap", "Gateway", "Queue", "CustomResourceDefinition", "APIService"} {
		if !kinds[kind] {
			t.Errorf("no value of kind %s", kind)
		}
	}
	t.Log(changed)
}
