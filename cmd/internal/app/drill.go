package app

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

const (
	scenarioRunawayJob = "runaway-job"
	drillNamespace     = "ops-tools"
	drillJob           = "error-ret"
	drillPrefix        = "/registry/"
	drillPods          = 30000
)

func drillCommand() *command {
	return &command{
		name: "drill", args: "SCENARIO", minArgs: 1, maxArgs: 1,
		summary: "practise on a throwaway etcd that holds a real incident",
		about: "runaway-job: a Job bound to a dead node has made 30,000 pods. The drill starts an etcd of its own on this machine, from a snapshot of that incident, " +
			"and walks through the whole job: look, count, preview, delete, undo. Each command is shown with its real output. No other etcd is touched, and nothing is left behind.",
		examples: []string{"etcd-rescue drill runaway-job", "etcd-rescue drill runaway-job --size 500", "etcd-rescue drill runaway-job --serve"},
		flags: []cli.Flag{
			&cli.BoolFlag{Name: flagServe, Usage: "only start the etcd, and say how to reach it from a second terminal; Ctrl-C ends it", Category: catOther},
			&cli.IntFlag{Name: flagSize, Usage: "take only `N` of the pods", Value: drillPods, Category: catOther},
		},
		run: runDrill,
	}
}

// drill is one walk through a scenario.
type drill struct {
	Process
	box  *sandbox.Sandbox
	dir  string // for archive and plan
	size int
	step int
}

func runDrill(ctx context.Context, inv *invocation) error {
	if inv.args[0] != scenarioRunawayJob {
		return usage("the scenarios are: "+scenarioRunawayJob, "unknown scenario %q", inv.args[0])
	}
	size := inv.Int(flagSize)
	if size < 1 || size > drillPods {
		return usage("", "--%s takes a number from 1 to %d, got %d", flagSize, drillPods, size)
	}
	d := &drill{Process: inv.Process, size: size}
	d.say("Starting a throwaway etcd that holds the incident …")
	box, err := sandbox.Start(ctx, sandbox.Options{Fixture: sandbox.Runaway30k, Keep: d.keep()})
	if err != nil {
		return fmt.Errorf("start the sandbox: %w", err)
	}
	d.box = box
	if inv.Bool(flagServe) {
		err = d.serve(ctx)
	} else {
		err = d.walk(ctx)
	}
	return errors.Join(err, box.Close())
}

func (d *drill) say(format string, args ...any) { fmt.Fprintf(d.Streams.Out, format+"\n", args...) }

// keep takes the first pods up to the size, and leaves out the leases of API
// servers: in this incident they are dead, and their keys would vanish after
// 15 seconds.
func (d *drill) keep() func(string) bool {
	taken := map[string]bool{}
	return func(key string) bool {
		switch {
		case strings.HasPrefix(key, drillPrefix+"masterleases/"), strings.HasPrefix(key, drillPrefix+"peerserverleases/"):
			return false
		case !strings.HasPrefix(key, drillPrefix+"pods/"+drillNamespace+"/"):
			return true
		}
		if !taken[key] && len(taken) < d.size {
			taken[key] = true
		}
		return taken[key]
	}
}

func (d *drill) serve(ctx context.Context) error {
	d.say("It listens on %s until you press Ctrl-C.\nIn a second terminal:\n", d.box.Endpoints()[0])
	d.say("  export ETCDCTL_ENDPOINTS=%s", d.box.Endpoints()[0])
	d.say("  etcd-rescue count --by namespace")
	d.say("  etcd-rescue delete pods -n %s --owner job/%s", drillNamespace, drillJob)
	<-ctx.Done()
	return nil
}

// walk goes through the main job and checks each result.
func (d *drill) walk(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "etcd-rescue-drill-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d.dir = dir
	begun := d.Now()
	before, err := d.store(ctx)
	if err != nil {
		return err
	}
	d.say("%s", term.Wrap(fmt.Sprintf("A Job that is bound to a dead node has made %s pods; the API server is down. etcd answers on %s, "+
		"which the commands below find in ETCDCTL_ENDPOINTS.", term.Count(int64(d.size)), d.box.Endpoints()[0]), 80))
	for _, act := range []func(context.Context, *digest) error{d.look, d.preview, d.delete, d.undo} {
		if err := act(ctx, before); err != nil {
			return err
		}
	}
	d.say("\nThe drill is over after %s: every check passed, and its etcd and files are gone.", term.Duration(d.Now().Sub(begun).Round(time.Second)))
	return nil
}

func (d *drill) look(ctx context.Context, _ *digest) error {
	return errors.Join(
		d.run(ctx, "Look: which namespace is full?", 12, "count", "--by", "namespace"),
		d.run(ctx, "What made the pods, and in what state are they?", 8, "count", "pods", "-n", drillNamespace, "--by", "owner,phase,node", "--bytes"),
		d.run(ctx, "Some of them, as kubectl would show them.", 5, "list", "pods", "-n", drillNamespace),
		d.run(ctx, "And their Job.", 5, "list", "jobs", "-n", drillNamespace),
	)
}

func (d *drill) preview(ctx context.Context, before *digest) error {
	err := d.run(ctx, "Preview the delete. It names what would make the pods again.", 0,
		"delete", "pods", "-n", drillNamespace, "--owner", "job/"+drillJob)
	if err != nil {
		return err
	}
	return d.check(ctx, "nothing was changed", func(now *digest) bool { return now.all == before.all && now.rev == before.rev })
}

func (d *drill) delete(ctx context.Context, before *digest) error {
	err := d.run(ctx, "Delete, the Job first. On a real master the default pace of 200 a second is kinder; here --rate max and a short --settle save time.", 0,
		"delete", "pods", "-n", drillNamespace, "--owner", "job/"+drillJob, "--with-owners",
		"--execute", "--yes", "--max-deletes", fmt.Sprint(d.size+1), "--rate", "max", "--settle", "2s", "--archive-dir", d.dir)
	if err != nil {
		return err
	}
	deleted := int64(d.size + 1)
	return d.check(ctx, "the Job and its pods are gone, each in a revision of its own, and nothing else was touched", func(now *digest) bool {
		return now.rest == before.rest && now.keys == before.keys-deleted && now.rev == before.rev+deleted
	})
}

func (d *drill) undo(ctx context.Context, before *digest) error {
	archives, err := filepath.Glob(filepath.Join(d.dir, "*.db"))
	if err != nil || len(archives) != 1 {
		return fmt.Errorf("expected one archive in %s, found %d", d.dir, len(archives))
	}
	err = d.run(ctx, "Suppose that was wrong: undo it.", 0,
		"undo", archives[0], "--execute", "--yes", "--rate", "max", "--archive-dir", d.dir)
	if err != nil {
		return err
	}
	return d.check(ctx, "every object is back under its own key, byte for byte", func(now *digest) bool { return now.all == before.all })
}

// run shows one command with its output, the screen's first lines of it where
// lines is not 0.
func (d *drill) run(ctx context.Context, why string, lines int, args ...string) error {
	d.step++
	d.say("\n%s\n", term.Wrap(fmt.Sprintf("%d. %s", d.step, why), 80))
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = quoteWord(a)
	}
	d.say("$ etcd-rescue %s", strings.Join(words, " "))
	out := &headWriter{out: d.Streams.Out, left: lines, all: lines == 0}
	p := d.Process
	p.Args = args
	// The same in a terminal and in a pipe: as for people, 80 columns wide,
	// with plain lines of progress.
	p.Streams = term.Streams{In: strings.NewReader(""), Out: out, Err: out, OutTTY: true, OutWidth: 80, ErrWidth: 80}
	p.Getenv = func(name string) string {
		if name == "ETCDCTL_ENDPOINTS" {
			return d.box.Endpoints()[0]
		}
		return ""
	}
	code := Run(ctx, p)
	out.finish()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if code != exitDone {
		return fmt.Errorf("the command ended with exit code %d", code)
	}
	return nil
}

func (d *drill) check(ctx context.Context, what string, good func(*digest) bool) error {
	now, err := d.store(ctx)
	if err != nil {
		return err
	}
	if !good(now) {
		return fmt.Errorf("checked, and it is not so: %s", what)
	}
	d.say("\n%s", term.Wrap("Checked: "+what+".", 80))
	return nil
}

// digest is what the checks compare of a store.
type digest struct {
	rev  int64
	keys int64
	all  [sha256.Size]byte // of every key and value
	rest [sha256.Size]byte // of all but the Job and its pods
}

func (d *drill) store(ctx context.Context) (*digest, error) {
	client, err := d.box.Client(ctx)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	src, err := keyspace.Pin(ctx, client, drillPrefix, keyspace.Options{Timeout: 30 * time.Second})
	if err != nil {
		return nil, err
	}
	all, rest := sha256.New(), sha256.New()
	g := &digest{rev: src.Revision()}
	err = src.Scan(ctx, keyspace.Prefix(drillPrefix), false, func(kv *mvccpb.KeyValue) error {
		g.keys++
		entry := binary.AppendUvarint(nil, uint64(len(kv.Key)))
		entry = append(append(entry, kv.Key...), kv.Value...)
		all.Write(entry)
		key := string(kv.Key)
		if !strings.HasPrefix(key, drillPrefix+"pods/"+drillNamespace+"/") && key != drillPrefix+"jobs/"+drillNamespace+"/"+drillJob {
			rest.Write(entry)
		}
		return nil
	})
	all.Sum(g.all[:0])
	rest.Sum(g.rest[:0])
	return g, err
}
