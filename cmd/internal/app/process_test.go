package app

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// patience ends a test that hangs; nothing is measured by it.
const patience = 2 * time.Minute

// shell runs the command as a process of its own, in a folder that its
// archives and plans are written to.
type shell struct {
	t   *testing.T
	dir string
	url string
}

func newShell(t *testing.T, s *store) shell {
	t.Helper()
	return shell{t, t.TempDir(), s.url()}
}

// result is how a process ended.
type result struct {
	code        int // -1 if a signal ended it
	out, errOut string
}

func (s shell) command(args ...string) *exec.Cmd {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.t.Cleanup(cancel)
	c := exec.CommandContext(ctx, "etcd-rescue", args...)
	c.Dir = s.dir
	c.Env = []string{"HOME=" + s.dir, "ETCDCTL_ENDPOINTS=" + s.url, rootVariable + "=" + s.dir + "/node", "TERM=xterm", raceVariable + "=" + raceOptions}
	c.Stdout, c.Stderr = &bytes.Buffer{}, &bytes.Buffer{}
	return c
}

// finish waits for a process that command made.
func (s shell) finish(c *exec.Cmd) result {
	s.t.Helper()
	err := c.Wait()
	if c.ProcessState == nil {
		s.t.Fatal(err)
	}
	r := result{code: c.ProcessState.ExitCode()}
	if b, ok := c.Stdout.(*bytes.Buffer); ok {
		r.out = b.String()
	}
	if b, ok := c.Stderr.(*bytes.Buffer); ok {
		r.errOut = b.String()
	}
	return r
}

// run runs the command to its end and asserts the exit code.
func (s shell) run(code int, args ...string) result {
	s.t.Helper()
	c := s.command(args...)
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	r := s.finish(c)
	if r.code != code {
		s.t.Fatalf("etcd-rescue %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.out, r.errOut)
	}
	return r
}

// waitFor reads until text has come, and returns what came.
func waitFor(t *testing.T, r io.Reader, text string) string {
	t.Helper()
	seen, buf := "", make([]byte, 1024)
	for !strings.Contains(seen, text) {
		n, err := r.Read(buf)
		if seen += string(buf[:n]); err != nil {
			t.Fatalf("%q did not come: %v after %q", text, err, seen)
		}
	}
	return seen
}

// find returns the first group of a regular expression in text.
func find(t *testing.T, text, expression string) string {
	t.Helper()
	found := regexp.MustCompile("(?m)" + expression).FindStringSubmatch(text)
	if len(found) != 2 {
		t.Fatalf("nothing matches %s in:\n%s", expression, text)
	}
	return found[1]
}

func (s *store) mustContents(t *testing.T) *contents {
	t.Helper()
	c, err := s.contents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// deletes returns a channel that is closed when n more pods have been deleted.
func (s *store) deletes(t *testing.T, n int) <-chan struct{} {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	events := s.client.Watch(ctx, "/registry/pods/", clientv3.WithPrefix(), clientv3.WithFilterPut(), clientv3.WithCreatedNotify())
	<-events // it watches
	go func() {
		defer cancel()
		for n > 0 {
			resp, ok := <-events
			if !ok {
				return
			}
			n -= len(resp.Events)
		}
		close(done)
	}()
	return done
}

// TestInterrupt: the first interrupt ends the work in good order, with a
// report and exit code 130, and what the report says goes on with it.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	box := startRunaway(t, 100)
	before := box.mustContents(t)
	sh := newShell(t, box)
	some := box.deletes(t, 5)
	c := sh.command("delete", "pods", "-n", "ops-tools", "--with-owners", "--execute", "--yes", "--max-deletes", "101", "--rate", "20", "--settle", "0")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	<-some
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	r := sh.finish(c)
	if r.code != exitInterrupted || !strings.HasSuffix(r.errOut, "etcd-rescue: interrupted\n") {
		t.Errorf("exit code %d, stderr %q", r.code, r.errOut)
	}
	if want := "Whether it stopped was not looked at.\n"; !strings.Contains(r.out, want) {
		t.Errorf("the report does not say %q:\n%s", want, r.out)
	}
	archive := find(t, r.out, `^archive: (.*)$`)
	for _, path := range []string{archive, find(t, r.out, `^plan:    (.*)$`)} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v, want mode 0600", path, info.Mode(), err)
		}
	}
	now := box.mustContents(t)
	if key, err := lost(t.Context(), before, now, archive); key != "" || err != nil {
		t.Fatalf("lost %q, %v", key, err)
	}
	if left := now.below("/registry/pods/ops-tools/"); left == 0 || left > 95 {
		t.Errorf("%d pods are left", left)
	}
	goOn := strings.Fields(find(t, r.out, `^go on:   etcd-rescue (.*)$`))
	sh.run(exitDone, append(goOn, "--yes", "--rate", "max", "--settle", "0")...)
	if left := box.mustContents(t).below("/registry/pods/ops-tools/"); left != 0 {
		t.Errorf("%d pods are left", left)
	}
	undo := strings.Fields(find(t, r.out, `^undo:    etcd-rescue (.*)$`))
	sh.run(exitDone, append(undo, "--yes", "--rate", "max")...)
	if diff := sameValues(before, box.mustContents(t)); diff != "" {
		t.Error(diff)
	}
}

// TestInterruptInSettleTime: an interrupt while it waits ends the wait, and
// the report still comes.
func TestInterruptInSettleTime(t *testing.T) {
	t.Parallel()
	box := startRunaway(t, 10)
	sh := newShell(t, box)
	c := sh.command("delete", "pods", "-n", "ops-tools", "--execute", "--yes", "--max-deletes", "10", "--rate", "max", "--settle", "1h", "-o", "json")
	c.Stderr = nil
	pipe, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, pipe, "waiting 1h0m0s")
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r := sh.finish(c)
	if r.code != exitInterrupted || !strings.Contains(r.out, `"interrupted": true`) || !strings.Contains(r.out, `"deleted": 10`) {
		t.Errorf("exit code %d:\n%s", r.code, r.out)
	}
}

// TestDrillServe: the etcd of a drill can be tried from elsewhere until it is
// interrupted, which is how it is meant to end.
func TestDrillServe(t *testing.T) {
	t.Parallel()
	sh := shell{t: t, dir: t.TempDir()}
	c := sh.command("drill", "runaway-job", "--serve", "--size", "5")
	c.Env = append(c.Env, "TMPDIR="+sh.dir)
	c.Stdout = nil
	pipe, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	sh.url = find(t, waitFor(t, pipe, "--owner job/error-ret"), `^  export ETCDCTL_ENDPOINTS=(.*)$`)
	if r := sh.run(exitDone, "count", "pods"); r.out != "RESOURCE\tOBJECTS\npods\t5\n" {
		t.Errorf("count says:\n%s", r.out)
	}
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if r := sh.finish(c); r.code != exitDone || r.errOut != "" {
		t.Errorf("exit code %d: %s", r.code, r.errOut)
	}
	if files := glob(t, sh.dir, "*"); len(files) > 0 {
		t.Errorf("it left %v", files)
	}
}
