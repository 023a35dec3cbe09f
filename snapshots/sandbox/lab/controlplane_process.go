package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a running server. A nil one does not run.
type process struct {
	cmd  *exec.Cmd
	tail *logTail
	gone chan struct{} // closed when it has ended, and err is set
	err  error
}

// startProcess starts a server in a process group of its own, so that Ctrl-C on the terminal does not reach it.
func startProcess(cmd *exec.Cmd, log io.Writer) (*process, error) {
	p := &process{cmd: cmd, tail: &logTail{next: log}, gone: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.tail, p.tail
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	tieToParent(cmd.SysProcAttr)
	started := make(chan error)
	go func() {
		// The kernel ends the server when the thread ends that has started it: this one lives as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.gone)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) pid() int {
	if p == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// kill ends it with SIGKILL and waits for that.
func (p *process) kill() error {
	if p == nil {
		return nil
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.gone
	return nil
}

// wait returns when url answers 200.
func (p *process) wait(ctx context.Context, client *http.Client, url string) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask(ctx, client, url)
		if err == nil {
			return nil
		}
		select {
		case <-p.gone:
			return fmt.Errorf("it ended: %w: %s", p.err, p.tail.last())
		case <-ctx.Done():
			return fmt.Errorf("%w: %w: %s", ctx.Err(), err, p.tail.last())
		case <-tick.C:
		}
	}
}

func ask(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// guard removes a directory when this process dies, or at close.
type guard struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

// startGuard starts a shell whose stdin ends with this process.
func startGuard(dir string) (*guard, error) {
	cmd := exec.Command("/bin/sh", "-c", `cat >/dev/null; exec rm -rf -- "$1"`, "sh", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &guard{cmd, stdin}, nil
}

func (g *guard) close() error { return errors.Join(g.stdin.Close(), g.cmd.Wait()) }

// sharedLog lets several servers write to one log.
type sharedLog struct {
	mu   sync.Mutex
	next io.Writer // may be nil
}

func (l *sharedLog) Write(p []byte) (int, error) {
	if l.next == nil {
		return len(p), nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next.Write(p)
}

// logTail passes a log on and remembers its end, which says why a server ended.
type logTail struct {
	next io.Writer

	mu  sync.Mutex
	end []byte
}

const tailBytes = 2048

func (t *logTail) Write(p []byte) (int, error) {
	t.mu.Lock()
	t.end = append(t.end, p...)
	t.end = t.end[max(0, len(t.end)-tailBytes):]
	t.mu.Unlock()
	return t.next.Write(p)
}

func (t *logTail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.end))
}
