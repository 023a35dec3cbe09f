package app

import (
	"context"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/alive"
)

func statusCommand() *command {
	return &command{
		name:    "status",
		summary: "how etcd is: members, space, alarms, latency, certificates",
		about: "Asks every member by itself, all at once, so that one that is dead costs --dial-timeout once, and no more than twice that passes in all. It " +
			"takes no leader and no quorum, and changes nothing.\n\n" +
			"LINEARIZABLE is how long a read takes that needs a majority of the members, which tells whether that lives; SERIALIZABLE one that a member " +
			"answers by itself, which tells whether that lives. FSYNC and COMMIT are what 99 of 100 writes to the log and to the db file did not exceed since " +
			"the member started, as its metrics tell. LAG is how many raft entries a member has not carried out of those that are committed. FULL is the db " +
			"file's share of its quota; a quota that neither the member nor its metrics nor this node's manifests tell is unknown.\n\n" +
			"etcd is degraded if a member does not answer, is behind or cut off, if there is no quorum, if an alarm is raised, if members disagree on " +
			"their version or, at three looks, on their leader, term, revision or members, if 80 % of a quota is filled, or if a certificate has expired or " +
			"does so within 7 days. Who lives beside it is no part of the verdict.\n\nExit code 0: healthy; 3: degraded; 5: no member answers.",
		examples: []string{
			"etcd-rescue status",
			"etcd-rescue status -o wide",
			"etcd-rescue status --watch",
			"etcd-rescue status -o json --dial-timeout 2s",
		},
		flags: slices.Concat([]cli.Flag{
			&cli.BoolFlag{Name: flagWatch, Usage: "again and again until Ctrl-C: in place on a terminal, elsewhere one report after the other, in JSON one on each line", Category: catOutput},
			&cli.DurationFlag{Name: flagInterval, Usage: "with --watch wait `DURATION` in between", Value: defaultInterval, Category: catOutput},
			&cli.IntFlag{Name: flagRefreshes, Usage: "with --watch end after `N` reports", Category: catOutput},
		}, outputFlags("table, wide, json, yaml"), statusConnectionFlags()),
		run: runStatus,
	}
}

// statusConnectionFlags leaves out how objects are read: status finds out
// itself what can be read.
func statusConnectionFlags() []cli.Flag {
	return slices.DeleteFunc(connectionFlags(), func(f cli.Flag) bool { return f.Names()[0] == flagConsistency })
}

func runStatus(ctx context.Context, inv *invocation) error {
	if err := inv.checkFormat(formatTable, formatWide, formatJSON, formatYAML); err != nil {
		return err
	}
	if err := inv.checkLogLevel(); err != nil {
		return err
	}
	if err := inv.checkStatusWatch(); err != nil {
		return err
	}
	st := &statusing{inv: inv}
	if err := st.resolve(); err != nil {
		return err
	}
	defer st.close()
	if !inv.Bool(flagWatch) {
		r, err := st.look(ctx)
		if err != nil {
			return err
		}
		if err := r.show(); err != nil {
			return err
		}
		return r.verdict()
	}
	return st.watch(ctx)
}

func (inv *invocation) checkStatusWatch() error {
	for _, name := range []string{flagInterval, flagRefreshes} {
		if inv.IsSet(name) && !inv.Bool(flagWatch) {
			return usage("add --"+flagWatch, "--%s is for --%s", name, flagWatch)
		}
	}
	if inv.Duration(flagInterval) < 0 || inv.Int(flagRefreshes) < 0 || inv.IsSet(flagRefreshes) && inv.Int(flagRefreshes) == 0 {
		return usage("", "--%s and --%s must be above zero", flagInterval, flagRefreshes)
	}
	return nil
}

// watch shows one report after the other. An etcd that is not well, or not
// there, is what is to be watched; how it was at the end is the exit code.
func (st *statusing) watch(ctx context.Context) error {
	w := newWatching(st.inv)
	var verdict error
	err := w.run(ctx, func(ctx context.Context, _ int) (last bool, err error) {
		r, err := st.look(ctx)
		if err != nil {
			return false, err
		}
		verdict = r.verdict()
		return false, w.draw(func(int) error { return r.show() })
	}, st.breathe)
	if err != nil || ctx.Err() != nil {
		return err // an interrupt is how this ends
	}
	return verdict
}

// breathe waits between two reports. How long a look took says nothing of what
// it cost etcd: what takes long is waiting for who does not answer.
func (st *statusing) breathe(ctx context.Context) error {
	pause := time.NewTimer(st.inv.Duration(flagInterval))
	defer pause.Stop()
	select {
	case <-pause.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// statusing is one call of status.
type statusing struct {
	inv   *invocation
	found connect.Found
	// session holds what it takes to read what is stored: status needs no more
	// of it than the keys' prefix and how values are decrypted.
	session *session
	alive   *alive.Watch
	certs   map[string][]connect.Certificate // that were served, by endpoint
	certsAt time.Time
}

func (st *statusing) resolve() error {
	inv := st.inv
	found, err := connect.Resolve(inv.settings(), connect.Node{Root: inv.Root, Getenv: inv.Getenv})
	if err != nil {
		return settingFailure(err)
	}
	inv.say("%s", found.Why)
	found.Settings.Cluster = false // all members are found all the same
	st.found = found
	st.session = &session{inv: inv, reader: &codec.Reader{Catalog: codec.NewCatalog(), Prefix: found.Prefix}}
	st.alive = alive.New(st.session.reader, inv.Now)
	return st.session.openKeys(found.EncryptionConfig)
}

func (st *statusing) close() { st.session.close() }
