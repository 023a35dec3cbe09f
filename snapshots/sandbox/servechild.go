package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/grpclog"

	"go.etcd.io/etcd/server/v3/embed"
)

// ServeChild is what a child process of a sandbox runs; the result is its exit code. Orders arrive on stdin, one JSON
// document a line: first {"guard": DIR}, the directory to answer for, then {"serve": …}. The answer on stdout is one
// line, {"endpoint": …, "pid": …} or {"error": …}. When stdin closes, by Close or because the parent is dead, the
// server ends, DIR is removed with everything in it, and ServeChild returns; so it does when ctx ends.
//
// It silences grpc's global logger: it expects to have the process to itself.
func ServeChild(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) int {
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &child{stdout: stdout, stderr: stderr, orders: make(chan order), served: make(chan served, 1)}
	go c.readOrders(ctx, stdin)
	if err := c.run(ctx); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

// child is the child's side.
type child struct {
	stdout, stderr io.Writer
	orders         chan order // closed when stdin is
	served         chan served
	dir            string
	running        server
}

// server is what the child runs. wait receives once, when a server ends by itself.
type server interface {
	pid() int
	wait() <-chan error
	stop()
}

type served struct {
	server   server
	endpoint string
	err      error
}

func (c *child) readOrders(ctx context.Context, stdin io.Reader) {
	defer close(c.orders)
	for dec := json.NewDecoder(stdin); ; {
		var o order
		if err := dec.Decode(&o); err != nil {
			return
		}
		select {
		case c.orders <- o:
		case <-ctx.Done():
			return
		}
	}
}

// run obeys until stdin closes. Starting a server happens beside it, so that a parent that dies meanwhile is noticed.
func (c *child) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		var ended <-chan error
		if c.running != nil {
			ended = c.running.wait()
		}
		select {
		case o, ok := <-c.orders:
			if !ok {
				cancel()
				return c.cleanUp()
			}
			if o.Guard != "" {
				c.dir = o.Guard
			}
			if o.Serve != nil {
				go c.start(ctx, *o.Serve)
			}
		case s := <-c.served:
			c.answerServed(s)
		case err := <-ended:
			c.running = nil
			c.answer(answer{Exited: true, Error: err.Error(), PortTaken: errors.Is(err, errPortTaken)})
		case <-ctx.Done():
			return c.cleanUp()
		}
	}
}

func (c *child) start(ctx context.Context, cfg serverConfig) {
	var s served
	if cfg.Server != "" {
		s.server, s.err = startForeign(ctx, cfg, c.stderr)
	} else {
		s.server, s.err = c.startEmbedded(ctx, cfg)
	}
	s.endpoint = cfg.endpoint()
	c.served <- s
}

func (c *child) startEmbedded(ctx context.Context, cfg serverConfig) (server, error) {
	var log io.Writer
	if cfg.Log {
		log = c.stderr
	}
	e, err := startEmbedded(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	return embedded{e}, nil
}

func (c *child) answerServed(s served) {
	if s.err != nil {
		c.answer(answer{Error: s.err.Error(), PortTaken: errors.Is(s.err, errPortTaken)})
		return
	}
	c.running = s.server
	c.answer(answer{Endpoint: s.endpoint, Pid: s.server.pid()})
}

// answer does not report an error: if the parent is gone, stdin says so too.
func (c *child) answer(a answer) {
	if line, err := json.Marshal(a); err == nil {
		_, _ = c.stdout.Write(append(line, '\n'))
	}
}

func (c *child) cleanUp() error {
	if c.running != nil {
		c.running.stop()
	}
	if c.dir == "" {
		return nil
	}
	return removeAll(c.dir)
}

// embedded is the etcd inside this program.
type embedded struct{ e *embed.Etcd }

func (s embedded) pid() int           { return os.Getpid() }
func (s embedded) wait() <-chan error { return s.e.Err() }

// stop does not wait for open requests as Close of etcd does: nobody is left to read the answers.
func (s embedded) stop() {
	done := make(chan struct{})
	go func() {
		s.e.Server.HardStop()
		close(done)
	}()
	t := time.NewTimer(2 * time.Second)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

// foreign is an etcd binary that runs as a child of the child.
type foreign struct {
	cmd   *exec.Cmd
	ended chan error // receives once
	done  chan struct{}
}

// startForeign starts an etcd binary and waits until it listens.
func startForeign(ctx context.Context, cfg serverConfig, stderr io.Writer) (server, error) {
	log := &tail{}
	if cfg.Log {
		log.next = stderr
	}
	f := &foreign{cmd: exec.Command(cfg.Server, serverArgs(cfg)...), ended: make(chan error, 1), done: make(chan struct{})}
	f.cmd.Env = withoutETCD(os.Environ())
	f.cmd.Stdout, f.cmd.Stderr = log, log
	f.cmd.WaitDelay = time.Second
	f.cmd.SysProcAttr = &syscall.SysProcAttr{}
	tieToParent(f.cmd.SysProcAttr)
	if err := f.launch(log); err != nil {
		return nil, fmt.Errorf("start %q: %w", cfg.Server, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-f.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := waitListening(ctx, cfg.Port); err != nil {
		f.stop()
		// Ours or not, the end of the server is the better reason.
		err = <-f.ended
		return nil, fmt.Errorf("start %q: %w", cfg.Server, err)
	}
	return f, nil
}

// launch starts the process on a thread that lives as long as the process: where tieToParent works, the kernel sends
// its signal when the thread ends, not the process.
func (f *foreign) launch(log *tail) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := f.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		if err = f.cmd.Wait(); err == nil {
			err = errors.New("exit status 0")
		}
		err = fmt.Errorf("the server ended: %w%s", err, log.last())
		if portTaken(log.last()) {
			// Who listens there may have been taken for this server.
			err = fmt.Errorf("%w: %w", errPortTaken, err)
		}
		f.ended <- err
		close(f.done)
	}()
	return <-started
}

func (f *foreign) pid() int           { return f.cmd.Process.Pid }
func (f *foreign) wait() <-chan error { return f.ended }

func (f *foreign) stop() {
	_ = f.cmd.Process.Kill()
	<-f.done
}

// withoutETCD takes away the variables that etcd reads as flags, but for the one that lets it run on some machines.
func withoutETCD(env []string) []string {
	var out []string
	for _, v := range env {
		if !strings.HasPrefix(v, "ETCD_") || strings.HasPrefix(v, "ETCD_UNSUPPORTED_ARCH=") {
			out = append(out, v)
		}
	}
	return out
}
