package sandbox

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// Swallow returns an address of this machine that swallows attempts to connect, as a firewall that drops packets does: a
// listener whose backlog is full drops them without an answer. Call stop when done with it.
func Swallow() (addr string, stop func(), err error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", nil, err
	}
	var full []net.Conn
	stop = func() {
		for _, c := range full {
			_ = c.Close()
		}
		_ = syscall.Close(fd)
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	if err = syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return "", nil, err
	}
	if err = syscall.Listen(fd, 0); err != nil {
		return "", nil, err
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		return "", nil, err
	}
	addr = fmt.Sprintf("127.0.0.1:%d", sa.(*syscall.SockaddrInet4).Port)
	for range 10 {
		c, dialErr := net.DialTimeout("tcp", addr, 200*time.Millisecond)
		if dialErr != nil {
			return addr, stop, nil
		}
		full = append(full, c)
	}
	err = errors.New("the backlog of the listener does not fill")
	return "", nil, err
}
