// Package term talks to the person in front of the terminal: streams and what
// they are connected to, typed confirmation, tables, JSON and YAML, numbers
// with units, a progress bar.
//
// It holds no global state and finds nothing out on its own after Detect:
// everything it writes goes to the writers of the Streams it was given. Results
// belong on Out; prompts, progress and hints only ever go to Err. Text that
// came out of etcd passes through Clean before it reaches a table, so that
// stored bytes cannot steer the terminal.
package term

import (
	"io"
	"os"
	"strconv"

	"golang.org/x/term"
)

// defaultWidth is assumed for a terminal that does not tell its width.
const defaultWidth = 80

// Streams are the three streams of a run and what is known about them. It is a
// plain value; tests fill it.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	// InTTY, OutTTY and ErrTTY say which streams are terminals.
	InTTY, OutTTY, ErrTTY bool
	// OutWidth and ErrWidth are in columns; 0 means that lines are not cut,
	// as for a pipe.
	OutWidth, ErrWidth int
	// Color says that colour is allowed; use it only on a terminal.
	Color bool
	// Dumb says that the terminal cannot move its cursor (TERM=dumb).
	Dumb bool
}

// Detect looks at the files and the environment: NO_COLOR (if not empty, no
// colour), TERM ("dumb": no colour and no cursor movement; unset: no colour),
// COLUMNS (overrides the terminal's width). A nil getenv is an empty
// environment.
func Detect(in, out, err *os.File, getenv func(string) string) Streams {
	if getenv == nil {
		getenv = func(string) string { return "" }
	}
	s := Streams{In: in, Out: out, Err: err}
	s.InTTY = isTerminal(in)
	s.OutTTY, s.OutWidth = measure(out, getenv)
	s.ErrTTY, s.ErrWidth = measure(err, getenv)
	kind := getenv("TERM")
	s.Dumb = kind == "dumb"
	s.Color = !s.Dumb && kind != "" && getenv("NO_COLOR") == ""
	return s
}

func isTerminal(f *os.File) bool { return f != nil && term.IsTerminal(int(f.Fd())) }

func measure(f *os.File, getenv func(string) string) (tty bool, width int) {
	if !isTerminal(f) {
		return false, 0
	}
	if n, err := strconv.Atoi(getenv("COLUMNS")); err == nil && n > 0 {
		return true, n
	}
	if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
		return true, w
	}
	return true, defaultWidth
}

// Interactive reports whether a question can be asked and answered: In and Err
// are terminals. Out may be a pipe.
func (s Streams) Interactive() bool { return s.InTTY && s.ErrTTY }

// ColorOut reports whether Out may be coloured.
func (s Streams) ColorOut() bool { return s.Color && s.OutTTY }

// ColorErr reports whether Err may be coloured.
func (s Streams) ColorErr() bool { return s.Color && s.ErrTTY }
