package app

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
)

// fileSuffix marks the formats whose template stands in a file.
const fileSuffix = "-file"

// formatName is what -o names, without the template that may follow.
func (inv *invocation) formatName() string {
	name, _, _ := strings.Cut(inv.String(flagOutput), "=")
	return name
}

// format is the output format, wherever its template stands.
func (inv *invocation) format() string {
	name, template, _ := strings.Cut(inv.String(flagOutput), "=")
	if template != "" {
		name = strings.TrimSuffix(name, fileSuffix)
	}
	return name
}

// checkFormat refuses an output format that the command does not have.
func (inv *invocation) checkFormat(formats ...string) error {
	if slices.Contains(formats, inv.format()) {
		return nil
	}
	return usage("it can be any of: "+joinWords(formats), "%s has no output format %q", inv.command.name, inv.formatName())
}

// wantsJSON reports whether the flags ask for JSON, before they are parsed:
// errors then come as JSON too.
func wantsJSON(flags []string) bool {
	for _, f := range flags {
		name, value, _ := strings.Cut(strings.TrimLeft(f, "-"), "=")
		if (name == flagOutput || name == "o") && (value == formatJSON || value == formatJSONL) {
			return true
		}
	}
	return false
}

func (inv *invocation) json() bool { return inv.format() == formatJSON || inv.format() == formatJSONL }

// sayHowRead adds to a report how the store was read, unless that was as ever.
func (inv *invocation) sayHowRead(doc map[string]any) {
	if inv.serializable() {
		doc["consistency"] = consistencySerializable
	}
}

// document prints a report as one JSON or YAML document.
func (inv *invocation) document(doc map[string]any) error {
	inv.sayHowRead(doc)
	if inv.format() == "yaml" {
		return term.YAML(inv.Streams.Out, doc)
	}
	return term.JSON(inv.Streams.Out, doc)
}

func (inv *invocation) table() *term.Table { return term.NewTable(inv.Streams.Out, inv.Streams.OutTTY) }

// fit lets one column of a table give way to the width of the terminal that it
// is written to; elsewhere everything stays whole.
func (inv *invocation) fit(t *term.Table, w writer, cutting int) {
	tty := inv.Streams.OutTTY
	if w.Writer == inv.Streams.Err {
		tty = inv.Streams.ErrTTY
	}
	if tty {
		t.Fit(w.columns, cutting)
	}
}

// number and size are for tables: for people on a terminal, for programs
// elsewhere.
func (inv *invocation) number(n int64) string {
	if inv.Streams.OutTTY {
		return term.Count(n)
	}
	return strconv.FormatInt(n, 10)
}

func (inv *invocation) size(n int64) string {
	if inv.Streams.OutTTY {
		return term.Bytes(n)
	}
	return strconv.FormatInt(n, 10)
}

// listed counts things and names the first of them.
type listed struct {
	count int64
	first []string
}

const maxListed = 1000

func (l *listed) add(name string) {
	l.count++
	if len(l.first) < maxListed {
		l.first = append(l.first, shortened(name))
	}
}

// shortened is a text of which no more is kept than Kubernetes' own can have.
// etcd takes keys of a megabyte.
func shortened(text string) string {
	const longest = 1024
	if len(text) <= longest {
		return text
	}
	return strings.ToValidUTF8(text[:longest], "") + "…"
}

func (l *listed) document() map[string]any {
	return map[string]any{"count": l.count, "first": append([]string{}, l.first...)}
}

// sayList names the first few of a list on stderr, if it holds any.
func (inv *invocation) sayList(l listed, one, many string) {
	if l.count == 0 {
		return
	}
	const most = 10
	what := many
	if l.count == 1 {
		what = one
	}
	shown := l.first[:min(most, len(l.first))]
	text := fmt.Sprintf("warning: %s %s: %s", term.Count(l.count), what, term.Clean(joinWords(shown)))
	if more := l.count - int64(len(shown)); more > 0 {
		text += fmt.Sprintf(" and %s more", term.Count(more))
	}
	inv.say("%s", text)
}
