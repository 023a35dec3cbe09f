package members

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// startOne starts an etcd of one member, with a space quota or without (0).
func startOne(t *testing.T, quota int64) (*sandbox.Sandbox, *clientv3.Client) {
	t.Helper()
	box, err := sandbox.Start(t.Context(), sandbox.Options{NoFsync: true, QuotaBytes: quota, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { box.Close() })
	return box, connect(t, box.Endpoints()...)
}

// writes puts a key so often, and returns the revision of the last time.
func writes(t *testing.T, client *clientv3.Client, key string, n int) (rev int64) {
	t.Helper()
	for range n {
		resp, err := client.Put(t.Context(), key, "x")
		if err != nil {
			t.Fatal(err)
		}
		rev = resp.Header.Revision
	}
	return rev
}

func TestCompact(t *testing.T) {
	t.Parallel()
	_, client := startOne(t, 0)
	ctx := t.Context()
	head := writes(t, client, "/registry/a", 10)
	for _, physical := range []bool{false, true} {
		head += 10
		if writes(t, client, "/registry/a", 10) != head {
			t.Fatal("somebody else writes")
		}
		rev := head - 3
		if err := Compact(ctx, client, rev, physical, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Get(ctx, "/registry/a", clientv3.WithRev(rev-1)); !errors.Is(err, rpctypes.ErrCompacted) {
			t.Errorf("what was before revision %d: %v", rev, err)
		}
		if resp, err := client.Get(ctx, "/registry/a", clientv3.WithRev(rev)); err != nil || len(resp.Kvs) != 1 || resp.Header.Revision != head {
			t.Errorf("the revision itself: %v, %v", resp, err)
		}
		if err := Compact(ctx, client, rev, physical, nil); !errors.Is(err, ErrCompacted) {
			t.Errorf("again: %v", err)
		}
	}
	if err := Compact(ctx, client, head+1, true, nil); !errors.Is(err, ErrFuture) {
		t.Errorf("of the future: %v", err)
	}
	// Where the answer was lost, reading tells.
	lost := errors.New("the answer was lost")
	if err := compactOutcome(ctx, client, head-3, lost); err != nil {
		t.Errorf("it was carried out: %v", err)
	}
	if err := compactOutcome(ctx, client, head, lost); !errors.Is(err, lost) {
		t.Errorf("it was not: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := Compact(ended, client, head, true, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupt: %v", err)
	}
}

// TestAwaitCompaction: few large values are removed in one go, and no write follows: every member tells of the room all
// the same. Who does not answer is named.
func TestAwaitCompaction(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c, err := sandbox.StartCluster(ctx, sandbox.ClusterOptions{Options: sandbox.Options{NoFsync: true, Dir: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	client := connect(t, c.Endpoints()...)
	var rev int64
	for value := strings.Repeat("x", 1<<20); rev < 10; {
		resp, err := client.Put(ctx, "/registry/a", value)
		if err != nil {
			t.Fatal(err)
		}
		rev = resp.Header.Revision
	}
	if err := Compact(ctx, client, rev, true, nil); err != nil {
		t.Fatal(err)
	}
	all := mustList(t, client, c.Endpoints()...)
	if err := AwaitCompaction(ctx, dialOne, all, rev, nil); err != nil {
		t.Fatal(err)
	}
	for _, m := range mustList(t, client, c.Endpoints()...) {
		if free := SizesOf(m).Free; free < 5<<20 {
			t.Errorf("member %s has %d bytes free", m.Label(), free)
		}
	}
	if err := c.Member(2).Kill(); err != nil {
		t.Fatal(err)
	}
	all = mustList(t, client, c.Endpoints()...)
	if err := AwaitCompaction(ctx, dialOne, all, rev, nil); !errors.Is(err, ErrBehind) {
		t.Errorf("with a dead member: %v", err)
	}
}

func TestTellsLate(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{"3.4.37": true, "3.3.27": true, "3.5.0": false, "3.7.3": false, "": false, "4.0.0": false} {
		if got := TellsLate(&Member{Version: version}); got != want {
			t.Errorf("%q: %v, want %v", version, got, want)
		}
	}
}

func TestLosesEvents(t *testing.T) {
	t.Parallel()
	var all []Member
	for _, v := range []string{"3.4.36", "3.5.17", "3.5.18", "3.4.35", "3.6.0", "3.3.27", "3.5.17", "4.0.0", "3.5", ""} {
		all = append(all, Member{Version: v})
	}
	if got, want := LosesEvents(all), []string{"3.3.27", "3.4.35", "3.5.17"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
