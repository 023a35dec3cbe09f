//go:build controlplane

package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// parentCommand makes this program start a control plane, say so, and wait to be killed.
const parentCommand = "lab-test-parent"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == parentCommand {
		os.Exit(parent(os.Args[2]))
	}
	Main(m)
}

func parent(dir string) int {
	ctx := context.Background()
	box, err := sandbox.Start(ctx, sandbox.Options{Dir: dir, NoFsync: true})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	c, err := StartControlPlane(ctx, ControlPlaneOptions{Endpoints: box.Endpoints(), Dir: dir})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(c.Pids())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// eventually waits for what takes a moment: a process to end, a directory to be empty.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	for !done() {
		select {
		case <-limit.C:
			t.Fatalf("not within a minute: %s", what)
		case <-tick.C:
		}
	}
}

func ended(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func empty(t *testing.T, dir string) bool {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries) == 0
}

// TestControlPlane: an administrator reaches it, its manager stops and starts, and nothing of it stays.
func TestControlPlane(t *testing.T) {
	dir := t.TempDir()
	box, _ := Box(t, sandbox.Options{NoFsync: true})
	c, err := StartControlPlane(t.Context(), ControlPlaneOptions{Endpoints: box.Endpoints(), Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	reached(t, c)
	server, first := c.Pids()
	if err := c.StopManager(); err != nil {
		t.Fatal(err)
	}
	if _, now := c.Pids(); now != 0 || !ended(first) {
		t.Errorf("after its stop the manager is process %d", now)
	}
	if err := c.StartManager(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, second := c.Pids()
	if second == 0 || second == first || ended(second) {
		t.Errorf("started again, the manager is process %d, before %d", second, first)
	}
	if err := c.StopServer(); err != nil {
		t.Fatal(err)
	}
	if now, _ := c.Pids(); now != 0 || !ended(server) {
		t.Errorf("after its stop the apiserver is process %d", now)
	}
	if err := c.StartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	reached(t, c)
	server, _ = c.Pids()
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !ended(server) || !ended(second) || !empty(t, dir) {
		t.Error("something is left after Close")
	}
	if err := c.StartManager(t.Context()); err == nil {
		t.Error("a closed control plane starts a manager")
	}
	if err := c.StartServer(t.Context()); err == nil {
		t.Error("a closed control plane starts an apiserver")
	}
}

// reached asks the apiserver for what only an administrator may see.
func reached(t *testing.T, c *ControlPlane) {
	t.Helper()
	config := c.Config()
	config.GroupVersion, config.NegotiatedSerializer = &schema.GroupVersion{}, scheme.Codecs.WithoutConversion()
	client, err := rest.RESTClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	text, err := client.Get().AbsPath("/api/v1/namespaces/kube-system/secrets").DoRaw(t.Context())
	if err != nil || !strings.Contains(string(text), "SecretList") {
		t.Errorf("got %q, %v", text, err)
	}
}

// TestControlPlaneParentIsKilled: with the program that started it everything goes, even without a chance to clean up.
func TestControlPlaneParentIsKilled(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(self, parentCommand, dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	var server, manager int
	if _, err := fmt.Sscan(line, &server, &manager); err != nil {
		t.Errorf("it says %q: %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	eventually(t, "both servers have ended", func() bool { return ended(server) && ended(manager) })
	eventually(t, "the directory is empty", func() bool { return empty(t, dir) })
}

// TestControlPlaneNoEtcd: where there is nothing to work on, it says so and leaves nothing.
func TestControlPlaneNoEtcd(t *testing.T) {
	dir := t.TempDir()
	if _, err := StartControlPlane(t.Context(), ControlPlaneOptions{Dir: dir}); err == nil || !strings.Contains(err.Error(), "no etcd endpoint") {
		t.Errorf("got %v", err)
	}
	opt := ControlPlaneOptions{Dir: dir, Endpoints: []string{"http://127.0.0.1:1"}, ServerArgs: []string{"--no-such-flag"}}
	if _, err := StartControlPlane(t.Context(), opt); err == nil || !strings.Contains(err.Error(), "kube-apiserver is not ready: it ended: exit status 1") {
		t.Errorf("got %v", err)
	}
	if !empty(t, dir) {
		t.Error("something is left")
	}
}
