package app

import (
	"context"
	"errors"
	"strings"
	"time"

	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

// execute carries out one step after the other and reports how far it came.
func (r *reclaiming) execute(ctx context.Context) error {
	err := r.run(ctx)
	if r.deleted == nil && r.target == 0 {
		return err // nothing was begun
	}
	if showErr := r.report(ctx, err); showErr != nil {
		return showErr
	}
	return err
}

func (r *reclaiming) run(ctx context.Context) error {
	if err := r.showFills(ctx); err != nil {
		return err
	}
	if err := r.deleteStep(ctx); err != nil {
		return err
	}
	if err := r.approve(ctx); err != nil {
		return err
	}
	if err := r.compactStep(ctx); err != nil {
		return err
	}
	if err := r.defragStep(ctx); err != nil {
		return err
	}
	return r.disarmStep(ctx)
}

// showFills is for whoever is asked next. With --yes nobody is, and reading the
// whole registry is spared.
func (r *reclaiming) showFills(ctx context.Context) (err error) {
	if r.inv.Bool(flagYes) {
		return nil
	}
	if r.fill, err = r.fills(ctx); err != nil {
		return err
	}
	r.writeFills(writer{r.inv.Streams.Err, width(r.inv.Streams.ErrWidth)})
	return nil
}

// deleteStep deletes as delete does, and ends it all if that did not do what it
// was to do. The revision to compact to is taken before the settle time, which
// is what watches have to come to it.
func (r *reclaiming) deleteStep(ctx context.Context) error {
	d := r.d
	if d == nil {
		return nil
	}
	r.begin("delete what is selected")
	defer d.closeJobs()
	err := d.run(ctx)
	if err != nil && !d.begun() {
		return err
	}
	var target int64
	if err == nil {
		if target, err = r.present(ctx); err == nil {
			err = d.settle(ctx)
		}
	}
	d.closeJobs()
	if err == nil && !d.begun() {
		r.inv.say("nothing that is selected is there, or it was deleted before")
		return nil
	}
	last := d.last().job
	r.deleted = last.document(err)
	if d.parts[0].job != last && d.parts[0].job.report.begun() {
		r.deleted["events"] = d.parts[0].job.document(err)
	}
	if r.inv.format() == formatTable {
		err = d.conclude(err)
	} else {
		err = last.verdict(err)
	}
	if err == nil {
		r.target = target
	}
	return err
}

// approve asks for the number of members before what cannot be undone.
func (r *reclaiming) approve(ctx context.Context) error {
	inv := r.inv
	if !inv.Bool(flagYes) {
		w := writer{inv.Streams.Err, width(inv.Streams.ErrWidth)}
		r.writeSteps(w)
		w.line("")
	}
	err := inv.confirm(ctx, int64(len(r.all)), "compact, defragment and disarm this etcd of "+r.members())
	if err != nil && r.deleted != nil {
		r.inv.say("note: what was deleted stays so; run the same command again to go on")
	}
	return err
}

func (r *reclaiming) compactStep(ctx context.Context) error {
	if r.target == 0 {
		// Nothing was deleted, this time.
		target, err := r.present(ctx)
		if err != nil {
			return err
		}
		if err := r.inv.wait(ctx, r.inv.Duration(flagSettle), "before the compaction, in which watches catch up"); err != nil {
			return err
		}
		r.target = target
	}
	r.begin("compact to revision %d", r.target)
	began := r.inv.Now()
	r.asked = true
	if err := r.compactTo(ctx, r.target, true); err != nil {
		return err
	}
	r.compacted = true
	// Also where there is one member: the connection to it may have broken before it was done.
	if err := r.awaitCompaction(ctx, r.target); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return r.maintenanceFailure(err)
	}
	r.took = r.inv.Now().Sub(began)
	return nil
}

func (r *reclaiming) defragStep(ctx context.Context) error {
	if err := r.look(ctx); err != nil {
		return err
	}
	order := r.planDefrag()
	r.begin("defragment %s", memberWords(order))
	if len(order) == 0 {
		return nil
	}
	dial, err := r.dialer()
	if err != nil {
		return err
	}
	r.defragged, err = etcdmembers.Defrag(ctx, etcdmembers.DefragOptions{
		Client: r.conn.Client, Endpoints: r.conn.Endpoints, Dial: dial, Steps: order, Timeout: min(r.timeout, 5*time.Second),
		Patience: r.timeout, Room: newLocalDisk(r.inv.Root, r.dataDir).room, Now: r.inv.Now,
	}, r.inv.defragObserver())
	switch {
	case err == nil, ctx.Err() != nil:
		return err
	case errors.Is(err, etcdmembers.ErrUnfit), errors.Is(err, etcdmembers.ErrInflight):
		return refuse("look at the members first (status); then run the same command again: it goes on where this ended", "%w", err)
	}
	return r.maintenanceFailure(err)
}

// memberWords names those that are defragmented.
func memberWords(order []etcdmembers.DefragStep) string {
	if len(order) == 0 {
		return "no member: none has room to give back"
	}
	var names []string
	for _, s := range order {
		names = append(names, s.Member.Label())
	}
	return joinWords(names)
}

// disarmStep takes NOSPACE back, if it is there, and proves a write.
func (r *reclaiming) disarmStep(ctx context.Context) error {
	if err := r.look(ctx); err != nil {
		return err
	}
	raised := r.raised()
	if len(raised) == 0 {
		r.begin("disarm nothing: no alarm is raised")
	} else {
		r.begin("take back %s", joinWords(r.alarmNames(raised)))
		var err error
		if r.disarmed, err = etcdmembers.Disarm(ctx, r.conn.Client, r.all, r.opt); err != nil {
			return r.stillFull(err)
		}
	}
	r.begin("prove that a write works")
	err := r.prove(ctx)
	r.proved = err == nil
	return err
}

// stillFull tells what to do when all steps did not make enough room.
func (r *reclaiming) stillFull(err error) error {
	if !errors.Is(err, etcdmembers.ErrFull) {
		return r.disarmFailure(err)
	}
	hint := "what is left fills it: select more (count --bytes and top sizes show what), and run reclaim with it; or raise --quota-backend-bytes, restart the members one by one, and run this again"
	return partial(hint, "NOSPACE stays raised: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
}
