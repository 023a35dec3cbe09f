package app

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

func reclaimCommand() *command {
	return &command{
		name: "reclaim", args: "[RESOURCE [NAME…]]", maxArgs: -1,
		summary: "bring etcd out of NOSPACE: delete, compact, defragment, disarm",
		about: "The whole way, one step after the other. With a selection it deletes that first, exactly as delete does: previewed, archived, guarded, bounded, and " +
			"undone by the archive once there is room. Then it compacts etcd at the revision after the last delete, --settle later; defragments every member that has " +
			"room to give back, one at a time, the leader last; takes NOSPACE back if every member is below --below of its quota; and proves that a write works by a " +
			"lease that it gives back. Without a selection it begins with the compaction.\n\n" +
			"Every step looks at what etcd shows, and leaves out what is done: whatever ends it, the same command goes on. A watch that has not come to the compaction's " +
			"revision is cancelled, so API servers may list everything again.\n\n" +
			"Without --execute it shows what fills etcd and what it would do, and changes nothing. --execute asks for the number of objects before the delete, and " +
			"for the number of members before the rest.",
		examples: []string{
			"etcd-rescue reclaim",
			"etcd-rescue reclaim --execute",
			"etcd-rescue reclaim pods -n reports --owner job/nightly \\\n    --with-owners --execute",
			"etcd-rescue reclaim events -A --older-than 1h \\\n    --execute --yes --max-deletes 200000",
		},
		flags: slices.Concat(memberApproval("do it"), []cli.Flag{
			maxDeletesFlag(),
			&cli.BoolFlag{Name: flagWithOwners, Usage: "first delete the owners that would make the objects again", Category: catSelection},
			&cli.BoolFlag{Name: flagWithDependents, Usage: "also delete what the selected objects own, directly or through others, of any resource", Category: catSelection},
			&cli.BoolFlag{Name: flagContentsOnly, Usage: "of namespaces delete what is in them, and leave the Namespaces", Category: catSelection},
			&cli.BoolFlag{Name: flagWithoutContents, Usage: "of namespaces delete only their own keys; what is in them stays behind as orphans", Category: catSelection},
		}, overrideFlags(), paceFlags(), deletePaceFlags(), quotaFlags(), outputFlags("table, json, yaml"), selectionFlags(), connectionFlags()),
		run: runReclaim,
	}
}

// reclaiming is one call of reclaim. What the steps have done is noted as they
// do it, so that the report is right wherever it ends.
type reclaiming struct {
	*upkeep
	d    *deletion // nil without a selection
	sum  *plan.Summary
	fill *filling // nil if it was not looked at

	step      int
	deleted   map[string]any // the document of the delete
	target    int64          // 0: not decided yet
	asked     bool           // etcd to compact; it may be at it, whatever came of that here
	compacted bool
	took      time.Duration // of the compaction
	defragged []etcdmembers.Defragmented
	disarmed  []etcdmembers.Alarm
	proved    bool
}

func runReclaim(ctx context.Context, inv *invocation) error {
	opt, bound, overrides, err := inv.checkReclaim()
	if err != nil {
		return err
	}
	s, err := inv.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r := &reclaiming{}
	conn, src := s.main, s.mainSource
	if inv.selects() {
		if r.d, err = s.newDeletion(ctx, bound, overrides); err != nil {
			return err
		}
		if _, client, _ := s.sourceOf(r.d.sel); s.events != nil && s.events.Client == client {
			conn, src = s.events, s.eventsSource
		}
	}
	if r.upkeep, err = s.newUpkeep(ctx, conn, src); err != nil {
		return err
	}
	r.opt = opt
	if conn == s.main {
		s.sayOtherEtcd()
	}
	if err := r.checkFit(); err != nil {
		return err
	}
	if inv.Bool(flagExecute) {
		return r.execute(ctx)
	}
	return r.preview(ctx)
}

// selects tells whether anything is to be deleted.
func (inv *invocation) selects() bool {
	return len(inv.args) > 0 || len(inv.StringSlice(flagExactKey)) > 0
}

// checkReclaim reads the flags. Without a selection none may be there that is
// about one: a resource was forgotten.
func (inv *invocation) checkReclaim() (opt etcdmembers.DisarmOptions, bound int64, overrides filter.Overrides, err error) {
	if err = inv.checkFormat(formatTable, formatJSON, formatYAML); err != nil {
		return opt, 0, overrides, err
	}
	if opt, err = inv.disarmOptions(); err != nil {
		return opt, 0, overrides, err
	}
	if inv.selects() {
		bound, overrides, err = inv.checkDelete()
		return opt, bound, overrides, err
	}
	var about []string
	for _, f := range selectionFlags() {
		about = append(about, f.Names()[0])
	}
	for _, name := range append(about, flagMaxDeletes, flagWithOwners, flagWithDependents, flagContentsOnly, flagWithoutContents) {
		if inv.IsSet(name) {
			return opt, 0, overrides, usage("name a resource first: etcd-rescue reclaim RESOURCE --"+name+" …", "--%s says what to delete, but no resource is named", name)
		}
	}
	return opt, 0, overrides, inv.checkApproval(false)
}

// checkFit refuses what could not be done to its end, before anything is
// deleted.
func (r *reclaiming) checkFit() error {
	if err := r.checkAgree(); err != nil {
		return err
	}
	voters := etcdmembers.Voters(r.all)
	for _, m := range voters {
		if !m.Answers() {
			return refuse("start that member, or remove it if it is gone for good (etcdctl member remove); delete and compact work without it, disarm does not",
				"member %s does not answer: %v", m.Label(), m.Err)
		}
	}
	if len(r.raised()) == 0 {
		return nil
	}
	for _, m := range voters {
		if _, known := r.opt.Limit(m); !known {
			return r.disarmFailure(fmt.Errorf("member %s %w, so that NOSPACE could not be taken back", m.Label(), etcdmembers.ErrNoQuota))
		}
	}
	return nil
}

// What makes a member worth its stop here: less than defrag asks for, since the
// room is needed.
const (
	reclaimLeast = 1 << 20
	reclaimShare = 10 // percent
)

func reclaimRule(s etcdmembers.Sizes) (bool, error) {
	return s.Free >= reclaimLeast && s.Free*100 >= s.DBSize*reclaimShare, nil
}

// planDefrag is whom to defragment: who has room to give back, and under NOSPACE
// who is too large and would not tell of the room.
func (r *reclaiming) planDefrag() []etcdmembers.DefragStep {
	order, skipped := etcdmembers.PlanDefrag(r.all, reclaimRule)
	for _, s := range skipped {
		limit, known := r.opt.Limit(&s.Member)
		if s.Why == etcdmembers.NotWorth && len(r.raised()) > 0 && known && s.Member.DBSize > limit && etcdmembers.TellsLate(&s.Member) {
			order = append(order, etcdmembers.DefragStep{Member: s.Member, Stop: etcdmembers.EstimateStop(s.Member.InUse)})
		}
	}
	return order
}

// preview shows what fills etcd, what would be deleted, and the steps.
func (r *reclaiming) preview(ctx context.Context) error {
	var err error
	if r.fill, err = r.fills(ctx); err != nil {
		return err
	}
	var pv *preview
	if r.d != nil {
		if pv, err = r.deletePreview(ctx); err != nil {
			return err
		}
	}
	if err := r.showPreview(pv); err != nil {
		return err
	}
	if r.d != nil {
		if err := r.d.checkSummary(r.sum, r.d.last().req.Filter); err != nil {
			return err
		}
	}
	return r.inv.somethingToDo(r.todo())
}

// todo is 0 if there is nothing to delete, to give back or to disarm.
func (r *reclaiming) todo() int64 {
	n := int64(len(r.planDefrag()) + len(r.raised()))
	if r.sum != nil {
		n += r.sum.Steps
	}
	return n
}

// deletePreview is what delete would show.
func (r *reclaiming) deletePreview(ctx context.Context) (*preview, error) {
	d := r.d
	for _, p := range d.parts {
		p.req.Summary = r.sum
		var err error
		if r.sum, err = plan.Deletes(ctx, p.req, nil); err != nil {
			return nil, err
		}
	}
	if err := d.checkMissing(ctx, r.sum); err != nil {
		return nil, err
	}
	pv := d.newPreview(r.sum, d.last().req.Source.Revision(), "")
	pv.asking = true // the steps that follow end with the last line
	return pv, nil
}

// present is the revision that etcd is at now.
func (r *reclaiming) present(ctx context.Context) (int64, error) {
	src, err := keyspace.Pin(ctx, r.conn.Client, r.reader.Prefix, r.optionsOf(r.conn))
	if err != nil {
		return 0, err
	}
	return src.Revision(), nil
}

// steps is how many steps there are.
func (r *reclaiming) steps() int {
	if r.d != nil {
		return 5
	}
	return 4
}

// begin says which step begins.
func (r *reclaiming) begin(format string, args ...any) {
	r.step++
	r.inv.say("step %d of %d: %s", r.step, r.steps(), fmt.Sprintf(format, args...))
}

func (r *reclaiming) members() string { return term.Plural(int64(len(r.all)), "member") }
