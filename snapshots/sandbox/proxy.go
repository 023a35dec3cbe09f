package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

// proxy is a piece of network that can be cut: it listens on a port of 127.0.0.1 for as long as it lives, and carries
// each connection to another one, which may change.
type proxy struct {
	gate    *gate
	senders *senders // nil where it does not matter who connects

	mu       sync.Mutex
	listener net.Listener // closed while it refuses
	target   int          // port; 0 before there is one
	done     chan struct{}
	served   sync.WaitGroup
}

func newProxy(g *gate, s *senders) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for a proxy: %w", err)
	}
	p := &proxy{listener: l, gate: g, senders: s, done: make(chan struct{})}
	p.served.Go(func() { p.accept(l) })
	return p, nil
}

func (p *proxy) port() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a, ok := p.listener.Addr().(*net.TCPAddr); ok {
		return a.Port
	}
	return 0
}

// aim changes where new connections lead to.
func (p *proxy) aim(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = port
}

func (p *proxy) aimed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.target
}

// close ends all connections and returns when nothing of the proxy runs any more.
func (p *proxy) close() {
	close(p.done)
	p.mu.Lock()
	_ = p.listener.Close()
	p.mu.Unlock()
	p.served.Wait()
}

func (p *proxy) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select { // out of file descriptors, mostly
			case <-time.After(10 * time.Millisecond):
				continue
			case <-p.done:
				return
			}
		}
		p.served.Go(func() { p.serve(c) })
	}
}

func (p *proxy) serve(near net.Conn) {
	l := &link{proxy: p, near: near, gone: make(chan struct{})}
	defer l.end()
	if !p.gate.enter(l) {
		return
	}
	p.served.Go(func() { // a proxy that closes does not wait for either side
		select {
		case <-p.done:
			l.end()
		case <-l.gone:
		}
	})
	// A connection to a network that is cut stays without an answer: it is not even carried to the server.
	if !p.gate.pass(l) {
		return
	}
	far, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.aimed())), 5*time.Second)
	if err != nil {
		reset(near) // nobody listens there, which is what a client of a dead server is told
		return
	}
	if !l.attach(far) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { l.carry(far, near, p.senders != nil) })
	both.Go(func() { l.carry(near, far, false) })
	both.Wait()
}

// link is one connection through a proxy.
type link struct {
	proxy *proxy
	near  net.Conn
	gone  chan struct{} // closed when the link has ended

	mu     sync.Mutex
	far    net.Conn
	ended  bool
	sender *gate  // of the member that connected, once it is known
	seen   []byte // the end of what was searched for the sender
	// entries says that the member that connected is sent raft's entries here.
	entries bool
}

// attach adds the server's side, unless the link or the proxy has ended meanwhile.
func (l *link) attach(far net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		reset(far)
		return false
	}
	l.far = far
	return true
}

func (l *link) end() { l.close(func(c net.Conn) { _ = c.Close() }) }

// abort ends the link as a firewall does that rejects.
func (l *link) abort() { l.close(reset) }

func (l *link) close(how func(net.Conn)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.ended = true
	close(l.gone)
	how(l.near)
	if l.far != nil {
		how(l.far)
	}
	l.proxy.gate.leave(l)
}

// reset closes a connection so that the other side reads an error, not an end.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

// carry copies one direction. While the network is cut it holds what it has read, so that all of it arrives in order
// when the network is mended, as it does when TCP sends again.
func (l *link) carry(to, from net.Conn, search bool) {
	buf := make([]byte, 32<<10)
	var out io.Writer = to
	for {
		n, err := from.Read(buf)
		if n > 0 && search {
			search = !l.identify(buf[:n])
		}
		if !l.pass() {
			return
		}
		if n > 0 {
			out = l.slowed(out, to)
			if _, werr := out.Write(buf[:n]); werr != nil {
				l.end()
				return
			}
		}
		if errors.Is(err, io.EOF) {
			if half, ok := to.(*net.TCPConn); ok {
				_ = half.CloseWrite()
			}
			return
		}
		if err != nil {
			l.abort()
			return
		}
	}
}

// pass waits until neither side's network is cut.
func (l *link) pass() bool {
	for {
		if !l.proxy.gate.pass(l) {
			return false
		}
		l.mu.Lock()
		sender := l.sender
		l.mu.Unlock()
		if sender == nil || sender.open() {
			return true
		}
		if !sender.pass(l) {
			return false
		}
	}
}

// senderHeader names the member that sends, in the requests that carry raft's messages
// (server/etcdserver/api/rafthttp).
const senderHeader = "X-Server-From: "

// identify looks for the member that sends, which tells whose network the connection goes through. All requests of a
// connection come from the same member. Until the first of raft's messages nobody knows it; all that passes before is
// asking whether the other is there.
func (l *link) identify(b []byte) bool {
	l.seen = append(l.seen, b...)
	if i := bytes.Index(l.seen, []byte(senderHeader)); i >= 0 {
		id, _, whole := bytes.Cut(l.seen[i+len(senderHeader):], []byte("\r\n"))
		if whole {
			l.comesFrom(l.proxy.senders.gate(string(id)), bytes.Contains(l.seen, []byte(entriesPath)))
			l.seen = nil
			return true
		}
	}
	const longest = len(senderHeader) + 20
	l.seen = bytes.Clone(l.seen[max(0, len(l.seen)-longest):])
	return false
}

func (l *link) comesFrom(g *gate, entries bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g != nil && !l.ended {
		l.sender, l.entries = g, entries
	}
}

// senders are the gates of the members by their ids.
type senders struct {
	mu    sync.Mutex
	gates map[string]*gate
}

func (s *senders) gate(id string) *gate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gates[id]
}

func (s *senders) add(id string, g *gate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gates[id] = g
}

// gate is where the network of a member can be cut.
type gate struct {
	mu      sync.Mutex
	links   map[*link]struct{}
	rejects bool
	healed  chan struct{} // nil while it is open, else closed when it opens
	lagging chan struct{} // nil unless the member is to lag, else closed when it may catch up
}

func newGate() *gate { return &gate{links: map[*link]struct{}{}} }

// drop makes everything stall, now and to come.
func (g *gate) drop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rejects = false
	if g.healed == nil {
		g.healed = make(chan struct{})
	}
}

// reject ends all connections with a reset, now and to come.
func (g *gate) reject() {
	g.mu.Lock()
	g.rejects = true
	if g.healed == nil {
		g.healed = make(chan struct{})
	}
	links := g.links
	g.links = map[*link]struct{}{}
	g.mu.Unlock()
	for l := range links {
		l.abort()
	}
}

func (g *gate) heal() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rejects = false
	if g.healed != nil {
		close(g.healed)
		g.healed = nil
	}
}

func (g *gate) open() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.healed == nil
}

// enter counts a link among those that a reset ends. It ends it at once while the gate rejects.
func (g *gate) enter(l *link) bool {
	g.mu.Lock()
	rejects := g.rejects
	if !rejects {
		g.links[l] = struct{}{}
	}
	g.mu.Unlock()
	if rejects {
		l.abort()
	}
	return !rejects
}

func (g *gate) leave(l *link) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.links, l)
}

// pass waits until the gate is open; false means that the link has ended meanwhile.
func (g *gate) pass(l *link) bool {
	for {
		g.mu.Lock()
		healed := g.healed
		g.mu.Unlock()
		if healed == nil {
			return true
		}
		select {
		case <-healed:
		case <-l.gone:
			return false
		}
	}
}
