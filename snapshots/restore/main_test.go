package restore_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/snapshots/restore"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

const zooSnapshot = "../../testdata/zoo-1.36/snapshot.db.zst"

// The zoo's newest revision and its living keys.
const (
	zooRevision = 1718
	zooKeys     = 790
)

// zoo is the snapshot of a real cluster, unpacked: it has a hash.
func zoo(t testing.TB) string {
	t.Helper()
	in, err := os.Open(zooSnapshot)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	path := filepath.Join(t.TempDir(), "zoo.db")
	if err := restore.Unpack(t.Context(), in, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.db")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// save takes a snapshot, as etcdctl does.
func save(t testing.TB, c *clientv3.Client) string {
	t.Helper()
	r, err := c.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, b)
}

// token is that of every sandbox: a server must find its own cluster in a data directory.
const token = "etcd-rescue-sandbox"

// place is the data directory of a server that was killed, its name, and all members of its cluster.
type place struct{ dir, name, cluster string }

// vacate kills a sandbox, and moves its data away.
func vacate(t testing.TB, box *sandbox.Sandbox, c *clientv3.Client) place {
	t.Helper()
	list, err := c.MemberList(t.Context())
	if err != nil || len(list.Members) != 1 {
		t.Fatalf("members %v, %v", list, err)
	}
	m := list.Members[0]
	if err := box.Kill(); err != nil {
		t.Fatal(err)
	}
	p := place{filepath.Join(box.Dir(), "data"), m.Name, m.Name + "=" + m.PeerURLs[0]}
	moveAway(t, p.dir)
	return p
}

func moveAway(t testing.TB, dir string) {
	t.Helper()
	if err := os.Rename(dir, dir+".before"); err != nil {
		t.Fatal(err)
	}
}

// into completes options for a place.
func (p place) into(opt restore.Options) restore.Options {
	opt.DataDir, opt.Name, opt.InitialCluster, opt.InitialClusterToken = p.dir, p.name, p.cluster, token
	return opt
}

func mustRestore(t testing.TB, opt restore.Options) *restore.Result {
	t.Helper()
	r, err := restore.Restore(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// view is what a server says of one revision.
type view struct {
	Hash, HashRevision, Compacted int64
	Keys                          []*mvccpb.KeyValue
}

// viewOf asks at a revision: leases run out meanwhile, and move the newest.
func viewOf(t testing.TB, c *clientv3.Client, endpoint string, rev int64) view {
	t.Helper()
	h, err := c.HashKV(t.Context(), endpoint, rev)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Get(t.Context(), "\x00", clientv3.WithFromKey(), clientv3.WithRev(rev))
	if err != nil {
		t.Fatal(err)
	}
	return view{int64(h.Hash), h.HashRevision, h.CompactRevision, r.Kvs}
}

func same(t testing.TB, what string, got, want view) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		if len(diff) > 2000 {
			diff = diff[:2000]
		}
		t.Errorf("%s: (-want +got)\n%s", what, diff)
	}
}

// only demands that nothing but names is in a directory.
func only(t testing.TB, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff(names, got); diff != "" {
		t.Errorf("in %s (-want +got):\n%s", dir, diff)
	}
}

// flipped is a copy with one bit changed.
func flipped(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}
