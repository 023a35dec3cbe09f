package app

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

var killSeed = flag.Uint64("seed", 0, "take the moments of TestKillMinusNine from this seed; 0: from a new one")

const (
	killPods   = 2000
	killRounds = 10
)

// TestKillMinusNine: stopping at any instant leaves extra data, never lost
// data. After a SIGKILL, archive and etcd together hold every object byte for
// byte, and the saved plan, or without one the same command, finishes.
func TestKillMinusNine(t *testing.T) {
	long(t)
	t.Parallel()
	seed := *killSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("to see the same moments again: -seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	box, err := startIncident(t.Context(), killPods, sandbox.Child)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(box.close)
	before := box.mustContents(t)
	for round := range killRounds {
		k := &kill{T: t, box: box, shell: newShell(t, box), before: before}
		moment, when := k.moment(random, round)
		k.round(fmt.Sprintf("round %d, %s", round, when), moment)
	}
}

// kill is one round: a delete that is killed, and what comes after.
type kill struct {
	*testing.T
	box    *store
	shell  shell
	before *contents
}

func (k *kill) deleteArgs() []string {
	return []string{"delete", "pods", "-n", "ops-tools", "--owner", "job/error-ret", "--with-owners",
		"--execute", "--yes", "--max-deletes", "5000", "--rate", "3000", "--settle", "0"}
}

// moment picks when to kill: as soon as the plan or the archive appears, which
// are the moments that chance would miss, after some deletes, or at any time.
func (k *kill) moment(random *rand.Rand, round int) (moment func(context.Context), when string) {
	n, d := random.IntN(killPods), time.Duration(random.Int64N(int64(time.Second)))
	switch round % 5 {
	case 0:
		return k.appears("*.plan.jsonl"), "as soon as there is a plan"
	case 1:
		return k.appears("*.db"), "as soon as there is an archive"
	case 2, 3:
		deleted := k.box.deletes(k.T, n)
		return func(ctx context.Context) {
			select {
			case <-deleted:
			case <-ctx.Done():
			}
		}, fmt.Sprintf("after %d deletes", n)
	}
	return func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, d)
		defer cancel()
		<-ctx.Done()
	}, fmt.Sprintf("after %s", d)
}

// appears returns when a file is there.
func (k *kill) appears(pattern string) func(context.Context) {
	return func(ctx context.Context) {
		for ctx.Err() == nil {
			if files, err := filepath.Glob(filepath.Join(k.shell.dir, pattern)); len(files) > 0 || err != nil {
				return
			}
		}
	}
}

func (k *kill) round(name string, moment func(context.Context)) {
	k.Helper()
	c := k.shell.command(k.deleteArgs()...)
	if err := c.Start(); err != nil {
		k.Fatal(err)
	}
	ended, cancel := context.WithCancel(context.Background())
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		moment(ended)
		_ = c.Process.Signal(syscall.SIGKILL) // it may have ended by itself
	}()
	k.wait(c)
	cancel()
	<-killed
	k.check(name)
}

func (k *kill) wait(c *exec.Cmd) {
	k.Helper()
	if r := k.shell.finish(c); r.code != -1 && r.code != exitDone {
		k.Fatalf("exit code %d before it was killed:\n%s%s", r.code, r.out, r.errOut)
	}
}

func (k *kill) check(name string) {
	k.Helper()
	now := k.box.mustContents(k.T)
	left := now.below("/registry/pods/ops-tools/")
	archives, plans := glob(k.T, k.shell.dir, "*.db"), glob(k.T, k.shell.dir, "*.plan.jsonl")
	k.Logf("%s: %d pods left, %d archives, %d plans", name, left, len(archives), len(plans))
	k.noneLost(name, now, archives)
	if len(plans) > 0 {
		k.shell.run(exitDone, "apply", plans[0], "--execute", "--yes", "--rate", "max", "--settle", "0")
	} else {
		k.shell.run(exitDone, k.deleteArgs()...)
	}
	now = k.box.mustContents(k.T)
	if left := now.below("/registry/pods/ops-tools/"); left != 0 {
		k.Errorf("%s: %d pods are left when it has finished", name, left)
	}
	archives = slices.DeleteFunc(glob(k.T, k.shell.dir, "*.db"), func(path string) bool {
		f, err := snapshots.Open(path, snapshots.Options{})
		if err == nil {
			f.Close()
		}
		return errors.Is(err, snapshots.ErrNotDB) // killed while it was made
	})
	k.noneLost(name, now, archives)
	undo := append([]string{"undo"}, archives...)
	k.shell.run(exitDone, append(undo, "--execute", "--yes", "--rate", "max")...)
	if diff := sameValues(k.before, k.box.mustContents(k.T)); diff != "" {
		k.Fatalf("%s: after the undo %s", name, diff)
	}
}

// noneLost: an archive that the kill left without a single entry cannot be
// opened, and then nothing may be missing.
func (k *kill) noneLost(name string, now *contents, archives []string) {
	k.Helper()
	if key, err := lost(k.Context(), k.before, now); err == nil && key == "" {
		return
	}
	key, err := lost(k.Context(), k.before, now, archives...)
	if err != nil || key != "" {
		k.Fatalf("%s: neither etcd nor %v holds %q: %v", name, archives, key, err)
	}
}
