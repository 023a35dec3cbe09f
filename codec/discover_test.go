package codec

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEventsView(t *testing.T) {
	t.Parallel()
	c := NewCatalog()
	events, others, ok := c.Lookup("events")
	if !ok || events.Group != "" || len(others) != 0 {
		t.Fatalf("events: %+v and %v", events, names(others))
	}
	want := &Resource{
		Group: "events.k8s.io", Kind: "Event", Plural: "events", Singular: "event", ShortNames: []string{"ev"},
		Namespaced: true, Prefix: events.Prefix, OldGroups: []string{""},
	}
	for _, name := range []string{"events.events.k8s.io", "EV.events.k8s.io", "event.v1.events.k8s.io", "Event.v1beta1.events.k8s.io"} {
		r, others, ok := c.Lookup(name)
		if diff := cmp.Diff(want, r); !ok || diff != "" || len(others) != 0 {
			t.Errorf("%s: others %v (-want +got):\n%s", name, names(others), diff)
		}
	}
	view, _, _ := c.Lookup("events.events.k8s.io")
	if view.String() != "events.events.k8s.io" || view.Word() != "event.events.k8s.io" || events.Word() != "event" {
		t.Errorf("%s, %s, %s", view, view.Word(), events.Word())
	}
	for _, name := range []string{view.String(), view.SingularName(), view.Word()} {
		if r, _, _ := c.Lookup(name); r != view {
			t.Errorf("%s: got %v", name, r)
		}
	}
	for _, name := range []string{"ev", "event", "Event", "events.", "events.v1."} {
		if r, others, _ := c.Lookup(name); r != events || len(others) != 0 {
			t.Errorf("%s: got %v and %v", name, r, names(others))
		}
	}
	for _, group := range []string{"", "events.k8s.io"} {
		if r, _ := c.ByKind(group, "Event"); r != events {
			t.Errorf("kind in %q: got %v", group, r)
		}
	}
	if k, _ := c.ParseKey(prefix, prefix+"events/team/e"); k.Resource != events {
		t.Errorf("key: got %v", k.Resource)
	}
	if slices.Contains(c.Resources(), view) {
		t.Error("listed among the resources")
	}
}

func TestAddStored(t *testing.T) {
	t.Parallel()
	tests := []struct {
		key  string
		meta Meta
		want *Resource
	}{
		{"/registry/example.com/widgets/team/w", Meta{APIVersion: "example.com/v1", Kind: "Widget", Namespace: "team", Name: "w"},
			&Resource{Group: "example.com", Kind: "Widget", Plural: "widgets", Singular: "widget", Namespaced: true,
				Prefix: "example.com/widgets/", Custom: true, Learned: true}},
		{"/registry/example.com/gears/g.1", Meta{APIVersion: "example.com/v1beta1", Kind: "GearBox", Name: "g.1"},
			&Resource{Group: "example.com", Kind: "GearBox", Plural: "gears", Singular: "gearbox",
				Prefix: "example.com/gears/", Custom: true, Learned: true}},
		{"/registry/podmovers/team/m", Meta{APIVersion: "scheduling.k8s.io/v1alpha1", Kind: "PodMover", Namespace: "team", Name: "m"},
			&Resource{Group: "scheduling.k8s.io", Kind: "PodMover", Plural: "podmovers", Singular: "podmover", Namespaced: true,
				Prefix: "podmovers/", Learned: true}},
		{"/registry/zones/z", Meta{APIVersion: "v1", Kind: "Zone", Name: "z"},
			&Resource{Kind: "Zone", Plural: "zones", Singular: "zone", Prefix: "zones/", Learned: true}},
	}
	c := volcanoCatalog(t)
	before := len(c.Resources())
	for _, test := range tests {
		r, err := c.AddStored("/registry", test.key, test.meta)
		if diff := cmp.Diff(test.want, r); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", test.key, err, diff)
			continue
		}
		k, ok := c.ParseKey(prefix, test.key)
		if !ok || k != (Key{r, test.meta.Namespace, test.meta.Name}) || k.Path(prefix) != test.key {
			t.Errorf("%s: parsed as %+v", test.key, k)
		}
		for _, name := range []string{r.Plural, r.Kind, r.String(), r.SingularName(), r.Word()} {
			if got, others, _ := c.Lookup(name); got != r || len(others) != 0 {
				t.Errorf("%s: found %v and %v", name, got, names(others))
			}
		}
		if got, _ := c.ByKind(r.Group, r.Kind); got != r {
			t.Errorf("%s: kind finds %v", test.key, got)
		}
		if again, err := c.AddStored(prefix, test.key, test.meta); again != r || err != nil {
			t.Errorf("%s again: %v, %v", test.key, again, err)
		}
	}
	if got := len(c.Resources()); got != before+len(tests) {
		t.Errorf("%d resources, had %d", got, before)
	}
}

// TestAddStoredRefuses: whatever the key and the metadata do not prove together
// is not learned.
func TestAddStoredRefuses(t *testing.T) {
	t.Parallel()
	widget := func(change func(*Meta)) Meta {
		m := Meta{APIVersion: "example.com/v1", Kind: "Widget", Namespace: "team", Name: "w"}
		if change != nil {
			change(&m)
		}
		return m
	}
	const key = "/registry/example.com/widgets/team/w"
	core := Meta{APIVersion: "v1", Kind: "Zone", Namespace: "team", Name: "w"}
	tests := []struct {
		name, key string
		meta      Meta
		want      string
	}{
		{"outside the prefix", "/other/example.com/widgets/team/w", widget(nil), "outside"},
		{"sibling of the prefix", "/registry-2/example.com/widgets/team/w", widget(nil), "outside"},
		{"no metadata", key, Meta{}, "apiVersion"},
		{"other group", key, widget(func(m *Meta) { m.APIVersion = "example.org/v1" }), "apiVersion"},
		{"core group", key, widget(func(m *Meta) { m.APIVersion = "v1" }), "apiVersion"},
		{"broken apiVersion", key, widget(func(m *Meta) { m.APIVersion = "example.com/v1/x" }), "apiVersion"},
		{"group without version", key, widget(func(m *Meta) { m.APIVersion = "example.com/" }), "apiVersion"},
		{"other name", key, widget(func(m *Meta) { m.Name = "v" }), "another name"},
		{"other namespace", key, widget(func(m *Meta) { m.Namespace = "team-x" }), "another name"},
		{"no namespace", key, widget(func(m *Meta) { m.Namespace = "" }), "another name"},
		{"namespace too many", "/registry/example.com/widgets/w", widget(nil), "another name"},
		{"segment too many", "/registry/example.com/widgets/team/w/x", widget(func(m *Meta) { m.Name = "w/x" }), "another name"},
		{"no segments", "/registry/example.com", widget(nil), "no resource"},
		{"empty plural", "/registry/example.com//team/w", widget(nil), "no resource"},
		{"upper-case plural", "/registry/example.com/Widgets/team/w", widget(nil), "no resource"},
		{"dotted plural", "/registry/example.com/wid.gets/team/w", widget(nil), "no resource"},
		{"no kind", key, widget(func(m *Meta) { m.Kind = "" }), "no resource"},
		{"impossible kind", key, widget(func(m *Meta) { m.Kind = "Wid get" }), "no resource"},
		{"impossible group", "/registry/exa_mple.com/widgets/team/w", widget(func(m *Meta) { m.APIVersion = "exa_mple.com/v1" }), "no resource"},
		{"built-in", "/registry/pods/team/w", Meta{APIVersion: "v1", Kind: "Zone", Namespace: "team", Name: "w"}, "belong to pods"},
		{"built-in itself", "/registry/pods/team/w", Meta{APIVersion: "v1", Kind: "Pod", Namespace: "team", Name: "w"}, "belong to pods"},
		{"internal", "/registry/ranges/w", Meta{APIVersion: "v1", Kind: "Zone", Name: "w"}, "belong to ranges"},
		{"CRD's", "/registry/scheduling.volcano.sh/queues/w", Meta{APIVersion: "scheduling.volcano.sh/v1", Kind: "Queue", Name: "w"}, "belong to queues"},
		{"kind stored elsewhere", "/registry/pods2/team/w", Meta{APIVersion: "v1", Kind: "Pod", Namespace: "team", Name: "w"}, "that of pods"},
		{"plural stored elsewhere", "/registry/nodes/team/w", Meta{APIVersion: "v1", Kind: "Machine", Namespace: "team", Name: "w"}, "another nodes"},
		{"plural of an old group", "/registry/ingresses/team/w", Meta{APIVersion: "extensions/v1", Kind: "Machine", Namespace: "team", Name: "w"}, "another ingresses"},
		{"above built-in ones", "/registry/services/team/w", Meta{APIVersion: "example/v1", Kind: "Machine", Namespace: "team", Name: "w"}, "are below it"},
		{"two segments of a plural", "/registry/a/zones/team/w", core, "another name"},
		{"learned with another kind", "/registry/example.com/gears/w", Meta{APIVersion: "example.com/v1", Kind: "Gear2", Name: "w"}, "belong to gears"},
		{"learned with another scope", "/registry/example.com/gears/team/w", Meta{APIVersion: "example.com/v1", Kind: "Gear", Namespace: "team", Name: "w"}, "belong to gears"},
		{"learned in another group", "/registry/rooms/w", Meta{APIVersion: "b/v1", Kind: "Room", Name: "w"}, "belong to rooms"},
		{"learned kind elsewhere", "/registry/example.com/wheels/w", Meta{APIVersion: "example.com/v1", Kind: "Gear", Name: "w"}, "that of gears"},
	}
	c := volcanoCatalog(t)
	for key, m := range map[string]Meta{
		"/registry/example.com/gears/w": {APIVersion: "example.com/v1", Kind: "Gear", Name: "w"},
		"/registry/rooms/w":             {APIVersion: "a/v1", Kind: "Room", Name: "w"},
	} {
		if _, err := c.AddStored(prefix, key, m); err != nil {
			t.Fatal(err)
		}
	}
	before := c.Resources()
	for _, test := range tests {
		r, err := c.AddStored(prefix, test.key, test.meta)
		if r != nil || err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, %v, want %q", test.name, r, err, test.want)
		}
		if !slices.Equal(c.Resources(), before) {
			t.Fatalf("%s: catalog changed", test.name)
		}
	}
}

// TestAddStoredYields: what is learned stands behind everything known, and the
// CRD takes its place.
func TestAddStoredYields(t *testing.T) {
	t.Parallel()
	c := NewCatalog()
	learn := func(key string, m Meta) *Resource {
		r, err := c.AddStored(prefix, key, m)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	// Sorted by name alone, it would come before pods.
	apods := learn("/registry/apods/w", Meta{APIVersion: "a/v1", Kind: "Pod", Name: "w"})
	if r, others, _ := c.Lookup("pod"); r.String() != "pods" || !slices.Equal(others, []*Resource{apods}) {
		t.Errorf("pod: found %v and %v", r, names(others))
	}
	if r, _, _ := c.Lookup(apods.Word()); r != apods {
		t.Errorf("%s: found %v", apods.Word(), r)
	}
	learn("/registry/scheduling.volcano.sh/queues/team/w", Meta{APIVersion: "scheduling.volcano.sh/v1", Kind: "Q2", Namespace: "team", Name: "w"})
	learn("/registry/scheduling.volcano.sh/lines/w", Meta{APIVersion: "scheduling.volcano.sh/v1", Kind: "Queue", Name: "w"})
	crd, err := c.AddCRD([]byte(queueCRD))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"queues", "queue", "q"} {
		if r, others, _ := c.Lookup(name); r != crd || len(others) != 0 {
			t.Errorf("%s: found %v and %v", name, r, names(others))
		}
	}
	for _, name := range []string{"q2", "lines"} {
		if r, _, ok := c.Lookup(name); ok {
			t.Errorf("%s: still finds %v", name, r)
		}
	}
	if r, _ := c.ByKind("scheduling.volcano.sh", "Queue"); r != crd {
		t.Errorf("kind finds %v", r)
	}
	if c.learned != 1 {
		t.Errorf("%d learned", c.learned)
	}
}

func TestAddStoredIsBounded(t *testing.T) {
	t.Parallel()
	c := NewCatalog()
	add := func(i int) error {
		_, err := c.AddStored(prefix, fmt.Sprintf("/registry/example.com/things%d/w", i), Meta{APIVersion: "example.com/v1", Kind: fmt.Sprintf("Thing%d", i), Name: "w"})
		return err
	}
	before := len(c.Resources())
	for i := range maxLearned {
		if err := add(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := add(maxLearned); err == nil || !strings.Contains(err.Error(), "10000 resources") {
		t.Errorf("got %v", err)
	}
	if err := add(7); err != nil {
		t.Errorf("known one: %v", err)
	}
	if got := len(c.Resources()); got != before+maxLearned {
		t.Errorf("%d resources, had %d", got, before)
	}
}

// TestZooLearned: without its CRDs the fixture's custom resources are learned
// as the CRDs define them, but for what only a CRD says.
func TestZooLearned(t *testing.T) {
	t.Parallel()
	live := zoo(t)
	known := zooReader(t, live)
	c := NewCatalog()
	learned := map[string]bool{}
	for key, stored := range live {
		v := known.Read(t.Context(), key, stored.value)
		r, err := c.AddStored(prefix, key, v.Head.Meta)
		if custom := v.Key.Resource != nil && v.Key.Resource.Custom; custom != (err == nil) {
			t.Errorf("%s: %v", key, err)
		}
		if err != nil {
			continue
		}
		crd := v.Key.Resource
		want := &Resource{
			Group: crd.Group, Kind: crd.Kind, Plural: crd.Plural, Singular: crd.Singular,
			Namespaced: crd.Namespaced, Prefix: crd.Prefix, Custom: true, Learned: true,
		}
		if diff := cmp.Diff(want, r); diff != "" {
			t.Errorf("%s (-CRD +learned):\n%s", key, diff)
		}
		learned[r.String()] = true
	}
	if len(learned) != 3 {
		t.Errorf("learned %v", learned)
	}
}

// TestOrphansOfUnreadableObjects: the key of a custom resource says enough to
// list it, and an object that can be read says the rest.
func TestOrphansOfUnreadableObjects(t *testing.T) {
	c := NewCatalog()
	key := prefix + "example.com/widgets/team/a"
	r, err := c.AddOrphan(prefix, key)
	if err != nil || r.String() != "widgets.example.com" || !r.Namespaced || !r.Learned || r.Kind != "" {
		t.Fatalf("%+v, %v", r, err)
	}
	if again, err := c.AddOrphan(prefix, key); err != nil || again != r {
		t.Errorf("again: %+v, %v", again, err)
	}
	if found, _, ok := c.Lookup("widgets.example.com"); !ok || found != r {
		t.Errorf("Lookup: %+v", found)
	}
	k, ok := c.ParseKey(prefix, key)
	if !ok || k.Resource != r || k.Path(prefix) != key {
		t.Errorf("ParseKey: %+v", k)
	}
	full, err := c.AddStored(prefix, key, Meta{APIVersion: "example.com/v1", Kind: "Widget", Namespace: "team", Name: "a"})
	if err != nil || full.Kind != "Widget" {
		t.Fatalf("AddStored: %+v, %v", full, err)
	}
	if found, others, ok := c.Lookup("widgets.example.com"); !ok || found != full || len(others) != 0 {
		t.Errorf("Lookup after AddStored: %+v, %v", found, others)
	}
	if kept, err := c.AddOrphan(prefix, key); err != nil || kept != full {
		t.Errorf("AddOrphan after AddStored: %+v, %v", kept, err)
	}
	for _, key := range []string{prefix + "pods/team/a", "talos:v1:x", prefix + "example.com/widgets/a/b/c", prefix + "unknown/a"} {
		if r, err := c.AddOrphan(prefix, key); err == nil {
			t.Errorf("%s: %+v", key, r)
		}
	}
}
