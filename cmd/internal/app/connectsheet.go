package app

import (
	"strings"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
)

// sheetGap is what stands between two cells of a block.
const sheetGap = "   "

// showSheet prints rows below a header: as a table, or, on a terminal that is too
// narrow for it, as a block for each row, whose cells carry the header's names.
func (inv *invocation) showSheet(rows [][]string) error {
	if inv.Streams.OutTTY && !inv.fits(rows) {
		w := writer{inv.Streams.Out, inv.columns()}
		for _, row := range rows[1:] {
			w.block(rows[0], row)
		}
		w.line("")
		return nil
	}
	t := inv.table()
	for _, row := range rows {
		t.Row(row...)
	}
	return inv.endSection(t)
}

// columns is the width of the terminal.
func (inv *invocation) columns() int {
	if inv.Streams.OutWidth <= 0 {
		return 80
	}
	return inv.Streams.OutWidth
}

func (inv *invocation) fits(rows [][]string) bool {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], term.Width(term.Clean(cell)))
		}
	}
	sum := len(sheetGap) * (len(widths) - 1)
	for _, w := range widths {
		sum += w
	}
	return sum <= inv.columns()
}

// block prints one row: its first cell, and below it as many of the others on
// a line as there is room for.
func (w writer) block(header, row []string) {
	w.hang(header[0]+" ", 2, term.Clean(row[0]))
	line := ""
	for i, cell := range row[1:] {
		part := header[i+1] + ": " + term.Clean(cell)
		if len(row) < len(header) {
			part = term.Clean(cell) // it says why there is none
		}
		switch {
		case line == "":
			line = part
		case 4+term.Width(line)+len(sheetGap)+term.Width(part) <= w.columns:
			line += sheetGap + part
		default:
			w.hang("  ", 4, line)
			line = part
		}
	}
	w.hang("  ", 4, line)
}

// wrapped breaks a text for a terminal only: elsewhere a line is a line.
func (inv *invocation) wrapped(text string) string {
	if !inv.Streams.OutTTY {
		return text
	}
	return term.Wrap(text, inv.columns())
}

// flagLines writes flags so that they can be copied: on a terminal that is too
// narrow for one line as a shell continues it.
func (inv *invocation) flagLines(flags []string) string {
	line := term.Clean(strings.Join(flags, " "))
	if !inv.Streams.OutTTY || 2+term.Width(line) <= inv.columns() {
		return line
	}
	clean := make([]string, len(flags))
	for i, f := range flags {
		clean[i] = term.Clean(f)
	}
	return strings.Join(clean, " \\\n  ")
}
