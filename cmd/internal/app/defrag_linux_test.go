package app

import (
	"strings"
	"testing"
)

// TestDefragAsks: the number of members is typed, after the preview.
func TestDefragAsks(t *testing.T) {
	t.Parallel()
	box := startRunaway(t, 2)
	before := box.mustContents(t)
	sh := newShell(t, box)
	for _, tc := range []struct {
		keys, message string
		code          int
	}{
		{"y\n", "not confirmed; nothing was changed", exitRefused},
		{"2\n", "not confirmed; nothing was changed", exitRefused},
		{"1\n", " before, ", exitDone},
	} {
		y := sh.onTerminal("defrag", "--always", "--execute")
		y.expect("Type 1 to defragment this member: ")
		if !strings.Contains(y.screen, "Would defragment 1 of 1 member") || strings.Contains(y.screen, "Nothing was changed") {
			t.Errorf("the screen:\n%s", y.screen)
		}
		r := y.answer(tc.keys)
		if r.code != tc.code || !strings.Contains(r.errOut, tc.message) || (r.out == "") != (tc.code != exitDone) {
			t.Errorf("%q: exit code %d, stdout %q, screen:\n%s", tc.keys, r.code, r.out, r.errOut)
		}
	}
	if diff := unchanged(before, box.mustContents(t)); diff != "" {
		t.Error(diff)
	}
}
