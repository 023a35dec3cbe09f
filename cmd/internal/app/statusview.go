package app

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

// notKnown stands for what is not known, or not there.
const notKnown = "-"

// show prints the report.
func (r *statusReport) show() error {
	inv := r.st.inv
	for _, e := range r.etcds {
		for _, w := range e.warnings {
			inv.say("warning: %s", w)
		}
	}
	if inv.format() != formatTable && inv.format() != formatWide {
		return inv.document(r.document())
	}
	w := writer{inv.Streams.Out, width(inv.Streams.OutWidth)}
	for i, e := range r.etcds {
		if i > 0 {
			w.line("")
		}
		if err := r.showEtcd(w, e); err != nil {
			return err
		}
	}
	return nil
}

// showEtcd prints one etcd, the main one with what is beside it.
func (r *statusReport) showEtcd(w writer, e *etcdStatus) error {
	wide := r.st.inv.format() == formatWide
	if r.st.inv.Streams.OutTTY {
		w.hang("", 0, r.headline(e))
	} else {
		w.line("%s", r.headline(e)) // one line, for who looks for it
	}
	r.showReasons(w, e, wide)
	if len(e.Members) > 0 {
		w.line("")
		if err := r.tables(e, wide, w); err != nil {
			return err
		}
	}
	if e.name != etcdMain {
		return nil
	}
	w.line("")
	r.showBeside(w, e, wide)
	return nil
}

// headline is "etcd is healthy: 3 of 3 members answer, m0 leads, revision 7".
func (r *statusReport) headline(e *etcdStatus) string {
	what, word := "etcd", r.wordOf(e)
	if e.name == etcdEvents {
		what = "the etcd for events"
	}
	if word != verdictHealthy {
		word = strings.ToUpper(word)
	}
	text := fmt.Sprintf("%s is %s: ", what, word)
	if e.Kine {
		return text + "kine, which has no members; " + answerText(e.answering(), len(e.given), "endpoint")
	}
	if len(e.Members) == 0 {
		return text + fmt.Sprintf("none of %s answers", term.Plural(int64(len(e.given)), "endpoint"))
	}
	text += answerText(e.answering(), len(e.Members), "member") + ", " + e.leaderText()
	if rev := e.revision(); rev > 0 {
		text += ", revision " + term.Count(rev)
	}
	return text
}

// leaderText says who leads. A member that knows one does not tell whether that
// still has a quorum; that a read works which takes one, does.
func (e *etcdStatus) leaderText() string {
	voter := slices.ContainsFunc(e.Members, func(m etcdmembers.Surveyed) bool { return m.Answers() && !m.Learner })
	leader := e.Leader()
	switch {
	case e.Quorum && leader != nil:
		return leader.Label() + " leads"
	case e.Quorum || !voter:
		return "the leader is not known"
	}
	return "no leader"
}

// answerText is "2 of 3 members answer".
func answerText(n, all int, noun string) string {
	verb := "answer"
	if n == 1 {
		verb = "answers"
	}
	return fmt.Sprintf("%d of %s %s", n, term.Plural(int64(all), noun), verb)
}

// wordOf is the verdict of one etcd: certificates count for the main one.
func (r *statusReport) wordOf(e *etcdStatus) string {
	switch {
	case !e.Answers():
		return verdictUnreachable
	case slices.ContainsFunc(r.reasons, func(reason statusReason) bool { return reason.of(e) }):
		return verdictDegraded
	}
	return verdictHealthy
}

// of says that a reason is told with an etcd.
func (reason statusReason) of(e *etcdStatus) bool {
	return reason.etcd == e.name || reason.etcd == "" && e.name == etcdMain
}

func (e *etcdStatus) answering() int {
	n := 0
	for _, m := range e.Members {
		if m.Answers() {
			n++
		}
	}
	return n
}

// revision is the newest that any member knows.
func (e *etcdStatus) revision() int64 {
	var rev int64
	for _, m := range e.Members {
		rev = max(rev, m.Revision)
	}
	return rev
}

// mostReasons is how many reasons a screen takes.
const mostReasons = 8

// showReasons says why not all is well. Reasons of certificates belong to no
// etcd, and stand with the main one.
func (r *statusReport) showReasons(w writer, e *etcdStatus, all bool) {
	var lines []string
	for _, reason := range r.reasons {
		if reason.of(e) {
			lines = append(lines, reason.Text)
		}
	}
	left := 0
	if !all && len(lines) > mostReasons {
		lines, left = lines[:mostReasons], len(lines)-mostReasons
	}
	for _, text := range lines {
		w.item(text)
	}
	if left > 0 {
		w.line("  … and %d more (-o wide)", left)
	}
	if !e.Answers() {
		r.showHints(w, e)
	}
}

// showHints says what to do about endpoints that do not answer, beside what is
// said at the end.
func (r *statusReport) showHints(w writer, e *etcdStatus) {
	said := map[string]bool{"": true, r.connectHint(): true}
	for _, s := range e.Silent {
		if hint := hintOf(s.Err); !said[hint] {
			said[hint] = true
			w.item("hint: " + hint)
		}
	}
}

// item prints a text behind a dash, wrapped under itself.
func (w writer) item(text string) {
	mark := "- "
	for _, line := range strings.Split(term.Wrap(term.Clean(text), w.columns-4), "\n") {
		w.line("  %s%s", mark, line)
		mark = "  "
	}
}

func hintOf(err error) string {
	if e, ok := errors.AsType[*connect.Error](err); ok {
		return e.Hint
	}
	return ""
}

// column is one column of the members' tables.
type column struct {
	name string
	of   func(m *etcdmembers.Surveyed) string
}

// tables prints the members: as three tables that fit a terminal, or in wide
// as one.
func (r *statusReport) tables(e *etcdStatus, wide bool, w writer) error {
	who, space, raft := r.columns(e)
	name := column{"MEMBER", label}
	tables := [][]column{append([]column{name}, who...), append([]column{name}, space...), append([]column{name}, raft...)}
	switch {
	case e.Kine:
		tables = [][]column{columnsNamed(slices.Concat(who, space, raft), "ENDPOINT", "VERSION", "DB", "REVISION", "LINEARIZABLE")}
	case wide:
		tables = [][]column{append(append(tables[0], space...), raft...)}
	}
	for i, columns := range tables {
		if i > 0 {
			w.line("")
		}
		t := r.st.inv.table()
		if columns[0].name == name.name && !wide {
			r.st.inv.fit(t, w, 0)
		}
		var names []string
		for _, c := range columns {
			names = append(names, c.name)
		}
		t.Header(names...)
		for j := range e.Members {
			var cells []string
			for _, c := range columns {
				cells = append(cells, cmp.Or(c.of(&e.Members[j]), notKnown))
			}
			t.Row(cells...)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// columnsNamed are those with these names.
func columnsNamed(all []column, names ...string) []column {
	return slices.DeleteFunc(all, func(c column) bool { return !slices.Contains(names, c.name) })
}

func label(m *etcdmembers.Surveyed) string { return m.Label() }

// columns are those of who the members are, of their space, and of raft.
func (r *statusReport) columns(e *etcdStatus) (who, space, raft []column) {
	inv := r.st.inv
	type member = *etcdmembers.Surveyed
	// Of one that did not answer nothing of this is known.
	answered := func(of func(m member) string) func(m member) string {
		return func(m member) string {
			if !m.Answers() {
				return ""
			}
			return of(m)
		}
	}
	who = []column{
		{"ID", func(m member) string { return hexID(m.ID) }},
		{"ENDPOINT", func(m member) string {
			return cmp.Or(m.Endpoint, strings.Join(m.ClientURLs[:min(1, len(m.ClientURLs))], ""))
		}},
		{"ROLE", role},
		{"VERSION", func(m member) string { return m.Version }},
	}
	space = []column{
		{"DB", answered(func(m member) string { return inv.size(m.DBSize) })},
		{"IN USE", answered(func(m member) string { return inv.size(m.InUse) })},
		{"QUOTA", answered(func(m member) string { return quotaText(inv, m) })},
		{"FULL", answered(func(m member) string { return fullText(m.Full()) })},
		{"FSYNC", func(m member) string { return latencyText(m.Disk.Fsync) }},
		{"COMMIT", func(m member) string { return latencyText(m.Disk.Commit) }},
		{"ALARMS", func(m member) string { return e.alarms(m.ID) }},
	}
	raft = []column{
		{"TERM", answered(func(m member) string { return strconv.FormatUint(m.Term, 10) })},
		{"INDEX", answered(func(m member) string { return inv.number(int64(m.Index)) })},
		{"LAG", answered(func(m member) string { return inv.number(int64(max(m.Behind, m.Index-min(m.Applied, m.Index)))) })},
		{"REVISION", answered(func(m member) string {
			if m.Revision == 0 { // who may not read is told none
				return notKnown
			}
			return inv.number(m.Revision)
		})},
		{"LINEARIZABLE", answered(func(m member) string { return readText(m.Linearizable) })},
		{"SERIALIZABLE", answered(func(m member) string { return readText(m.Serializable) })},
	}
	return who, space, raft
}

func hexID(id uint64) string {
	if id == 0 {
		return ""
	}
	return strconv.FormatUint(id, 16)
}

// role is what a member is in raft.
func role(m *etcdmembers.Surveyed) string {
	switch {
	case !m.Answers() && len(m.ClientURLs) == 0:
		return "not started"
	case !m.Answers():
		return "no answer"
	case m.ID == 0:
		return ""
	case m.Learner:
		return "learner"
	case m.IsLeader():
		return "leader"
	case m.Leader == 0:
		return "no leader"
	}
	return "follower"
}

func quotaText(inv *invocation, m *etcdmembers.Surveyed) string {
	switch {
	case m.Quota < 0:
		return "none"
	case m.Quota == 0:
		return "unknown"
	}
	return inv.size(m.Quota)
}

func fullText(n int) string {
	if n < 0 {
		return ""
	}
	return strconv.Itoa(n) + "%"
}

func latencyText(l etcdmembers.Latency) string {
	switch {
	case l.Count == 0:
		return ""
	case l.P99 == 0:
		return ">" + term.Duration(l.Longest)
	}
	return term.Duration(l.P99)
}

func readText(r etcdmembers.Read) string {
	switch {
	case r.Err != nil:
		return "fails"
	case r.Took == 0:
		return ""
	}
	return term.Duration(r.Took.Round(10 * time.Microsecond))
}

// alarms are those that a member has raised.
func (e *etcdStatus) alarms(id uint64) string {
	var words []string
	for _, a := range e.allAlarms() {
		if a.Member == id {
			words = append(words, a.Type)
		}
	}
	return strings.Join(words, ",")
}

func (e *etcdStatus) allAlarms() []etcdmembers.Alarm {
	all := make([]etcdmembers.Member, 0, len(e.Members))
	for _, m := range e.Members {
		all = append(all, m.Member)
	}
	return etcdmembers.Alarms(all)
}

// showBeside prints what is known beside the members.
func (r *statusReport) showBeside(w writer, e *etcdStatus, wide bool) {
	switch {
	case e.plane != nil:
		w.field("alive", e.plane.String())
	case e.planeErr != nil:
		w.field("alive", fmt.Sprintf("not known: %v", e.planeErr))
	}
	if e.compaction != nil {
		w.field("compacted", e.compaction.text(r.at))
	}
	if text := e.reclaimable(); text != "" {
		w.field("free", text)
	}
	label := "certs"
	for _, line := range r.certificateLines(wide) {
		w.field(label, term.Clean(line))
		label = ""
	}
	if label != "" {
		w.field(label, "none found, and none served")
	}
}

func (c *compaction) text(now time.Time) string {
	switch {
	case c.err != nil:
		return fmt.Sprintf("not known: %v", c.err)
	case c.revision == 0:
		return "never by an API server"
	}
	text := fmt.Sprintf("to revision %s (%s ago), by an API server", term.Count(c.revision), term.Count(c.head-c.revision))
	if !c.at.IsZero() {
		text += fmt.Sprintf(" about %s ago", term.Duration(now.Sub(c.at)))
	}
	if c.beyond {
		text += "; somebody else has compacted further since"
	}
	return text
}

// reclaimable says where defragmentation is worth it, by its default rule.
func (e *etcdStatus) reclaimable() string {
	var words []string
	for _, m := range e.Members {
		sizes := etcdmembers.SizesOf(m.Member)
		if worth, _ := etcdmembers.Worthwhile(sizes); m.InUse > 0 && worth {
			words = append(words, fmt.Sprintf("%s of %s", term.Bytes(sizes.Free), m.Label()))
		}
	}
	if len(words) == 0 {
		return ""
	}
	return "etcd-rescue defrag would give back about " + joinWords(words)
}
