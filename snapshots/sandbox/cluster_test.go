package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const clusterCommand = "sandbox-test-cluster"

// helperCluster starts a cluster with a member that stands still, says which processes there are, and waits to be
// killed.
func helperCluster(args []string) int {
	c, err := StartCluster(context.Background(), ClusterOptions{Options: Options{Dir: args[0], Server: args[1]}})
	if err == nil {
		err = errors.Join(c.Member(1).Stop(), c.Member(2).Kill())
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(c.Member(0).Pid(), c.Member(1).Pid(), c.Member(2).Pid())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

func startCluster(t *testing.T, opt ClusterOptions) *Cluster {
	t.Helper()
	if opt.Dir == "" {
		opt.Dir = t.TempDir()
	}
	opt.NoFsync = true
	began := time.Now()
	c, err := StartCluster(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("started in %v", time.Since(began))
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), c.Close()); err != nil {
			t.Error(err)
		}
		for i := range c.Members() {
			if running(c.Member(i).Pid()) {
				t.Errorf("member %d still runs", i)
			}
		}
		empty(t, opt.Dir)
	})
	return c
}

// through connects to some members by their proxies.
func through(t *testing.T, endpoints ...string) *clientv3.Client {
	t.Helper()
	c, err := newClient(context.Background(), nil, endpoints...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func leader(t *testing.T, c *Cluster) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	i, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// others are the members but the i-th.
func others(c *Cluster, i int) []string {
	var urls []string
	for k, url := range c.Endpoints() {
		if k != i {
			urls = append(urls, url)
		}
	}
	return urls
}

// wrote puts a key as soon as the cluster takes it; a failed try may have been one that succeeded.
func wrote(t *testing.T, c *clientv3.Client, key, value string) {
	t.Helper()
	eventually(t, "a write succeeds", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := c.Put(ctx, key, value)
		return err == nil
	})
}

// has waits for the member itself to have applied a key, which takes no leader.
func has(t *testing.T, m *Member, key, value string) {
	t.Helper()
	c, err := m.Client(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, fmt.Sprintf("member %d has %s", m.index, key), func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		r, err := c.Get(ctx, key, clientv3.WithSerializable())
		return err == nil && len(r.Kvs) == 1 && string(r.Kvs[0].Value) == value
	})
}

func TestClusterEmpty(t *testing.T) {
	t.Parallel()
	c := startCluster(t, ClusterOptions{Options: Options{QuotaBytes: 64 << 20}})
	client, err := c.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	list, err := client.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[uint64]string{}
	for i := range c.Members() {
		m := c.Member(i)
		want[m.ID()] = m.Endpoint()
		if !alive(m.Pid()) || m.Pid() == os.Getpid() {
			t.Errorf("member %d has pid %d", i, m.Pid())
		}
	}
	if len(list.Members) != 3 || len(want) != 3 {
		t.Errorf("members %v, want %v", list.Members, want)
	}
	for _, m := range list.Members {
		if len(m.ClientURLs) != 1 || m.ClientURLs[0] != want[m.ID] {
			t.Errorf("member %v, want the URL %s", m, want[m.ID])
		}
	}
	first, last := through(t, c.Member(0).Endpoint()), through(t, c.Member(2).Endpoint())
	put(t, first, "/a", "1")
	if got := get(t, last, "/a"); got != "1" {
		t.Errorf("got %q", got)
	}
	st, err := first.Status(t.Context(), c.Member(0).Endpoint())
	if err != nil || st.DbSizeQuota != 64<<20 {
		t.Errorf("status %v, %v", st, err)
	}
	if fi, err := os.Stat(c.Dir()); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", fi, err)
	}
}

// All members begin with the same bytes, and what one of them loses it gets again.
func TestClusterFromFixture(t *testing.T) {
	t.Parallel()
	c := startCluster(t, ClusterOptions{Options: Options{Fixture: Runaway30k, Keep: keepPods(100)}, Members: 3})
	client := through(t, c.Endpoints()...)
	r, err := client.Get(t.Context(), "/registry/pods/ops-tools/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || r.Count != 100 || r.Header.Revision < 30440 {
		t.Errorf("%v, %v, want 100 pods at revision 30440 or later", r, err)
	}
	hashes := map[uint32]bool{}
	for _, url := range c.Endpoints() {
		h, err := client.HashKV(t.Context(), url, 30440)
		if err != nil {
			t.Fatal(err)
		}
		hashes[h.Hash] = true
	}
	if len(hashes) != 1 {
		t.Errorf("the members differ: %v", hashes)
	}
}

func TestClusterKillAndRestart(t *testing.T) {
	t.Parallel()
	c := startCluster(t, ClusterOptions{})
	old := leader(t, c)
	m := c.Member(old)
	client := through(t, c.Endpoints()...)
	put(t, client, "/before", "1")
	pid, url := m.Pid(), m.Endpoint()
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	if running(pid) {
		t.Error("it still runs")
	}
	wrote(t, client, "/meanwhile", "2")
	if now := leader(t, c); now == old {
		t.Errorf("the dead member %d leads", old)
	}
	if err := m.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m.Pid() == pid || !alive(m.Pid()) || m.Endpoint() != url {
		t.Errorf("pid %d was %d, endpoint %s was %s", m.Pid(), pid, m.Endpoint(), url)
	}
	has(t, m, "/before", "1")
	has(t, m, "/meanwhile", "2")
	wrote(t, through(t, url), "/after", "3")
}

func TestClusterStopAndContinue(t *testing.T) {
	t.Parallel()
	c := startCluster(t, ClusterOptions{})
	old := leader(t, c)
	m := c.Member(old)
	stopped := through(t, m.Endpoint())
	put(t, stopped, "/before", "1")
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it does not answer", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := stopped.Get(ctx, "/before", clientv3.WithSerializable())
		return err != nil
	})
	wrote(t, through(t, others(c, old)...), "/meanwhile", "2")
	if now := leader(t, c); now == old {
		t.Errorf("the stopped member %d leads", old)
	}
	if err := m.Continue(); err != nil {
		t.Fatal(err)
	}
	has(t, m, "/meanwhile", "2")
}

func TestClusterMoveLeader(t *testing.T) {
	t.Parallel()
	c := startCluster(t, ClusterOptions{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, i := range []int{0, 1, 2, 2, 1, 0} {
		if err := c.MoveLeader(ctx, i); err != nil {
			t.Fatal(err)
		}
		if now := leader(t, c); now != i {
			t.Errorf("member %d leads, want %d", now, i)
		}
	}
	if err := c.MoveLeader(ctx, 3); err == nil {
		t.Error("there is no member 3")
	}
}

func TestClusterCut(t *testing.T) {
	t.Parallel()
	c := startCluster(t, ClusterOptions{})
	m := c.Member(leader(t, c))
	client := through(t, m.Endpoint())
	put(t, client, "/a", "1")
	m.Cut()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	// It arrives when the network heals, before or after what is asked then: the key is of its own.
	if _, err := client.Put(ctx, "/c", "2"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("through a cut network: %v", err)
	}
	late := through(t, m.Endpoint())
	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := late.Get(ctx, "/a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a new connection to a cut network: %v", err)
	}
	direct, err := m.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	put(t, direct, "/b", "past the cut")
	if _, err := through(t, others(c, m.index)...).Get(t.Context(), "/b"); err != nil {
		t.Errorf("the other members: %v", err)
	}
	m.Heal()
	wrote(t, client, "/a", "3")
	if got := get(t, late, "/a"); got != "3" {
		t.Errorf("got %q", got)
	}
}

func TestClusterReset(t *testing.T) {
	t.Parallel()
	c := startCluster(t, ClusterOptions{Members: 1})
	m := c.Member(0)
	client := through(t, m.Endpoint())
	put(t, client, "/a", "1")
	held := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	w := client.Watch(ctx, "/a", clientv3.WithCreatedNotify())
	<-w
	conn := dial(t, m.net.client)
	go func() {
		_, err := conn.Read(make([]byte, 1<<16)) // etcd's greeting, if it comes first
		for err == nil {
			_, err = conn.Read(make([]byte, 1<<16))
		}
		held <- err
	}()
	m.Reset()
	if err := <-held; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("an open connection: %v", err)
	}
	if err := turnedAway(m.net.client); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a new connection: %v", err)
	}
	m.Heal()
	wrote(t, client, "/a", "2")
	for r := range w {
		if n := len(r.Events); n > 0 && string(r.Events[n-1].Kv.Value) == "2" {
			return
		}
	}
	t.Error("the watch does not go on")
}

// The leader loses its peers: the others elect a new one, the old one can do nothing any more, and learns afterwards
// what it missed.
func TestClusterCutPeers(t *testing.T) {
	t.Parallel()
	c := startCluster(t, ClusterOptions{})
	old := leader(t, c)
	m := c.Member(old)
	alone := through(t, m.Endpoint())
	put(t, alone, "/before", "1")
	m.CutPeers()
	rest := through(t, others(c, old)...)
	wrote(t, rest, "/meanwhile", "2")
	eventually(t, "another member leads", func() bool { return leader(t, c) != old })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := alone.Put(ctx, "/lost", "3"); err == nil {
		t.Error("a member without peers takes writes")
	}
	if r, err := alone.Get(t.Context(), "/meanwhile", clientv3.WithSerializable()); err != nil || len(r.Kvs) != 0 {
		t.Errorf("a member without peers knows %v, %v", r, err)
	}
	m.HealPeers()
	has(t, m, "/meanwhile", "2")
	wrote(t, alone, "/after", "4")
}

// A follower that loses its peers must not disturb the others: what it sends is cut as well as what it is sent.
func TestClusterCutFollower(t *testing.T) {
	t.Parallel()
	c := startCluster(t, ClusterOptions{})
	now := leader(t, c)
	m := c.Member((now + 1) % 3)
	alone := through(t, m.Endpoint())
	put(t, alone, "/before", "1")
	m.CutPeers()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := alone.Put(ctx, "/lost", "2"); err == nil {
		t.Error("a follower forwards writes through a cut network")
	}
	wrote(t, through(t, others(c, m.index)...), "/meanwhile", "3")
	m.HealPeers()
	has(t, m, "/meanwhile", "3")
}

func TestClusterParentIsKilled(t *testing.T) {
	t.Parallel()
	for name, server := range map[string]string{"linked in": "", "other server": foreignServer(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cmd, line := startParent(t, clusterCommand, dir, server)
			var pids [3]int
			if _, err := fmt.Sscan(line, &pids[0], &pids[1], &pids[2]); err != nil {
				t.Fatalf("helper: %q, %v", strings.TrimSpace(line), err)
			}
			if !running(pids[0]) || !running(pids[1]) || running(pids[2]) {
				t.Fatalf("of %v only the third should have ended", pids)
			}
			killParent(t, cmd, dir, pids[:]...)
		})
	}
}

func TestClusterRefusesOptions(t *testing.T) {
	t.Parallel()
	for name, opt := range map[string]ClusterOptions{
		"in process":   {Options: Options{Mode: InProcess}},
		"no members":   {Members: -1},
		"two sources":  {Options: Options{Snapshot: "a", Fixture: Runaway30k}},
		"no snapshot":  {Options: Options{Snapshot: "/nonexistent"}},
		"no such exec": {Options: Options{Exec: []string{"/nonexistent"}}},
		"ends at once": {Options: Options{Exec: []string{"true"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opt.Dir = t.TempDir()
			if c, err := StartCluster(t.Context(), opt); err == nil {
				t.Errorf("started: %v", c.Close())
			}
			empty(t, opt.Dir)
		})
	}
}
