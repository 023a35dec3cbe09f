package app

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
)

// headWriter passes on the first lines of what is written and counts the
// rest.
type headWriter struct {
	out  io.Writer
	all  bool // pass on everything
	left int  // lines still to pass on

	mu  sync.Mutex
	cut int64 // lines held back
}

// Write implements io.Writer.
func (h *headWriter) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all {
		return h.out.Write(b)
	}
	for rest := b; len(rest) > 0; {
		line, after, newline := bytes.Cut(rest, []byte("\n"))
		rest = after
		if h.left <= 0 {
			if newline {
				h.cut++
			}
			continue
		}
		if newline {
			h.left--
			line = append(bytes.Clone(line), '\n')
		}
		if _, err := h.out.Write(line); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

func (h *headWriter) finish() {
	if h.cut > 0 {
		fmt.Fprintf(h.out, "… and %s\n", term.Plural(h.cut, "more line"))
	}
}
