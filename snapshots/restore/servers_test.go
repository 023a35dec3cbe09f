//go:build servers

package restore_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/snapshots/restore"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

// TestEveryEtcd: a real etcd of each release starts on what is made of its own snapshot, with everything in it, the hash
// that was foretold, and goes on.
func TestEveryEtcd(t *testing.T) {
	for _, release := range []string{"etcd-3.4", "etcd-3.5", "etcd-3.6", "etcd-3.7"} {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			box, c := startRelease(t, release)
			for _, key := range []string{"/a", "/b", "/c", "/b"} {
				put(t, c, key, "value of "+key)
			}
			if _, err := c.Delete(t.Context(), "/c"); err != nil {
				t.Fatal(err)
			}
			file := save(t, c)
			put(t, c, "/a", "later")
			p := vacate(t, box, c)
			r := mustRestore(t, p.into(restore.Options{Snapshot: file, BumpRevision: restore.DefaultBump, MarkCompacted: true}))
			if release >= "etcd-3.6" && "etcd-"+r.EtcdVersion != release {
				t.Errorf("it is of etcd %q", r.EtcdVersion)
			}
			if err := box.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			c = client(t, box)
			got, err := c.Get(t.Context(), "\x00", clientv3.WithFromKey())
			if err != nil {
				t.Fatal(err)
			}
			want := []*mvccpb.KeyValue{
				{Key: []byte("/a"), Value: []byte("value of /a"), CreateRevision: 2, ModRevision: 2, Version: 1},
				{Key: []byte("/b"), Value: []byte("value of /b"), CreateRevision: 3, ModRevision: 5, Version: 2},
			}
			if diff := cmp.Diff(want, got.Kvs, protocmp.Transform()); diff != "" || got.Header.Revision != r.Revision {
				t.Errorf("at revision %d, want %d (-want +got):\n%s", got.Header.Revision, r.Revision, diff)
			}
			rev := r.Revision
			if release == "etcd-3.4" {
				rev = 0 // which is the same; 3.4 does not hash at a compacted revision that is asked for
			}
			if h, err := c.HashKV(t.Context(), box.Endpoints()[0], rev); err != nil || h.Hash != r.HashKV.Hash {
				t.Errorf("its hash is %v, %v, want %d", h, err, r.HashKV.Hash)
			}
			if next := put(t, c, "/d", "1"); next != r.Revision+1 {
				t.Errorf("the next revision is %d, want %d", next, r.Revision+1)
			}
		})
	}
}

// startRelease starts a real etcd. From 3.6 on it tells when it has settled on a version, some seconds later.
func startRelease(t *testing.T, release string) (*sandbox.Sandbox, *clientv3.Client) {
	t.Helper()
	server, err := lab.Server(t.Context(), release)
	if err != nil {
		t.Fatal(err)
	}
	box, c := lab.Box(t, sandbox.Options{Server: server, NoFsync: true})
	if release >= "etcd-3.6" {
		eventually(t, release+" has a storage version", func() bool {
			status, err := c.Status(t.Context(), box.Endpoints()[0])
			return err == nil && strings.HasPrefix("etcd-"+status.StorageVersion, release)
		})
	}
	return box, c
}

// TestOldEtcd: etcd 3.6 does not start on what etcd 3.7 wrote, which is why a restore names the release.
func TestOldEtcd(t *testing.T) {
	_, c := startRelease(t, "etcd-3.7")
	put(t, c, "/a", "1")
	file := save(t, c)
	box, c := startRelease(t, "etcd-3.6")
	r := mustRestore(t, vacate(t, box, c).into(restore.Options{Snapshot: file}))
	if r.EtcdVersion != "3.7" {
		t.Errorf("it is of etcd %q", r.EtcdVersion)
	}
	if err := box.Restart(t.Context()); err == nil || !strings.Contains(err.Error(), "is not supported") {
		t.Errorf("etcd 3.6 says %v", err)
	}
}

// eventually looks until something is so; the limit is for machines that are busy with something else.
func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}
