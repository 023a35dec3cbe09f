package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
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
			"What makes other objects goes before what it makes. It plans again until nothing is left, waits (--settle) and says whether it stopped. " +
			"The report names the archive and the command that undoes it. Namespaces go with everything in them, of every resource, and last.",
		examples: []string{
			"etcd-rescue delete pods -n reports --owner job/nightly",
			"etcd-rescue delete pods -n reports --owner job/nightly --with-owners --execute",
			"etcd-rescue delete pods -A --phase Failed --older-than 2d --plan failed.jsonl",
			"etcd-rescue delete cronjob report -n ops-tools --with-dependents --execute",
			"etcd-rescue delete namespace ops-tools --execute",
		},
		flags: slices.Concat(approvalFlags("delete"), []cli.Flag{
			maxDeletesFlag(),
			&cli.BoolFlag{Name: flagWithOwners, Usage: "first delete the owners that would make the objects again", Category: catSelection},
			&cli.BoolFlag{Name: flagWithDependents, Usage: "also delete what the selected objects own, directly or through others, of any resource", Category: catSelection},
			&cli.BoolFlag{Name: flagContentsOnly, Usage: "of namespaces delete what is in them, and leave the Namespaces", Category: catSelection},
			&cli.BoolFlag{Name: flagWithoutContents, Usage: "of namespaces delete only their own keys; what is in them stays behind as orphans", Category: catSelection},
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
	typed     bool          // the bound is the number that was typed
	parts     []*part
	gone      *plan.Planned // of earlier passes, with --with-dependents
	spaces    []*namespaceState
}

// part is what a delete does in one etcd, which has a plan and an archive of
// its own. There is more than one only where namespaces go and events have
// their own etcd; that of the events is first then.
type part struct {
	resource *codec.Resource // by which the etcd is chosen
	req      plan.Request
	job      *job       // nil in a preview
	plan     *plan.Plan // of this pass; nil: nothing to do
}

func runDelete(ctx context.Context, inv *invocation) error {
	if len(inv.args) == 0 && len(inv.StringSlice(flagExactKey)) == 0 {
		return usage("name a resource and say which of its objects: NAMEs, -n, -l, --owner …", "delete takes a resource, or --%s", flagExactKey)
	}
	if err := inv.checkFormat("table", "json", "yaml"); err != nil {
		return err
	}
	bound, overrides, err := inv.checkDelete()
	if err == nil && inv.Bool(flagExecute) && inv.String(flagPlan) != "" {
		err = usage("--execute saves its plan beside the archive by itself", "--%s and --execute contradict each other", flagPlan)
	}
	if err != nil {
		return err
	}
	s, err := inv.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	d, err := s.newDeletion(ctx, bound, overrides)
	if err != nil {
		return err
	}
	if inv.Bool(flagExecute) {
		return d.execute(ctx)
	}
	return d.preview(ctx)
}

// checkDelete reads the flags that bound a delete, before anything is read.
func (inv *invocation) checkDelete() (bound int64, overrides filter.Overrides, err error) {
	if bound, err = inv.maxDeletes(); err == nil {
		err = inv.checkApproval(true)
	}
	if err == nil {
		_, err = inv.pace()
	}
	if err == nil {
		overrides, err = inv.overrides()
	}
	return bound, overrides, err
}

// newDeletion finds out what the arguments and flags select, and refuses what
// no delete may do.
func (s *session) newDeletion(ctx context.Context, bound int64, overrides filter.Overrides) (d *deletion, err error) {
	d = &deletion{session: s, bound: bound, overrides: overrides}
	if d.sel, err = s.selection(ctx, s.inv.args); err != nil {
		return nil, err
	}
	if err := d.checkNarrow(); err != nil {
		return nil, err
	}
	_, _, etcd := s.sourceOf(d.sel)
	if d.plane, err = s.controlPlane(ctx, etcd); err != nil {
		return nil, err
	}
	if err := d.selectContents(ctx); err != nil {
		return nil, err
	}
	return d, d.openParts(ctx)
}

// checkNarrow refuses a delete that would mean everything of a kind, one in a
// protected namespace, and one by name that does not say where.
func (d *deletion) checkNarrow() error {
	if err := d.session.checkNarrow(d.sel); err != nil {
		return err
	}
	if b := filter.GuardSelection(d.sel, d.overrides); b != nil {
		return refuse("to delete them all the same add "+b.Allow, "blocked: %s", b.Reason)
	}
	return nil
}

// openParts prepares the plan of each etcd.
func (d *deletion) openParts(ctx context.Context) error {
	d.parts = []*part{{resource: d.holds(d.sel)}}
	if d.sel.Contents != nil && d.eventsSource != nil {
		// First: if it is interrupted between the two, everything but events
		// is still there.
		events, _, _ := d.reader.Catalog.Lookup("events")
		d.parts = []*part{{resource: events}, d.parts[0]}
	}
	if d.inv.Bool(flagWithDependents) {
		d.gone = &plan.Planned{}
	}
	for _, p := range d.parts {
		if err := d.request(ctx, p, false); err != nil {
			return err
		}
	}
	last := d.last()
	return d.checkNamespace(ctx, last.req.Source, last.req.Filter)
}

// last is the part of the etcd that holds what was selected.
func (d *deletion) last() *part { return d.parts[len(d.parts)-1] }

// request reads the store at its present revision and prepares a plan of it.
func (d *deletion) request(ctx context.Context, p *part, fresh bool) error {
	var src keyspace.Source
	src, client, _ := d.sourceFor(p.resource)
	whole := client != nil && d.options(client).Kine
	if fresh {
		var err error
		if src, err = keyspace.Pin(ctx, client, d.reader.Prefix, d.options(client)); err != nil {
			return err
		}
	}
	f, owners, err := d.filter(d.sel, src)
	if err != nil {
		return err
	}
	p.req = plan.Request{
		Source: src, Filter: f, Owners: owners, Prefix: d.reader.Prefix, Whole: whole, Gone: d.gone,
		WithOwners: d.inv.Bool(flagWithOwners), WithDependents: d.inv.Bool(flagWithDependents), Guard: d.guard(src, d.sel, d.overrides),
	}
	return nil
}

// preview shows what would be done, and saves it with --plan.
func (d *deletion) preview(ctx context.Context) error {
	var sum *plan.Summary
	var outs []*plan.Writer
	defer func() {
		for _, out := range outs {
			out.Abort()
		}
	}()
	var err error
	for _, p := range d.parts {
		var out *plan.Writer
		if path := d.planFile(p); path != "" {
			if out, err = d.createPlan(ctx, p, path); err != nil {
				return err
			}
			outs = append(outs, out)
		}
		p.req.Summary = sum
		if sum, err = plan.Deletes(ctx, p.req, out); err != nil {
			return err
		}
	}
	if err := d.checkMissing(ctx, sum); err != nil {
		return err
	}
	if _, err := d.clock(ctx); err != nil {
		return err
	}
	path := ""
	if len(sum.Blocked) == 0 {
		for _, out := range outs {
			if err := out.Close(); err != nil {
				return err
			}
		}
		path = d.inv.String(flagPlan)
	}
	last := d.last()
	pv := d.newPreview(sum, last.req.Source.Revision(), path)
	if path != "" && len(d.parts) > 1 {
		pv.notes = append(pv.notes, "the events have an etcd of their own and a plan of their own, to be carried out first: "+d.planFile(d.parts[0]))
	}
	if err := d.inv.showPreview(pv); err != nil {
		return err
	}
	if err := d.checkSummary(sum, last.req.Filter); err != nil {
		return err
	}
	return d.inv.somethingToDo(sum.Steps)
}

// planFile is where --plan saves the plan of a part, "" without it. That of
// events beside others is FILE.events with the same ending.
func (d *deletion) planFile(p *part) string {
	path := d.inv.String(flagPlan)
	if path == "" || p == d.last() {
		return path
	}
	ext := filepath.Ext(path)
	return strings.TrimSuffix(path, ext) + ".events" + ext
}

func (inv *invocation) somethingToDo(steps int64) error {
	if steps > 0 && inv.Bool(flagDetailedExit) {
		return errSomething
	}
	return nil
}

func (d *deletion) createPlan(ctx context.Context, p *part, path string) (*plan.Writer, error) {
	j, err := d.newJob(ctx, p.resource, d.inv.newRun(), "", d.plane)
	if err != nil {
		return nil, err
	}
	out, err := plan.Create(path, d.planHeader(j, p.req, 1))
	if errors.Is(err, fs.ErrExist) {
		return nil, usage("name another file, or remove it", "%w", err)
	}
	return out, err
}

func (d *deletion) planHeader(j *job, req plan.Request, pass int) plan.Header {
	h := j.header(operationDelete, pass, req.Source.Revision())
	h.Selection, h.WithOwners, h.WithDependents, h.Overrides = &d.sel, req.WithOwners, req.WithDependents, d.overrides
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

// checkBound refuses more than the bound of all passes.
func (d *deletion) checkBound(steps, already int64) error {
	if d.bound == 0 || already+steps <= d.bound {
		return nil
	}
	hint := "look at the preview again; if the number is right, raise --" + flagMaxDeletes
	if already > 0 {
		hint = fmt.Sprintf("%s more are there, made since or still being made; the report says how to go on", term.Count(steps))
		d.last().job.report.goOn = d.goOn(steps)
	}
	if d.typed {
		return refuse(hint, "%s would be deleted, the number that was typed allows %s", objects(already+steps), term.Count(d.bound))
	}
	return refuse(hint, "%s would be deleted, --%s allows %s", objects(already+steps), flagMaxDeletes, term.Count(d.bound))
}

// goOn is the command that deletes what is left: this one again, unless what
// it selects by is gone. Then the plan that this pass has made says what is.
func (d *deletion) goOn(steps int64) string {
	if d.gone == nil && (d.sel.Contents == nil || len(d.sel.Names) > 0) {
		bound := regexp.MustCompile(`--?` + flagMaxDeletes + `[= ]\d+`)
		return bound.ReplaceAllString(d.inv.commandLine(), fmt.Sprintf("--%s %d", flagMaxDeletes, steps))
	}
	var commands []string
	for _, p := range d.parts {
		if p.plan != nil {
			commands = append(commands, "etcd-rescue apply "+quoteWord(absolute(p.plan.Path()))+" --execute"+d.inv.connectionWords())
		}
	}
	return strings.Join(commands, " && ")
}
