package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

const (
	operationDelete = "delete"
	operationUndo   = "undo"
)

func deleteCommand() *command {
	return &command{
		name: "delete", args: "RESOURCE [NAME…]", maxArgs: -1,
		summary: "preview a delete; with --execute archive and delete",
		about: "Without --execute it shows what would be deleted and changes nothing. With it the plan is saved, confirmed, the objects are archived, and each is " +
			"deleted by a transaction of its own that is guarded by the revision seen. Finalizers and grace periods are not waited for. " +
			"It plans again until nothing is left, waits (--settle) and says whether it stopped. The report names the archive and the command that undoes it.",
		examples: []string{
			"etcd-rescue delete pods -n ops-tools --owner job/error-ret",
			"etcd-rescue delete pods -n ops-tools --owner job/error-ret --with-owners --execute",
			"etcd-rescue delete pods -A --phase Failed --older-than 2d --plan failed.jsonl",
		},
		flags: slices.Concat(approvalFlags("delete"), []cli.Flag{
			maxDeletesFlag(),
			&cli.BoolFlag{Name: flagWithOwners, Usage: "first delete the owners that would make the objects again", Category: catSelection},
			&cli.StringFlag{Name: flagPlan, Usage: "save the plan as `FILE` (without --execute), for apply", Category: catOutput},
		}, overrideFlags(), paceFlags(), deletePaceFlags(), outputFlags("table, json, yaml"), selectionFlags(), fromFlags(), connectionFlags()),
		run: runDelete,
	}
}

// deletion is one call of delete.
type deletion struct {
	*session
	sel       filter.Selection
	overrides filter.Overrides
	bound     int64         // 0: none
	plane     *controlPlane // as the preview shows it; nil with --from
}

func runDelete(ctx context.Context, inv *invocation) error {
	if len(inv.args) == 0 && len(inv.StringSlice(flagExactKey)) == 0 {
		return usage("name a resource and say which of its objects: NAMEs, -n, -l, --owner …", "delete takes a resource, or --%s", flagExactKey)
	}
	if err := inv.checkFormat("table", "json", "yaml"); err != nil {
		return err
	}
	bound, err := inv.maxDeletes()
	if err == nil {
		err = inv.checkApproval(true)
	}
	if err == nil && inv.Bool(flagExecute) && inv.String(flagPlan) != "" {
		err = usage("--execute saves its plan beside the archive by itself", "--%s and --execute contradict each other", flagPlan)
	}
	if err == nil {
		_, err = inv.pace()
	}
	var overrides filter.Overrides
	if err == nil {
		overrides, err = inv.overrides()
	}
	if err != nil {
		return err
	}
	s, err := inv.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	d := &deletion{session: s, bound: bound, overrides: overrides}
	if d.sel, err = s.selection(ctx, inv.args); err != nil {
		return err
	}
	if err := d.checkNarrow(); err != nil {
		return err
	}
	_, _, etcd := s.sourceOf(d.sel)
	if d.plane, err = s.controlPlane(ctx, etcd); err != nil {
		return err
	}
	if inv.Bool(flagExecute) {
		return d.execute(ctx)
	}
	return d.preview(ctx)
}

// checkNarrow refuses a delete that would mean everything of a kind, one in a
// protected namespace, and one by name that does not say where.
func (d *deletion) checkNarrow() error {
	if !d.sel.Narrow() {
		return usage("say which: NAMEs, -n NAMESPACE, -l SELECTOR, --owner KIND/NAME, --phase …; -A alone is no selection",
			"delete %s without a selection would mean all of them", d.sel.Resource)
	}
	if b := filter.GuardSelection(d.sel, d.overrides); b != nil {
		return refuse("to delete them all the same add "+b.Allow, "blocked: %s", b.Reason)
	}
	if len(d.sel.Names) == 0 {
		return nil
	}
	r, _, _ := d.reader.Catalog.Lookup(d.sel.Resource)
	if r.Namespaced && d.sel.Namespace == "" {
		return usage("add -n NAMESPACE", "%s are namespaced: a name alone does not say which one", r)
	}
	return nil
}

// request reads the store at its present revision and prepares a plan of it.
func (d *deletion) request(ctx context.Context, fresh bool) (plan.Request, error) {
	src, client, _ := d.sourceOf(d.sel)
	if fresh {
		var err error
		if src, err = keyspace.Pin(ctx, client, d.reader.Prefix, d.options(client)); err != nil {
			return plan.Request{}, err
		}
	}
	f, owners, err := d.filter(d.sel, src)
	if err != nil {
		return plan.Request{}, err
	}
	return plan.Request{
		Source: src, Filter: f, Owners: owners, Prefix: d.reader.Prefix,
		WithOwners: d.inv.Bool(flagWithOwners), Guard: d.guard(src, d.sel, d.overrides),
	}, nil
}

// preview shows what would be done, and saves it with --plan.
func (d *deletion) preview(ctx context.Context) error {
	req, err := d.request(ctx, false)
	if err != nil {
		return err
	}
	if err := d.checkNamespace(ctx, req.Source, req.Filter); err != nil {
		return err
	}
	var out *plan.Writer
	path := d.inv.String(flagPlan)
	if path != "" {
		if out, err = d.createPlan(ctx, req, path); err != nil {
			return err
		}
		defer out.Abort()
	}
	sum, err := plan.Deletes(ctx, req, out)
	if err != nil {
		return err
	}
	if _, err := d.clock(ctx); err != nil {
		return err
	}
	if path != "" && len(sum.Blocked) == 0 {
		if err := out.Close(); err != nil {
			return err
		}
	} else {
		path = ""
	}
	if err := d.inv.showPreview(d.newPreview(sum, req.Source.Revision(), path)); err != nil {
		return err
	}
	if err := d.checkSummary(sum, req.Filter); err != nil {
		return err
	}
	return d.inv.somethingToDo(sum.Steps)
}

func (inv *invocation) somethingToDo(steps int64) error {
	if steps > 0 && inv.Bool(flagDetailedExit) {
		return errSomething
	}
	return nil
}

func (d *deletion) createPlan(ctx context.Context, req plan.Request, path string) (*plan.Writer, error) {
	j, err := d.newJob(ctx, d.holds(d.sel), d.inv.newRun(), "", d.plane)
	if err != nil {
		return nil, err
	}
	out, err := plan.Create(path, d.planHeader(j, req, 1))
	if errors.Is(err, fs.ErrExist) {
		return nil, usage("name another file, or remove it", "%w", err)
	}
	return out, err
}

func (d *deletion) planHeader(j *job, req plan.Request, pass int) plan.Header {
	h := j.header(operationDelete, pass, req.Source.Revision())
	h.Selection, h.WithOwners, h.Overrides = &d.sel, req.WithOwners, d.overrides
	return h
}

// checkSummary refuses what guards block, and more than the bound.
func (d *deletion) checkSummary(sum *plan.Summary, f *filter.Filter) error {
	if len(sum.Blocked) > 0 {
		return d.blocked(sum.Blocked)
	}
	if sum.Undecided > 0 {
		d.inv.say("warning: %s not decided, and so not selected", objects(sum.Undecided))
		d.inv.sayUndecided(f)
	}
	return d.checkBound(sum.Steps, 0)
}

// blocked names every reason, and every flag that it takes to override them.
func (d *deletion) blocked(all []plan.Blocked) error {
	var reasons, allow []string
	for _, b := range all {
		reasons = append(reasons, fmt.Sprintf("%s blocked: %s", objects(b.Count), b.Reason))
		if b.Allow == "" {
			return refuse("nothing that reaches these keys is allowed", "%s", reasons[len(reasons)-1])
		}
		if !slices.Contains(allow, b.Allow) {
			allow = append(allow, b.Allow)
		}
	}
	hint := "to delete them all the same add " + strings.Join(allow, " ")
	if r, _, ok := d.reader.Catalog.Lookup(d.sel.Resource); ok && r.Namespaced && d.sel.Namespace == "" {
		hint += ", to leave them out narrow the selection (-n, or --field-selector metadata.namespace!=NAME)"
	}
	return refuse(hint, "%s", strings.Join(reasons, "; "))
}

func (d *deletion) checkBound(steps, already int64) error {
	if d.bound > 0 && already+steps > d.bound {
		return refuse("look at the preview again; if the number is right, raise --"+flagMaxDeletes,
			"%s would be deleted, --%s allows %s", objects(already+steps), flagMaxDeletes, term.Count(d.bound))
	}
	return nil
}

// execute plans, asks, and goes on planning and deleting until nothing is
// left; then it looks whether it stopped.
func (d *deletion) execute(ctx context.Context) error {
	req, err := d.request(ctx, false)
	if err != nil {
		return err
	}
	if err := d.checkNamespace(ctx, req.Source, req.Filter); err != nil {
		return err
	}
	j, err := d.newJob(ctx, d.holds(d.sel), d.inv.newRun(), "deleting", d.plane)
	if err != nil {
		return err
	}
	defer j.close()
	err = d.passes(ctx, j, req)
	j.report.finished(d.inv.Now())
	if err == nil {
		err = d.settle(ctx, j)
	}
	j.close()
	if !j.report.begun() && err != nil {
		return err
	}
	return j.conclude(err)
}

func (d *deletion) passes(ctx context.Context, j *job, req plan.Request) error {
	for pass := 1; ; pass++ {
		p, sum, err := d.planPass(ctx, j, req, pass)
		if err != nil || p == nil {
			return err
		}
		if pass == 1 {
			if err = d.approve(ctx, sum, p, req); err != nil {
				os.Remove(p.Path()) // a plan that nobody approved is only clutter
			}
		} else {
			err = d.checkBound(sum.Steps, j.report.count(apply.Deleted))
		}
		if err == nil {
			err = d.onePass(ctx, j, p)
		}
		p.Close()
		if err != nil || j.report.stuck() || d.inv.Bool(flagStrict) {
			return err
		}
		if req, err = d.request(ctx, true); err != nil {
			return err
		}
	}
}

// planPass makes and saves the plan of a pass; there is none when nothing is
// selected any more.
func (d *deletion) planPass(ctx context.Context, j *job, req plan.Request, pass int) (*plan.Plan, *plan.Summary, error) {
	if pass == 1 {
		if err := j.checkSpace(&plan.Summary{}); err != nil {
			return nil, nil, err
		}
	}
	path := j.planPath(pass)
	out, err := plan.Create(path, d.planHeader(j, req, pass))
	if err != nil {
		return nil, nil, err
	}
	defer out.Abort()
	sum, err := plan.Deletes(ctx, req, out)
	if err != nil {
		return nil, nil, err
	}
	if pass == 1 { // what was approved then holds; later passes have the bound
		if err := d.checkSummary(sum, req.Filter); err != nil {
			return nil, nil, err
		}
	}
	if sum.Steps == 0 {
		return nil, sum, nil
	}
	if err := out.Close(); err != nil {
		return nil, nil, err
	}
	p, err := plan.Open(ctx, path)
	return p, sum, err
}

func (d *deletion) approve(ctx context.Context, sum *plan.Summary, p *plan.Plan, req plan.Request) error {
	j := d.inv
	if !j.Bool(flagYes) {
		pv := d.newPreview(sum, req.Source.Revision(), p.Path())
		pv.asking = true
		pv.write(j.Streams.Err, width(j.Streams.ErrWidth))
	}
	if err := d.plane.health.check(false, sum.Steps, j.Int64(flagUnsafeUnguarded)); err != nil {
		return err
	}
	if err := j.confirm(ctx, sum.Steps, fmt.Sprintf("delete these %s", objects(sum.Steps))); err != nil {
		return err
	}
	if d.bound == 0 {
		d.bound = sum.Steps // what was typed is the bound of all passes
	}
	return nil
}

func (d *deletion) onePass(ctx context.Context, j *job, p *plan.Plan) error {
	if err := j.checkSpace(&plan.Summary{Steps: p.Trailer().Steps, Bytes: p.Trailer().Bytes}); err != nil {
		return err
	}
	judge, err := j.judgeFor(&d.sel, d.overrides)
	if err != nil {
		return err
	}
	result, err := j.carryOut(ctx, p, judge)
	if err == nil && result != nil {
		err = result.Stopped
	}
	return err
}

// settle waits and counts the selection again.
func (d *deletion) settle(ctx context.Context, j *job) error {
	if !j.report.begun() {
		return nil
	}
	wait := d.inv.Duration(flagSettle)
	if err := d.inv.wait(ctx, wait); err != nil {
		return err
	}
	req, err := d.request(ctx, true)
	if err != nil {
		return err
	}
	sum, err := plan.Deletes(ctx, req, nil)
	if err != nil {
		return err
	}
	j.report.settled(sum, wait)
	return nil
}
