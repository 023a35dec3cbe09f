package app

import (
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

// preview is what a write would do, for people and for JSON.
type preview struct {
	operation string // delete, undo or put-back
	sum       *plan.Summary
	selection string
	revision  int64
	now       time.Time
	pace      pacing
	archive   string // folder of the archive, "" for none
	free      int64  // bytes there, -1 unknown
	shared    string // data directory of a local etcd on the same device
	planPath  string
	notes     []string
	commands  func(plan.LiveOwner) string
	// asking says that the question follows, so "nothing was changed" would
	// be out of place.
	asking bool
	file   string        // that was read instead of etcd, "" for none
	plane  *controlPlane // nil with a file
	fields []previewField
	differ *differences   // of a put-back
	from   string         // the file of a put-back
	more   map[string]any // what the document has beside
}

// previewField is a line of a preview.
type previewField struct{ label, text string }

// add puts something into the document of a preview.
func (pv *preview) add(name string, value any) {
	if pv.more == nil {
		pv.more = map[string]any{}
	}
	pv.more[name] = value
}

// topFew is how many lines a property gets on screen.
const topFew = 5

func (d *deletion) newPreview(sum *plan.Summary, rev int64, planPath string) *preview {
	pace, _ := d.inv.pace() // checked before
	pv := &preview{
		operation: operationDelete, sum: sum, selection: d.sel.String(), revision: rev, now: d.now(), pace: pace,
		planPath: planPath, free: -1, commands: d.ownerCommand, plane: d.plane,
	}
	if d.file == nil {
		pv.locate(d.inv)
	} else {
		pv.file = d.file.Path()
	}
	d.describeContents(pv)
	return pv
}

// now is the time that the preview's ages count from.
func (d *deletion) now() time.Time {
	if d.file != nil && !d.newest.IsZero() {
		return d.newest
	}
	return d.inv.Now()
}

// ownerCommand is the command that deletes an owner first.
func (d *deletion) ownerCommand(o plan.LiveOwner) string {
	words := "etcd-rescue delete " + o.Resource + " " + quoteWord(o.Name)
	if o.Namespace != "" {
		words += " -n " + quoteWord(o.Namespace)
	}
	return words + " --execute" + d.inv.connectionWords()
}

func (pv *preview) locate(inv *invocation) {
	pv.archive = absolute(inv.String(flagArchiveDir))
	if free, ok := freeSpace(pv.archive); ok {
		pv.free = free
	}
	pv.shared = sharedEtcdDevice(inv.Root, pv.archive)
}

func (inv *invocation) showPreview(pv *preview) error {
	if inv.format() != "table" {
		return inv.document(pv.document())
	}
	pv.write(inv.Streams.Out, width(inv.Streams.OutWidth))
	return nil
}

// writer prints the lines of a preview.
type writer struct {
	io.Writer
	columns int
}

func (w writer) line(format string, args ...any) {
	fmt.Fprintln(w, cleanLines(fmt.Sprintf(format, args...)))
}

// hang prints text behind a lead, with indent columns left free before each
// further line.
func (w writer) hang(lead string, indent int, text string) {
	for line := range strings.SplitSeq(term.Wrap(text, w.columns-indent), "\n") {
		w.line("%s%s", lead, line)
		lead = strings.Repeat(" ", indent)
	}
}

// field prints a label and its text, wrapped under itself.
func (w writer) field(label, text string) {
	const left = 13
	w.hang(fmt.Sprintf("  %-*s", left-2, label), left, text)
}

func (pv *preview) write(out io.Writer, columns int) {
	w := writer{out, columns}
	sum := pv.sum
	verb := "delete"
	if pv.puts() {
		verb = "put back"
	}
	if sum.Steps == 0 {
		w.line("Would %s nothing: %s", verb, pv.nothing())
		pv.where(w)
	} else {
		w.line("Would %s %s (%s), read at revision %d", verb, objects(sum.Steps), term.Bytes(sum.Bytes), pv.revision)
		pv.properties(w)
		pv.makers(w)
		pv.order(w, verb)
		pv.cost(w)
		if pv.plane != nil {
			w.field("alive", pv.plane.String())
		}
	}
	pv.differ.write(w)
	pv.warnings(w)
	pv.next(w)
	if pv.planPath != "" && !pv.asking {
		w.line("")
		w.field("plan", pv.planPath)
		w.field("", "carry it out with: etcd-rescue apply "+quoteWord(pv.planPath)+" --execute")
	}
	if pv.asking {
		w.line("")
		return
	}
	w.line("")
	w.line("%s", pv.ending())
}

// puts tells whether objects are put back.
func (pv *preview) puts() bool { return pv.operation != operationDelete }

// archives tells whether bytes have to be archived first.
func (pv *preview) archives() bool {
	return pv.archive != "" && (pv.operation == operationDelete || pv.sum.Replacing > 0)
}

// archived is what they take on disk.
func (pv *preview) archived() int64 {
	if pv.puts() {
		return archiveSize(&plan.Summary{Steps: pv.sum.Replacing, Bytes: pv.sum.ReplacedBytes})
	}
	return archiveSize(pv.sum)
}

// ending is the last line of every preview.
func (pv *preview) ending() string {
	switch {
	case pv.file != "":
		return "Nothing was changed; this was read from " + pv.file + "."
	case pv.sum.Steps > 0 && (len(pv.sum.Blocked) == 0 || pv.puts()) && pv.planPath == "":
		return "Nothing was changed. Add --execute to do it."
	}
	return "Nothing was changed."
}

func (pv *preview) nothing() string {
	switch {
	case pv.operation == operationPutBack:
		return pv.nothingMissing()
	case len(pv.sum.Blocked) > 0:
		return "all of it is blocked"
	case pv.operation == operationUndo:
		return "the archive holds nothing that is missing"
	}
	return "no object is selected by " + pv.selection
}

func (pv *preview) properties(w writer) {
	sum := pv.sum
	for _, p := range []struct {
		label string
		tally plan.Tally
	}{
		{"resource", sum.Resources},
		{"namespace", sum.Namespaces},
		{"owner", sum.Owners},
		{"phase", sum.Phases},
		{"node", sum.Nodes},
		{"stored as", sum.Statuses},
	} {
		if !p.tally.Empty() {
			w.field(p.label, shares(p.tally))
		}
	}
	if sum.Oldest.Name != "" {
		w.field("oldest", pv.aged(sum.Oldest))
		w.field("newest", pv.aged(sum.Newest))
	}
	pv.where(w)
	for _, f := range pv.fields {
		w.field(f.label, f.text)
	}
	if !sum.Finalizers.Empty() && pv.operation == operationDelete {
		w.field("finalizers", shares(sum.Finalizers)+"; a delete in etcd does not wait for them")
	}
}

// where says where puts take their bytes from.
func (pv *preview) where(w writer) {
	if pv.from != "" {
		w.line("  %-11s%s", "from", pv.from) // a path is never wrapped
	}
}

func (pv *preview) aged(a plan.Aged) string {
	return fmt.Sprintf("%s ago, %s: %s", duration.HumanDuration(pv.now.Sub(a.Created)), a.Created.UTC().Format(time.RFC3339), a.Name)
}

// shares names the largest few of a tally.
func shares(t plan.Tally) string {
	largest, rest := t.Largest(topFew)
	var parts []string
	for _, s := range largest {
		parts = append(parts, s.Name+" "+term.Count(s.Count))
	}
	text := strings.Join(parts, ", ")
	if rest.Approximate {
		return "about " + text + fmt.Sprintf(", and about %s more with %s", term.Count(rest.Names), term.Count(rest.Count))
	}
	if rest.Names > 0 {
		text += fmt.Sprintf(", and %s more with %s", term.Count(rest.Names), term.Count(rest.Count))
	}
	return text
}

func (pv *preview) makers(w writer) {
	var open, planned []plan.LiveOwner
	for _, m := range pv.sum.Makers {
		if m.Planned {
			planned = append(planned, m)
		} else {
			open = append(open, m)
		}
	}
	if all := pv.sum.MakersTotal - pv.sum.MakersPlanned; all > 0 {
		w.line("")
		w.line("Still there, and would make them again:")
		for _, m := range open[:min(len(open), topFew)] {
			pv.maker(w, m)
		}
		w.more(all - topFew)
	}
	if all := pv.sum.MakersPlanned; all > 0 {
		w.line("")
		w.line("Owners that go first, and would otherwise make them again:")
		for _, m := range planned[:min(len(planned), topFew)] {
			w.line("  %s (%s of these)", ownerName(m), term.Count(m.Makes))
		}
		w.more(all - topFew)
	}
}

// more says how many lines were left out.
func (w writer) more(n int64) {
	if n > 0 {
		w.line("  and %s more", term.Count(n))
	}
}

func (pv *preview) maker(w writer, m plan.LiveOwner) {
	w.line("  %s (%s of these)", ownerName(m), term.Count(m.Makes))
	if m.Kubelet {
		w.line("    its kubelet makes them from static manifests; the Node is never deleted for it")
		return
	}
	if m.Unreadable {
		w.line("    its value cannot be read, so that it is not deleted for it")
		return
	}
	if pv.commands != nil {
		w.line("    delete it first: %s", pv.commands(m))
		if m.Resource == "namespace" {
			w.line("    that takes all that is in it along, so that --with-owners leaves it")
			return
		}
		w.line("    or in one go:    add --with-owners")
	}
}

func ownerName(m plan.LiveOwner) string {
	if m.Namespace == "" {
		return m.Resource + " " + m.Name
	}
	return m.Resource + " " + m.Namespace + "/" + m.Name
}

func (pv *preview) order(w writer, verb string) {
	w.line("")
	w.line("Order")
	for i, st := range pv.sum.Stages {
		w.line("  %d. %s %s", i+1, verb, kinds(st.Steps, st.What))
	}
	w.line("First of them")
	for _, s := range pv.sum.First {
		w.line("  %s", s)
	}
	w.more(pv.sum.Steps - int64(len(pv.sum.First)))
	w.line("")
}

// kinds is a number of objects of a kind: "2 jobs.batch.volcano.sh".
func kinds(n int64, what string) string {
	word, group, grouped := strings.Cut(what, ".")
	text := term.Count(n) + " " + word
	if word != "endpoints" {
		text = term.Plural(n, word)
	}
	if grouped {
		text += "." + group
	}
	return text
}

func (pv *preview) cost(w writer) {
	w.field("time", pv.pace.time(pv.sum.Steps, pv.plane.served()))
	if !pv.archives() {
		return
	}
	text := fmt.Sprintf("about %s in %s", term.Bytes(pv.archived()), pv.archive)
	if pv.free >= 0 {
		text += fmt.Sprintf(", where %s are free", term.Bytes(pv.free))
	}
	w.field("archive", text)
}

func (pv *preview) warnings(w writer) {
	sum := pv.sum
	warn := func(format string, args ...any) { w.field("warning", fmt.Sprintf(format, args...)) }
	if pv.shared != "" && sum.Steps > 0 && pv.archives() {
		warn("the archive would share the disk of etcd's own data (%s): its writes slow etcd down; --archive-dir names another place", pv.shared)
	}
	if pv.archives() && pv.free >= 0 && pv.archived() > pv.free {
		warn("that is more than is free there: nothing would be changed")
	}
	blocked := "blocked"
	if pv.puts() {
		blocked += " and left out" // the others are put back all the same
	}
	for _, b := range sum.Blocked {
		text := fmt.Sprintf("%s %s: %s", objects(b.Count), blocked, b.Reason)
		if b.Allow != "" {
			text += " (" + b.Allow + ")"
		}
		warn("%s", text)
	}
	for _, v := range sum.Warned {
		warn("%s: %s", objects(v.Count), v.Reason)
	}
	for _, v := range sum.PutWarnings {
		warn("%s", putWarning(v))
	}
	for _, n := range pv.allNotes() {
		w.field("note", n)
	}
}

// allNotes adds how etcd is.
func (pv *preview) allNotes() []string {
	if pv.plane == nil {
		return pv.notes
	}
	return append(pv.plane.health.notes(pv.puts()), pv.notes...)
}

// next says what happens of itself afterwards.
func (pv *preview) next(w writer) {
	if pv.plane == nil || pv.sum.Steps == 0 {
		return
	}
	w.line("")
	w.line("What happens next")
	for _, c := range pv.plane.aftermath(pv.operation, pv.sum) {
		text := c.Text
		if c.Resource != "" {
			text = c.Resource + ": " + text
		}
		w.hang("  ", 4, text)
	}
}

func (pv *preview) document() map[string]any {
	sum := pv.sum
	doc := map[string]any{
		"version": 1, "kind": "preview", "operation": pv.operation, "revision": pv.revision,
		"objects": sum.Steps, "bytes": sum.Bytes, "undecided": sum.Undecided,
		"owners": append([]plan.LiveOwner{}, sum.Makers...), "blocked": append([]plan.Blocked{}, sum.Blocked...),
		"warned": append([]plan.Warned{}, sum.Warned...),
		"stages": append([]plan.StageInfo{}, sum.Stages...), "first": stepNames(sum.First), "notes": append([]string{}, pv.allNotes()...),
		"changed": false,
	}
	addShares(doc, sum)
	if pv.plane != nil {
		doc["alive"], doc["next"] = pv.plane.View, append([]plan.Consequence{}, pv.plane.aftermath(pv.operation, sum)...)
	}
	maps.Copy(doc, pv.more)
	if more := sum.MakersTotal - int64(len(sum.Makers)); more > 0 {
		doc["otherOwners"] = more
	}
	if sum.Oldest.Name != "" {
		doc["oldest"], doc["newest"] = sum.Oldest, sum.Newest
	}
	pv.pace.document(doc, sum.Steps, pv.plane.served())
	if pv.archives() {
		archive := map[string]any{"dir": pv.archive, "bytes": pv.archived()}
		if pv.free >= 0 {
			archive["free"] = pv.free
		}
		doc["archive"] = archive
	}
	if pv.puts() {
		doc["present"], doc["differing"], doc["differingKeys"] = sum.Present, sum.Differing, append([]string{}, sum.DifferingKeys...)
		doc["leased"], doc["superseded"], doc["owned"] = sum.Leased, sum.Superseded, sum.Owned
	}
	if pv.operation == operationPutBack {
		doc["replacing"], doc["putWarnings"] = sum.Replacing, append([]plan.PutWarning{}, sum.PutWarnings...)
	}
	if pv.differ != nil {
		doc["compared"], doc["moreCompared"] = pv.differ.document(), pv.differ.more
	}
	if pv.planPath != "" {
		doc["plan"] = pv.planPath
	}
	return doc
}

// mostShares is how many lines of a property a document holds.
const mostShares = 1000

// addShares adds what the objects are by each property, and what is left out.
func addShares(doc map[string]any, sum *plan.Summary) {
	by, others := map[string]any{}, map[string]plan.Rest{}
	for name, tally := range map[string]plan.Tally{
		"resource": sum.Resources, "namespace": sum.Namespaces, "owner": sum.Owners,
		"phase": sum.Phases, "node": sum.Nodes, "finalizer": sum.Finalizers, "stored": sum.Statuses,
	} {
		shares, rest := tally.Largest(mostShares)
		if by[name] = shares; rest != (plan.Rest{}) {
			others[name] = rest
		}
	}
	if doc["by"] = by; len(others) > 0 {
		doc["others"] = others
	}
}

func stepNames(steps []plan.Step) []string {
	names := []string{}
	for _, s := range steps {
		names = append(names, s.String())
	}
	return names
}
