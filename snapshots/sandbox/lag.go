package sandbox

import (
	"io"
	"net"
	"sync"
	"time"
)

// entriesPath begins the path of the stream on which a leader sends raft's entries; heartbeats have one of their own
// (server/etcdserver/api/rafthttp, streamTypeMsgAppV2).
const entriesPath = "/raft/stream/msgapp/"

// trickle is how often one byte passes on to a member that is to lag. etcd gives up a stream on which nothing comes
// for 5 s (rafthttp, DefaultConnReadTimeout), and then sends entries on the other one.
const trickle = time.Second

// Lag makes the member fall behind: it follows its leader, answers, and gets next to nothing of what is written from
// now on, which is kept in memory here until CatchUp. It does nothing to a member that leads.
func (m *Member) Lag() { m.peers.lag() }

// CatchUp lets the member have what Lag kept from it.
func (m *Member) CatchUp() { m.peers.catchUp() }

func (g *gate) lag() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lagging == nil {
		g.lagging = make(chan struct{})
	}
}

func (g *gate) catchUp() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lagging != nil {
		close(g.lagging)
		g.lagging = nil
	}
}

// behind is closed when the member may catch up; nil: it is not to lag.
func (g *gate) behind() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lagging
}

// slowed is where carry writes what it has read for a side of the link: to itself, or from the moment on that its
// member is to lag, a trickle that leads there.
func (l *link) slowed(out io.Writer, to net.Conn) io.Writer {
	l.mu.Lock()
	defer l.mu.Unlock()
	if out != io.Writer(to) || to != l.near || !l.entries || l.sender == nil || l.sender.behind() == nil {
		return out
	}
	d := &drip{to: to, gate: l.sender, gone: l.gone, more: make(chan struct{}, 1)}
	l.proxy.served.Go(d.pump)
	return d
}

// drip takes all that it is given at once, so that the sender never waits, and passes it on by and by.
type drip struct {
	to   net.Conn
	gate *gate
	gone <-chan struct{}
	more chan struct{} // has a value when held has got something

	mu   sync.Mutex
	held []byte
}

func (d *drip) Write(p []byte) (int, error) {
	d.mu.Lock()
	d.held = append(d.held, p...)
	d.mu.Unlock()
	select {
	case d.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

// take returns what may pass on now, and whether something is left.
func (d *drip) take(all bool) (out []byte, left bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.held)
	if !all {
		n = min(n, 1)
	}
	out, d.held = d.held[:n:n], d.held[n:]
	return out, len(d.held) > 0
}

// pump ends with the link.
func (d *drip) pump() {
	tick := time.NewTicker(trickle)
	defer tick.Stop()
	for left := false; ; {
		if !left {
			select {
			case <-d.more:
			case <-d.gone:
				return
			}
		}
		if behind := d.gate.behind(); behind != nil {
			select {
			case <-tick.C:
			case <-behind:
			case <-d.gone:
				return
			}
		}
		var out []byte
		out, left = d.take(d.gate.behind() == nil)
		if _, err := d.to.Write(out); err != nil {
			return // the link ends, since its other direction fails as well
		}
	}
}
