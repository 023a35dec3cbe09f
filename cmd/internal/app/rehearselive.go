package app

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

// take takes a snapshot of the etcd that the plan is for, as snapshot save
// does.
func (r *rehearsing) take(ctx context.Context) error {
	conn, err := r.etcd()
	if err != nil {
		return err
	}
	if err := r.checkCluster(ctx); err != nil {
		return err
	}
	one, member, err := r.member(ctx, conn)
	if err != nil {
		return err
	}
	defer one.Close()
	path := filepath.Join(os.TempDir(), "etcd-rescue-rehearse-"+r.inv.newRun()+".db")
	r.taken = path
	var progress *term.Progress
	defer func() { progress.Finish() }()
	_, err = snapshots.Save(ctx, etcdmembers.Snapshots(one.Client), snapshots.SaveOptions{
		Path: path,
		Room: func(total int64) error {
			r.inv.say("taking a snapshot of member %s (%s)", member.Label(), term.Bytes(total))
			progress = term.NewProgress(r.inv.Streams, term.ProgressOptions{
				Total: total, Verb: "saving", Past: "received", Bytes: true, Quiet: r.inv.Bool(flagQuiet), JSON: r.inv.json(), Now: r.inv.Now,
			})
			// The file goes once it is restored; what the plan needs beside it
			// is checked before that.
			return r.checkSpace(3 * total)
		},
		Received:  func(n int, _ int64) { progress.Add(n, 0, 0) },
		Verifying: func() { progress.Finish() },
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("take a snapshot: %w", err)
	}
	r.file, err = snapshots.Open(path, snapshots.Options{})
	return err
}

// checkCluster refuses a plan of another cluster before much is read for it.
func (r *rehearsing) checkCluster(ctx context.Context) error {
	uid, err := r.s.identity(ctx)
	if err != nil && !errors.Is(err, keyspace.ErrNoIdentity) {
		return err
	}
	h := r.p.Header()
	if err := h.Check(uid, h.Prefix, r.inv.Now(), math.MaxInt64); errors.Is(err, plan.ErrForeign) {
		return r.explain(err)
	}
	return nil
}

// etcd is the one that the plan is for.
func (r *rehearsing) etcd() (*connect.Conn, error) {
	conn := r.s.main
	if r.p.Header().Etcd == etcdEvents {
		conn = r.s.events
	}
	switch {
	case conn == nil:
		return nil, refuse("give the etcd that holds events by --"+flagEventsEndpoints, "the plan is for the etcd that holds events")
	case conn.Kine:
		return nil, &failure{exitFailed, errors.New("this is kine, not etcd: it has no snapshots"),
			"rehearse with --" + flagFrom + " and the snapshot of an etcd; kine's own data are backed up by the tools of the database behind it"}
	}
	return conn, nil
}

// member connects to the member that snapshot save would choose, and to no
// other. The caller closes the connection.
func (r *rehearsing) member(ctx context.Context, conn *connect.Conn) (*connect.Conn, *etcdmembers.Member, error) {
	all, err := etcdmembers.List(ctx, conn.Client, etcdmembers.Options{Endpoints: slices.Clone(conn.Endpoints)})
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	if err != nil {
		r.inv.say("warning: only the given endpoints are looked at: %v", err)
	}
	member, _, err := etcdmembers.Choose(all)
	if err != nil {
		return nil, nil, memberFailure(err)
	}
	found, err := connect.Resolve(r.inv.settings(), connect.Node{Root: r.inv.Root, Getenv: r.inv.Getenv})
	if err != nil {
		return nil, nil, settingFailure(err)
	}
	one, err := connect.Dial(ctx, found.Settings, []string{member.Endpoint}, r.s.log)
	if err != nil {
		return nil, nil, settingFailure(err)
	}
	return one, member, nil
}
