package app

import (
	"strings"
	"testing"
)

// TestPutBackAsks: the preview with what differs stands before the question,
// and only the number that would be put back is taken for a yes.
func TestPutBackAsks(t *testing.T) {
	t.Parallel()
	box := startRunaway(t, 12)
	before := box.mustContents(t)
	sh := newShell(t, box)
	r := sh.run(exitDone, "delete", "pods", "-n", "ops-tools", "--execute", "--yes", "--max-deletes", "12", "--settle", "0")
	archive := find(t, r.out, `^archive: (.*)$`)
	gone := box.mustContents(t)

	args := []string{"put-back", "pods", "-n", "ops-tools", "--from", archive, "--execute"}
	y := sh.onTerminal(args...)
	y.expect("Type 12 to put back these 12 objects: ")
	if !strings.Contains(y.screen, "Would put back 12 objects") || strings.Contains(y.screen, "Nothing was changed") {
		t.Errorf("before the question stands:\n%s", y.screen)
	}
	if r := y.answer("11\n"); r.code != exitRefused || !strings.Contains(r.errOut, "not confirmed; nothing was changed") {
		t.Errorf("exit code %d:\n%s", r.code, r.errOut)
	}
	if diff := unchanged(gone, box.mustContents(t)); diff != "" {
		t.Error(diff)
	}
	y = sh.onTerminal(args...)
	y.expect("Type 12 to put back these 12 objects: ")
	if r := y.answer("12\n"); r.code != exitDone || !strings.HasPrefix(r.out, "Put back 12 objects in ") {
		t.Errorf("exit code %d:\n%s%s", r.code, r.out, r.errOut)
	}
	if diff := sameValues(before, box.mustContents(t)); diff != "" {
		t.Error(diff)
	}
}
