package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/recover/alive"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/recover/rehearse"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

const flagLive = "live"

func rehearseCommand() *command {
	return &command{
		name: "rehearse", args: "PLAN", minArgs: 1, maxArgs: 1,
		summary: "carry out a plan on a throwaway etcd made from a snapshot",
		about: "Starts an etcd of its own on this machine from the snapshot, carries the plan out there as fast as it goes, says what that leaves, undoes it again, " +
			"and compares what is back with the snapshot, byte for byte. The cluster is not touched; nothing is left behind, unless it is killed while --live takes the snapshot: " +
			"then that is etcd-rescue-rehearse-*.db beside its other files. " +
			"It takes processors and disk of the machine that it runs on, so that it is better not run on a master that has none to spare. " +
			"Its files lie in the directory for temporary files, which TMPDIR names: about twice the snapshot's size and four times that of the objects in the plan.",
		examples: []string{
			"etcd-rescue rehearse failed.jsonl --from backup.db",
			"etcd-rescue rehearse failed.jsonl --live",
			"etcd-rescue rehearse failed.jsonl --from backup.db -o json",
		},
		flags: slices.Concat([]cli.Flag{
			&cli.BoolFlag{Name: flagLive, Usage: "take the snapshot from the cluster first", Category: catSelection},
			fromFlags()[0],
			&cli.BoolFlag{Name: flagStrict, Usage: "skip whatever changed since the plan, instead of judging it again", Category: catPace},
		}, outputFlags("table, json, yaml"), connectionFlags()),
		run: runRehearse,
	}
}

// rehearsing is one call of rehearse.
type rehearsing struct {
	inv *invocation
	p   *plan.Plan
	// s is what the snapshot was opened or taken through: it knows the prefix
	// and the keys for encrypted values.
	s    *session
	file *snapshots.File
	// taken is the file that a live snapshot was written to, "" for none.
	taken string
}

func runRehearse(ctx context.Context, inv *invocation) error {
	if err := inv.checkFormat("table", "json", "yaml"); err != nil {
		return err
	}
	if inv.Bool(flagLive) == (inv.from() != "") {
		return usage("--from FILE names a snapshot, --live takes one first", "rehearse needs either --%s or --%s", flagFrom, flagLive)
	}
	p, err := plan.Open(ctx, inv.args[0])
	if err != nil {
		return err
	}
	defer p.Close()
	r := &rehearsing{inv: inv, p: p}
	err = r.run(ctx)
	return errors.Join(err, r.close())
}

func (r *rehearsing) close() (err error) {
	if r.file != nil && (r.s == nil || r.file != r.s.file) {
		err = r.file.Close()
	}
	if r.taken != "" {
		if e := os.Remove(r.taken); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	if r.s != nil {
		r.s.close()
	}
	return err
}

func (r *rehearsing) run(ctx context.Context) (err error) {
	if r.s, err = r.inv.open(ctx); err != nil {
		return err
	}
	if prefix := r.p.Header().Prefix; prefix != r.s.reader.Prefix {
		return refuse("check --"+flagPrefix, "the plan's keys lie below %s, here they lie below %s", prefix, r.s.reader.Prefix)
	}
	j := &job{} // holds what the plan's puts take their bytes from
	defer j.close()
	for _, source := range r.p.Header().Sources {
		if err := j.openSource(ctx, source, r.p.Header().Operation); err != nil {
			return err
		}
	}
	if r.file = r.s.file; r.file == nil {
		if err := r.take(ctx); err != nil {
			return err
		}
	}
	if err := r.checkSpace(rehearse.Space(r.file, r.p)); err != nil {
		return err
	}
	shown := &rehearsalProgress{r: r}
	report, err := rehearse.Run(ctx, rehearse.Options{
		Plan: r.p, File: r.file, Temporary: r.taken != "", Open: r.open, Sources: j.sources,
		Strict: r.inv.Bool(flagStrict), Observer: shown, Tool: toolVersion(), Now: r.inv.Now,
	})
	shown.progress.Finish()
	if err != nil {
		return r.explain(err)
	}
	return r.conclude(&rehearsalView{Report: report, r: r})
}

// explain says what to do about a snapshot that does not fit.
func (r *rehearsing) explain(err error) error {
	switch {
	case errors.Is(err, plan.ErrForeign):
		return refuse("give a snapshot of the cluster that the plan was made for", "%w", err)
	case errors.Is(err, rehearse.ErrArchive):
		return refuse("give a snapshot, or a member's db file; what an archive holds is seen by list --"+flagFrom, "%w", err)
	}
	return err
}

// checkSpace does not begin what the disk has no room for.
func (r *rehearsing) checkSpace(need int64) error {
	dir := os.TempDir()
	if free, ok := freeSpace(dir); ok && need > free {
		return &failure{exitFailed, fmt.Errorf("a rehearsal needs up to %s, and %s has %s left", term.Bytes(need), dir, term.Bytes(free)),
			"name a directory with more room by TMPDIR"}
	}
	if data := sharedEtcdDevice(r.inv.Root, dir); data != "" {
		r.inv.say("warning: %s shares the disk of etcd's own data (%s), which slows etcd down; TMPDIR names another place", dir, data)
	}
	return nil
}

// open connects to the throwaway etcd as to any other, and prepares judging
// again by the plan's own selection.
func (r *rehearsing) open(ctx context.Context, endpoint string) (*rehearse.Store, error) {
	box := &session{inv: r.inv, timeout: connect.DefaultCommandTimeout, log: r.s.log, reader: r.s.reader}
	var err error
	if box.main, box.mainSource, err = box.dial(ctx, connect.Settings{}, []string{endpoint}); err != nil {
		box.close()
		return nil, err
	}
	j := &job{s: box, client: box.main.Client}
	judge, err := r.judge(ctx, j)
	if err != nil {
		box.close()
		return nil, err
	}
	return &rehearse.Store{Client: j.client, Reader: box.reader, Judge: judge, Leases: j.leases(), Close: box.close}, nil
}

// judge decides again on what changed since a plan of deletes was made. Puts
// are never judged again, and the store may have lost their kind.
func (r *rehearsing) judge(ctx context.Context, j *job) (plan.Judge, error) {
	h := r.p.Header()
	if h.Operation != operationDelete {
		return plan.Judge{}, nil
	}
	_, sel, err := j.s.plannedSelection(ctx, h)
	if err != nil {
		return plan.Judge{}, err
	}
	return j.judgeFor(sel, h.Overrides)
}

// conclude shows the report and turns how it went into an exit code.
func (r *rehearsing) conclude(v *rehearsalView) error {
	if err := v.show(); err != nil {
		return err
	}
	switch {
	case !v.Proven():
		return partial("", "undo is not proven: %s", v.unproven())
	case !v.Done():
		return partial("", "not all of the plan was carried out: %s", v.undone())
	}
	return nil
}

// rehearsalProgress shows how far a rehearsal is.
type rehearsalProgress struct {
	r        *rehearsing
	progress *term.Progress
	observer
}

// Begin implements rehearse.Observer.
func (p *rehearsalProgress) Begin(phase rehearse.Phase, total int64) {
	p.progress.Finish()
	inv := p.r.inv
	verb, past := "rehearsing", "rehearsed"
	switch phase {
	case rehearse.Restoring:
		inv.say("restoring %s (%s) into a throwaway etcd", p.r.describe(), term.Bytes(total))
		return
	case rehearse.Undoing:
		verb, past = "undoing", "undone"
	}
	p.progress = term.NewProgress(inv.Streams, term.ProgressOptions{
		Total: total, Verb: verb, Past: past, Quiet: inv.Bool(flagQuiet), JSON: inv.json(), Now: inv.Now,
	})
	p.observer = observer{p.progress}
}

// describe is how messages name the snapshot.
func (r *rehearsing) describe() string {
	if r.taken != "" {
		return "the snapshot that was just taken"
	}
	return r.file.Path()
}

// everybody is a control plane of which all lives: what would act on the plan
// where it is really carried out.
func everybody() *controlPlane {
	one := []alive.Component{{State: alive.Alive}}
	return &controlPlane{View: alive.View{Servers: one, Managers: one}}
}

// next is what no rehearsal can show.
func (v *rehearsalView) next() []plan.Consequence {
	return append([]plan.Consequence{}, everybody().aftermath(v.Header.Operation, v.Summary)...)
}

// undone counts what was not carried out.
func (v *rehearsalView) undone() string {
	text := fmt.Sprintf("failed: %s; changed and skipped: %s; not begun: %s", objects(v.failed()), objects(v.skipped()), objects(v.Result.Remaining()))
	if v.Result.Stopped != nil {
		text += "; it stopped, because " + v.Result.Stopped.Error()
	}
	return text
}
