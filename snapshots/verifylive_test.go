package snapshots_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// What a member answers to HashKV is what Verify says of the snapshot that it gives; and the member's own db file,
// which it has locked, is refused.
func TestHashOfRunningMember(t *testing.T) {
	t.Parallel()
	s, err := sandbox.Start(t.Context(), sandbox.Options{Mode: sandbox.InProcess, NoFsync: true, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	c, err := s.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var last int64
	for i := range 60 {
		key := fmt.Sprintf("/registry/pods/default/p%02d", i%20)
		if i%7 == 6 {
			resp, err := c.Delete(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			last = resp.Header.Revision
			continue
		}
		resp, err := c.Put(t.Context(), key, fmt.Sprint("value ", i))
		if err != nil {
			t.Fatal(err)
		}
		last = resp.Header.Revision
	}
	if _, err := c.Compact(t.Context(), last-20, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(s.Dir(), "data", "member", "snap", "db")
	if r, err := snapshots.Verify(t.Context(), own, snapshots.VerifyOptions{LockTimeout: time.Millisecond}); !errors.Is(err, snapshots.ErrLocked) || r != nil {
		t.Errorf("the db of a running member: %v, %v", r, err)
	}
	path := filepath.Join(t.TempDir(), "live.db")
	if err := save(t, c, path); err != nil {
		t.Fatal(err)
	}
	for _, rev := range []int64{0, last, last - 1, last - 11, last - 19} {
		live, err := c.HashKV(t.Context(), c.Endpoints()[0], rev)
		if err != nil {
			t.Fatal(err)
		}
		r, err := snapshots.Verify(t.Context(), path, snapshots.VerifyOptions{Revision: rev})
		if err != nil {
			t.Fatal(err)
		}
		want := snapshots.HashKV{Hash: live.Hash, Revision: live.HashRevision, CompactRevision: live.CompactRevision}
		if *r.HashKV != want || r.Trailer != snapshots.TrailerOK {
			t.Errorf("revision %d: %+v, the member says %+v", rev, *r.HashKV, want)
		}
	}
}

func save(t *testing.T, c *clientv3.Client, path string) error {
	t.Helper()
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	in, err := c.Snapshot(t.Context())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, in.Close(), out.Close())
}
