package app

import (
	"bytes"
	"strings"
	"testing"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
)

// TestSpan: values can claim any time, and what lies between them is longer
// than a time.Duration can be.
func TestSpan(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		seconds int64
		want    string
	}{
		{120, "2 min"}, {7200, "2 h"}, {2 * 24 * 3600, "2 days"}, {7973 * 365 * 24 * 3600, "2910145 days"},
	} {
		if got := span(tt.seconds); got != tt.want {
			t.Errorf("%d seconds: %s, want %s", tt.seconds, got, tt.want)
		}
	}
}

// TestHintsAreClean: a hint may name what is stored.
func TestHintsAreClean(t *testing.T) {
	t.Parallel()
	var stderr bytes.Buffer
	report(refuse("the namespaces are: \x1b[2Jx", "no \x1b[2Jy"), term.Streams{Err: &stderr}, false)
	if strings.ContainsRune(stderr.String(), '\x1b') {
		t.Errorf("escapes reach the terminal: %q", stderr.String())
	}
}

// TestLongTextsAreShortened: a thousand keys of a megabyte are a gigabyte.
func TestLongTextsAreShortened(t *testing.T) {
	t.Parallel()
	var inOrder, sorted listed
	for range 2 {
		inOrder.add(strings.Repeat("x", 1<<20))
		addSorted(&sorted, strings.Repeat("y", 1<<20))
	}
	for _, l := range []listed{inOrder, sorted} {
		if len(l.first) != 2 || len(l.first[1]) > 1100 || !strings.HasSuffix(l.first[1], "…") {
			t.Errorf("%d texts, the last one of %d bytes", len(l.first), len(l.first[1]))
		}
	}
}
