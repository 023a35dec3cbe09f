package app

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// explanation is what tests read of the command's document.
type explanation struct {
	Answers   bool
	Endpoints []string
	Flags     string
	Tried     []struct {
		Endpoint, Of string
		Answers      bool
		Cluster      string
		Error        struct{ Reason string }
	}
}

func (s shell) explanation(code int, args ...string) explanation {
	s.t.Helper()
	r := s.run(code, append([]string{"connect", "-o", "json"}, args...)...)
	var e explanation
	if err := json.Unmarshal([]byte(r.out), &e); err != nil {
		s.t.Fatalf("%v in %q", err, r.out)
	}
	if strings.Contains(r.out+r.errOut, "tops3cret") {
		s.t.Error("the password is shown")
	}
	return e
}

// TestConnectGivesNoPasswordAway: of the etcds that are tried, the one that is
// used is given user and password, and what else was found is not.
func TestConnectGivesNoPasswordAway(t *testing.T) {
	t.Parallel()
	var boxes []*store
	for range 2 {
		box, err := startStore(t.Context(), sandbox.Options{NoFsync: true, Mode: sandbox.InProcess})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(box.close)
		for _, step := range []func() error{
			func() error { _, err := box.client.UserAdd(t.Context(), "root", "tops3cret"); return err },
			func() error { _, err := box.client.UserGrantRole(t.Context(), "root", "root"); return err },
			func() error { _, err := box.client.AuthEnable(t.Context()); return err },
		} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		boxes = append(boxes, box)
	}
	sh := newShell(t, boxes[0])
	manifest := filepath.Join(sh.dir, "node/etc/kubernetes/manifests/kube-apiserver.yaml")
	if err := os.MkdirAll(filepath.Dir(manifest), 0o700); err != nil {
		t.Fatal(err)
	}
	pod := "spec: {containers: [{command: [kube-apiserver, '--etcd-servers=" + boxes[1].url() + "']}]}"
	if err := os.WriteFile(manifest, []byte(pod), 0o600); err != nil {
		t.Fatal(err)
	}
	e := sh.explanation(exitDone, "--user", "root:tops3cret")
	if len(e.Tried) != 2 || !e.Tried[0].Answers || e.Tried[0].Of != etcdMain || e.Tried[0].Endpoint != boxes[0].url() {
		t.Fatalf("tried %+v", e.Tried)
	}
	if other := e.Tried[1]; other.Answers || other.Endpoint != boxes[1].url() || other.Error.Reason != "auth-required" {
		t.Errorf("the other one: %+v", other)
	}
	if e = sh.explanation(exitConnect, "--user", "root:wrong"); e.Answers || e.Tried[0].Error.Reason != "wrong-password" {
		t.Errorf("with a wrong password: %+v", e)
	}
}

// TestConnectCluster: --cluster tries every member, and writes them as flags.
func TestConnectCluster(t *testing.T) {
	t.Parallel()
	path, err := tests.incident()
	if err != nil {
		t.Fatal(err)
	}
	c, err := sandbox.StartCluster(t.Context(), sandbox.ClusterOptions{Options: sandbox.Options{Snapshot: path, Keep: firstPods(1), NoFsync: true}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	sh := shell{t, t.TempDir(), c.Member(0).Endpoint()}
	e := sh.explanation(exitDone, "--cluster")
	want := c.Endpoints()
	got := slices.Clone(e.Endpoints)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) || len(e.Tried) != 3 || !strings.HasSuffix(e.Flags, strings.Join(e.Endpoints, ",")) {
		t.Errorf("got %+v, want %q", e, want)
	}
	for _, tried := range e.Tried {
		if !tried.Answers || tried.Cluster != e.Tried[0].Cluster {
			t.Errorf("%+v", tried)
		}
	}
	if alone := sh.explanation(exitDone); len(alone.Tried) != 1 {
		t.Errorf("without --cluster: %+v", alone.Tried)
	}
	if err := c.Member(1).Kill(); err != nil {
		t.Fatal(err)
	}
	r := sh.run(exitDone, "connect", "--cluster", "--dial-timeout", "2s")
	if !strings.Contains(r.errOut, "does not answer at any address that it names") {
		t.Errorf("of the dead member: %q", r.errOut)
	}
}
