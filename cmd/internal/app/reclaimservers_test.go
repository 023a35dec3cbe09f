//go:build servers

package app

import (
	"errors"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

// TestEveryEtcdReclaims: an etcd of each release that history has filled, of many objects or of a large one, takes writes
// again after one command. Those before 3.6 tell their quota in their metrics only.
func TestEveryEtcdReclaims(t *testing.T) {
	for _, release := range etcdReleases() {
		for name, fill := range map[string]func(*testing.T, *clientv3.Client){
			"many": func(t *testing.T, client *clientv3.Client) {
				(&store{client: client}).fill(t, "/registry/pods/ops-tools/")
			},
			"large": fillLarge,
		} {
			t.Run(release+"/"+name, func(t *testing.T) {
				f := startForeign(t, release, fullQuota)
				fill(t, f.client)
				r := f.shell.run(exitDone, "reclaim", "--execute", "--yes", "--settle", "0")
				if !strings.Contains(r.out, term.Bytes(fullQuota)) {
					t.Errorf("the quota is not shown:\n%s", r.out)
				}
				if _, err := f.client.Put(t.Context(), writeKey, "{}"); err != nil {
					t.Errorf("a put: %v", err)
				}
			})
		}
	}
}

// TestOldEtcdReclaimsLargeObject: a few versions of one large object fill etcd. Its members remove them in one go, and would tell of
// the room only after the next write.
func TestOldEtcdReclaimsLargeObject(t *testing.T) {
	ctx := t.Context()
	server, err := lab.Server(ctx, "etcd-3.5")
	if err != nil {
		t.Fatal(err)
	}
	c, err := sandbox.StartCluster(ctx, sandbox.ClusterOptions{Options: sandbox.Options{Server: server, NoFsync: true, QuotaBytes: 64 << 20, Dir: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	client, err := c.Client(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	fillLarge(t, client)
	sh := shell{t, t.TempDir(), strings.Join(c.Endpoints(), ",")}
	r := sh.run(exitDone, "reclaim", "--execute", "--yes", "--settle", "0")
	if n := strings.Count(r.errOut, ", 1.0 MiB in use:"); n != 3 {
		t.Errorf("%d members tell of the room, want 3:\n%s", n, r.errOut)
	}
	if _, err := client.Put(ctx, writeKey, "{}"); err != nil {
		t.Errorf("a put: %v", err)
	}
}

// fillLarge writes one object of a MiB until etcd takes no more.
func fillLarge(t *testing.T, client *clientv3.Client) {
	t.Helper()
	for value := strings.Repeat("x", 1<<20); ; {
		if _, err := client.Put(t.Context(), writeKey, value); errors.Is(err, rpctypes.ErrNoSpace) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
