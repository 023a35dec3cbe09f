package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

func applyCommand() *command {
	return &command{
		name: "apply", args: "PLAN", minArgs: 1, maxArgs: 1,
		summary: "show a saved plan; with --execute carry it out, or finish it",
		about: "Refuses a plan that is edited, cut short, too old, or made for another cluster. A plan that was interrupted is finished by carrying it out again: " +
			"what is done already counts as done, and the archive is the same. What changed since is judged again by the plan's selection.",
		examples: []string{
			"etcd-rescue apply failed.jsonl",
			"etcd-rescue apply failed.jsonl --execute",
			"etcd-rescue apply failed.jsonl --execute --yes -o json",
		},
		flags: slices.Concat(approvalFlags("carry it out"), []cli.Flag{maxPlanAgeFlag(), unsafeLiveFlag()}, paceFlags(), deletePaceFlags(),
			outputFlags("table, json, yaml"), connectionFlags()),
		run: runApply,
	}
}

func runApply(ctx context.Context, inv *invocation) error {
	if err := inv.checkFormat("table", "json", "yaml"); err != nil {
		return err
	}
	if err := inv.checkApproval(false); err != nil {
		return err
	}
	p, err := plan.Open(ctx, inv.args[0])
	if err != nil {
		return err
	}
	defer p.Close()
	s, err := inv.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return s.apply(ctx, p)
}

// apply checks a plan against the cluster and carries it out.
func (s *session) apply(ctx context.Context, p *plan.Plan) error {
	h := p.Header()
	verb, err := verbOf(h.Operation)
	if err != nil {
		return err
	}
	r, sel, err := s.plannedSelection(ctx, h)
	if err != nil {
		return err
	}
	plane, err := s.controlPlane(ctx, h.Etcd)
	if err != nil {
		return err
	}
	j, err := s.newJob(ctx, r, h.Run, verb, plane)
	if err != nil {
		return err
	}
	defer j.close()
	if j.etcd != h.Etcd {
		return refuse("give the etcd that holds events by --"+flagEventsEndpoints, "the plan is for the %s etcd, this is the %s one", h.Etcd, j.etcd)
	}
	uid := j.uid
	if s.inv.allowsCluster(h.ClusterUID) {
		uid = h.ClusterUID
	}
	if err := h.Check(uid, s.reader.Prefix, s.inv.Now(), s.inv.Duration(flagMaxPlanAge)); err != nil {
		return err
	}
	if !s.inv.Bool(flagExecute) {
		if err := s.inv.showPlan(ctx, p, plane); err != nil {
			return err
		}
		return s.inv.somethingToDo(p.Trailer().Steps)
	}
	if putsBack(h.Operation) {
		return j.executePuts(ctx, p)
	}
	judge, err := j.judgeFor(sel, h.Overrides)
	if err != nil {
		return err
	}
	return j.executeDeletes(ctx, p, judge)
}

// putsBack tells the operations whose plans only put.
func putsBack(operation string) bool {
	return operation == operationUndo || operation == operationPutBack
}

// verbOf is an operation in progress. Of one that is not known nobody can say
// what is to be checked before.
func verbOf(operation string) (string, error) {
	switch {
	case operation == operationDelete:
		return verbDeleting, nil
	case putsBack(operation):
		return verbPuttingBack, nil
	}
	return "", refuse("carry it out with the release that made it", "the plan is for the operation %q, which this release does not know", operation)
}

// plannedSelection teaches the catalog what the plan's selection names. Puts are
// never judged again, and the store may have lost their kind.
func (s *session) plannedSelection(ctx context.Context, h plan.Header) (*codec.Resource, *filter.Selection, error) {
	name := ""
	if h.Selection != nil && !putsBack(h.Operation) {
		name = h.Selection.Resource
	}
	if h.Etcd == etcdEvents {
		name = "events" // puts there, or the events of namespaces
	}
	if name == "" {
		return nil, h.Selection, nil
	}
	r, err := s.lookup(ctx, name)
	return r, h.Selection, err
}

// puts is what a plan of puts does beside creating objects.
type puts struct {
	owned    int64        // have owners
	replaced plan.Summary // steps, and the bytes of what they put
}

func countPuts(ctx context.Context, p *plan.Plan) (n puts, err error) {
	err = p.Steps(ctx, func(_ int, _ string, s plan.Step) error {
		if s.Owned {
			n.owned++
		}
		if s.Replaces() {
			n.replaced.Steps++
			n.replaced.Bytes += s.Size
		}
		return nil
	})
	return n, err
}

// executePuts carries out a plan of puts. It opens the files that the plan
// takes its bytes from, and refuses owned objects under a live garbage
// collector as undo does.
func (j *job) executePuts(ctx context.Context, p *plan.Plan) error {
	for _, source := range p.Header().Sources {
		if err := j.openSource(ctx, source, p.Header().Operation); err != nil {
			return err
		}
	}
	j.inv.files = append(j.inv.files, j.files...) // damage is said at the end
	n, err := countPuts(ctx, p)
	if err != nil {
		return err
	}
	if n.owned > 0 {
		j.report.notes = append(j.report.notes, j.plane.advice(n.owned))
	}
	if err := j.inv.checkLive(j.plane, n.owned); err != nil {
		return err
	}
	if n.replaced.Steps > 0 {
		j.besidePlan(p)
		// How large what is replaced will be by then nobody knows; about as
		// large as what replaces it.
		if err := j.checkSpace(&n.replaced); err != nil {
			return err
		}
	}
	err = j.executePlan(ctx, p, plan.Judge{})
	if !j.report.begun() && err != nil {
		return err
	}
	if p.Header().Operation == operationPutBack {
		err = errors.Join(err, j.findUnmake(ctx, p, p.Trailer().Steps-n.replaced.Steps))
	}
	return j.conclude(err)
}

func (j *job) executeDeletes(ctx context.Context, p *plan.Plan, judge plan.Judge) error {
	j.besidePlan(p)
	if err := j.checkSpace(&plan.Summary{Steps: p.Trailer().Steps, Bytes: p.Trailer().Bytes}); err != nil {
		return err
	}
	err := j.executePlan(ctx, p, judge)
	if err == nil {
		err = j.settlePlan(ctx, p, judge)
	}
	if !j.report.begun() && err != nil {
		return err
	}
	return j.conclude(err)
}

// executePlan asks, and carries out. The error is also that which stopped the
// run.
func (j *job) executePlan(ctx context.Context, p *plan.Plan, judge plan.Judge) error {
	h, n := p.Header(), p.Trailer().Steps
	if err := j.plane.health.check(putsBack(h.Operation), n, j.unguarded()); err != nil {
		return err
	}
	if err := j.inv.confirm(ctx, n, fmt.Sprintf("carry out these %s", term.Plural(n, "step"))); err != nil {
		return err
	}
	if err := copyFile(p.Path(), j.planPath(h.Pass)); err != nil {
		return fmt.Errorf("%w: save the plan beside it: %w", apply.ErrArchive, err)
	}
	result, err := j.carryOut(ctx, p, judge)
	j.report.finished(j.inv.Now())
	if err == nil && result != nil {
		err = result.Stopped
	}
	return err
}

// besidePlan goes on with the archive that lies beside the plan, unless the
// operator names another folder. Undoing the run takes both archives then.
func (j *job) besidePlan(p *plan.Plan) {
	dir := filepath.Dir(absolute(p.Path()))
	beside := filepath.Join(dir, filepath.Base(j.archivePath()))
	if dir == j.dir || !mayBeArchive(beside) {
		return
	}
	if j.inv.IsSet(flagArchiveDir) {
		j.report.earlier = beside
		return
	}
	j.dir = dir
}

// mayBeArchive tells whether a file is an archive, also one that cannot be read
// now. What a run leaves that is killed while making it is none.
func mayBeArchive(path string) bool {
	f, err := snapshots.Open(path, snapshots.Options{})
	if err != nil {
		return !errors.Is(err, snapshots.ErrNotDB) && !errors.Is(err, fs.ErrNotExist)
	}
	defer f.Close()
	_, ok := f.Archive()
	return ok
}

// openSource opens a file that puts take their bytes from, and makes sure that
// it is still the file that the plan was made from.
func (j *job) openSource(ctx context.Context, source plan.SourceFile, operation string) error {
	sum, err := snapshots.SHA256(ctx, source.Path)
	if err != nil {
		return fmt.Errorf("the plan takes its bytes from it: %w", err)
	}
	if sum != source.SHA256 {
		return refuse("make the plan again with "+operation, "%s has changed since the plan was made", source.Path)
	}
	// A put-back may have been planned from what is sound of a damaged file.
	f, err := snapshots.OpenContext(ctx, source.Path, snapshots.Options{Tolerant: operation == operationPutBack})
	if err != nil {
		return err
	}
	j.sources, j.files = append(j.sources, f), append(j.files, f)
	return nil
}

// settlePlan waits and counts the plan's selection again.
func (j *job) settlePlan(ctx context.Context, p *plan.Plan, judge plan.Judge) error {
	h := p.Header()
	if h.Selection == nil {
		return nil
	}
	wait := j.inv.Duration(flagSettle)
	if err := j.inv.wait(ctx, wait, seeWhether); err != nil {
		return err
	}
	src, err := keyspace.Pin(ctx, j.client, j.s.reader.Prefix, j.s.options(j.client))
	if err != nil {
		return err
	}
	req := plan.Request{
		Source: src, Filter: judge.Filter, Owners: j.s.owners(src, judge.Filter.Selection()), Prefix: j.s.reader.Prefix,
		Guard:          j.s.guard(src, *h.Selection, h.Overrides),
		WithDependents: h.WithDependents, Whole: j.s.options(j.client).Kine,
	}
	if h.WithDependents {
		if req.Gone, err = p.Planned(ctx); err != nil {
			return err
		}
	}
	sum, err := plan.Deletes(ctx, req, nil)
	if err != nil {
		return err
	}
	j.report.settled(sum, wait)
	return nil
}

const seeWhether = "to see whether it stopped"

// wait is the settle time, and what it is for; an interrupt ends it.
func (inv *invocation) wait(ctx context.Context, d time.Duration, why string) error {
	if d <= 0 {
		return ctx.Err()
	}
	inv.say("waiting %s %s (--%s)", d, why, flagSettle)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// showPlan prints what a saved plan holds.
func (inv *invocation) showPlan(ctx context.Context, p *plan.Plan, plane *controlPlane) error {
	h, t := p.Header(), p.Trailer()
	pv := &preview{operation: h.Operation, revision: h.Revision, now: inv.Now(), sum: &plan.Summary{Bytes: t.Bytes}, plane: plane}
	if h.Selection != nil {
		pv.selection = h.Selection.String()
	}
	var err error
	if pv.pace, err = inv.pace(); err != nil {
		return err
	}
	last := -1
	err = p.Steps(ctx, func(stage int, what string, s plan.Step) error {
		if stage != last {
			pv.sum.Stages = append(pv.sum.Stages, plan.StageInfo{What: what})
			last = stage
		}
		pv.sum.Add(s)
		if s.Replaces() {
			pv.sum.ReplacedBytes += s.Size // as large as what comes, mostly; the plan does not know
		}
		return nil
	})
	if err != nil {
		return err
	}
	if h.Operation == operationDelete || pv.sum.Replacing > 0 {
		pv.locate(inv)
	}
	if n := pv.sum.Replacing; n > 0 {
		pv.notes = append(pv.notes, objects(n)+replacingNote)
	}
	pv.notes = append(pv.notes, fmt.Sprintf("made %s ago by: %s", term.Duration(inv.Now().Sub(h.Created)), h.Command))
	return inv.showPreview(pv)
}
