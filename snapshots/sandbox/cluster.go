package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
)

// ClusterOptions says what cluster to start. Every member gets the same Options; Mode must be Child.
type ClusterOptions struct {
	Options
	// Members is how many there are; zero means three.
	Members int
	// Names are those of the first members; one that has none gets a name that no member of another cluster has.
	Names []string
}

// Cluster is an etcd of several members, each a child process behind two proxies in this process: clients and peers
// reach it only through these, so that its network can be cut. It keeps the package's invariant, with one directory
// for all members, which goes away with the last process that is left. Its methods may be called from several
// goroutines.
type Cluster struct {
	opt     ClusterOptions
	dir     string
	members []*Member

	mu     sync.Mutex
	closed bool
}

// Member is one server of a [Cluster].
type Member struct {
	index int
	id    types.ID
	box   *Sandbox
	net   *network
	peers *gate
}

// network is what lies between a member and everybody else.
type network struct {
	client, peer *proxy
	initial      string
	learner      uint64 // the member's id, if it was added as one
}

// config chooses the port for peers anew for every start: only the proxy has to know it.
func (n *network) config(sc serverConfig) (*clusterConfig, error) {
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	n.client.aim(sc.Port)
	n.peer.aim(port)
	return &clusterConfig{
		ClientURL: clientURL(n.client.port(), sc.TLS != nil), PeerURL: clientURL(n.peer.port(), false), PeerPort: port, Initial: n.initial,
		Learner: n.learner,
	}, nil
}

// StartCluster prepares the data once, starts all members on it and returns when each of them answers a linearizable
// read. ctx limits the start only. After an error nothing is left behind.
func StartCluster(ctx context.Context, opt ClusterOptions) (*Cluster, error) {
	if err := opt.validate(); err != nil {
		return nil, err
	}
	if opt.Mode != Child || opt.Members < 0 {
		return nil, errors.New("start cluster: it takes members, in child processes")
	}
	if opt.Members == 0 {
		opt.Members = 3
	}
	dir, err := os.MkdirTemp(opt.Dir, "etcd-rescue-sandbox-")
	if err != nil {
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	c := &Cluster{opt: opt, dir: dir}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start cluster: %w", err), c.Close())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	if err := c.addMembers(); err != nil {
		return err
	}
	var homes []home
	for _, m := range c.members {
		if err := os.Mkdir(m.box.dir, 0o700); err != nil {
			return err
		}
		// The children come before the data: from now on they remove the directory if we die.
		if err := m.box.newRunner(); err != nil {
			return err
		}
		homes = append(homes, home{m.box.dataDir(), m.box.name, clientURL(m.net.peer.port(), false), m.net.initial})
	}
	if err := prepare(ctx, c.opt.Options, c.dir, homes...); err != nil {
		return err
	}
	return c.serve(ctx)
}

// addMembers makes the networks of all members, which name each other, and the members.
func (c *Cluster) addMembers() error {
	from := &senders{gates: map[string]*gate{}}
	var initial []string
	for i := range c.opt.Members {
		m, err := c.newMember(i, from)
		if err != nil {
			return err
		}
		peerURL := clientURL(m.net.peer.port(), false)
		urls, err := types.NewURLs([]string{peerURL})
		if err != nil {
			return err
		}
		m.id = membership.NewMember(m.box.name, urls, clusterToken, nil).ID
		from.add(m.id.String(), m.peers)
		initial = append(initial, m.box.name+"="+peerURL)
	}
	for _, m := range c.members {
		m.net.initial = strings.Join(initial, ",")
	}
	return nil
}

// newMember makes the next member's network, and the member without an id.
func (c *Cluster) newMember(i int, from *senders) (*Member, error) {
	m := &Member{index: i, peers: newGate(), net: &network{}}
	c.members = append(c.members, m) // first, so that Close sees it
	var err error
	if m.net.client, err = newProxy(newGate(), nil); err != nil {
		return nil, err
	}
	if m.net.peer, err = newProxy(m.peers, from); err != nil {
		return nil, err
	}
	m.box = &Sandbox{
		opt: c.opt.Options, dir: filepath.Join(c.dir, strconv.Itoa(i)), guard: c.dir, net: m.net,
		name: filepath.Base(c.dir) + "-" + strconv.Itoa(i),
	}
	if i < len(c.opt.Names) {
		m.box.name = c.opt.Names[i]
	}
	return m, nil
}

// serve starts all members at once: none is ready before most are there.
func (c *Cluster) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for i, m := range c.members {
		all.Go(func() {
			if err := m.box.serve(ctx); err != nil {
				cancel(fmt.Errorf("member %d: %w", i, err)) // which is why the others fail, too
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

// Endpoints are the client URLs of all members, in order. They lead through the proxies and never change.
func (c *Cluster) Endpoints() []string {
	var urls []string
	for _, m := range c.members {
		urls = append(urls, m.Endpoint())
	}
	return urls
}

// Client connects to all members, past the proxies, to see what happens whatever network is cut. The client ends with
// ctx; the caller closes it.
func (c *Cluster) Client(ctx context.Context) (*clientv3.Client, error) {
	var urls []string
	for _, m := range c.members {
		urls = append(urls, m.direct())
	}
	return newClient(ctx, c.opt.TLS, urls...)
}

// Dir is the directory that holds everything the cluster has.
func (c *Cluster) Dir() string { return c.dir }

// Members is how many there are.
func (c *Cluster) Members() int { return len(c.members) }

// Member is the i-th member, counted from zero.
func (c *Cluster) Member(i int) *Member { return c.members[i] }

// Leader waits until a leader is there, says so itself, and most members agree, and returns its index. A leader that
// has just lost its peers is named until they notice, one election timeout.
func (c *Cluster) Leader(ctx context.Context) (int, error) {
	for {
		if i, ok := c.leader(ctx); ok {
			return i, nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return 0, fmt.Errorf("no leader: %w", err)
		}
	}
}

func (c *Cluster) leader(ctx context.Context) (int, bool) {
	answers := make([]*clientv3.StatusResponse, len(c.members))
	var all sync.WaitGroup
	for i, m := range c.members {
		all.Go(func() { answers[i] = m.status(ctx) })
	}
	all.Wait()
	votes := map[uint64]int{}
	for _, a := range answers {
		if a != nil {
			votes[a.Leader]++
		}
	}
	for i, a := range answers {
		if a != nil && a.Leader == uint64(c.members[i].id) && votes[a.Leader] > len(c.members)/2 {
			return i, true
		}
	}
	return 0, false
}

// status asks the member itself; nil means that it does not answer.
func (m *Member) status(ctx context.Context) *clientv3.StatusResponse {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	client, err := m.Client(ctx)
	if err != nil {
		return nil
	}
	defer client.Close()
	st, err := client.Status(ctx, m.direct())
	if err != nil {
		return nil
	}
	return st
}

// MoveLeader makes the i-th member the leader and returns when it is. It tries until ctx ends.
func (c *Cluster) MoveLeader(ctx context.Context, i int) error {
	if i < 0 || i >= len(c.members) {
		return fmt.Errorf("move leader: there is no member %d", i)
	}
	var last error
	for {
		now, err := c.Leader(ctx)
		if err != nil {
			return errors.Join(fmt.Errorf("move leader: %w", err), last)
		}
		if now == i {
			return nil
		}
		last = c.members[now].handOver(ctx, c.members[i].id)
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return errors.Join(fmt.Errorf("move leader: %w", err), last)
		}
	}
}

func (m *Member) handOver(ctx context.Context, to types.ID) error {
	client, err := m.Client(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.MoveLeader(ctx, uint64(to))
	return err
}

// Endpoint is the client URL of the member, the one of its proxy.
func (m *Member) Endpoint() string { return clientURL(m.net.client.port(), m.box.opt.TLS != nil) }

// ID is the member's raft id, as etcd's answers name it.
func (m *Member) ID() uint64 { return uint64(m.id) }

// Client connects to this member, past its proxy. The client ends with ctx; the caller closes it.
func (m *Member) Client(ctx context.Context) (*clientv3.Client, error) {
	return newClient(ctx, m.box.opt.TLS, m.direct())
}

// direct is the URL on which the server itself listens. It does not wait for a Restart that is under way, as what
// holds the box's lock does.
func (m *Member) direct() string { return clientURL(m.net.client.aimed(), m.box.opt.TLS != nil) }

// Pid is the process id of the server.
func (m *Member) Pid() int { return m.box.Pid() }

// Kill ends the member with SIGKILL; its data stay for Restart.
func (m *Member) Kill() error { return m.box.Kill() }

// Restart starts the member again on the same data and ports, and returns when it answers a linearizable read, which
// takes most of the cluster.
func (m *Member) Restart(ctx context.Context) error { return m.box.Restart(ctx) }

// Stop halts the process with SIGSTOP: its connections stay open, and nothing answers. Its threads may go on for a
// moment after Stop has returned.
func (m *Member) Stop() error { return m.signal(syscall.SIGSTOP) }

// Continue lets the process go on after Stop.
func (m *Member) Continue() error { return m.signal(syscall.SIGCONT) }

func (m *Member) signal(s syscall.Signal) error {
	if err := syscall.Kill(m.Pid(), s); err != nil {
		return fmt.Errorf("send %s to member %d: %w", s, m.index, err)
	}
	return nil
}

// Cut makes the network between the member and its clients swallow everything: connections stall, new ones hang.
// What a write before it has handed over may still arrive, and what is held back does when Heal is called.
func (m *Member) Cut() { m.net.client.gate.drop() }

// Reset ends all connections between the member and its clients, and all new ones at once, until Heal.
func (m *Member) Reset() { m.net.client.gate.reject() }

// Heal mends what Cut and Reset did.
func (m *Member) Heal() { m.net.client.gate.heal() }

// CutPeers makes the network between the member and all others swallow everything that raft sends, in both
// directions. Its clients reach it all the same.
func (m *Member) CutPeers() { m.peers.drop() }

// HealPeers mends what CutPeers did.
func (m *Member) HealPeers() { m.peers.heal() }

// Close ends all members and removes all their files. It may be called more than once, whatever state they are in.
func (c *Cluster) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	for _, m := range c.members {
		m.stop()
	}
	if err := removeAll(c.dir); err != nil {
		return fmt.Errorf("close cluster: %w", err)
	}
	return nil
}

// stop ends the member at once: nobody needs what it would still write.
func (m *Member) stop() {
	if m.box != nil {
		m.box.abandon()
	}
	for _, p := range []*proxy{m.net.client, m.net.peer} {
		if p != nil {
			p.close()
		}
	}
}

// abandon ends whatever runs and leaves the files.
func (s *Sandbox) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if c, ok := s.runner.(*childProcess); ok {
		c.abandon()
	}
}
