package app

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startRehearsal starts a rehearsal with its temporary files in a folder of
// their own, and returns when it restores the snapshot.
func startRehearsal(t *testing.T) (sh shell, c *exec.Cmd, tmp string) {
	t.Helper()
	box := startRunaway(t, 100)
	sh, tmp = newShell(t, box), t.TempDir()
	sh.run(exitDone, "delete", "pods", "-n", "ops-tools", "--plan", "plan.jsonl")
	if err := box.save(t.Context(), filepath.Join(sh.dir, "snapshot.db")); err != nil {
		t.Fatal(err)
	}
	c = sh.command("rehearse", "plan.jsonl", "--from", "snapshot.db")
	c.Env = append(c.Env, "TMPDIR="+tmp)
	c.Stderr = nil
	pipe, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, pipe, "into a throwaway etcd")
	return sh, c, tmp
}

// TestRehearsalInterrupted: an interrupt ends a rehearsal, without a report,
// and nothing is left behind.
func TestRehearsalInterrupted(t *testing.T) {
	t.Parallel()
	sh, c, tmp := startRehearsal(t)
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if r := sh.finish(c); r.code != exitInterrupted || r.out != "" {
		t.Errorf("exit code %d:\n%s", r.code, r.out)
	}
	if files := glob(t, tmp, "*"); len(files) > 0 {
		t.Errorf("it left %v", files)
	}
}

// TestRehearsalKilled: the etcd of a rehearsal that is killed ends too, and
// removes the files of both.
func TestRehearsalKilled(t *testing.T) {
	t.Parallel()
	sh, c, tmp := startRehearsal(t)
	// The etcd's process is the first to know of its folder: what stands in it
	// comes later.
	waitUntil(t, func() bool { return len(glob(t, tmp, "*/*")) > 0 })
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if r := sh.finish(c); r.code != -1 {
		t.Errorf("exit code %d:\n%s", r.code, r.out)
	}
	waitUntil(t, func() bool { return len(glob(t, tmp, "*")) == 0 })
}

// waitUntil looks again and again, until it is so.
func waitUntil(t *testing.T, so func() bool) {
	t.Helper()
	tick, giveUp := time.NewTicker(time.Millisecond), time.After(patience)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-giveUp:
			t.Fatal("it did not come to that")
		}
	}
}

// TestRehearsalNeedsRoom: it does not begin what the disk has no room for.
func TestRehearsalNeedsRoom(t *testing.T) {
	t.Parallel()
	err := (&rehearsing{}).checkSpace(1 << 62)
	if f, ok := errors.AsType[*failure](err); !ok || f.code != exitFailed || !strings.Contains(f.hint, "TMPDIR") {
		t.Errorf("got %v", err)
	}
}
