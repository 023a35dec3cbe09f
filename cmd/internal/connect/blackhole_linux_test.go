package connect

import (
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"
)

// blackHole returns an address of this machine that swallows connection
// attempts: a listener whose backlog is full drops them without an answer.
func blackHole(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", sa.(*syscall.SockaddrInet4).Port)
	for range 10 {
		c, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	t.Fatal("the backlog does not fill")
	return ""
}

func TestDialBlackHole(t *testing.T) {
	t.Parallel()
	addr := blackHole(t)
	failure{name: "plain", endpoint: "http://" + addr, reason: Timeout,
		text: "did not accept a connection within 1s", hint: "firewalls"}.run(t)
	failure{name: "TLS", endpoint: "https://" + addr, reason: Timeout,
		text: "packets to it get lost", hint: "--dial-timeout"}.run(t)
}
