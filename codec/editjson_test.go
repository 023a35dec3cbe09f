package codec

import (
	"slices"
	"strings"
	"testing"
)

// TestEditJSONBytes: what stands around an edited value stays as it was
// spelled, and a removed member comes back to its place.
func TestEditJSONBytes(t *testing.T) {
	const head = `{ "apiVersion" : "a/v1","kind":"K",` + "\n\t"
	tests := []struct {
		name, before, after string
		change              Change
	}{
		{"value of a label", `"metadata": {"labels": {"b" : "1" , "a":"\u0032"}}, "spec":{"n":1e2}} ` + "\n",
			`"metadata": {"labels": {"b" : "x" , "a":"\u0032"}}, "spec":{"n":1e2}} ` + "\n", SetLabel("b", "x")},
		{"the same label, spelled otherwise", `"metadata":{"labels":{"a":"\u0032"}}}`, `"metadata":{"labels":{"a":"\u0032"}}}`, SetLabel("a", "2")},
		{"label between sorted keys", `"metadata":{"labels":{"a":"1","c":"2"}}}`, `"metadata":{"labels":{"a":"1","b":"x","c":"2"}}}`, SetLabel("b", "x")},
		{"label before all", `"metadata":{"labels":{ "b":"1"}}}`, `"metadata":{"labels":{"a":"x", "b":"1"}}}`, SetLabel("a", "x")},
		{"label behind unsorted keys", `"metadata":{"labels":{"z":"1", "c":"2" }}}`, `"metadata":{"labels":{"z":"1", "c":"2","a":"x" }}}`, SetLabel("a", "x")},
		{"first label, empty object", `"metadata":{"labels":{ }}}`, `"metadata":{"labels":{"a":"x" }}}`, SetLabel("a", "x")},
		{"first label, no object", `"metadata":{"name":"n"}}`, `"metadata":{"labels":{"a":"x"},"name":"n"}}`, SetLabel("a", "x")},
		{"first label, null", `"metadata":{"labels":null,"name":"n"}}`, `"metadata":{"labels":{"a":"x"},"name":"n"}}`, SetLabel("a", "x")},
		{"markup in text", `"metadata":{}}`, `"metadata":{"annotations":{"k":"\u003ca href=\"\u0026\"\u003eü"}}}`, SetAnnotation("k", `<a href="&">ü`)},
		{"first member goes", `"metadata":{ "finalizers" : ["a"] , "name":"n" }}`, `"metadata":{ "name":"n" }}`, SetFinalizers()},
		{"last member goes", `"metadata":{ "name":"n" , "finalizers" : ["a"] }}`, `"metadata":{ "name":"n" }}`, SetFinalizers()},
		{"middle member goes", `"metadata":{"a":1, "finalizers":[ ] ,"z":2}}`, `"metadata":{"a":1 ,"z":2}}`, SetFinalizers()},
		{"only member goes", `"metadata":{ "finalizers":["a"]  }}`, `"metadata":{   }}`, SetFinalizers()},
		{"null goes", `"metadata":{"deletionTimestamp":null}}`, `"metadata":{}}`, ClearDeletion()},
		{"null becomes a time", `"metadata":{"deletionTimestamp":null}}`, `"metadata":{"deletionGracePeriodSeconds":0,"deletionTimestamp":"2031-05-06T07:08:09Z"}}`, SetDeletion(testDeletion, 0)},
		{"the same time, spelled otherwise", `"metadata":{"deletionGracePeriodSeconds":5,"deletionTimestamp":"2031-05-06T09:08:09+02:00"}}`,
			`"metadata":{"deletionGracePeriodSeconds":5,"deletionTimestamp":"2031-05-06T09:08:09+02:00"}}`, SetDeletion(testDeletion, 5)},
		{"list replaced", `"metadata":{"finalizers":[ "a" ,"b"]}}`, `"metadata":{"finalizers":["c"]}}`, SetFinalizers("c")},
		{"the same list", `"metadata":{"finalizers":[ "a" ,"b"]}}`, `"metadata":{"finalizers":[ "a" ,"b"]}}`, SetFinalizers("a", "b")},
		{"numbers beyond a float", `"metadata":{"generation":9007199254740993},"spec":{"x":18446744073709551616.50,"y":1}}`,
			`"metadata":{"generation":9007199254740993},"spec":{"x":18446744073709551616.50,"y":9223372036854775807}}`, SetField("spec.y", int64(1<<63-1))},
		{"element by name", `"metadata":{},"spec":{"l":[{"name":"a","v":1},{"name":"b","v":1}]}}`,
			`"metadata":{},"spec":{"l":[{"name":"a","v":1},{"name":"b","v":true}]}}`, SetField("spec.l[name=b].v", true)},
		{"name of an element by name", `"metadata":{},"spec":{"l":[{"name":"a"},{"name":"b"}]}}`,
			`"metadata":{},"spec":{"l":[{"name":"a"},{"name":"c"}]}}`, SetField("spec.l[name=b].name", "c")},
		{"element of a list", `"metadata":{},"spec":{"l":["a", "b"]}}`, `"metadata":{},"spec":{"l":["a", "c"]}}`, SetField("spec.l[1]", "c")},
		{"inside an element", `"metadata":{},"spec":{"l":[ [ {} ] ]}}`, `"metadata":{},"spec":{"l":[ [ {"a":{"b":1}} ] ]}}`, SetField("spec.l[0][0].a.b", 1)},
		{"quoted keys", `"metadata":{},"spec":{"a.b":{"0":1}}}`, `"metadata":{},"spec":{"a.b":{"0":2}}}`, SetField("spec['a.b']['0']", 2)},
		{"twice elsewhere", `"metadata":{"name":"n"},"spec":{"a":1,"b":2,"b":3}}`, `"metadata":{"name":"n"},"spec":{"a":4,"b":2,"b":3}}`, SetField("spec.a", 4)},
		{"on the way", `"metadata":{}}`, `"metadata":{},"spec":{"a":{"b":["c"]}}}`, SetField("spec.a.b", []string{"c"})},
		{"nothing to remove", `"metadata":{},"spec":{"a":null}}`, `"metadata":{},"spec":{"a":null}}`, RemoveField("spec.a.b.c")},
		{"float", `"metadata":{},"spec":{"a":0.5}}`, `"metadata":{},"spec":{"a":-0.25}}`, SetField("spec.a", -0.25)},
	}
	for _, test := range tests {
		before, after := head+test.before, head+test.after
		edited, inverse, err := Edit([]byte(before), test.change)
		if err != nil || string(edited) != after {
			t.Errorf("%s: %v\n got %s\nwant %s", test.name, err, edited, after)
			continue
		}
		if back, _, err := Edit(edited, inverse...); err != nil || string(back) != before {
			t.Errorf("%s: inverse: %v\n got %s\nwant %s", test.name, err, back, before)
		}
	}
}

// TestEditInverseAfterOtherWrites: an inverse removes what the edit had made
// only as long as nothing else is in it, and finds a place for what it puts
// back when the neighbour is gone.
func TestEditInverseAfterOtherWrites(t *testing.T) {
	doc := []byte(`{"apiVersion":"a/v1","kind":"K","metadata":{"labels":null,"z":1}}`)
	for _, test := range []struct {
		value         []byte
		change, other Change
		want          string
	}{
		{doc, SetLabel("a", "1"), SetLabel("b", "2"), `"metadata":{"labels":{"b":"2"},"z":1}`},
		{[]byte(strings.Replace(string(doc), "null", `{"a":"1","b":"2"}`, 1)), RemoveLabel("b"), RemoveLabel("a"), `"metadata":{"labels":{"b":"2"},"z":1}`},
		{[]byte(strings.Replace(string(doc), "null", `{"a":"1","b":"2"}`, 1)), RemoveLabel("a"), RemoveLabel("b"), `"metadata":{"labels":{"a":"1"},"z":1}`},
		{[]byte(strings.Replace(string(doc), "null", `{"a":"1"}`, 1)), RemoveLabel("a"), SetLabel("b", "2"), `"metadata":{"labels":{"a":"1","b":"2"},"z":1}`},
	} {
		edited, inverse, err := Edit(test.value, test.change)
		if err != nil {
			t.Fatal(err)
		}
		if edited, _, err = Edit(edited, test.other); err != nil {
			t.Fatal(err)
		}
		got, _, err := Edit(edited, inverse...)
		if err != nil || !strings.Contains(string(got), test.want) {
			t.Errorf("%s then %s: %v, %s, want %s", test.change, test.other, err, got, test.want)
		}
	}
	pod := stored("v1", "Pod", wireField(1))
	edited, inverse, err := Edit(pod, SetField("spec.securityContext.runAsUser", 5))
	if err != nil {
		t.Fatal(err)
	}
	edited, _, err = Edit(edited, SetField("spec.securityContext.runAsGroup", 6))
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := Edit(edited, inverse...)
	if want := stored("v1", "Pod", wireField(1), wireField(2, wireField(14, wireInt(6, 6)))); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %q, want %q", err, got, want)
	}
}

// TestChangeNamesNoValue: what a Change prints is a path.
func TestChangeNamesNoValue(t *testing.T) {
	for want, c := range map[string]Change{
		"metadata.labels[app]":             SetLabel("app", "secret"),
		"metadata.annotations['a[b]']":     SetAnnotation("a[b]", "secret"),
		"metadata.finalizers":              SetFinalizers("secret"),
		"metadata.generation":              SetGeneration(1),
		"metadata.deletionTimestamp":       ClearDeletion(),
		"spec.containers[name=web].image":  SetField("spec.containers[name=web].image", "secret"),
		"spec.selector['a.b']":             RemoveField("spec.selector['a.b']"),
		"stringData[password]":             SetField("stringData[password]", "secret"),
		"metadata.labels[example.com/new]": RemoveLabel("example.com/new"),
	} {
		if got := c.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
