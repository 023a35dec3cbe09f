package sandbox

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// listen starts a server and returns its port and its connections.
func listen(t *testing.T) (int, <-chan *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	conns := make(chan *net.TCPConn, 10)
	go func() {
		defer close(conns)
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			conns <- c
		}
	}()
	return l.Addr().(*net.TCPAddr).Port, conns
}

func startProxy(t *testing.T, s *senders) (*proxy, <-chan *net.TCPConn) {
	t.Helper()
	p, err := newProxy(newGate(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	port, conns := listen(t)
	p.aim(port)
	return p, conns
}

func dial(t *testing.T, p *proxy) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: p.port()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// turnedAway connects and returns the error that it meets, here or there.
func turnedAway(p *proxy) error {
	c, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: p.port()})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Read(make([]byte, 1))
	return err
}

func write(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, len(text))
	if n, err := io.ReadFull(c, buf); string(buf) != text {
		t.Fatalf("read %q, %v, want %q", buf[:n], err, text)
	}
}

// silent demands that nothing arrives. A moment has to do: there is nothing to wait for.
func silent(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if n, err := c.Read(make([]byte, 10)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("read %d bytes, %v, want nothing", n, err)
	}
}

func TestProxyDrops(t *testing.T) {
	t.Parallel()
	p, conns := startProxy(t, nil)
	near := dial(t, p)
	far := <-conns
	write(t, near, "to")
	expect(t, far, "to")
	write(t, far, "fro")
	expect(t, near, "fro")

	p.gate.drop()
	late := dial(t, p)
	write(t, near, "held")
	write(t, far, "back")
	write(t, late, "late")
	silent(t, far)
	silent(t, near)
	if len(conns) != 0 {
		t.Error("a new connection was carried through a cut network")
	}
	p.gate.heal()
	expect(t, far, "held")
	expect(t, near, "back")
	expect(t, <-conns, "late")

	if err := near.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the client's end the server reads %d, %v", n, err)
	}
	write(t, far, "last words")
	expect(t, near, "last words")
}

func TestProxyRejects(t *testing.T) {
	t.Parallel()
	p, conns := startProxy(t, nil)
	near := dial(t, p)
	far := <-conns
	stalled := dial(t, p)
	<-conns
	p.gate.drop()
	write(t, stalled, "held")
	p.gate.reject()
	for name, c := range map[string]net.Conn{"client": near, "server": far, "stalled client": stalled} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v, want a reset", name, err)
		}
	}
	if err := turnedAway(p); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("new client: %v, want a reset", err)
	}
	p.gate.heal()
	again := dial(t, p)
	write(t, again, "hello")
	expect(t, <-conns, "hello")
}

// A dead server is told by a reset, and the next one is found where the proxy is aimed at.
func TestProxyTarget(t *testing.T) {
	t.Parallel()
	p, _ := startProxy(t, nil)
	free, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	p.aim(free)
	if err := turnedAway(p); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("nobody listens: %v", err)
	}
	port, conns := listen(t)
	p.aim(port)
	write(t, dial(t, p), "hello")
	expect(t, <-conns, "hello")
}

func TestProxyCloses(t *testing.T) {
	t.Parallel()
	p, err := newProxy(newGate(), nil)
	if err != nil {
		t.Fatal(err)
	}
	port, conns := listen(t)
	p.aim(port)
	near := dial(t, p)
	<-conns
	p.gate.drop()
	stalled := dial(t, p)
	p.close()
	for name, c := range map[string]net.Conn{"carried": near, "stalled": stalled} {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: the connection is still there", name)
		}
	}
	if len(p.gate.links) != 0 {
		t.Errorf("%d links are left", len(p.gate.links))
	}
}

// What one member sends can be cut off without the others noticing, wherever in the stream its name comes.
func TestProxyKnowsTheSender(t *testing.T) {
	t.Parallel()
	request := "POST /raft HTTP/1.1\r\nX-Server-From: a1\r\n\r\n"
	probe := "GET /raft/probing HTTP/1.1\r\n" + strings.Repeat("X-Pad: 1\r\n", 5000) + "\r\n"
	for name, parts := range map[string][]string{
		"at once":         {request},
		"later":           {probe, request},
		"in pieces":       {request[:30], request[30:]},
		"name in pieces":  {request[:len(request)-5], request[len(request)-5:]},
		"byte after byte": strings.Split(request, ""),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := newGate(), newGate()
			p, conns := startProxy(t, &senders{gates: map[string]*gate{"a1": a, "b2": b}})
			near := dial(t, p)
			far := <-conns
			for _, part := range parts {
				write(t, near, part)
				expect(t, far, part)
			}
			b.drop()
			write(t, near, "others")
			expect(t, far, "others")
			a.drop()
			write(t, near, "mine")
			write(t, far, "answer")
			silent(t, far)
			silent(t, near)
			b.heal()
			a.heal()
			expect(t, far, "mine")
			expect(t, near, "answer")
		})
	}
}

// The very request that names a sender who is cut off does not pass.
func TestProxyHoldsTheFirstRequest(t *testing.T) {
	t.Parallel()
	a := newGate()
	p, conns := startProxy(t, &senders{gates: map[string]*gate{"a1": a}})
	a.drop()
	near := dial(t, p)
	request := "GET /raft/stream/message/1 HTTP/1.1\r\nX-Server-From: a1\r\n\r\n"
	write(t, near, request)
	far := <-conns
	silent(t, far)
	a.heal()
	expect(t, far, request)
}
