package sandbox

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// status asks a member past its proxy.
func status(t *testing.T, m *Member) *clientv3.StatusResponse {
	t.Helper()
	st := m.status(t.Context())
	if st == nil {
		t.Fatalf("member %d does not answer", m.index)
	}
	return st
}

// TestClusterLag: a member that lags still follows and answers, and has everything soon after it may catch up.
func TestClusterLag(t *testing.T) {
	t.Parallel()
	c := startCluster(t, ClusterOptions{})
	lead := leader(t, c)
	m := c.Member((lead + 1) % 3)
	rest := through(t, c.Member(lead).Endpoint())
	wrote(t, rest, "/first", "1")
	has(t, m, "/first", "1")
	m.Lag()
	const writes = 1500
	value := strings.Repeat("x", 1000)
	for range writes {
		put(t, rest, "/more", value)
	}
	behind := func() uint64 {
		return status(t, c.Member(lead)).RaftAppliedIndex - status(t, m).RaftAppliedIndex
	}
	// Longer than rafthttp waits on a stream that is silent: it must not come in on another one.
	ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if got := behind(); got < writes-10 {
			t.Fatalf("it is %d entries behind, and was not to get more than a few of %d", got, writes)
		}
		_ = pause(ctx, 100*time.Millisecond)
	}
	if st := status(t, m); st.Leader != c.Member(lead).ID() {
		t.Errorf("it follows %x, want %x", st.Leader, c.Member(lead).ID())
	}
	m.CatchUp()
	eventually(t, "it has caught up", func() bool { return behind() == 0 })
	wrote(t, through(t, m.Endpoint()), "/after", "1")
}

func TestClusterLearner(t *testing.T) {
	t.Parallel()
	c := startCluster(t, ClusterOptions{})
	client := through(t, c.Endpoints()...)
	put(t, client, "/a", "1")
	m, err := c.AddLearner(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st := status(t, m); !st.IsLearner || st.Header.MemberId != m.ID() || c.Members() != 4 || c.Member(3) != m {
		t.Errorf("%v of %d members, want %x", st, c.Members(), m.ID())
	}
	has(t, m, "/a", "1")
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	put(t, client, "/b", "2")
	if err := m.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	has(t, m, "/b", "2")
}

func TestClusterRefuse(t *testing.T) {
	t.Parallel()
	c := startCluster(t, ClusterOptions{Members: 1})
	m := c.Member(0)
	url := m.Endpoint()
	if err := m.Refuse(); err != nil {
		t.Fatal(err)
	}
	address := strings.TrimPrefix(url, "http://")
	if conn, err := net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
		if err == nil {
			conn.Close()
		}
		t.Errorf("got %v", err)
	}
	if err := m.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m.Endpoint() != url {
		t.Errorf("it listens at %s, not %s", m.Endpoint(), url)
	}
	put(t, through(t, url), "/a", "1")
}
