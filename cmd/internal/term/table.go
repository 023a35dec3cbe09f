package term

import (
	"bufio"
	"io"
	"strings"
)

const (
	// columnGap is kubectl's distance between columns.
	columnGap = 3
	// measuredRows is how many rows decide the width of the columns.
	measuredRows = 1000
	// leastCut is what Fit leaves of a cell.
	leastCut = 12
)

// Table writes rows of cells. It keeps at most the first 1000 rows in memory,
// however many follow. It is not safe for concurrent use.
type Table struct {
	w       *bufio.Writer
	aligned bool
	widths  []int
	held    [][]string // rows kept until the widths are known
	fit     int        // how wide it may be, 0 for any width
	cutting int        // the column that is cut for that
	settled bool
	err     error
}

// NewTable returns a table on w. Aligned columns are padded for people, with
// widths that the first 1000 rows decide. Otherwise cells are separated by one
// tab, for programs. Flush must be called at the end.
func NewTable(w io.Writer, aligned bool) *Table {
	return &Table{w: bufio.NewWriter(w), aligned: aligned}
}

// Fit makes an aligned table that is wider than this many columns of a terminal
// leave out the middle of what stands in one of its columns, counted from 0: of
// names of hosts, say, which differ at either end. At least 12 characters of
// each stay, and everything if two would look the same. Call it before Row.
func (t *Table) Fit(columns, cutting int) { t.fit, t.cutting = columns, cutting }

// Header writes the names of the columns. Call it before Row, or not at all.
func (t *Table) Header(cells ...string) { t.Row(cells...) }

// Row writes one row. Cells pass through Clean. After a write error rows are
// dropped; Flush reports it.
func (t *Table) Row(cells ...string) {
	if t.err != nil {
		return
	}
	clean := make([]string, len(cells))
	for i, c := range cells {
		clean[i] = Clean(c)
	}
	if !t.aligned {
		t.write(strings.Join(clean, "\t"))
		return
	}
	if t.settled {
		t.write(t.pad(clean))
		return
	}
	t.hold(clean)
	if len(t.held) > measuredRows { // one of them is the header
		t.settle()
	}
}

// Flush writes what is still held and returns the first error of any write.
// More rows may follow; the widths stay.
func (t *Table) Flush() error {
	t.settle()
	if err := t.w.Flush(); t.err == nil {
		t.err = err
	}
	return t.err
}

func (t *Table) hold(row []string) {
	t.held = append(t.held, row)
	for i, c := range row {
		if i == len(t.widths) {
			t.widths = append(t.widths, 0)
		}
		t.widths[i] = max(t.widths[i], Width(c))
	}
}

func (t *Table) settle() {
	if len(t.held) == 0 {
		return
	}
	t.settled = true
	t.cut()
	for _, row := range t.held {
		t.write(t.pad(row))
	}
	t.held = nil
}

// cut does what Fit says.
func (t *Table) cut() {
	if t.fit == 0 || t.cutting >= len(t.widths) {
		return
	}
	room := t.fit + columnGap
	for i, w := range t.widths {
		if i != t.cutting {
			room -= w
		}
		room -= columnGap
	}
	room = max(room, leastCut)
	if t.widths[t.cutting] <= room {
		return
	}
	whole := map[string]string{} // by what is left of it
	for _, row := range t.held {
		if t.cutting >= len(row) {
			continue
		}
		name := row[t.cutting]
		short := middleCut(name, room)
		if other, ok := whole[short]; ok && other != name {
			return
		}
		whole[short] = name
	}
	for _, row := range t.held {
		if t.cutting < len(row) {
			row[t.cutting] = middleCut(row[t.cutting], room)
		}
	}
	t.widths[t.cutting] = room
}

// middleCut leaves out the middle of a name that is longer than room.
func middleCut(name string, room int) string {
	letters := []rune(name)
	if len(letters) <= room {
		return name
	}
	tail := (room - 1) / 2
	return string(letters[:room-1-tail]) + "…" + string(letters[len(letters)-tail:])
}

func (t *Table) pad(row []string) string {
	var b strings.Builder
	for i, c := range row {
		b.WriteString(c)
		if i < len(t.widths) {
			b.WriteString(strings.Repeat(" ", max(t.widths[i]-Width(c), 0)+columnGap))
		} else {
			b.WriteString(strings.Repeat(" ", columnGap))
		}
	}
	return strings.TrimRight(b.String(), " ")
}

func (t *Table) write(line string) {
	if t.err != nil {
		return
	}
	if _, err := t.w.WriteString(line); err != nil {
		t.err = err
		return
	}
	t.err = t.w.WriteByte('\n')
}
