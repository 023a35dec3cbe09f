package term

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func TestAskNumber(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		typed string
		want  string // part of the error; empty for a confirmation
	}{
		{"30001\n", ""},
		{"30,001\n", ""},
		{"  30001 \r\n", ""},
		{"30001", "the input ended"}, // cut short: it may be half a number
		{"", "the input ended"},
		{"\n", "nothing was typed"},
		{"y\n", `"y" is not 30,001`},
		{"yes\n", "not confirmed"},
		{"30000\n", "not confirmed"},
		{"3,0001\n", "not confirmed"},
		{"+30001\n", "not confirmed"},
		{"030001\n", "not confirmed"},
		{"30001.0\n", "not confirmed"},
		{"30001 30001\n", "not confirmed"},
		{"\x1b[A\n", `"\\x1b[A"`},
		{strings.Repeat("3", 10000) + "\n", "not confirmed"},
	} {
		var out bytes.Buffer
		s := Streams{In: strings.NewReader(tc.typed), Err: &out}
		err := AskNumber(t.Context(), s, "Type 30,001: ", 30001)
		if tc.want == "" {
			if err != nil {
				t.Errorf("%.20q: got %v", tc.typed, err)
			}
		} else if !errors.Is(err, ErrNotConfirmed) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%.20q: got %v, want %q", tc.typed, err, tc.want)
		}
		if !strings.HasPrefix(out.String(), "Type 30,001: ") {
			t.Errorf("%.20q: prompt %q", tc.typed, out.String())
		}
	}
}

// Reading one answer must not swallow the next.
func TestAskNumberTwice(t *testing.T) {
	t.Parallel()
	s := Streams{In: strings.NewReader("1\n2\n"), Err: io.Discard}
	for want := range int64(2) {
		if err := AskNumber(t.Context(), s, "", want+1); err != nil {
			t.Error(err)
		}
	}
}

func TestAskNumberCancelled(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe() // nobody types
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	time.AfterFunc(10*time.Millisecond, cancel)
	if err := AskNumber(ctx, Streams{In: r, Err: &out}, "? ", 1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if out.String() != "? \n" {
		t.Errorf("wrote %q", out.String())
	}
	// What was typed does not count after an interrupt.
	if err := AskNumber(ctx, Streams{In: strings.NewReader("1\n"), Err: &out}, "? ", 1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errBroken }

func TestAskNumberBrokenStreams(t *testing.T) {
	t.Parallel()
	err := AskNumber(t.Context(), Streams{In: failingReader{}, Err: io.Discard}, "? ", 1)
	if !errors.Is(err, ErrNotConfirmed) || !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
	if err := AskNumber(t.Context(), Streams{In: strings.NewReader("1\n"), Err: brokenWriter{}}, "? ", 1); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
}
