package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"

	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

func TestDefragRule(t *testing.T) {
	t.Parallel()
	known := etcdmembers.Sizes{DBSize: 1000, InUse: 400, Free: 600, Quota: 2000, Usage: 0.5}
	unknown := etcdmembers.Sizes{DBSize: 1000, InUse: 400, Free: 600}
	for _, tc := range []struct {
		expr  string
		sizes etcdmembers.Sizes
		want  string
	}{
		{"dbSizeFree > 500", known, "true"},
		{"dbSize - dbSizeInUse > 600", known, "false"},
		{"dbQuotaUsage > 0.4 && dbQuota == 2000", known, "true"},
		{"dbQuotaUsage * 100 > 60", known, "--only-if: "}, // a double times an int is none of CEL's
		{"double(dbSizeFree) / double(dbSize) > 0.5", known, "true"},
		{"dbQuotaUsage > 0.4", unknown, "--only-if asks for dbQuotaUsage, and its quota is not known: etcd tells it from 3.6 on"},
		{"dbQuota > 0 && dbQuotaUsage > 0.4 || dbSizeFree > 500", unknown, "true"},
		{"dbQuota == 0", unknown, "true"},
		{"dbSizeFree > 500 || dbQuotaUsage > 0.4", unknown, "true"},
		{"dbSize / (dbSize - 1000) > 1", known, "--only-if: evaluation fails: "},
		{"size > 1", known, "--only-if: line 1, column 1: undeclared reference to 'size'"},
		{"dbSize +", known, "--only-if: line 1, column 9: "},
		{"[1, 2].all(a, [1, 2].all(b, [1,2].all(c, [1,2].all(d, [1,2].all(e, [1,2,3,4,5,6,7,8].all(f, [1,2,3,4,5,6,7,8].all(g, [1,2,3,4,5,6,7,8].all(h, a+b+c+d+e+f+g+h > 0))))))))", known, "--only-if: evaluation fails: "},
		{strings.Repeat("true || ", 600) + "true", known, "--only-if: the expression is longer than 4096 bytes"},
	} {
		got := ""
		rule, err := defragRule(tc.expr)
		if err == nil {
			var worth bool
			if worth, err = rule(tc.sizes); err == nil {
				got = fmt.Sprint(worth)
			}
		}
		if err != nil {
			got = err.Error()
		}
		if got != tc.want && (err == nil || !strings.HasPrefix(got, tc.want)) {
			t.Errorf("%.80s: got %q, want %q", tc.expr, got, tc.want)
		}
	}
}

// TestDefragRoom: the disk is looked at where the member's file is known to lie on this node, and only there.
func TestDefragRoom(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	step := func(endpoint, name string) etcdmembers.DefragStep {
		return etcdmembers.DefragStep{Member: etcdmembers.Member{ID: 1, Name: name, Endpoint: endpoint, DBSize: 3 * mib, InUse: 100 * mib}}
	}
	const manifest = "spec:\n  containers:\n  - command: [etcd, --data-dir=/data, --name=master-1]\n"
	for name, tc := range map[string]struct {
		db, manifest string
		bytes        int64
		step         etcdmembers.DefragStep
		free         int64
		want         string // "": no objection
	}{
		"no room":           {"/var/lib/etcd/member/snap", "", 3 * mib, step("https://127.0.0.1:2379", "a"), 173 * mib, "a has no room for the copy: it takes up to 174.0 MiB beside the old file, and ROOT/var/lib/etcd/member/snap has 173.0 MiB free"},
		"room":              {"/var/lib/etcd/member/snap", "", 3 * mib, step("https://127.0.0.1:2379", "a"), 174 * mib, ""},
		"its own address":   {"/var/lib/etcd/member/snap", "", 3 * mib, step("https://10.9.8.7:2379", "a"), 0, "a has no room"},
		"another node":      {"/var/lib/etcd/member/snap", "", 3 * mib, step("https://10.9.8.6:2379", "a"), 0, ""},
		"a name":            {"/var/lib/etcd/member/snap", "", 3 * mib, step("https://etcd.example:2379", "a"), 0, ""},
		"k3s":               {"/var/lib/rancher/k3s/server/db/etcd/member/snap", "", 20 * mib, step("https://localhost:2379", "a"), 0, "a has no room"},
		"the manifest says": {"/data/member/snap", manifest, 3 * mib, step("https://127.0.0.1:2379", "master-1"), 0, "master-1 has no room"},
		"another member":    {"/data/member/snap", manifest, 3 * mib, step("https://127.0.0.1:2379", "master-2"), 0, ""},
		"a tunnel":          {"/var/lib/etcd/member/snap", "", 2 * mib, step("https://127.0.0.1:2379", "a"), 0, ""},
		"another tunnel":    {"/var/lib/etcd/member/snap", "", 99 * mib, step("https://127.0.0.1:2379", "a"), 0, ""},
		"no file":           {"/somewhere", "", 3 * mib, step("https://127.0.0.1:2379", "a"), 0, ""},
		"it does not tell":  {"/var/lib/etcd/member/snap", "", 3 * mib, step("https://127.0.0.1:2379", "a"), -1, ""},
	} {
		root := t.TempDir()
		sparse(t, filepath.Join(root, tc.db, "db"), tc.bytes)
		if tc.manifest != "" {
			path := filepath.Join(root, manifestDir, "etcd.yaml")
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(tc.manifest), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		l := &localDisk{root: root, addrs: []net.IP{net.IPv4(10, 9, 8, 7)}, free: func(string) (int64, bool) { return tc.free, tc.free >= 0 }}
		got := ""
		if err := l.room(tc.step); err != nil {
			got = strings.ReplaceAll(err.Error(), root, "ROOT")
		}
		if got != tc.want && (tc.want == "" || !strings.HasPrefix(got, tc.want)) {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}

// sparse makes a file of that length, which takes no room.
func sparse(t *testing.T, path string, n int64) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600), os.Truncate(path, n)); err != nil {
		t.Fatal(err)
	}
}

// TestDefragThree: the preview and the run of three members, as an operator sees them.
func TestDefragThree(t *testing.T) {
	t.Parallel()
	c, err := sandbox.StartCluster(t.Context(), sandbox.ClusterOptions{Options: sandbox.Options{NoFsync: true, Dir: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	leader, err := c.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sh := shell{t, t.TempDir(), c.Endpoints()[0]}
	preview := sh.run(exitDone, "defrag", "--always")
	if !strings.Contains(preview.out, "Would defragment 3 of 3 members") || !strings.Contains(preview.out, "goes last") {
		t.Errorf("got\n%s", preview.out)
	}
	if strings.Contains(sh.run(exitDone, "defrag", "--always", "--move-leader").out, "goes last") {
		t.Error("it tells of a leader that would not be one")
	}
	r := sh.run(exitDone, "defrag", "--always", "--execute", "--yes", "--wait", "1ms", "-o", "json")
	var doc struct {
		Kind    string
		Members []struct {
			ID, Role, Result string
			DBSize           int64
			After            struct{ DBSize int64 }
		}
		Left, Skipped []any
	}
	if err := json.Unmarshal([]byte(r.out), &doc); err != nil {
		t.Fatal(err)
	}
	var roles []string
	for _, m := range doc.Members {
		roles = append(roles, m.Role+" "+m.Result)
		if m.After.DBSize == 0 || m.DBSize == 0 {
			t.Errorf("got %+v", m)
		}
	}
	if diff := cmp.Diff([]string{"follower defragmented", "follower defragmented", "leader defragmented"}, roles); diff != "" || len(doc.Left)+len(doc.Skipped) != 0 {
		t.Errorf("-want +got:\n%s\n%s", diff, r.out)
	}
	if want := fmt.Sprintf("%x", c.Member(leader).ID()); doc.Members[2].ID != want {
		t.Errorf("%s is the last, and %s leads", doc.Members[2].ID, want)
	}
	interruptDefrag(t, sh)
	if n := strings.Count(r.errOut, "waiting 1ms before the next member\n"); n != 2 {
		t.Errorf("it waited %d times:\n%s", n, r.errOut)
	}
	if err := c.Member(1 - min(leader, 1)).Kill(); err != nil {
		t.Fatal(err)
	}
	missingDefrag(t, sh.at(c.Endpoints()[leader]))
}

// missingDefrag: one is dead, so that nothing is begun, and the preview says why.
func missingDefrag(t *testing.T, sh shell) {
	t.Helper()
	r := sh.run(exitDone, "defrag", "--always")
	if !strings.Contains(r.out, "not all members are well: ") || !strings.HasSuffix(r.out, "\nNothing was changed.\n") {
		t.Errorf("got\n%s", r.out)
	}
	r = sh.run(exitRefused, "defrag", "--always", "--execute", "--yes")
	if r.out != "" || !strings.Contains(r.errOut, "does not answer") {
		t.Errorf("got\n%s%s", r.out, r.errOut)
	}
}

// interruptDefrag: an interrupt between two members begins no other, and what was done is told.
func interruptDefrag(t *testing.T, sh shell) {
	t.Helper()
	c := sh.command("defrag", "--always", "--execute", "--yes", "--wait", "1h", "-o", "json")
	c.Stderr = nil
	said, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, said, "waiting 1h before the next member")
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(said)
	if err != nil {
		t.Fatal(err)
	}
	r := sh.finish(c)
	var doc struct{ Members, Left []any }
	if err := json.Unmarshal([]byte(r.out), &doc); err != nil || r.code != exitInterrupted || len(doc.Members) != 1 || len(doc.Left) != 2 {
		t.Errorf("%v, exit code %d\n%s%s", err, r.code, r.out, rest)
	}
}

func (s shell) at(url string) shell {
	s.url = url
	return s
}
