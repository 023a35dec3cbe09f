package codec

import "k8s.io/apimachinery/pkg/runtime"
import "testing"
import "slices"
import "github.com/google/go-cmp/cmp"
import "k8s.io/apimachinery/pkg/fields"

// TestEventsViewFields: the newer group has its own names for the fields.
func TestEventsViewFields(t *testing.T) {
	t.Parallel()
	view, _, _ := NewCatalog().Lookup("events.events.k8s.io")
	core, event := testEvents()
	want := fields.Set{
		"metadata.name": "e", "metadata.namespace": "team", "reason": "Failed", "type": "Warning", "reportingController": "c",
		"regarding.apiVersion": "", "regarding.fieldPath": "spec", "regarding.kind": "Pod", "regarding.name": "web",
		"regarding.namespace": "team", "regarding.resourceVersion": "", "regarding.uid": "p",
	}
	for _, obj := range []runtime.Object{core, event} {
		got, err := FieldSet(obj, view)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%T: %v (-want +got):\n%s", obj, err, diff)
		}
	}
	if _, err := FieldSet(testPod(), view); err == nil {
		t.Error("fields of a pod")
	}
	var names []string
	for name := range want {
		names = append(names, name)
	}
	slices.Sort(names)
	if diff := cmp.Diff(view.SelectableFields(), names); diff != "" {
		t.Errorf("(-selectable +got):\n%s", diff)
	}
}
