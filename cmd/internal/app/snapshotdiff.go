package app

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/diff"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

const (
	flagRevA = "rev-a"
	flagRevB = "rev-b"
	flagShow = "show"
)

// What --show adds to the differences on the screen.
const (
	showStatus  = "status"
	showRoutine = "routine"
	showAll     = "all"
)

// liveStore is how the running etcd is named beside files.
const liveStore = "live"

// maxDiffLines bounds what the screen's lists keep in memory.
const maxDiffLines = 10_000

func snapshotDiffCommand() *command {
	return &command{
		name: "snapshot diff", args: "A B [RESOURCE [NAME…]]", minArgs: 2, maxArgs: -1,
		summary: "compare two snapshots, or one with live etcd, by object",
		about: "A and B are snapshots, db files or archives, or live, the running etcd, also with itself as it was at a revision that is not compacted yet. Says which objects were added, removed and changed between A and B, " +
			"by resource and namespace, and then field by field what changed, who wrote it and when, as far as managedFields tell: what people configure first, " +
			"what controllers own after it. Objects of which only the status changed are counted; --show status lists them too. Events, Leases and the API servers' own keys change all the time: " +
			"they are counted, unless they are asked for by name or with --show routine. What was only written again, with no field changed, is no difference. " +
			"What a Secret holds is never shown without --show-secrets, only that it changed. Encrypted values are compared if they can be decrypted (--encryption-config). " +
			"JSON and YAML hold everything. A difference is exit code 0, or 6 with --detailed-exit-code. Nothing is changed.",
		examples: []string{
			"etcd-rescue snapshot diff last-night.db live",
			"etcd-rescue snapshot diff before.db after.db deployments -n team",
			"etcd-rescue snapshot diff live live --rev-a 120034",
		},
		flags: slices.Concat([]cli.Flag{
			&cli.StringFlag{Name: flagShow, Usage: "also list `WHAT`, comma-separated: status (objects of which only the status changed), routine (events, Leases and the like), all", Category: catOutput},
			&cli.IntFlag{Name: flagLimit, Usage: "show at most `N` lines of the table and N objects of each list", Value: defaultTop, Category: catOutput},
			&cli.BoolFlag{Name: flagShowSecrets, Usage: "show the data of Secrets instead of a marker", Category: catOutput},
			&cli.BoolFlag{Name: flagDetailedExit, Usage: "end with exit code 6 if there is a difference", Category: catOutput},
		}, outputFlags("table, wide, json, yaml"), []cli.Flag{
			&cli.Int64Flag{Name: flagRevA, Usage: "A as it was at `REVISION`, if it still holds that", Category: catSelection},
			&cli.Int64Flag{Name: flagRevB, Usage: "B as it was at `REVISION`", Category: catSelection},
			&cli.TimestampFlag{Name: flagNow, Layout: time.RFC3339, Usage: "`TIME` (RFC 3339) that ages count from in a file (default: the newest in it)", Category: catSelection},
		}, selectionFlags(), connectionFlags()),
		run: runSnapshotDiff,
	}
}

// diffOptions are the command's own flags.
type diffOptions struct {
	limit   int
	status  bool
	routine bool
}

func (inv *invocation) diffOptions() (diffOptions, error) {
	opt := diffOptions{limit: inv.Int(flagLimit)}
	if opt.limit < 1 || opt.limit > maxDiffLines {
		return opt, usage("JSON has all", "--%s takes a number from 1 to %s, got %d", flagLimit, term.Count(maxDiffLines), opt.limit)
	}
	for _, what := range strings.Split(inv.String(flagShow), ",") {
		switch what {
		case "":
		case showStatus:
			opt.status = true
		case showRoutine:
			opt.routine = true
		case showAll:
			opt.status, opt.routine = true, true
		default:
			return opt, usage("it can be any of: "+joinWords([]string{showStatus, showRoutine, showAll}), "--%s does not know %q", flagShow, what)
		}
	}
	return opt, nil
}

func runSnapshotDiff(ctx context.Context, inv *invocation) error {
	if err := inv.checkFormat(formatTable, formatWide, formatJSON, formatYAML); err != nil {
		return err
	}
	opt, err := inv.diffOptions()
	if err != nil {
		return err
	}
	d := &storeDiff{inv: inv, opt: opt, a: &diffSide{label: "A", name: inv.args[0]}, b: &diffSide{label: "B", name: inv.args[1]}}
	defer d.close()
	if err := d.open(ctx); err != nil {
		return err
	}
	return d.run(ctx)
}

// storeDiff is one run of snapshot diff.
type storeDiff struct {
	inv  *invocation
	opt  diffOptions
	a, b *diffSide
	// named is set if the resource was named: it is not left out then.
	named bool
}

func (d *storeDiff) close() {
	for _, side := range []*diffSide{d.a, d.b} {
		if side.s != nil && !side.borrowed {
			side.s.close()
		}
	}
}

// open opens both stores, files first: they need no network to be wrong.
func (d *storeDiff) open(ctx context.Context) error {
	if err := d.inv.checkLogLevel(); err != nil {
		return err
	}
	if err := d.inv.checkConsistency(); err != nil {
		return err
	}
	if err := d.revisions(); err != nil {
		return err
	}
	sides := []*diffSide{d.a, d.b}
	if d.a.live() {
		slices.Reverse(sides)
	}
	for _, side := range sides {
		if err := side.open(ctx, d.inv); err != nil {
			return err
		}
		if d.a.live() && d.b.live() {
			d.a.borrow(d.b)
			break
		}
	}
	for _, side := range sides {
		if err := side.pin(ctx); err != nil {
			return err
		}
	}
	for _, side := range []*diffSide{d.a, d.b} {
		if err := side.identify(ctx); err != nil {
			return err
		}
	}
	d.warn()
	return nil
}

// revisions takes --rev-a and --rev-b.
func (d *storeDiff) revisions() error {
	for name, side := range map[string]*diffSide{flagRevA: d.a, flagRevB: d.b} {
		if !d.inv.IsSet(name) {
			continue
		}
		if side.rev = d.inv.Int64(name); side.rev < 1 {
			return usage("leave it out for the newest", "--%s %d: the first revision is 1", name, side.rev)
		}
	}
	if d.a.live() && d.b.live() && d.a.rev == d.b.rev {
		return usage("name a snapshot as the other one, or an earlier revision by --"+flagRevA, "both are the running etcd: there is nothing to compare")
	}
	return nil
}

// warn says on stderr what makes the two hard to compare.
func (d *storeDiff) warn() {
	inv := d.inv
	same, known := d.sameCluster()
	switch {
	case known && !same:
		inv.say("warning: A and B are of different clusters: their kube-system namespaces have different UIDs, so that every object was made anew")
	case !known:
		inv.say("note: whether A and B are of the same cluster cannot be told: a kube-system namespace is missing or cannot be read")
	case d.b.revision() < d.a.revision():
		inv.say("note: B is older than A (revision %d, after %d): what was made meanwhile shows as removed", d.b.revision(), d.a.revision())
	}
	for _, side := range []*diffSide{d.a, d.b} {
		if side.archive() {
			inv.say("note: %s is an archive, which holds only what was about to be deleted or changed: objects that it lacks are not compared", side.label)
		}
		if side.damaged() {
			inv.say("warning: %s is damaged: objects that it lacks are not compared, and those that it has may be older than they were", side.label)
		}
	}
}

// sameCluster compares the stores' identities; known is false if one has none.
func (d *storeDiff) sameCluster() (same, known bool) {
	return d.a.cluster == d.b.cluster, d.a.cluster != "" && d.b.cluster != ""
}

// run compares and shows.
func (d *storeDiff) run(ctx context.Context) error {
	if err := d.selections(ctx, d.inv.args[2:]); err != nil {
		return err
	}
	without, err := d.withoutEvents()
	if err != nil {
		return err
	}
	old, err := d.a.side(without)
	if err != nil {
		return err
	}
	new, err := d.b.side(without)
	if err != nil {
		return err
	}
	if err := d.checkNamespace(ctx, old.Parts[0].Filter, new.Parts[0].Filter); err != nil {
		return err
	}
	missing, err := missingKeys(ctx, old, new)
	if err != nil {
		return err
	}
	view := d.newView()
	req := diff.Request{Old: old, New: new, Decode: d.decode, Routine: d.routine}
	sum, err := diff.Sources(ctx, req, view.difference)
	if err != nil {
		return err
	}
	if err := view.finish(sum); err != nil {
		return err
	}
	return d.verdict(sum, missing, old, new)
}

// selections reads the selection for each store, whose catalogs may know
// different custom kinds: one that only the other knows is named to it.
func (d *storeDiff) selections(ctx context.Context, args []string) error {
	d.named = len(args) > 0 || len(d.inv.StringSlice(flagExactKey)) > 0
	var errA, errB error
	d.a.sel, errA = d.a.s.selection(ctx, args)
	d.b.sel, errB = d.b.s.selection(ctx, args)
	switch {
	case errA != nil && errB == nil && d.a.learnFrom(d.b):
		d.a.sel, errA = d.a.s.selection(ctx, slices.Concat([]string{d.b.sel.Resource}, d.b.sel.Names))
	case errB != nil && errA == nil && d.b.learnFrom(d.a):
		d.b.sel, errB = d.b.s.selection(ctx, slices.Concat([]string{d.a.sel.Resource}, d.a.sel.Names))
	}
	if errA != nil {
		return errA
	}
	return errB
}

// withoutEvents tells whether events are left out, because one store has them in
// an etcd of their own and the other has not: all of them would look made or
// deleted. That etcd's revisions are its own, too.
func (d *storeDiff) withoutEvents() (bool, error) {
	without := false
	for _, side := range []*diffSide{d.a, d.b} {
		if side.s.eventsSource == nil {
			continue
		}
		_, _, etcd := side.s.sourceOf(side.sel)
		if etcd == etcdEvents && side.rev != 0 {
			return false, usage("compare them with a snapshot of that etcd", "events have an etcd of their own here, whose revisions are others")
		}
		without = without || etcd != etcdEvents
	}
	if without && !d.named {
		d.inv.say("note: events are not compared: they have an etcd of their own")
	}
	return without, nil
}

// checkNamespace refuses a namespace that neither store has.
func (d *storeDiff) checkNamespace(ctx context.Context, a, b *filter.Filter) error {
	check := func(x *diffSide, f *filter.Filter) error {
		src, _, _ := x.s.sourceOf(x.sel)
		return x.s.checkNamespace(ctx, src, f)
	}
	err := check(d.b, b)
	if err != nil && check(d.a, a) == nil {
		return nil
	}
	return err
}

// missingKeys returns those of the objects asked for one by one that neither
// store has.
func missingKeys(ctx context.Context, old, new diff.Side) (missing []string, err error) {
	has := func(p diff.Part) (bool, error) {
		kv, err := p.Source.Get(ctx, p.Range.Start)
		return kv != nil, err
	}
	for i, p := range old.Parts {
		if p.Range.End != "" || i >= len(new.Parts) || new.Parts[i].Range.End != "" {
			continue
		}
		inOld, err := has(p)
		if err != nil {
			return nil, err
		}
		inNew, err := has(new.Parts[i])
		if err != nil {
			return nil, err
		}
		if !inOld && !inNew {
			missing = append(missing, p.Range.Start)
		}
	}
	return missing, nil
}

// routine tells what changes all the time, without anybody having changed
// anything.
func (d *storeDiff) routine(r *codec.Resource) bool {
	if r == nil || d.opt.routine || d.named {
		return false
	}
	return r.Internal || slices.Contains([]string{"events", "leases.coordination.k8s.io", "leasecandidates.coordination.k8s.io"}, r.String())
}

// decode returns an object for comparing, without what must not be seen.
func (d *storeDiff) decode(o *filter.Object) (diff.Decoded, error) {
	shown, err := codec.Show(o.Plain, o.KV.ModRevision, o.Key.Resource)
	if err != nil {
		return diff.Decoded{}, err
	}
	fields, err := codec.Render(shown.Object, codec.RenderOptions{ShowSecrets: true})
	if err != nil {
		return diff.Decoded{}, err
	}
	// Render takes for a Secret what calls itself so, and what lies under a
	// key of Secrets.
	if kind, _ := fields["kind"].(string); strings.EqualFold(kind, "Secret") || isSecrets(o.Key.Resource) {
		fields, err = renderForDiff(shown, o.Key.Resource, d.inv.Bool(flagShowSecrets))
	}
	return diff.Decoded{Fields: fields, Omitted: shown.Omitted}, err
}

// verdict says on stderr what could not be compared, and makes the error that
// the command ends with.
func (d *storeDiff) verdict(sum *diff.Summary, missing []string, old, new diff.Side) error {
	inv := d.inv
	if sum.Unmatched > 0 {
		inv.say("note: %s not compared, because an archive or a damaged file lacks them", objects(sum.Unmatched))
	}
	all := sum.Total.Before + sum.Total.After + sum.Routine.Before + sum.Routine.After
	if all+sum.Undecided == 0 && len(missing) == 0 {
		inv.say("no objects found in A or B")
	}
	if len(missing) > 0 {
		return partial("", "%s neither in A nor in B: %s", objects(int64(len(missing))), term.Clean(joinWords(missing)))
	}
	if sum.Undecided > 0 {
		hint := ""
		for _, side := range []diff.Side{old, new} {
			for _, p := range side.Parts {
				if reasons, _ := p.Filter.WhyUndecided(); len(reasons) > 0 {
					hint = inv.sayUndecided(p.Filter)
				}
			}
		}
		return partial(hint, "%s not decided, and not compared", objects(sum.Undecided))
	}
	if n := sum.Total.Unreadable; n > 0 {
		hint := ""
		if inv.String(flagEncryption) == "" {
			hint = "--" + flagEncryption + " FILE decrypts values: the file that kube-apiserver is given as --encryption-provider-config"
		}
		return partial(hint, "%s with other bytes than before, but what changed cannot be told", objects(n))
	}
	if inv.Bool(flagDetailedExit) && sum.Total.Different() > 0 {
		return errSomething
	}
	return nil
}
