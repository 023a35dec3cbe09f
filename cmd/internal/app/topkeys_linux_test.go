package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// hotNode is a node of what top keys prints as JSON.
type hotNode struct {
	Path, Resource, Namespace, Name, Manager string
	Created, Changed, Deleted, Bytes, Keys   int64
	Complete                                 bool
	Below                                    []hotNode
	Others                                   *hotNode
}

// sampling starts top keys and returns when it watches.
func (s shell) sampling(args ...string) *exec.Cmd {
	s.t.Helper()
	c := s.command(append([]string{"top", "keys", "--for", "1h"}, args...)...)
	c.Stderr = nil
	pipe, err := c.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	waitFor(s.t, pipe, "watching /registry/")
	go func() { _, _ = io.Copy(io.Discard, pipe) }()
	return c
}

// value returns what stands under a key.
func (s *store) value(t *testing.T, key string) string {
	t.Helper()
	resp, err := s.client.Get(t.Context(), key)
	if err != nil || len(resp.Kvs) == 0 {
		t.Fatalf("%s: %v, %v", key, resp, err)
	}
	return string(resp.Kvs[0].Value)
}

func (s *store) put(t *testing.T, key, value string) {
	t.Helper()
	if _, err := s.client.Put(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
}

// TestTopKeys: an interrupt ends the sample, which is shown as far as it came.
func TestTopKeys(t *testing.T) {
	t.Parallel()
	box := startRunaway(t, 2)
	pod := find(t, strings.Join(keysBelow(box.mustContents(t), "/registry/pods/ops-tools/"), "\n"), `^(.*)$`)
	value, job := box.value(t, pod), box.value(t, "/registry/jobs/ops-tools/error-ret")
	c := newShell(t, box).sampling("-o", "json")
	for i := range 300 {
		box.put(t, fmt.Sprintf("%s-n%d", pod, i), value)
	}
	for range 50 {
		box.put(t, "/registry/jobs/ops-tools/error-ret", job)
		box.put(t, "/registry/strange/a/b/c/d", "x")
	}
	if _, err := box.client.Delete(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	r := finishPiped(t, c)
	if r.code != exitInterrupted {
		t.Errorf("exit code %d", r.code)
	}
	var got hotNode
	if err := json.Unmarshal([]byte(r.out), &got); err != nil {
		t.Fatalf("%v in %s", err, r.out)
	}
	const manager = "kube-controller-manager"
	pods := hotNode{Path: "/registry/pods/", Resource: "pods", Manager: manager, Created: 300, Deleted: 1, Bytes: int64(300 * len(value)), Keys: 301}
	namespace := pods
	namespace.Path, namespace.Namespace, namespace.Below = "/registry/pods/ops-tools/", "ops-tools", []hotNode{}
	pods.Below = []hotNode{namespace}
	strange := hotNode{Path: "/registry/strange/", Created: 1, Changed: 49, Bytes: 50, Keys: 1}
	strangeKey := hotNode{Path: "/registry/strange/a/b/c/d", Created: 1, Changed: 49, Bytes: 50, Keys: 1}
	a, b := strange, strange
	a.Path, b.Path = "/registry/strange/a/", "/registry/strange/a/b/"
	b.Below = []hotNode{strangeKey}
	a.Below = []hotNode{b}
	strange.Below = []hotNode{a}
	written := hotNode{Resource: "jobs.batch", Manager: manager, Changed: 50, Bytes: int64(50 * len(job)), Keys: 1}
	jobs, jobsHere, one := written, written, written
	jobs.Path, jobsHere.Path, jobsHere.Namespace = "/registry/jobs/", "/registry/jobs/ops-tools/", "ops-tools"
	one.Path, one.Namespace, one.Name = "/registry/jobs/ops-tools/error-ret", "ops-tools", "error-ret"
	jobsHere.Below = []hotNode{one}
	jobs.Below = []hotNode{jobsHere}
	want := hotNode{
		Manager: manager, Complete: true, Created: 301, Changed: 99, Deleted: 1, Keys: 303,
		Bytes: pods.Bytes + strange.Bytes + jobs.Bytes, Below: []hotNode{pods, jobs, strange},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// finishPiped is finish for a command whose stderr is read elsewhere.
func finishPiped(t *testing.T, c *exec.Cmd) result {
	t.Helper()
	err := c.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return result{code: c.ProcessState.ExitCode(), out: c.Stdout.(*bytes.Buffer).String()}
}

func keysBelow(c *contents, prefix string) (keys []string) {
	for key := range c.keys {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	return keys
}

// TestTopKeysLost: when etcd dies, what was sampled is shown, and that it is
// not all.
func TestTopKeysLost(t *testing.T) {
	t.Parallel()
	box, err := startIncident(t.Context(), 1, sandbox.Child)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(box.close)
	c := newShell(t, box).sampling()
	if err := box.Kill(); err != nil {
		t.Fatal(err)
	}
	if r := finishPiped(t, c); r.code != exitPartial {
		t.Errorf("exit code %d\n%s", r.code, r.out)
	}
	c = newShell(t, box).command("top", "keys")
	if err := c.Run(); c.ProcessState.ExitCode() != exitConnect {
		t.Errorf("without etcd: %v", err)
	}
}

// TestTopWatch: reports replace one another on a terminal, fit it, and an
// interrupt ends them in good order.
func TestTopWatch(t *testing.T) {
	t.Parallel()
	box := startRunaway(t, 30)
	for _, tc := range []struct {
		args []string
		text string
	}{
		{[]string{"sizes", "--interval", "1ms"}, "OBJECTS   NAMESPACE"},
		{[]string{"writers", "--interval", "1ms"}, "LAST WRITE   NEWEST"},
		{[]string{"keys", "--for", "1ms"}, "nothing was written below /registry/"},
	} {
		t.Run(tc.args[0], func(t *testing.T) {
			t.Parallel()
			master, tty := openPTY(t)
			c := newShell(t, box).command(append([]string{"top", "--watch"}, tc.args...)...)
			c.Stdin, c.Stdout, c.Stderr = tty, tty, tty
			c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			tty.Close()
			const home = "\x1b[H"
			screen := ""
			for strings.Count(screen, home) < 3 {
				screen += waitFor(t, master, home)
			}
			if _, err := master.WriteString("\x03"); err != nil {
				t.Fatal(err)
			}
			var rest bytes.Buffer
			_, _ = rest.ReadFrom(master) // ends with an error when the other side closes
			if err := c.Wait(); err != nil {
				t.Errorf("interrupted: %v", err)
			}
			frames := strings.Split(screen+rest.String(), home)
			whole, _, ended := strings.Cut(frames[1], "\x1b[J")
			if !ended || !strings.HasPrefix(whole, "top "+tc.args[0]+", ") || !strings.Contains(whole, tc.text) {
				t.Errorf("frame %q", whole)
			}
			lines := strings.Split(strings.TrimSuffix(whole, "\r\n"), "\r\n")
			if len(lines) > 23 {
				t.Errorf("%d lines on a terminal of 24", len(lines))
			}
			for _, line := range lines {
				if text := strings.TrimSuffix(line, "\x1b[K"); term.Width(text) > 80 {
					t.Errorf("%q is wider than the terminal", text)
				}
			}
		})
	}
}
