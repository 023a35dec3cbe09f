package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

const (
	flagOnlyIf     = "only-if"
	flagAlways     = "always"
	flagMoveLeader = "move-leader"
	flagWait       = "wait"

	defaultDefragWait = 10 * time.Second
)

func defragCommand() *command {
	return &command{
		name: "defrag", maxArgs: 0,
		summary: "give back the free space in the members' db files, one by one",
		about: "Each member copies what is in use into a new file. Meanwhile it answers nothing; the others go on. Every member is taken once, by its id, " +
			"however many addresses it has; followers first, the leader last; learners are left out, since etcd does not defragment them. Before each, all that vote " +
			"must answer, name one leader, not lag, and none may have raised CORRUPT; NOSPACE is no obstacle. A member that takes longer than " +
			"--command-timeout is not given up, since it goes on by itself: it is waited for, however long that takes, and no other is touched before it answers.\n\n" +
			"Without --only-if and --always a member is only taken if at least " + fmt.Sprint(etcdmembers.WorthPercent) + " % of its file and " +
			term.Bytes(etcdmembers.WorthBytes) + " are free. What is free grows by compaction, which this does not do. The first Ctrl-C lets the member finish that is under way " +
			"and begins no other; the second leaves.",
		examples: []string{
			"etcd-rescue defrag",
			"etcd-rescue defrag --move-leader --execute",
			"etcd-rescue defrag --only-if 'dbQuotaUsage > 0.8' --execute --yes",
			"etcd-rescue defrag --member master-2 --always --execute",
		},
		flags: slices.Concat(approvalFlags("defragment them"), []cli.Flag{
			&cli.StringFlag{Name: flagOnlyIf, Usage: "only members for which the CEL `EXPRESSION` is true, over " + celMembers + " (bytes; the last is dbSize by dbQuota)", Category: catSelection},
			&cli.BoolFlag{Name: flagAlways, Usage: "all members, however little they would give back", Category: catSelection},
			&cli.StringSliceFlag{Name: flagMember, Usage: "only `MEMBER`: an id, a name or a client URL; may be repeated", Category: catSelection},
			&cli.BoolFlag{Name: flagMoveLeader, Usage: "before the leader's turn hand the leadership to a member that is done", Category: catPace},
			&cli.DurationFlag{Name: flagWait, Usage: "leave the members alone for `DURATION` after each", Value: defaultDefragWait, Category: catPace},
		}, outputFlags("table, wide, json, yaml"), memberFlags()),
		run: runDefrag,
	}
}

func runDefrag(ctx context.Context, inv *invocation) error {
	if err := inv.checkFormat(formatTable, formatWide, formatJSON, formatYAML); err != nil {
		return err
	}
	if err := inv.checkLogLevel(); err != nil {
		return err
	}
	if err := inv.checkApproval(false); err != nil {
		return err
	}
	d := &defragging{inv: inv}
	if err := d.validate(); err != nil {
		return err
	}
	defer d.close()
	if err := d.connect(ctx); err != nil {
		return err
	}
	if err := d.look(ctx); err != nil {
		return err
	}
	if err := d.plan(); err != nil {
		return err
	}
	if !inv.Bool(flagExecute) {
		return d.preview()
	}
	return d.execute(ctx)
}

// defragging is one defrag.
type defragging struct {
	inv   *invocation
	local *localDisk
	rule  etcdmembers.Rule

	found   connect.Found
	conn    *connect.Conn
	members []etcdmembers.Member
	// unfit is why no member may be stopped now.
	unfit   error
	steps   []etcdmembers.DefragStep
	skipped []etcdmembers.Skipped
	began   time.Time
}

func (d *defragging) validate() error {
	inv := d.inv
	expr := inv.String(flagOnlyIf)
	switch {
	case inv.IsSet(flagOnlyIf) && inv.Bool(flagAlways):
		return usage("give one of them", "--%s and --%s contradict each other", flagOnlyIf, flagAlways)
	case inv.IsSet(flagOnlyIf) && expr == "":
		return usage("leave it out for the usual rule", "--%s is empty", flagOnlyIf)
	case inv.Duration(flagWait) < 0:
		return usage("", "--%s must not be negative", flagWait)
	case inv.Bool(flagAlways):
		d.rule = etcdmembers.Always
	case expr != "":
		var err error
		d.rule, err = defragRule(expr)
		return err
	}
	return nil
}

func (d *defragging) connect(ctx context.Context) error {
	inv := d.inv
	found, err := connect.Resolve(inv.settings(), connect.Node{Root: inv.Root, Getenv: inv.Getenv})
	if err != nil {
		return settingFailure(err)
	}
	d.found, d.local = found, newLocalDisk(inv.Root, found.DataDir)
	inv.say("%s", found.Why)
	if len(found.EventsEndpoints) > 0 {
		inv.say("note: events are in an etcd of their own, which this does not touch; for that one give --%s %s", flagEndpoints, joinWords(found.EventsEndpoints))
	}
	if d.conn, err = connect.Dial(ctx, found.Settings, found.Endpoints, inv.logger()); err != nil {
		return settingFailure(err)
	}
	for _, w := range d.conn.Warnings {
		inv.say("warning: %s", w)
	}
	if d.conn.Kine {
		return &failure{exitFailed, errors.New("this is kine, not etcd: it has no members, and no db file of etcd"), "shrink the database behind it with its own tools (sqlite3 FILE vacuum)"}
	}
	return nil
}

func (d *defragging) close() {
	if d.conn != nil {
		d.conn.Close()
	}
}

// look asks the members how they are, up to three times while they differ: that may be a matter of the moment. One that
// does not answer has had its time.
func (d *defragging) look(ctx context.Context) error {
	for n := 1; ; n++ {
		var err error
		if d.members, err = etcdmembers.List(ctx, d.conn.Client, etcdmembers.Options{Endpoints: d.conn.Endpoints}); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return &failure{exitConnect, err, "without the list of members it is not known whether all are well"}
		}
		d.node().tellQuotas(ctx, d.members)
		if d.unfit = etcdmembers.FitToDefrag(d.members); d.unfit == nil || n == 3 || slices.ContainsFunc(d.members, func(m etcdmembers.Member) bool { return !m.Answers() }) {
			return nil
		}
		pause := time.NewTimer(time.Second)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		}
	}
}

// node is what this node says of an etcd that runs on it.
func (d *defragging) node() *statusing { return &statusing{inv: d.inv, found: d.found} }

// plan says which members to defragment. A rule that cannot tell is refused, whatever the others would do.
func (d *defragging) plan() error {
	chosen, others, err := d.chosen()
	if err != nil {
		return err
	}
	d.steps, d.skipped = etcdmembers.PlanDefrag(chosen, d.rule)
	for _, s := range d.skipped {
		if s.Err != nil {
			return refuse("leave "+celUsage+" out, or write 'dbQuota > 0 && …'", "member %s: %w", s.Member.Label(), s.Err)
		}
	}
	for _, m := range others {
		d.skipped = append(d.skipped, etcdmembers.Skipped{Member: m, Why: "not named by --" + flagMember})
	}
	return nil
}

// chosen are the members that --member names, or all.
func (d *defragging) chosen() (chosen, others []etcdmembers.Member, err error) {
	names := d.inv.StringSlice(flagMember)
	if len(names) == 0 {
		return d.members, nil, nil
	}
	var ids []uint64
	for _, name := range names {
		m, err := etcdmembers.Named(d.members, name)
		switch {
		case errors.Is(err, etcdmembers.ErrLearner):
			return nil, nil, refuse("etcd does not defragment learners; promote it first (etcdctl member promote)", "%w", err)
		case err != nil:
			return nil, nil, memberFailure(err)
		}
		ids = append(ids, m.ID)
	}
	for _, m := range d.members {
		if slices.Contains(ids, m.ID) {
			chosen = append(chosen, m)
		} else {
			others = append(others, m)
		}
	}
	return chosen, others, nil
}

func (d *defragging) preview() error {
	if f := d.inv.format(); f == formatJSON || f == formatYAML {
		if err := d.inv.document(d.previewDocument()); err != nil {
			return err
		}
	} else {
		d.write(d.inv.Streams.Out, width(d.inv.Streams.OutWidth), false)
	}
	return d.inv.somethingToDo(int64(len(d.steps)))
}

func (d *defragging) execute(ctx context.Context) error {
	inv := d.inv
	if len(d.steps) == 0 {
		return d.report(nil, nil)
	}
	if d.unfit != nil {
		return d.failure(0, d.unfit)
	}
	if !inv.Bool(flagYes) {
		d.write(inv.Streams.Err, width(inv.Streams.ErrWidth), true)
		n := int64(len(d.steps))
		if err := inv.confirm(ctx, n, "defragment "+these(n)); err != nil {
			return err
		}
	}
	d.began = inv.Now()
	opt := d.options()
	metrics, closeIdle := d.node().fetcher(d.found.MetricsURLs)
	defer closeIdle()
	opt.Metrics = metrics
	done, err := etcdmembers.Defrag(ctx, opt, inv.defragObserver())
	return d.report(done, err)
}

func these(n int64) string {
	if n == 1 {
		return "this member"
	}
	return fmt.Sprintf("these %s", term.Plural(n, "member"))
}

func (d *defragging) options() etcdmembers.DefragOptions {
	warn := func(warning string) { d.inv.say("warning: %s", warning) }
	return etcdmembers.DefragOptions{
		Client: d.conn.Client, Endpoints: d.conn.Endpoints, Dial: d.inv.dialer(d.found.Settings, warn), Steps: d.steps,
		MoveLeader: d.inv.Bool(flagMoveLeader), Wait: d.inv.Duration(flagWait), Patience: d.found.CommandTimeout,
		Room: d.local.room, Now: d.inv.Now,
	}
}

// failure is what ended it, when so many members are done.
func (d *defragging) failure(done int, err error) error {
	again := "once all members are well, run it again: it takes those that are still worth it"
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrUserEmpty), errors.Is(err, rpctypes.ErrInvalidAuthToken):
		return &failure{exitConnect, err, "etcd lets users with the role root defragment only"}
	case done == 0 && (errors.Is(err, etcdmembers.ErrUnfit) || errors.Is(err, etcdmembers.ErrInflight)):
		return refuse("bring the members back first: while one is stopped, the others must carry the cluster. Nothing was changed", "%w", err)
	case done > 0:
		return partial(again, "%d of %s defragmented: %w", done, term.Plural(int64(len(d.steps)), "member"), err)
	}
	var known *failure
	if errors.As(err, &known) {
		return err
	}
	return &failure{exitFailed, err, again}
}
