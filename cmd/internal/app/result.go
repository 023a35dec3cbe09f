package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

// runReport collects what became of a run.
type runReport struct {
	operation string // of the plans that were carried out, "" for none yet
	run       string
	cluster   string
	started   time.Time
	took      time.Duration // without the settle time
	archive   string        // path, "" if nothing was archived
	earlier   string        // path of the same run's archive in another folder, "" for none
	plan      string        // path of the last pass's plan
	journal   string        // path of what was decided, "" if nothing was begun
	passes    []passReport
	left      *leftover
	present   int64 // of puts: were there before it began
	differ    int64 // of puts: there with other bytes before it began
	notes     []string
	ahead     int64  // steps of an approved plan that was not begun yet
	goOn      string // the command that deletes what the bound left, "" for none
	unmake    string // the command that deletes what was created, "" for none
}

type passReport struct {
	plan   string
	result *apply.Result
}

// leftover is what the selection still held after the settle time.
type leftover struct {
	count  int64
	wait   time.Duration
	anew   bool // all of it was made since the last pass
	makers []plan.LiveOwner
	others int64 // makers that are not in the list
}

func (r *runReport) add(plan string, result *apply.Result) {
	r.passes = append(r.passes, passReport{plan, result})
	r.plan, r.ahead = plan, 0
}

// await notes a plan that is to be carried out.
func (r *runReport) await(p *plan.Plan) { r.plan, r.ahead = absolute(p.Path()), p.Trailer().Steps }

// retries is how often a change was tried again.
func (r *runReport) retries() (n int64) {
	for _, p := range r.passes {
		n += p.result.Retries
	}
	return n
}

// resolved is how many answers left open whether a change was made, until
// reading told.
func (r *runReport) resolved() (n int64) {
	for _, p := range r.passes {
		n += p.result.Resolved
	}
	return n
}

func (r *runReport) finished(now time.Time) { r.took = now.Sub(r.started) }

func (r *runReport) begun() bool { return len(r.passes) > 0 }

func (r *runReport) count(o apply.Outcome) int64 {
	var n int64
	for _, p := range r.passes {
		n += p.result.Counts[o]
	}
	return n
}

// lastRemaining is what the last pass did not begin.
func (r *runReport) lastRemaining() int64 {
	if r.ahead > 0 || len(r.passes) == 0 {
		return r.ahead
	}
	return r.passes[len(r.passes)-1].result.Remaining()
}

// undone is what the last pass did not begin, or failed to do: what the same
// plan tries again.
func (r *runReport) undone() int64 {
	if len(r.passes) == 0 {
		return r.lastRemaining()
	}
	return r.lastRemaining() + r.passes[len(r.passes)-1].result.Counts[apply.Failed]
}

// stuck reports that the last pass changed nothing, so another would not
// either.
func (r *runReport) stuck() bool {
	if len(r.passes) == 0 {
		return false
	}
	c := r.passes[len(r.passes)-1].result.Counts
	return c[apply.Deleted]+c[apply.Raced]+c[apply.Created]+c[apply.Replaced]+c[apply.Gone]+c[apply.Before] == 0
}

func (r *runReport) settled(sum *plan.Summary, wait time.Duration) {
	anew := r.count(apply.Skipped)+r.count(apply.Failed) == 0
	r.left = &leftover{count: sum.Steps, wait: wait, anew: anew, makers: sum.Makers, others: sum.MakersTotal - int64(len(sum.Makers))}
}

func (r *runReport) problems() (problems []apply.Problem) {
	for _, p := range r.passes {
		problems = append(problems, p.result.Problems...)
	}
	return problems
}

// conclude shows the report and turns how it went into an exit code.
func (j *job) conclude(err error) error {
	if showErr := j.show(err); showErr != nil {
		return showErr
	}
	return j.verdict(err)
}

// verdict turns how it went into an exit code.
func (j *job) verdict(err error) error {
	r := j.report
	switch {
	case err != nil:
		return err
	case r.count(apply.Raced) > 0:
		return partial("look at them in the archive; undo puts them back", "%s changed just before they were deleted without the guard", objects(r.count(apply.Raced)))
	case r.count(apply.Failed) > 0 || r.count(apply.Skipped) > 0 || r.differ > 0:
		return partial("", "not all was done; failed: %s; changed and skipped: %s",
			objects(r.count(apply.Failed)), objects(r.count(apply.Skipped)+r.differ))
	case r.left != nil && r.left.count > 0:
		return partial("stop what makes them first (--with-owners), then run the same command again", "it has not stopped: the selection finds %s", objects(r.left.count))
	}
	return nil
}

func (j *job) show(err error) error {
	if j.inv.format() != "table" {
		return j.inv.document(j.document(err))
	}
	w := writer{j.inv.Streams.Out, width(j.inv.Streams.OutWidth)}
	r := j.report
	if j.verb == verbDeleting {
		w.line("Deleted %s in %s", objects(r.count(apply.Deleted)+r.count(apply.Raced)), term.Duration(r.took))
		w.counts("already gone", r.count(apply.Gone))
	} else {
		w.line("Put back %s in %s", objects(r.count(apply.Created)+r.count(apply.Replaced)), term.Duration(r.took))
		if r.archive != "" {
			w.counts("of these replaced", r.count(apply.Replaced))
		}
		w.counts("there already", r.count(apply.Present)+r.present)
	}
	if n := r.count(apply.Before); n > 0 {
		w.counts("done before", n)
	}
	w.counts("changed since, skipped", r.count(apply.Skipped)+r.differ)
	w.counts("failed", r.count(apply.Failed))
	w.counts("not begun", r.lastRemaining())
	if j.verb == verbDeleting {
		w.counts("passes", int64(len(r.passes)))
	}
	if n := r.retries(); n > 0 {
		w.counts("tried again", n)
	}
	w.problems(r.problems())
	w.leftover(r.left, err)
	for _, n := range r.notes {
		w.line("%s", term.Wrap(n, w.columns))
	}
	j.paths(w, err)
	return nil
}

func (w writer) counts(label string, n int64) { w.line("  %-24s%s", label, term.Count(n)) }

func (w writer) problems(problems []apply.Problem) {
	for i, p := range problems {
		if i == topFew {
			w.line("  and %s more", term.Count(int64(len(problems)-topFew)))
			return
		}
		w.line("  %s: %s: %s", p.Outcome, p.Step, p.Why)
	}
}

// mostLeft is how many of those that make objects again are named on screen:
// more than of other things, because each is to be stopped by hand.
const mostLeft = 20

func (w writer) leftover(l *leftover, err error) {
	switch {
	case l == nil && err != nil:
		w.line("Whether it stopped was not looked at.")
	case l == nil:
	case l.count == 0 && l.wait == 0:
		w.line("Nothing that is selected is left (looked at once, without waiting).")
	case l.count == 0:
		w.line("It has stopped: after %s nothing that is selected is there.", l.wait)
	default:
		text := fmt.Sprintf("It has NOT stopped: the selection finds %s", objects(l.count))
		if l.wait > 0 {
			text += fmt.Sprintf(" after %s", l.wait)
		}
		if l.anew && l.wait > 0 {
			text += fmt.Sprintf(", %.1f a second", float64(l.count)/l.wait.Seconds())
		}
		w.line("%s", text)
		few := l.makers[:min(len(l.makers), mostLeft)]
		for _, m := range few {
			w.line("  made by %s, which is still there", ownerName(m))
		}
		w.more(int64(len(l.makers)-len(few)) + l.others)
	}
}

// paths ends the report: where the archive is and what undoes it. Paths are
// bare and absolute, one to a line, so that they can be copied and cut out.
func (j *job) paths(w writer, err error) {
	r := j.report
	if r.archive != "" {
		w.line("archive: %s", r.archive)
	}
	if r.earlier != "" {
		w.line("earlier: %s", r.earlier)
	}
	if r.plan != "" {
		w.line("plan:    %s", r.plan)
	}
	if r.journal != "" {
		w.line("journal: %s", r.journal)
	}
	if r.goOn != "" {
		w.line("go on:   %s", r.goOn)
	} else if r.plan != "" && r.undone() > 0 {
		w.line("go on:   %s", j.resumeCommand())
	}
	if r.archive != "" {
		w.line("undo:    %s", j.undoCommand())
	}
	if r.unmake != "" {
		w.line("undo:    %s", r.unmake)
	}
}

// undoCommand puts back what the run has archived.
func (j *job) undoCommand() string {
	if j.verb != verbDeleting {
		return j.replaceCommand()
	}
	archives := quoteWord(j.report.archive)
	if j.report.earlier != "" {
		archives += " " + quoteWord(j.report.earlier)
	}
	return "etcd-rescue undo " + archives + " --execute" + j.words()
}

// replaceCommand puts back what was replaced, also what had a lease: undo leaves
// other bytes alone.
func (j *job) replaceCommand() string {
	command := func(archive string) string {
		return "etcd-rescue put-back --from " + quoteWord(archive) + " --replace --" + flagWithLeased + " --execute" + j.words()
	}
	if j.report.earlier == "" {
		return command(j.report.archive)
	}
	return command(j.report.archive) + " && " + command(j.report.earlier)
}

func (j *job) resumeCommand() string {
	dir := ""
	if j.report.earlier != "" {
		dir = " --" + flagArchiveDir + " " + quoteWord(j.dir)
	}
	return "etcd-rescue apply " + quoteWord(j.report.plan) + " --execute" + dir + j.words()
}

func (j *job) document(err error) map[string]any {
	r := j.report
	operation := r.operation
	switch {
	case operation != "":
	case j.verb == verbDeleting:
		operation = operationDelete
	default:
		operation = operationUndo
	}
	passes := []any{}
	for _, p := range r.passes {
		passes = append(passes, map[string]any{"plan": p.plan, "steps": p.result.Steps, "remaining": p.result.Remaining()})
	}
	problems := []any{}
	for _, p := range r.problems() {
		problems = append(problems, map[string]any{"key": p.Step.Key, "outcome": p.Outcome.String(), "why": p.Why})
	}
	doc := map[string]any{
		"version": 1, "kind": "result", "operation": operation, "run": r.run, "cluster": r.cluster,
		"deleted": r.count(apply.Deleted) + r.count(apply.Raced), "before": r.count(apply.Before), "raced": r.count(apply.Raced), "gone": r.count(apply.Gone), "created": r.count(apply.Created),
		"replaced": r.count(apply.Replaced), "present": r.count(apply.Present) + r.present, "skipped": r.count(apply.Skipped) + r.differ, "failed": r.count(apply.Failed),
		"remaining": r.lastRemaining(), "passes": passes, "problems": problems, "notes": append([]string{}, r.notes...),
		"retries": r.retries(), "resolved": r.resolved(), "milliseconds": r.took.Milliseconds(), "interrupted": errors.Is(err, context.Canceled),
	}
	if r.left != nil {
		left := map[string]any{
			"objects": r.left.count, "afterMilliseconds": r.left.wait.Milliseconds(), "owners": append([]plan.LiveOwner{}, r.left.makers...),
		}
		if r.left.others > 0 {
			left["otherOwners"] = r.left.others
		}
		doc["left"] = left
	}
	if r.plan != "" {
		doc["plan"] = r.plan
	}
	if r.journal != "" {
		doc["journal"] = r.journal
	}
	if r.goOn != "" {
		doc["goOn"] = r.goOn
	}
	if r.unmake != "" {
		doc["deleteCreated"] = r.unmake
	}
	if r.earlier != "" {
		doc["earlierArchive"] = r.earlier
	}
	if r.archive != "" {
		doc["archive"], doc["undo"] = r.archive, j.undoCommand()
	}
	return doc
}
