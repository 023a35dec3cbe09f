package codec

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	eventsv1beta1 "k8s.io/api/events/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
)

func TestShowCRD(t *testing.T) {
	t.Parallel()
	const unknown = `{"apiVersion":"apiextensions.k8s.io/v1beta1","kind":"CustomResourceDefinition","metadata":{"name":"queues.scheduling.volcano.sh","newMeta":"x"},
		"spec":{"group":"scheduling.volcano.sh","scope":"Cluster","names":{"plural":"queues","kind":"Queue"},"newEmpty":false,"newField":{"a":1},
			"version":"v1","versions":[{"name":"v1","served":true,"storage":true,"newInList":7}],
			"validation":{"openAPIV3Schema":{"type":"object","default":{"any":[1]},"properties":{"p":{"type":"array","items":{"type":"string","newInItems":"x"}}}}}},
		"status":{"conditions":null,"acceptedNames":{"plural":"","kind":""},"storedVersions":[]}}`
	s, err := Show([]byte(unknown), 9, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantOmitted := []string{
		"metadata.newMeta", "spec.newEmpty", "spec.newField",
		"spec.validation.openAPIV3Schema.properties.p.items.newInItems", "spec.versions[0].newInList",
	}
	if diff := cmp.Diff(wantOmitted, s.Omitted); diff != "" {
		t.Errorf("omitted (-want +got):\n%s", diff)
	}
	want := mustUnmarshal(t, `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition",
		"metadata":{"name":"queues.scheduling.volcano.sh","resourceVersion":"9"},
		"spec":{"group":"scheduling.volcano.sh","scope":"Cluster","names":{"plural":"queues","singular":"queue","kind":"Queue","listKind":"QueueList"},
			"conversion":{"strategy":"None"},"preserveUnknownFields":true,
			"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","default":{"any":[1]},
				"properties":{"p":{"type":"array","items":{"type":"string"}}}}}}]},
		"status":{"conditions":null,"acceptedNames":{"plural":"","kind":""},"storedVersions":["v1"]}}`)
	if diff := cmp.Diff(want, rendered(t, "crd", s)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// What kubectl shows, stored in v1 as a later release may, is shown the same.
	for name, crd := range expectedObjects(t)["customresourcedefinitions.apiextensions.k8s.io"] {
		value, err := json.Marshal(crd)
		if err != nil {
			t.Fatal(err)
		}
		crd["metadata"].(map[string]any)["resourceVersion"] = "9"
		if diff := cmp.Diff(crd, mustShow(t, name, value, 9, nil)); diff != "" {
			t.Errorf("%s stored in v1 (-want +got):\n%s", name, diff)
		}
	}
}

// TestShowCRDAsStored: what cannot be converted is shown, not refused.
func TestShowCRDAsStored(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{
		"newer version": strings.ReplaceAll(queueCRD, "apiextensions.k8s.io/v1", "apiextensions.k8s.io/v2"),
		"other shape":   strings.ReplaceAll(queueCRD, `"scope":"Cluster"`, `"scope":{"a":1}`),
		"too deep": strings.ReplaceAll(queueCRD, `"scope":"Cluster"`, `"scope":"Cluster","validation":{"openAPIV3Schema":`+
			strings.Repeat(`{"items":`, 100)+`{}`+strings.Repeat(`}`, 100)+`}`),
	} {
		if value == queueCRD {
			t.Fatalf("%s: nothing replaced", name)
		}
		want := mustUnmarshal(t, value)
		want["metadata"].(map[string]any)["resourceVersion"] = "9"
		if diff := cmp.Diff(want, mustShow(t, name, []byte(value), 9, nil)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestOmittedIsBounded(t *testing.T) {
	t.Parallel()
	stored := map[string]any{"line\nbreak": "x", strings.Repeat("ß", 400): "x"}
	for i := range 30 {
		stored[fmt.Sprintf("a%02d", i)] = "x"
	}
	d := dropped{}
	d.compare(nil, stored, nil)
	got := d.list()
	if len(got) != maxOmitted+1 || got[0] != "a00" || got[20] != "and 12 more" {
		t.Errorf("%q", got)
	}
	for p := range d {
		if len(p) > maxPath+len("…") || strings.Contains(p, "\n") {
			t.Errorf("%q", p)
		}
	}
	many := map[string]any{}
	for i := range 5_000 {
		many[fmt.Sprint(i)] = "x"
	}
	d = dropped{}
	d.compare(nil, many, nil)
	if len(d) != maxDropped {
		t.Errorf("%d paths", len(d))
	}
}

// testEvents is one event as each of the groups has it.
func testEvents() (*corev1.Event, *eventsv1.Event) {
	meta := metav1.ObjectMeta{Name: "e", Namespace: "team", UID: "u", ResourceVersion: "9"}
	first, last := metav1.Unix(1_700_000_000, 0), metav1.Unix(1_700_000_100, 0)
	observed := metav1.NewMicroTime(last.Time)
	regarding := corev1.ObjectReference{Kind: "Pod", Namespace: "team", Name: "web", UID: "p", FieldPath: "spec"}
	related := &corev1.ObjectReference{Kind: "Node", Name: "w-1"}
	source := corev1.EventSource{Component: "kubelet", Host: "w-1"}
	return &corev1.Event{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Event"}, ObjectMeta: meta,
			InvolvedObject: regarding, Reason: "Failed", Message: "no", Source: source, FirstTimestamp: first, LastTimestamp: last,
			Count: 3, Type: "Warning", EventTime: observed, Series: &corev1.EventSeries{Count: 4, LastObservedTime: observed},
			Action: "Act", Related: related, ReportingController: "c", ReportingInstance: "i",
		}, &eventsv1.Event{
			TypeMeta: metav1.TypeMeta{APIVersion: "events.k8s.io/v1", Kind: "Event"}, ObjectMeta: meta,
			EventTime: observed, Series: &eventsv1.EventSeries{Count: 4, LastObservedTime: observed},
			ReportingController: "c", ReportingInstance: "i", Action: "Act", Reason: "Failed", Regarding: regarding, Related: related,
			Note: "no", Type: "Warning", DeprecatedSource: source, DeprecatedFirstTimestamp: first, DeprecatedLastTimestamp: last, DeprecatedCount: 3,
		}
}

func TestShowEvents(t *testing.T) {
	t.Parallel()
	c := NewCatalog()
	events, _, _ := c.Lookup("events")
	view, _, _ := c.Lookup("events.events.k8s.io")
	pods, _, _ := c.Lookup("pods")
	core, group := testEvents()
	beta := new(eventsv1beta1.Event)
	data, err := json.Marshal(group)
	if err != nil {
		t.Fatal(err)
	}
	// The two versions have the same JSON.
	if err := json.Unmarshal(data, beta); err != nil {
		t.Fatal(err)
	}
	beta.APIVersion = "events.k8s.io/v1beta1"
	for name, test := range map[string]struct {
		stored runtime.Object
		as     *Resource
		want   runtime.Object
	}{
		"core as core":         {core, events, core},
		"core as group":        {core, view, group},
		"group as core":        {group, events, core},
		"group as group":       {group, view, group},
		"beta as core":         {beta, events, core},
		"beta as group":        {beta, view, group},
		"beta as nothing":      {beta, nil, beta},
		"core as another kind": {core, pods, core},
	} {
		want := rendered(t, name, Shown{Object: test.want})
		apiVersion, kind := test.stored.GetObjectKind().GroupVersionKind().ToAPIVersionAndKind()
		raw, err := test.stored.(interface{ Marshal() ([]byte, error) }).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, mustShow(t, name, wrap(apiVersion, kind, raw), 9, test.as)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		value, err := json.Marshal(test.stored)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, mustShow(t, name, value, 9, test.as)); diff != "" {
			t.Errorf("%s from JSON (-want +got):\n%s", name, diff)
		}
	}
	if _, err := Show([]byte(`{"apiVersion":"v1","kind":"Event","metadata":{},"count":"x"}`), 1, view); !errors.Is(err, ErrUndecodable) {
		t.Errorf("got %v", err)
	}
	s, err := Show([]byte(`{"apiVersion":"v1","kind":"Event","metadata":{},"other":"x"}`), 1, view)
	if diff := cmp.Diff([]string{"other"}, s.Omitted); err != nil || diff != "" {
		t.Errorf("%v, omitted (-want +got):\n%s", err, diff)
	}
}
