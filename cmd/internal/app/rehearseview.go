package app

import (
	"fmt"
	"strings"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/rehearse"
)

// rehearsalView shows what a rehearsal found.
type rehearsalView struct {
	*rehearse.Report
	r *rehearsing
}

func (v *rehearsalView) failed() int64 { return v.Result.Counts[apply.Failed] }
func (v *rehearsalView) skipped() int64 {
	return v.Result.Counts[apply.Skipped] + v.Result.Counts[apply.Raced]
}

func (v *rehearsalView) show() error {
	inv := v.r.inv
	if inv.format() != "table" {
		return inv.document(v.document())
	}
	w := writer{inv.Streams.Out, width(inv.Streams.OutWidth)}
	w.hang("", 0, fmt.Sprintf("Rehearsed on %s, as of revision %d, in %s", v.r.describe(), v.Revision, term.Duration(v.Took)))
	w.hang("", 0, "It would "+v.what())
	if err := v.counts(); err != nil {
		return err
	}
	w.line("")
	w.field("plan", v.ran())
	w.problems(v.Result.Problems)
	w.field("since then", v.since())
	if v.Archive > 0 {
		w.field("archive", v.archive())
	}
	w.field("undo", v.undo())
	for _, warning := range v.Warnings[:min(len(v.Warnings), topFew)] {
		w.field("warning", fmt.Sprintf("%s: %s", objects(warning.Count), shortened(warning.Text)))
	}
	w.more(int64(len(v.Warnings) - topFew))
	for _, n := range v.notes() {
		w.field("note", n)
	}
	v.cannot(w)
	w.line("")
	w.line("Nothing was changed: this ran on a throwaway etcd, which is gone.")
	return nil
}

// what the plan is about.
func (v *rehearsalView) what() string {
	verb := "put back"
	if v.Header.Operation == operationDelete {
		verb = "delete"
	}
	return fmt.Sprintf("%s %s (%s)", verb, objects(v.Steps), term.Bytes(v.Bytes))
}

// counts prints how many objects there were and are.
func (v *rehearsalView) counts() error {
	inv := v.r.inv
	t := inv.table()
	row := func(c rehearse.Count) {
		cells := []string{inv.number(c.Before), inv.number(c.After), signed(inv.number(c.After-c.Before), c.After > c.Before), inv.number(c.Changed)}
		t.Row(append([]string{term.Clean(shortened(c.Name))}, cells...)...)
	}
	t.Header("OBJECTS", "BEFORE", "AFTER", "MORE", "REPLACED")
	e := v.Effect
	few := e.Resources[:min(len(e.Resources), mostRehearsed)]
	for _, c := range few {
		row(c)
	}
	if rest := e.Resources[len(few):]; len(rest) > 0 {
		row(together(fmt.Sprintf("%s more that change", term.Plural(int64(len(rest)), "resource")), rest))
	}
	if e.Untouched > 0 {
		row(rehearse.Count{Name: fmt.Sprintf("all else, %s", term.Plural(e.Untouched, "resource")), Before: e.Kept, After: e.Kept})
	}
	for _, c := range e.Namespaces[:min(len(e.Namespaces), topFew)] {
		c.Name = "in namespace " + c.Name
		row(c)
	}
	if rest := e.Namespaces[min(len(e.Namespaces), topFew):]; len(rest) > 0 {
		row(together(fmt.Sprintf("in %s more", term.Plural(int64(len(rest)), "namespace")), rest))
	}
	return t.Flush()
}

// mostRehearsed is how many resources get a line on screen.
const mostRehearsed = 10

func together(name string, counts []rehearse.Count) rehearse.Count {
	all := rehearse.Count{Name: name}
	for _, c := range counts {
		all.Before += c.Before
		all.After += c.After
		all.Changed += c.Changed
	}
	return all
}

func signed(number string, more bool) string {
	if more {
		return "+" + number
	}
	return number
}

// ran says how the steps ended.
func (v *rehearsalView) ran() string {
	c := v.Result.Counts
	var parts []string
	for o, n := range c {
		name := apply.Outcome(o).String()
		switch outcome := apply.Outcome(o); {
		case outcome == apply.Skipped || outcome == apply.Failed:
			continue
		case n == 0:
			continue
		case outcome == apply.Created:
			name = "put back"
		case outcome == apply.Gone:
			name = "already gone"
		case outcome == apply.Present:
			name = "there already"
		}
		parts = append(parts, term.Count(n)+" "+name)
	}
	parts = append(parts, term.Count(c[apply.Skipped])+" skipped", term.Count(c[apply.Failed])+" failed")
	if n := v.Result.Remaining(); n > 0 {
		parts = append(parts, term.Count(n)+" not begun")
	}
	text := fmt.Sprintf("%s, in %s as fast as it goes", joinWords(parts), term.Duration(v.Ran))
	if v.Result.Stopped != nil {
		text += "; it stopped, because " + v.Result.Stopped.Error()
	}
	return text
}

// since says what the snapshot has that the plan did not see.
func (v *rehearsalView) since() string {
	d := v.Drift
	if d.Changed+d.Missing+d.There == 0 {
		return fmt.Sprintf("every object is as the plan saw it at revision %d", v.Header.Revision)
	}
	var parts []string
	add := func(n int64, what string) {
		if n > 0 {
			parts = append(parts, objects(n)+" "+what)
		}
	}
	changed := "changed, and were judged again"
	if v.Header.Operation != operationDelete {
		changed = "changed, and are left alone"
	} else if v.r.inv.Bool(flagStrict) {
		changed = "changed, and are skipped (--" + flagStrict + ")"
	}
	add(d.Changed, changed)
	add(d.Missing, "not there")
	add(d.There, "there that were not")
	return fmt.Sprintf("%s, first %s; the plan was made at revision %d", joinWords(parts), shortened(d.Keys[0]), v.Header.Revision)
}

func (v *rehearsalView) archive() string {
	text := term.Bytes(v.Archive)
	dir := absolute(".")
	if free, ok := freeSpace(dir); ok {
		text += fmt.Sprintf("; %s are free in %s", term.Bytes(free), dir)
		if free < v.Archive {
			text += ", which is too little: --" + flagArchiveDir + " of apply names another place"
		}
	}
	return text
}

// undo says what undoing has shown.
func (v *rehearsalView) undo() string {
	u, e := v.Undo, v.Effect
	switch {
	case u == nil && e.Gone+e.Replaced > 0:
		return "NOT proven: nothing was archived"
	case u == nil:
		return "nothing was deleted or replaced, so that there is nothing to undo"
	}
	var parts []string
	if e.Gone > 0 {
		are := "are"
		if e.Gone == 1 {
			are = "is"
		}
		parts = append(parts, fmt.Sprintf("%s of %s %s back with identical bytes", term.Count(u.Back), objects(e.Gone), are))
	}
	if e.Replaced > 0 {
		parts = append(parts, fmt.Sprintf("the former bytes of %s of %s replaced are in the archive, for put-back --replace",
			term.Count(u.Held), objects(e.Replaced)))
	}
	text := fmt.Sprintf("%s, in %s", strings.Join(parts, "; "), term.Duration(u.Took))
	if !v.Proven() {
		return "NOT proven: " + text
	}
	return "proven: " + text + "; " + v.rest()
}

// rest says that nothing else was touched.
func (v *rehearsalView) rest() string {
	e := v.Effect
	return fmt.Sprintf("%s else untouched", objects(e.Total.Before-e.Gone-e.Replaced))
}

// unproven says what is wrong.
func (v *rehearsalView) unproven() string {
	if v.Effect.Strays != 0 {
		return fmt.Sprintf("the store differs from the snapshot by %d keys more than the plan's steps explain", v.Effect.Strays)
	}
	if v.Undo == nil {
		return "nothing was archived"
	}
	text := fmt.Sprintf("%s not as before", objects(v.Undo.Lost))
	if len(v.Undo.Keys) > 0 {
		text += ", first " + shortened(v.Undo.Keys[0])
	}
	if c := v.Undo.Result; c.Stopped != nil {
		text += "; undo stopped, because " + c.Stopped.Error()
	}
	return text
}

// notes are what is odd.
func (v *rehearsalView) notes() []string {
	notes := []string{}
	if v.Expired != nil {
		notes = append(notes, "apply would refuse it: "+v.Expired.Error()+" (--"+flagMaxPlanAge+")")
	}
	if v.Unidentified && v.r.taken == "" {
		notes = append(notes, "a snapshot of the etcd for events does not tell which cluster it is of: that was not checked")
	}
	if len(v.Alarms) > 0 {
		notes = append(notes, "the snapshot carries the alarm "+joinWords(v.Alarms)+", which was switched off here: the cluster's own etcd may take no changes, or no puts")
	}
	if u := v.Undo; u != nil && u.Leased > 0 {
		notes = append(notes, fmt.Sprintf("%s of them had a lease (events): undo puts them back only with --%s", objects(u.Leased), flagWithLeased))
	}
	if n := v.expired(); n > 0 {
		notes = append(notes, fmt.Sprintf("%s went of themselves, because nobody renews their leases here", objects(n)))
	}
	return notes
}

func (v *rehearsalView) expired() int64 {
	n := v.Effect.Expired
	if v.Undo != nil {
		n += v.Undo.Expired
	}
	return n
}

// cannot says what happens of itself where the plan is really carried out.
func (v *rehearsalView) cannot(w writer) {
	next := v.next()
	if len(next) == 0 {
		return
	}
	w.line("")
	w.line("What this cannot show, as no API server or controller runs here: in the cluster")
	for _, c := range next {
		text := c.Text
		if c.Resource != "" {
			text = c.Resource + ": " + text
		}
		w.hang("  ", 4, text)
	}
}

func (v *rehearsalView) document() map[string]any {
	h, d, c := v.Header, v.Drift, v.Result.Counts
	problems := []any{}
	for _, p := range v.Result.Problems {
		problems = append(problems, map[string]any{"key": p.Step.Key, "outcome": p.Outcome.String(), "why": p.Why})
	}
	doc := map[string]any{
		"version": 1, "kind": "rehearsal", "operation": h.Operation, "run": h.Run, "cluster": h.ClusterUID,
		"plan": absolute(v.r.p.Path()), "planRevision": h.Revision, "revision": v.Revision, "live": v.r.taken != "",
		"objects": v.Steps, "bytes": v.Bytes,
		"drift": map[string]any{"same": d.Same, "changed": d.Changed, "missing": d.Missing, "there": d.There, "keys": append([]string{}, d.Keys...)},
		"steps": c, "remaining": v.Result.Remaining(), "problems": problems, "warned": append([]rehearse.Warning{}, v.Warnings...),
		"total": v.Effect.Total, "resources": v.Effect.Resources, "namespaces": v.Effect.Namespaces,
		"otherResources": v.Effect.Untouched, "otherObjects": v.Effect.Kept,
		"gone": v.Effect.Gone, "replaced": v.Effect.Replaced, "made": v.Effect.Made, "expired": v.expired(), "strays": v.Effect.Strays,
		"done": v.Done(), "proven": v.Proven(), "archiveBytes": v.Archive,
		"notes": v.notes(), "next": v.next(), "changed": false,
		"milliseconds": map[string]any{"restore": v.Restored.Milliseconds(), "run": v.Ran.Milliseconds(), "all": v.Took.Milliseconds()},
	}
	if v.r.taken == "" {
		doc["snapshot"] = absolute(v.r.file.Path())
	}
	if v.Result.Stopped != nil {
		doc["stopped"] = v.Result.Stopped.Error()
	}
	if u := v.Undo; u != nil {
		doc["undo"] = map[string]any{
			"steps": u.Result.Counts, "back": u.Back, "held": u.Held, "leased": u.Leased, "lost": u.Lost,
			"keys": append([]string{}, u.Keys...), "milliseconds": u.Took.Milliseconds(),
		}
	}
	return doc
}
