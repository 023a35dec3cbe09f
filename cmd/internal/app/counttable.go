package app

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/recover/tally"
)

func (inv *invocation) showCount(r *countResult) error {
	r.survey.say(inv)
	inv.sayApproximate(r)
	show := inv.countDocument
	if inv.format() == "table" {
		show = inv.countTable
	}
	if err := show(r); err != nil {
		return err
	}
	if r.undecided > 0 {
		return partial(r.hint, "%s not decided, and not counted", objects(r.undecided))
	}
	return nil
}

func (r *countResult) approximate() bool { return r.groups.Merged().Groups > 0 }

func (inv *invocation) sayApproximate(r *countResult) {
	if !r.approximate() {
		return
	}
	short, shortBytes := r.groups.Shortfall()
	text := term.Count(short)
	if r.withBytes {
		text += " and " + term.Bytes(shortBytes)
	}
	inv.say("note: there are more groups than memory is meant for. The smallest, of %s, are merged into one line. Figures with ~ may be too low, by at most %s; the total is exact.",
		objects(r.groups.Merged().Objects), text)
}

// sorted yields the lines of the result: the largest group first, times in
// their order.
func (r *countResult) sorted() iter.Seq[tally.Group] {
	if r.times != nil {
		return r.times.sorted(r.groups)
	}
	return r.groups.Sorted(tally.ByObjects, 0)
}

func (inv *invocation) countTable(r *countResult) error {
	t := inv.table()
	defer t.Flush()
	var header []string
	for _, b := range r.by {
		header = append(header, strings.ToUpper(b))
	}
	header = append(header, "OBJECTS")
	if r.withBytes {
		header = append(header, "BYTES")
	}
	t.Header(header...)
	lines := 0
	if r.times != nil {
		lines = inv.drawTimes(t, r)
	} else {
		for g := range r.sorted() {
			t.Row(inv.countCells(r, g, r.approximate())...)
			lines++
		}
	}
	total := tally.Group{By: make([]string, len(r.by))}
	if m := r.groups.Merged(); m.Groups > 0 {
		rest := tally.Group{By: make([]string, len(r.by)), Objects: m.Objects, Bytes: m.Bytes}
		rest.By[0] = "<others>"
		t.Row(inv.countCells(r, rest, true)...)
		lines++
	}
	if lines != 1 {
		total.By[0] = "TOTAL"
		total.Objects, total.Bytes = r.groups.Total()
		t.Row(inv.countCells(r, total, false)...)
	}
	return t.Flush()
}

// countCells are a group's texts and numbers. What is approximate begins with
// a tilde.
func (inv *invocation) countCells(r *countResult, g tally.Group, approximate bool) []string {
	mark := ""
	if approximate {
		mark = "~"
	}
	cells := make([]string, 0, len(g.By)+3)
	for _, v := range g.By {
		cells = append(cells, strings.Clone(v)) // the table may hold it for a while
	}
	cells = append(cells, mark+inv.number(g.Objects))
	if r.withBytes {
		cells = append(cells, mark+inv.size(g.Bytes))
	}
	return cells
}

// countDocument prints what docs/json.md says. The groups, of which there may
// be millions, are written one by one into the place that the document has for
// them.
func (inv *invocation) countDocument(r *countResult) error {
	var whole bytes.Buffer
	doc := r.document()
	inv.sayHowRead(doc)
	write, hole, encode := term.JSON, "\n    \"groups\": null", writeJSONGroups
	if inv.format() == "yaml" {
		write, hole, encode = term.YAML, "\ngroups: null", writeYAMLGroups
	}
	if err := write(&whole, doc); err != nil {
		return err
	}
	// A line end within a text is escaped or indented, so this is the field.
	before, after, found := strings.Cut(whole.String(), hole)
	if !found {
		return fmt.Errorf("write the count: its document has no place for groups")
	}
	w := bufio.NewWriter(inv.Streams.Out)
	w.WriteString(before + strings.TrimSuffix(hole, " null"))
	encode(w, r)
	w.WriteString(after)
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write the count: %w", err)
	}
	return nil
}

func (r *countResult) document() map[string]any {
	objects, bytes := r.groups.Total()
	doc := map[string]any{
		"version": 1, "kind": "count", "revision": r.revision, "by": r.by, "groups": nil,
		"objects": objects, "undecided": r.undecided,
	}
	r.survey.document(doc)
	if r.withBytes {
		doc["bytes"] = bytes
	}
	if slices.Contains(r.by, byCreated) {
		doc["resolution"] = resolutionMinute
	}
	if r.times != nil {
		r.times.document(doc, r.groups)
	}
	if m := r.groups.Merged(); m.Groups > 0 {
		short, shortBytes := r.groups.Shortfall()
		doc["approximate"] = true
		doc["rest"] = r.figures(m.Objects, m.Bytes)
		doc["shortfall"] = r.figures(short, shortBytes)
	}
	return doc
}

func (r *countResult) figures(objects, bytes int64) map[string]any {
	f := map[string]any{"objects": objects}
	if r.withBytes {
		f["bytes"] = bytes
	}
	return f
}

// field is a grouping and its place among the values.
type field struct {
	name string
	at   int
}

// fields are the groupings as encoding/json orders the keys of a map.
func (r *countResult) fields() []field {
	var all []field
	for i, name := range r.by {
		all = append(all, field{name, i})
	}
	slices.SortFunc(all, func(a, b field) int { return cmp.Compare(a.name, b.name) })
	return slices.CompactFunc(all, func(a, b field) bool { return a.name == b.name })
}

// writeJSONGroups writes as encoding/json would with an indent of four. Errors
// stay in w.
func writeJSONGroups(w *bufio.Writer, r *countResult) {
	var b []byte
	text := newQuoter()
	fields, n := r.fields(), 0
	for g := range r.sorted() {
		b = append(b[:0], ",\n        {\n            \"by\": {"...)
		if n == 0 {
			b[0] = '['
		}
		for i, f := range fields {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, "\n                \""...)
			b = append(append(b, f.name...), "\": "...)
			b = text.append(b, g.By[f.at])
		}
		b = append(b, "\n            }"...)
		if r.withBytes {
			b = strconv.AppendInt(append(b, ",\n            \"bytes\": "...), g.Bytes, 10)
		}
		b = strconv.AppendInt(append(b, ",\n            \"objects\": "...), g.Objects, 10)
		b = append(b, "\n        }"...)
		if n == 0 {
			w.WriteByte(' ')
		}
		w.Write(b)
		n++
	}
	if n == 0 {
		w.WriteString(" []")
		return
	}
	w.WriteString("\n    ]")
}

// writeYAMLGroups writes as term.YAML would. Errors stay in w.
func writeYAMLGroups(w *bufio.Writer, r *countResult) {
	fields, n := r.fields(), 0
	for g := range r.sorted() {
		w.WriteString("\n- by:")
		for _, f := range fields {
			fmt.Fprintf(w, "\n    %s: %s", f.name, yamlText(g.By[f.at]))
		}
		if r.withBytes {
			fmt.Fprintf(w, "\n  bytes: %d", g.Bytes)
		}
		fmt.Fprintf(w, "\n  objects: %d", g.Objects)
		n++
	}
	if n == 0 {
		w.WriteString(" []")
	}
}

// yamlText is a value as YAML has it, null where the object has none. The
// names of things need no quotes; of other texts the encoder decides.
func yamlText(v string) string {
	if v == none {
		return "null"
	}
	if plainYAML(v) {
		return v
	}
	var b bytes.Buffer
	if err := term.YAML(&b, []string{v}); err != nil || strings.Count(b.String(), "\n") > 1 {
		quoted, _ := json.Marshal(v) // a string always has a JSON form, which is YAML too
		return string(quoted)
	}
	return strings.TrimSuffix(strings.TrimPrefix(b.String(), "- "), "\n")
}

// plainYAML reports whether v is certainly read back as the text that it is:
// letters, digits and a few marks, too long to be a word like true or null.
func plainYAML(v string) bool {
	const longestWord = 5 // false
	letter := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
	if len(v) <= longestWord || !letter(v[0]) {
		return false
	}
	for i := range len(v) {
		if c := v[i]; !letter(c) && (c < '0' || c > '9') && c != '-' && c != '.' && c != '/' {
			return false
		}
	}
	return true
}

// quoter appends texts as JSON.
type quoter struct {
	buf bytes.Buffer
	enc *json.Encoder
}

func newQuoter() *quoter {
	q := &quoter{}
	q.enc = json.NewEncoder(&q.buf)
	q.enc.SetEscapeHTML(false)
	return q
}

func (q *quoter) append(b []byte, v string) []byte {
	if v == none {
		return append(b, "null"...)
	}
	q.buf.Reset()
	if err := q.enc.Encode(v); err != nil {
		return append(b, "null"...) // cannot be: any string has a JSON form
	}
	return append(b, bytes.TrimSuffix(q.buf.Bytes(), []byte("\n"))...)
}
