package term

import (
	"bytes"
	"strings"
	"testing"
)

func TestRefresh(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	r := &Refresh{w: &out, size: func() (int, int) { return 10, 7 }}
	if r.Rows() != 6 {
		t.Errorf("%d rows of 7 lines", r.Rows())
	}
	for _, tc := range []struct{ name, frame, want string }{
		{"two lines", "one\ntwo\n", "\033[Hone\033[K\ntwo\033[K\n\033[J"},
		{"as wide as the terminal", "0123456789", "\033[H0123456789\033[K\n\033[J"},
		{"too wide", "0123456789x", "\033[H012345678…\033[K\n\033[J"},
		{"wide letters", "日本語日本語", "\033[H日本語日…\033[K\n\033[J"},
		{"too high", strings.Repeat("x\n", 20), "\033[H" + strings.Repeat("x\033[K\n", 6) + "\033[J"},
		{"hostile", "a\033[2Jb", "\033[Ha\\x1b[2Jb\033[K\n\033[J"},
	} {
		out.Reset()
		if err := r.Show(tc.frame); err != nil || out.String() != tc.want {
			t.Errorf("%s: got %q, want %q, %v", tc.name, out.String(), tc.want, err)
		}
	}
	r.size = func() (int, int) { return 80, 2 }
	if r.Rows() != leastRows {
		t.Errorf("%d rows of a tiny terminal", r.Rows())
	}
}

func TestNoRefresh(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]Streams{
		"a buffer": {Out: &bytes.Buffer{}, OutTTY: true},
		"nothing":  {},
	} {
		if NewRefresh(s) != nil {
			t.Errorf("frames on %s", name)
		}
	}
}
