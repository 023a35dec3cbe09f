package app

import (
	"context"
	"fmt"
	"os"

	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

// execute plans, asks, and goes on planning and deleting until nothing is
// left; then it looks whether it stopped.
func (d *deletion) execute(ctx context.Context) error {
	defer d.closeJobs()
	err := d.run(ctx)
	if err == nil {
		err = d.settle(ctx)
	}
	d.closeJobs()
	if !d.begun() && err != nil {
		return err
	}
	return d.conclude(err)
}

// run plans, asks, and goes on planning and deleting until nothing is left.
func (d *deletion) run(ctx context.Context) error {
	for _, p := range d.parts {
		_, _, etcd := d.sourceFor(p.resource)
		j, err := d.newJob(ctx, p.resource, d.inv.newRun(), "deleting", d.planeOf(ctx, d.plane, etcd))
		if err != nil {
			return err
		}
		p.job = j
	}
	err := d.passes(ctx)
	for _, p := range d.parts {
		p.job.report.finished(d.inv.Now())
	}
	return err
}

// closeJobs ends the archives.
func (d *deletion) closeJobs() {
	for _, p := range d.parts {
		if p.job != nil {
			p.job.close()
		}
	}
}

func (d *deletion) begun() bool {
	for _, p := range d.parts {
		if p.job != nil && p.job.report.begun() {
			return true
		}
	}
	return false
}

// deleted is how many objects all passes have deleted so far.
func (d *deletion) deleted() (n int64) {
	for _, p := range d.parts {
		n += p.job.report.count(apply.Deleted) + p.job.report.count(apply.Raced)
	}
	return n
}

func (d *deletion) passes(ctx context.Context) error {
	for pass := 1; ; pass++ {
		more, err := d.onePass(ctx, pass)
		for _, p := range d.parts {
			if p.plan != nil {
				p.plan.Close()
			}
		}
		if err != nil || !more || d.inv.Bool(flagStrict) {
			return err
		}
		for _, p := range d.parts {
			if err := d.request(ctx, p, true); err != nil {
				return err
			}
		}
	}
}

// onePass plans everything, asks or looks at the bound, and carries it out.
// There are no more passes when nothing is selected, or nothing could be done.
func (d *deletion) onePass(ctx context.Context, pass int) (more bool, err error) {
	sum, err := d.planPass(ctx, pass)
	if err != nil || sum.Steps == 0 {
		return false, err
	}
	if pass > 1 {
		if err := d.checkBound(sum.Steps, d.deleted()); err != nil {
			return false, err // its plan stays, to go on with
		}
	} else if err := d.approve(ctx, sum); err != nil {
		d.discard()
		return false, err
	}
	for _, p := range d.parts {
		if p.plan != nil {
			p.job.report.await(p.plan) // if another part ends it before, this is not begun
		}
	}
	for _, p := range d.parts {
		if p.plan == nil {
			continue
		}
		if err := d.carryOut(ctx, p); err != nil {
			return false, err
		}
		more = more || !p.job.report.stuck()
	}
	return more, nil
}

// discard removes the plans of this pass, which nobody approved: they are only
// clutter.
func (d *deletion) discard() {
	for _, p := range d.parts {
		if p.plan != nil {
			os.Remove(p.plan.Path())
		}
	}
}

// planPass makes and saves the plans of a pass; a part has none when nothing
// is selected in it any more.
func (d *deletion) planPass(ctx context.Context, pass int) (sum *plan.Summary, err error) {
	for _, p := range d.parts {
		p.plan = nil
		if pass == 1 {
			if err := p.job.checkSpace(&plan.Summary{}); err != nil {
				return nil, err
			}
		}
	}
	var outs []*plan.Writer
	steps := make([]int64, len(d.parts))
	defer func() {
		for _, out := range outs {
			out.Abort()
		}
	}()
	before := int64(0)
	for i, p := range d.parts {
		out, err := plan.Create(p.job.planPath(pass), d.planHeader(p.job, p.req, pass))
		if err != nil {
			return nil, err
		}
		outs = append(outs, out)
		p.req.Summary = sum
		if sum, err = plan.Deletes(ctx, p.req, out); err != nil {
			return nil, err
		}
		steps[i], before = sum.Steps-before, sum.Steps
	}
	if pass == 1 { // what was approved then holds; later passes have the bound
		if err := d.checkMissing(ctx, sum); err != nil {
			return nil, err
		}
		if err := d.checkSummary(sum, d.last().req.Filter); err != nil {
			return nil, err
		}
	}
	for i, p := range d.parts {
		if steps[i] == 0 {
			continue
		}
		if err := outs[i].Close(); err != nil {
			return nil, err
		}
		if p.plan, err = plan.Open(ctx, p.job.planPath(pass)); err != nil {
			return nil, err
		}
	}
	return sum, nil
}

// approve asks for the number of all parts together.
func (d *deletion) approve(ctx context.Context, sum *plan.Summary) error {
	inv, last := d.inv, d.last()
	if !inv.Bool(flagYes) {
		path := ""
		if last.plan != nil {
			path = last.plan.Path()
		}
		pv := d.newPreview(sum, last.req.Source.Revision(), path)
		pv.asking = true
		pv.write(inv.Streams.Err, width(inv.Streams.ErrWidth))
	}
	for _, p := range d.parts {
		if p.plan == nil {
			continue
		}
		if err := p.job.plane.health.check(false, p.plan.Trailer().Steps, p.job.unguarded()); err != nil {
			return err
		}
	}
	if err := inv.confirm(ctx, sum.Steps, fmt.Sprintf("delete these %s", objects(sum.Steps))); err != nil {
		return err
	}
	if d.bound == 0 {
		// What was typed is the bound of all passes.
		d.bound, d.typed = sum.Steps+d.madeAgain(), true
	}
	return nil
}

func (d *deletion) carryOut(ctx context.Context, p *part) error {
	j := p.job
	if err := j.checkSpace(&plan.Summary{Steps: p.plan.Trailer().Steps, Bytes: p.plan.Trailer().Bytes}); err != nil {
		return err
	}
	judge, err := j.judgeFor(&d.sel, d.overrides)
	if err != nil {
		return err
	}
	result, err := j.carryOut(ctx, p.plan, judge)
	if err == nil && result != nil {
		err = result.Stopped
	}
	return err
}

// settle waits and counts the selection again.
func (d *deletion) settle(ctx context.Context) error {
	if !d.begun() {
		return nil
	}
	wait := d.inv.Duration(flagSettle)
	if err := d.inv.wait(ctx, wait, seeWhether); err != nil {
		return err
	}
	var sum *plan.Summary
	for _, p := range d.parts {
		if err := d.request(ctx, p, true); err != nil {
			return err
		}
		p.req.Summary = sum
		var err error
		if sum, err = plan.Deletes(ctx, p.req, nil); err != nil {
			return err
		}
	}
	d.last().job.report.settled(sum, wait)
	return nil
}

// conclude shows the reports of all parts and turns how it went into an exit
// code.
func (d *deletion) conclude(err error) error {
	last := d.last().job
	if len(d.parts) == 1 || !d.parts[0].job.report.begun() {
		return last.conclude(err)
	}
	events := d.parts[0].job
	if showErr := d.showBoth(events, last, err); showErr != nil {
		return showErr
	}
	if verdict := last.verdict(err); verdict != nil {
		return verdict
	}
	return events.verdict(err)
}

func (d *deletion) showBoth(events, last *job, err error) error {
	if d.inv.format() != formatTable {
		doc := last.document(err)
		doc["events"] = events.document(err)
		return d.inv.document(doc)
	}
	w := writer{d.inv.Streams.Out, width(d.inv.Streams.OutWidth)}
	w.line("In the etcd of the events:")
	if showErr := events.show(err); showErr != nil {
		return showErr
	}
	w.line("")
	w.line("In the main etcd:")
	return last.show(err)
}
