package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

const (
	flagToRevision = "to-revision"
	flagToHead     = "to-head"
	flagPhysical   = "physical"

	defaultCompactAge = "5m"
)

func compactCommand() *command {
	return &command{
		name:    "compact",
		summary: "drop old history from etcd, up to a revision some minutes old",
		about: "etcd keeps what was overwritten and deleted until it is compacted; kube-apiserver does that every five minutes, but not while NOSPACE is raised. " +
			"This drops the history before a revision that is older than --older-than, found by the Leases that were renewed then (else by Events). What each " +
			"object is now stays. --to-revision names the revision, --to-head means the present one.\n\n" +
			"A watch that has not come to that revision is cancelled, and the API server that it feeds lists everything again: the reason not to compact to the " +
			"present by default. The file only gets smaller by defrag. Without --execute it is a preview, and nothing is changed.",
		examples: []string{
			"etcd-rescue compact",
			"etcd-rescue compact --older-than 1h --execute",
			"etcd-rescue compact --to-revision 1830422 --execute --yes",
		},
		flags: slices.Concat(memberApproval("compact"), []cli.Flag{
			&cli.StringFlag{Name: flagOlderThan, Usage: "keep the history of the last `AGE`, such as 5m or 2h", Value: defaultCompactAge, Category: catSelection},
			&cli.Int64Flag{Name: flagToRevision, Usage: "compact to revision `N`", Category: catSelection},
			&cli.BoolFlag{Name: flagToHead, Usage: "compact to the present revision: watches that lag behind are cancelled", Category: catSelection},
			&cli.BoolFlag{Name: flagPhysical, Usage: "wait until it is removed from the db files of all members that answer", Value: true, Category: catPace},
		}, outputFlags("table, json, yaml"), connectionFlags()),
		run: runCompact,
	}
}

// memberApproval are the flags by which a change of members is approved.
func memberApproval(what string) []cli.Flag {
	flags := approvalFlags(what)
	flags[1] = &cli.BoolFlag{Name: flagYes, Usage: "with --execute: do not ask for the number of members to be typed", Category: catApproval}
	return flags
}

// upkeep is what all maintenance of one etcd begins with: who its members are.
type upkeep struct {
	*session
	conn *connect.Conn
	src  keyspace.Historian
	all  []etcdmembers.Member
	opt  etcdmembers.DisarmOptions
	// dataDir is where this node says that its etcd has its files, "" if it does not.
	dataDir string
}

// errKine ends maintenance of what is no etcd.
var errKine = errors.New("this is kine, not etcd: it has no members, and compacts its database by itself")

// newUpkeep looks at all members of the etcd that is reached by conn.
func (s *session) newUpkeep(ctx context.Context, conn *connect.Conn, src keyspace.Historian) (*upkeep, error) {
	if conn.Kine {
		return nil, &failure{exitFailed, errKine, "what makes room in its database are the database's own tools, such as VACUUM"}
	}
	u := &upkeep{session: s, conn: conn, src: src}
	return u, u.look(ctx)
}

// openUpkeep is newUpkeep of the main etcd; its close ends the session.
func (inv *invocation) openUpkeep(ctx context.Context) (*upkeep, error) {
	s, err := inv.open(ctx)
	if err != nil {
		return nil, err
	}
	s.sayOtherEtcd()
	u, err := s.newUpkeep(ctx, s.main, s.mainSource)
	if err != nil {
		s.close()
		return nil, err
	}
	return u, nil
}

// look asks all members how they are.
func (u *upkeep) look(ctx context.Context) error {
	all, err := etcdmembers.List(ctx, u.conn.Client, u.memberOptions())
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return &failure{exitConnect, err, noLeaderHint}
	}
	u.all = all
	u.nodeSays(ctx)
	return ctx.Err()
}

// nodeSays fills in what members do not tell, of their quotas, and where this
// node says that the files of its etcd are. What it says is about the main one.
func (u *upkeep) nodeSays(ctx context.Context) {
	found, err := connect.Resolve(u.inv.settings(), connect.Node{Root: u.inv.Root, Getenv: u.inv.Getenv})
	if err != nil {
		return
	}
	if u.conn != u.main {
		found.EtcdQuota, found.DataDir, found.MetricsURLs = 0, "", nil
	}
	u.dataDir = found.DataDir
	(&statusing{inv: u.inv, found: found}).tellQuotas(ctx, u.all)
}

func (u *upkeep) memberOptions() etcdmembers.Options {
	return etcdmembers.Options{Endpoints: u.conn.Endpoints, Timeout: min(u.timeout, 5*time.Second)}
}

// checkAgree refuses to change an etcd whose members disagree, and one that has
// no quorum.
func (u *upkeep) checkAgree() error {
	if corrupt := etcdmembers.Raised(u.all, etcdmembers.AlarmCorrupt); len(corrupt) > 0 {
		return refuse(corruptHint, "etcd has raised the alarm CORRUPT (%s): its members disagree, and nothing is changed", joinWords(u.alarmNames(corrupt)))
	}
	if len(u.conn.Leaderless) == len(u.conn.Endpoints) {
		return refuse("bring a majority of the members back first", "etcd has no leader, so that it takes no changes")
	}
	return nil
}

// alarmNames say which member raised which alarm.
func (u *upkeep) alarmNames(alarms []etcdmembers.Alarm) (names []string) {
	for _, a := range alarms {
		name := fmt.Sprintf("%x", a.Member)
		if i := slices.IndexFunc(u.all, func(m etcdmembers.Member) bool { return m.ID == a.Member }); i >= 0 {
			name = u.all[i].Label()
		}
		names = append(names, a.Type+" of member "+name)
	}
	return names
}

// oldest is the oldest revision that can be read: that of the last compaction,
// or 1.
func (u *upkeep) oldest(ctx context.Context) (int64, error) {
	_, err := keyspace.PinAt(ctx, u.conn.Client, u.reader.Prefix, 1, u.optionsOf(u.conn))
	var compacted *keyspace.CompactedError
	if errors.As(err, &compacted) && compacted.Oldest > 0 {
		return compacted.Oldest, nil
	}
	return 1, err
}

// servers is the revision that the API servers compacted to last, 0 if they say
// nothing (apiserver pkg/storage/etcd3/compact.go).
func (u *upkeep) servers(ctx context.Context) int64 {
	kv, err := u.src.Get(ctx, "compact_rev_key")
	if err != nil || kv == nil {
		return 0
	}
	rev, err := strconv.ParseInt(string(kv.Value), 10, 64)
	if err != nil {
		return 0
	}
	return rev
}

// compacting is one call of compact.
type compacting struct {
	*upkeep
	now, floor, target int64
	apiserver          int64 // 0: unknown
	clock              *revisionTime
	why                string
	took               time.Duration
	before, after      int64 // bytes in use, of all members
	changed            bool
}

func runCompact(ctx context.Context, inv *invocation) error {
	err := inv.checkFormat(formatTable, formatJSON, formatYAML)
	if err == nil {
		err = inv.checkCompact()
	}
	if err == nil {
		err = inv.checkApproval(false)
	}
	if err != nil {
		return err
	}
	u, err := inv.openUpkeep(ctx)
	if err != nil {
		return err
	}
	defer u.close()
	if err := u.checkAgree(); err != nil {
		return err
	}
	c := &compacting{upkeep: u}
	if err := c.plan(ctx); err != nil {
		return err
	}
	if inv.Bool(flagExecute) {
		return c.execute(ctx)
	}
	if err := c.show(); err != nil {
		return err
	}
	return inv.somethingToDo(max(0, c.target-c.floor))
}

// checkCompact refuses targets that contradict each other.
func (inv *invocation) checkCompact() error {
	given := 0
	for _, name := range []string{flagOlderThan, flagToRevision, flagToHead} {
		if inv.IsSet(name) {
			given++
		}
	}
	if given > 1 {
		return usage("give one of them", "--%s, --%s and --%s contradict each other", flagOlderThan, flagToRevision, flagToHead)
	}
	if n := inv.Int64(flagToRevision); inv.IsSet(flagToRevision) && n < 1 {
		return usage("", "--%s takes a positive number, got %d", flagToRevision, n)
	}
	_, err := filter.ParseAge(inv.String(flagOlderThan))
	if err != nil {
		return usage("", "--%s: %w", flagOlderThan, err)
	}
	return nil
}

// sayOtherEtcd names the etcd that is not looked at.
func (s *session) sayOtherEtcd() {
	if s.events != nil {
		s.inv.say("note: events have an etcd of their own, which is left alone; for that one give --%s %s", flagEndpoints, joinWords(s.events.Endpoints))
	}
}

// plan finds the revision to compact to.
func (c *compacting) plan(ctx context.Context) (err error) {
	inv := c.inv
	c.now, c.apiserver, c.before = c.src.Revision(), c.servers(ctx), c.inUse()
	if c.floor, err = c.oldest(ctx); err != nil {
		return err
	}
	switch {
	case inv.Bool(flagToHead):
		c.target, c.why = c.now, "the present one, as --"+flagToHead+" says"
		return nil
	case inv.IsSet(flagToRevision):
		c.target, c.why = inv.Int64(flagToRevision), "as --"+flagToRevision+" says"
		if c.target > c.now {
			return usage("the present one is "+strconv.FormatInt(c.now, 10), "etcd has not come to revision %d yet", c.target)
		}
		return nil
	}
	age, _ := filter.ParseAge(inv.String(flagOlderThan)) // checked before
	clock := &revisionClock{reader: c.reader, src: c.src, now: inv.Now(), floor: c.floor}
	at, ok, err := clock.older(ctx, age)
	if err != nil {
		return err
	}
	if !ok {
		return refuse("name a revision by --"+flagToRevision+"; history lists those of an object", "nothing in etcd tells which of its revisions is older than %s", inv.String(flagOlderThan))
	}
	c.target, c.clock = at.revision, &at
	c.why = fmt.Sprintf("made %s ago (%s)", at.age(inv.Now()), at)
	return nil
}

func (u *upkeep) inUse() (n int64) {
	for _, m := range u.all {
		n += m.InUse
	}
	return n
}

func (c *compacting) execute(ctx context.Context) error {
	inv := c.inv
	if c.target <= c.floor {
		return c.show()
	}
	if !inv.Bool(flagYes) {
		c.write(writer{inv.Streams.Err, width(inv.Streams.ErrWidth)})
	}
	if err := inv.confirm(ctx, int64(len(c.all)), fmt.Sprintf("compact etcd, which has %s, to revision %d", term.Plural(int64(len(c.all)), "member"), c.target)); err != nil {
		return err
	}
	began := inv.Now()
	if err := c.compactTo(ctx, c.target, inv.Bool(flagPhysical)); err != nil {
		return err
	}
	if inv.Bool(flagPhysical) {
		switch err := c.awaitCompaction(ctx, c.target); {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			inv.say("warning: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
	c.changed, c.took = true, inv.Now().Sub(began)
	if err := c.look(ctx); err != nil {
		return err
	}
	c.after = c.inUse()
	return c.show()
}

// compactTo compacts, and says every few seconds that it is still at it. That
// somebody else has compacted further is as good.
func (u *upkeep) compactTo(ctx context.Context, rev int64, physical bool) error {
	err := etcdmembers.Compact(ctx, u.conn.Client, rev, physical, u.compactWords(rev))
	switch {
	case err == nil, errors.Is(err, etcdmembers.ErrCompacted):
		return nil
	case ctx.Err() != nil:
		u.inv.say("note: if etcd has begun the compaction, it goes on with it")
		return ctx.Err()
	}
	return u.maintenanceFailure(err)
}

// compactWords say every few seconds for how long a compaction has been going
// on.
func (u *upkeep) compactWords(rev int64) etcdmembers.CompactObserver {
	last := time.Duration(0)
	return func(waiting time.Duration) {
		if waiting-last >= 5*time.Second {
			last = waiting
			u.inv.say("compacting to revision %d for %s", rev, term.Duration(waiting.Truncate(time.Second)))
		}
	}
}

// awaitCompaction waits until all members have removed what is dropped.
func (u *upkeep) awaitCompaction(ctx context.Context, rev int64) error {
	dial, err := u.dialer()
	if err != nil {
		return err
	}
	return etcdmembers.AwaitCompaction(ctx, dial, u.all, rev, u.compactWords(rev))
}

// maintenanceFailure adds what may help.
func (u *upkeep) maintenanceFailure(err error) error {
	if errors.Is(err, rpctypes.ErrPermissionDenied) || errors.Is(err, rpctypes.ErrUserEmpty) || errors.Is(err, rpctypes.ErrInvalidAuthToken) {
		return &failure{exitConnect, err, "with authentication on, etcd lets only users with the role root do this"}
	}
	return &failure{exitFailed, err, "look at etcd first (status); run it again once it answers"}
}
