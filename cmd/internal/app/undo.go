package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

func undoCommand() *command {
	return &command{
		name: "undo", args: "ARCHIVE…", minArgs: 1, maxArgs: -1,
		summary: "preview putting back what an archive holds; with --execute do it",
		about: "Puts every archived object that is missing back under its own key, byte for byte, owners first, each by a transaction of its own. " +
			"An object that is there already counts as done; other bytes under its key are left alone and reported. " +
			"While an API server lives, owned objects are put back only with --unsafe-live-controllers: the garbage collector remembers owners that it saw missing until kube-controller-manager restarts, " +
			"and may delete what was put back.",
		examples: []string{
			"etcd-rescue undo etcd-rescue-20261122T171501Z-1f0c2a9b.db",
			"etcd-rescue undo etcd-rescue-20261122T171501Z-1f0c2a9b.db --execute",
		},
		flags: slices.Concat(approvalFlags("put back"), []cli.Flag{
			&cli.BoolFlag{Name: flagWithLeased, Usage: "also put back objects that had a lease (events), under a new lease of the same length", Category: catSelection},
			&cli.StringFlag{Name: flagPlan, Usage: "save the plan as `FILE` (without --execute), for apply", Category: catOutput},
			unsafeLiveFlag(),
		}, paceFlags(), outputFlags("table, json, yaml"), connectionFlags()),
		run: runUndo,
	}
}

// undoing is one call of undo.
type undoing struct {
	*session
	files   []*snapshots.File
	sources []plan.SourceFile
	info    snapshots.ArchiveInfo
	plane   *controlPlane
}

func runUndo(ctx context.Context, inv *invocation) error {
	if err := inv.checkFormat("table", "json", "yaml"); err != nil {
		return err
	}
	err := inv.checkApproval(false)
	if err == nil && inv.Bool(flagExecute) && inv.String(flagPlan) != "" {
		err = usage("--execute saves its plan by itself", "--%s and --execute contradict each other", flagPlan)
	}
	if err == nil {
		_, err = inv.pace()
	}
	if err != nil {
		return err
	}
	u := &undoing{}
	defer u.closeFiles()
	if err := u.openArchives(ctx, inv.args); err != nil {
		return err
	}
	if u.session, err = inv.open(ctx); err != nil {
		return err
	}
	defer u.close()
	return u.run(ctx)
}

func (u *undoing) closeFiles() {
	for _, f := range u.files {
		f.Close()
	}
}

// openArchives opens them and makes sure that they belong together.
func (u *undoing) openArchives(ctx context.Context, paths []string) error {
	for i, path := range paths {
		path = absolute(path)
		f, err := snapshots.Open(path, snapshots.Options{})
		if err != nil {
			return err
		}
		u.files = append(u.files, f)
		info, ok := f.Archive()
		if !ok {
			return usage("undo takes the archive that a delete names in its report", "%s is no archive of etcd-rescue", path)
		}
		if err := f.Check(ctx); err != nil {
			return err
		}
		if i > 0 && (info.ClusterUID != u.info.ClusterUID || info.Etcd != u.info.Etcd || info.Prefix != u.info.Prefix) {
			return refuse("undo them one by one", "%s and %s come from different stores", paths[0], path)
		}
		u.info = info
		sum, err := snapshots.SHA256(ctx, path)
		if err != nil {
			return err
		}
		u.sources = append(u.sources, plan.SourceFile{Path: path, SHA256: sum})
	}
	return nil
}

func (u *undoing) run(ctx context.Context) error {
	events, _, ok := u.reader.Catalog.Lookup("events")
	if u.info.Etcd != etcdEvents || !ok {
		events = nil
	}
	var err error
	if u.plane, err = u.controlPlane(ctx, u.info.Etcd); err != nil {
		return err
	}
	j, err := u.newJob(ctx, events, u.inv.newRun(), verbPuttingBack, u.plane)
	if err != nil {
		return err
	}
	defer j.close()
	if err := u.checkArchive(j); err != nil {
		return err
	}
	src, _, _ := u.sourceFor(events)
	req := plan.UndoRequest{
		Archives: u.files, Now: src, Reader: u.reader, WithLeased: u.inv.Bool(flagWithLeased),
	}
	header := j.header(operationUndo, 1, src.Revision())
	header.Sources = u.sources
	if u.inv.Bool(flagExecute) {
		return u.execute(ctx, j, req, header)
	}
	return u.preview(ctx, req, header)
}

// checkArchive refuses an archive of another cluster.
func (u *undoing) checkArchive(j *job) error {
	if u.info.ClusterUID != j.uid && !u.inv.allowsCluster(u.info.ClusterUID) {
		return refuse("check --endpoints; to put it back here all the same, pass --"+flagUnsafeCluster+" "+cmp.Or(u.info.ClusterUID, noCluster),
			"the archive comes from the cluster whose kube-system has UID %q, here it is %q", u.info.ClusterUID, j.uid)
	}
	if u.info.Prefix != u.reader.Prefix {
		return refuse("check --"+flagPrefix, "the archive's keys lie below %s, here they lie below %s", u.info.Prefix, u.reader.Prefix)
	}
	if u.info.Etcd != j.etcd {
		return refuse("give the etcd that holds events by --"+flagEventsEndpoints, "the archive comes from the %s etcd, this is the %s one", u.info.Etcd, j.etcd)
	}
	return nil
}

func (u *undoing) preview(ctx context.Context, req plan.UndoRequest, h plan.Header) error {
	path := u.inv.String(flagPlan)
	var out *plan.Writer
	if path != "" {
		var err error
		if out, err = plan.Create(path, h); err != nil {
			return usage("name another file, or remove it", "%w", err)
		}
		defer out.Abort()
	}
	sum, err := plan.Undo(ctx, req, out)
	if err != nil {
		return err
	}
	if out != nil {
		if err := out.Close(); err != nil {
			return err
		}
	}
	if err := u.inv.showPreview(u.newPreview(sum, h.Revision, path)); err != nil {
		return err
	}
	if sum.Differing > 0 {
		return partial("to put the archived bytes there, after archiving those: etcd-rescue put-back --replace --from ARCHIVE",
			"%s under whose key something else is now: left alone", objects(sum.Differing))
	}
	return u.inv.somethingToDo(sum.Steps)
}

func (u *undoing) newPreview(sum *plan.Summary, rev int64, path string) *preview {
	pace, _ := u.inv.pace() // checked before
	pv := &preview{
		operation: operationUndo, sum: sum, revision: rev, now: u.inv.Now(), pace: pace,
		planPath: path, free: -1, plane: u.plane,
	}
	note := func(n int64, text string) {
		if n > 0 {
			pv.notes = append(pv.notes, objects(n)+" "+text)
		}
	}
	note(sum.Present, "there already with the same bytes: done")
	note(sum.Differing, "under whose key something else is now: left alone, first "+joinWords(sum.DifferingKeys))
	note(sum.Leased, "left out because of their lease (events): --"+flagWithLeased+" puts back those whose length is known")
	note(sum.Superseded, "archived earlier under the same key: the newest bytes count")
	if sum.Owned > 0 {
		pv.notes = append(pv.notes, u.plane.note(sum.Owned))
	}
	return pv
}

func (u *undoing) execute(ctx context.Context, j *job, req plan.UndoRequest, h plan.Header) error {
	if err := j.checkSpace(&plan.Summary{}); err != nil {
		return err
	}
	path := j.planPath(1)
	out, err := plan.Create(path, h)
	if err != nil {
		return err
	}
	defer out.Abort()
	sum, err := plan.Undo(ctx, req, out)
	if err != nil {
		return err
	}
	return j.putBack(ctx, out, path, u.newPreview(sum, h.Revision, ""), u.files...)
}

// putBack carries out what a preview of puts shows: the plan in out, which
// takes its bytes from these files.
func (j *job) putBack(ctx context.Context, out *plan.Writer, path string, pv *preview, files ...*snapshots.File) error {
	sum := pv.sum
	j.report.operation = pv.operation
	j.report.present, j.report.differ = sum.Present, sum.Differing
	if sum.Leased > 0 {
		j.report.notes = append(j.report.notes, fmt.Sprintf("Left out because of their lease (events): %s.", objects(sum.Leased)))
	}
	if sum.Differing > 0 && pv.operation == operationPutBack {
		j.report.notes = append(j.report.notes, fmt.Sprintf("Left alone, because something else is there: %s; --%s puts the file's bytes there.", objects(sum.Differing), flagReplace))
	}
	if sum.Steps == 0 {
		return j.conclude(nil)
	}
	if err := j.checkPuts(sum); err != nil {
		return err
	}
	if err := j.inv.approvePuts(ctx, pv); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return j.putAll(ctx, path, sum, files...)
}

// checkPuts refuses what the disk, etcd or the controllers would not bear.
func (j *job) checkPuts(sum *plan.Summary) error {
	if sum.Replacing > 0 {
		if err := j.checkSpace(&plan.Summary{Steps: sum.Replacing, Bytes: sum.ReplacedBytes}); err != nil {
			return err
		}
	}
	if err := j.plane.health.check(true, sum.Steps, 0); err != nil {
		return err
	}
	return j.inv.checkLive(j.plane, sum.Owned)
}

// approvePuts asks for what a preview shows.
func (inv *invocation) approvePuts(ctx context.Context, pv *preview) error {
	if !inv.Bool(flagYes) {
		pv.asking = true
		pv.write(inv.Streams.Err, width(inv.Streams.ErrWidth))
	}
	return inv.confirm(ctx, pv.sum.Steps, fmt.Sprintf("put back these %s", objects(pv.sum.Steps)))
}

func (j *job) putAll(ctx context.Context, path string, sum *plan.Summary, files ...*snapshots.File) error {
	p, err := plan.Open(ctx, path)
	if err != nil {
		return err
	}
	defer p.Close()
	for _, f := range files {
		j.sources = append(j.sources, f)
	}
	result, err := j.carryOut(ctx, p, plan.Judge{})
	j.report.finished(j.inv.Now())
	if result == nil {
		return err
	}
	if err == nil {
		err = result.Stopped
	}
	if sum.Owned > 0 {
		j.report.notes = append(j.report.notes, j.plane.advice(sum.Owned))
	}
	if p.Header().Operation == operationPutBack {
		err = errors.Join(err, j.findUnmake(ctx, p, sum.Steps-sum.Replacing))
	}
	return j.conclude(err)
}
