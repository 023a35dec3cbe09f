package app

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace/fakekine"
)

// cmdLoseLeader takes a store its quorum, with a second member that never
// comes: lose-leader NAME.
func cmdLoseLeader(ts *testscript.TestScript, neg bool, args []string) {
	s, _ := named(ts, neg, args, 0, 0, "lose-leader NAME")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// Nothing listens on port 2 of this machine.
	_, err := s.client.MemberAdd(ctx, []string{"http://127.0.0.1:2"})
	ts.Check(err)
	for {
		resp, err := s.client.Status(ctx, s.url())
		ts.Check(err)
		if resp.Leader == 0 {
			return
		}
	}
}

// cmdKine starts a server like kine and puts the zoo into it: kine NAME
// VERSION. What it prints of the store is in the variable NAME, as ever.
func cmdKine(ts *testscript.TestScript, neg bool, args []string) {
	versions := map[string]fakekine.Version{"0.11": fakekine.V011, "0.13": fakekine.V013, "0.17": fakekine.V017}
	if neg || len(args) != 2 {
		ts.Fatalf("usage: kine NAME VERSION")
	}
	version, ok := versions[args[1]]
	if !ok {
		ts.Fatalf("no kine %s", args[1])
	}
	server, err := fakekine.Start(version)
	ts.Check(err)
	ts.Defer(server.Close)
	ts.Check(fillKine(context.Background(), server.URL()))
	ts.Setenv(args[0], server.URL())
}

// fillKine copies what a snapshot of the zoo holds for Kubernetes, in the
// order in which it was written there.
func fillKine(ctx context.Context, url string) error {
	box, err := startZoo(ctx)
	if err != nil {
		return err
	}
	defer box.close()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{url}})
	if err != nil {
		return err
	}
	defer client.Close()
	src, err := keyspace.Pin(ctx, box.client, "/registry/", keyspace.Options{Timeout: time.Minute})
	if err != nil {
		return err
	}
	return src.Scan(ctx, keyspace.Prefix("/"), false, func(kv *mvccpb.KeyValue) error {
		key := string(kv.Key)
		if !strings.HasPrefix(key, "/") {
			return nil
		}
		_, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, string(kv.Value))).Commit()
		return err
	})
}

// TestSerializableStaysWithOneMember: two members may have come to know
// different revisions, so that what is pinned on one may be ahead of another.
func TestSerializableStaysWithOneMember(t *testing.T) {
	t.Parallel()
	box := startRunaway(t, 1)
	endpoints := []string{box.url(), strings.Replace(box.url(), "127.0.0.1", "localhost", 1)}
	for _, tt := range []struct {
		mode string
		want []string
	}{{"l", endpoints}, {"linearizable", endpoints}, {"s", endpoints[:1]}, {"serializable", endpoints[:1]}} {
		var got []string
		look := &command{name: "look", flags: slices.Concat([]cli.Flag{}, outputFlags(""), fromFlags(), connectionFlags())}
		look.run = func(ctx context.Context, inv *invocation) error {
			s, err := inv.open(ctx)
			if err == nil {
				got = s.main.Client.Endpoints()
				s.close()
			}
			return err
		}
		p := Process{Getenv: func(string) string { return "" }, Root: t.TempDir(), Now: time.Now}
		p.Streams.Out, p.Streams.Err = io.Discard, io.Discard
		line := &parsed{command: look, flags: []string{"--endpoints=" + strings.Join(endpoints, ","), "--consistency=" + tt.mode}}
		if err := runCommand(t.Context(), p, line); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: the client knows %q, want %q", tt.mode, got, tt.want)
		}
	}
}
