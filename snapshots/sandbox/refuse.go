package sandbox

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"
)

// Refuse closes the port at which clients reach the member, until Listen: new connections are refused, as they are where
// no proxy stands before a member that is dead.
func (m *Member) Refuse() error {
	p := m.net.client
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.listener.Close()
}

// Listen opens the port again that Refuse has closed. Should a connection of another process have taken it, Listen waits
// for the end of that.
func (m *Member) Listen(ctx context.Context) error {
	p := m.net.client
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port()))
	for {
		l, err := net.Listen("tcp", address)
		if err == nil {
			p.mu.Lock()
			p.listener = l
			p.mu.Unlock()
			p.served.Go(func() { p.accept(l) })
			return nil
		}
		if pause(ctx, 100*time.Millisecond) != nil {
			return fmt.Errorf("listen for member %d: %w", m.index, err)
		}
	}
}
