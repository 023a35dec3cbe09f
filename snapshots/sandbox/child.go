package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The parent's side of the child. Each message is one line of JSON.

// order goes to the child's stdin: first the directory that it answers for, then what to serve, again with another
// port if the first was taken.
type order struct {
	Guard string        `json:"guard,omitempty"`
	Serve *serverConfig `json:"serve,omitempty"`
}

// answer comes from the child's stdout: one for each Serve, and one more if a foreign server ends.
type answer struct {
	Endpoint  string `json:"endpoint,omitempty"`
	Pid       int    `json:"pid,omitempty"`
	Error     string `json:"error,omitempty"`
	PortTaken bool   `json:"portTaken,omitempty"`
	Exited    bool   `json:"exited,omitempty"`
}

func (a answer) err() error {
	switch {
	case a.PortTaken:
		return fmt.Errorf("%w: %s", errPortTaken, a.Error)
	case a.Error != "":
		return errors.New(a.Error)
	}
	return nil
}

// childProcess holds a child that runs ServeChild.
type childProcess struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	errText *tail
	foreign bool
	pid     int           // of the server
	started chan answer   // answers to Serve
	failed  chan error    // why the server stopped
	dead    chan struct{} // closed when a foreign server that was serving has exited
	exited  chan struct{} // closed when the child has exited
}

const stopTimeout = 10 * time.Second

func startChild(opt Options, dir string) (*childProcess, error) {
	argv := opt.Exec
	if len(argv) == 0 {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		argv = []string{self, ChildCommand}
	}
	c := &childProcess{
		cmd: exec.Command(argv[0], argv[1:]...), errText: &tail{next: opt.Log}, foreign: opt.Server != "",
		started: make(chan answer, 1), failed: make(chan error, 2), dead: make(chan struct{}), exited: make(chan struct{}),
	}
	// A process group of its own keeps Ctrl-C on the terminal from ending the server before Close does.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.cmd.Stderr = c.errText
	c.cmd.WaitDelay = time.Second // a foreign server may hold stderr a moment longer
	var err error
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start child: %w", err)
	}
	c.pid = c.cmd.Process.Pid
	go c.watch(stdout)
	if err := c.send(order{Guard: dir}); err != nil {
		// A child that does not listen has ended, or is none of ours.
		if killErr := c.killChild(); killErr != nil {
			return nil, errors.Join(err, killErr)
		}
		return nil, <-c.failed
	}
	return c, nil
}

// watch reads answers until the child is gone.
func (c *childProcess) watch(stdout io.Reader) {
	dec := json.NewDecoder(stdout)
	for {
		var a answer
		if err := dec.Decode(&a); err != nil {
			break
		}
		if a.Exited {
			c.failed <- a.err()
			close(c.dead)
		} else {
			c.started <- a
		}
	}
	_, _ = io.Copy(io.Discard, stdout)
	err := c.cmd.Wait()
	text := c.errText.last()
	if err == nil {
		err = errors.New("exit status 0")
	}
	c.failed <- fmt.Errorf("the etcd process ended: %w%s", err, text)
	close(c.exited)
}

func (c *childProcess) send(o order) error {
	line, err := json.Marshal(o)
	if err != nil {
		return err
	}
	_, err = c.stdin.Write(append(line, '\n'))
	if err != nil {
		return fmt.Errorf("talk to child: %w", err)
	}
	return nil
}

func (c *childProcess) serve(ctx context.Context, cfg serverConfig) (int, error) {
	if err := c.send(order{Serve: &cfg}); err != nil {
		select {
		case err = <-c.failed:
		case <-ctx.Done():
		}
		return 0, err
	}
	select {
	case a := <-c.started:
		if err := a.err(); err != nil {
			return 0, err
		}
		c.pid = a.Pid
		return a.Pid, nil
	case err := <-c.failed:
		return 0, err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

func (c *childProcess) failure() <-chan error { return c.failed }

func (c *childProcess) kill() error {
	if !c.foreign {
		return c.killChild()
	}
	if c.gone(c.dead) || c.gone(c.exited) {
		return nil
	}
	if err := syscall.Kill(c.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	t := time.NewTimer(stopTimeout)
	defer t.Stop()
	select {
	case <-c.dead:
	case <-c.exited:
	case <-t.C:
		return fmt.Errorf("process %d did not end", c.pid)
	}
	return nil
}

func (c *childProcess) killChild() error {
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if !c.waitExited() {
		return fmt.Errorf("process %d did not end", c.cmd.Process.Pid)
	}
	return nil
}

// abandon ends server and child but leaves the directory: the child is given no time to remove it.
func (c *childProcess) abandon() {
	_ = c.kill()
	_ = c.killChild()
	_ = c.stdin.Close()
}

// stop closes the child's stdin, which makes it end its server, remove the directory and exit.
func (c *childProcess) stop() error {
	_ = c.stdin.Close()
	if c.waitExited() {
		return nil
	}
	return errors.Join(c.kill(), c.killChild())
}

func (c *childProcess) waitExited() bool {
	t := time.NewTimer(stopTimeout)
	defer t.Stop()
	select {
	case <-c.exited:
		return true
	case <-t.C:
		return false
	}
}

func (c *childProcess) gone(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// tail passes a log on and remembers its end, which says why a server ended.
type tail struct {
	next io.Writer // may be nil

	mu  sync.Mutex
	end []byte
}

const tailBytes = 2048

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = append(t.end, p...)
	t.end = t.end[max(0, len(t.end)-tailBytes):]
	if t.next == nil {
		return len(p), nil
	}
	return t.next.Write(p)
}

// last is ": " and what the log ends with, or nothing.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if text := strings.TrimSpace(string(t.end)); text != "" {
		return ": " + text
	}
	return ""
}
