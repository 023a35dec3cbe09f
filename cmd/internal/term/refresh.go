package term

import (
	"io"
	"strings"

	"github.com/rivo/uniseg"
	"golang.org/x/term"
)

const (
	// defaultHeight is assumed for a terminal that does not tell its height.
	defaultHeight = 24
	// leastRows is what a frame has on the smallest terminal.
	leastRows = 5

	cursorHome = "\033[H"
	clearLine  = "\033[K"
	clearBelow = "\033[J"
)

// Refresh shows one frame after the other in the same place of a terminal. It
// changes nothing of the terminal that would have to be put back: after the
// last frame the cursor stands below it. It is not safe for concurrent use.
type Refresh struct {
	w    io.Writer
	size func() (width, height int)
}

// NewRefresh returns nil if Out is no terminal, or one that cannot move its
// cursor.
func NewRefresh(s Streams) *Refresh {
	f, ok := s.Out.(interface{ Fd() uintptr })
	if !ok || !s.OutTTY || s.Dumb {
		return nil
	}
	return &Refresh{w: s.Out, size: func() (int, int) {
		width, height, err := term.GetSize(int(f.Fd()))
		if err != nil || width <= 0 || height <= 0 {
			return max(s.OutWidth, 1), defaultHeight
		}
		return width, height
	}}
}

// Rows is how many lines the next frame can show: the terminal may have changed
// its size.
func (r *Refresh) Rows() int {
	_, height := r.size()
	return max(height-1, leastRows) // the cursor needs the last one
}

// Show replaces the last frame. Lines pass through Clean and are cut to the
// width of the terminal; those that do not fit its height are left out. The
// frame is written in one piece, so that it does not flicker.
func (r *Refresh) Show(frame string) error {
	width, height := r.size()
	lines := strings.Split(strings.TrimRight(frame, "\n"), "\n")
	if most := max(height-1, 1); len(lines) > most {
		lines = lines[:most]
	}
	var b strings.Builder
	b.WriteString(cursorHome)
	for _, line := range lines {
		b.WriteString(Cut(Clean(line), width) + clearLine + "\n")
	}
	b.WriteString(clearBelow)
	_, err := io.WriteString(r.w, b.String())
	return err
}

// Cut shortens a line to so many columns, with a mark where something is left
// out.
func Cut(line string, width int) string {
	if Width(line) <= width {
		return line
	}
	var b strings.Builder
	used := 0
	for g := uniseg.NewGraphemes(line); g.Next() && used+g.Width() < width; used += g.Width() {
		b.WriteString(g.Str())
	}
	return b.String() + "…"
}
