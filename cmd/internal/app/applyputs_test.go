package app

import "testing"

// TestPlanOfAnUnknownOperationIsRefused: what a later release would check
// before it nobody knows.
func TestPlanOfAnUnknownOperationIsRefused(t *testing.T) {
	t.Parallel()
	for operation, want := range map[string]string{
		operationDelete: verbDeleting, operationUndo: verbPuttingBack, operationPutBack: verbPuttingBack,
	} {
		if verb, err := verbOf(operation); verb != want || err != nil {
			t.Errorf("%s: %q, %v; want %q", operation, verb, err, want)
		}
	}
	for _, operation := range []string{"", "edit"} {
		_, err := verbOf(operation)
		if code, _ := explain(err); code != exitRefused {
			t.Errorf("%q: exit code %d, %v", operation, code, err)
		}
	}
}
