// Package sandbox starts a throwaway etcd: a real server, on 127.0.0.1, empty or from a snapshot, in this process or
// in a child process that can be killed; or a cluster of several, whose network can be cut. Drills, rehearsals and tests
// use it, and nothing else starts an etcd.
//
// Its invariant: everything it makes lies under one fresh directory with mode 0700, and that directory goes away, at
// [Sandbox.Close] or, with a child, when this process dies in whatever way. Whoever is left removes it. Only a
// process that dies between [Sandbox.Kill] and [Sandbox.Restart] leaves it behind, for then nobody is left.
package sandbox

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// ChildCommand is the first argument with which this program runs [ServeChild].
const ChildCommand = "sandbox-server"

// Mode is where the server runs.
type Mode int

const (
	// Child runs it in a child process, in a process group of its own: Ctrl-C on the terminal does not reach it.
	Child Mode = iota
	// InProcess runs it in this process. If this process is killed, the directory stays behind.
	InProcess
)

// Options says what to start. The zero value is an empty etcd in a child process.
type Options struct {
	// Snapshot is the path of a snapshot or db file to start from, plain or compressed with zstd. It is only read.
	Snapshot string
	// Fixture is a snapshot inside this program to start from instead.
	Fixture Fixture
	// Keep, if set, is asked about every key of the snapshot; where it says false, all revisions of the key are
	// dropped from the copy before etcd starts. The revision of the store stays what it was.
	Keep func(key string) bool
	// Mode is where the server runs.
	Mode Mode
	// Exec is the command line of the child. Empty means this program with ChildCommand.
	Exec []string
	// Server is the path of an etcd server to run instead of the one inside this program; only with Child.
	Server string
	// TLS makes the server speak https.
	TLS *TLS
	// NoFsync trades durability across a power failure for speed; a killed server still loses nothing.
	NoFsync bool
	// QuotaBytes is the space quota of the backend; zero means etcd's default.
	QuotaBytes int64
	// Disarm switches off the alarms that the snapshot carries, as soon as the server runs; see Disarmed. A Cluster
	// does not look at it.
	Disarm bool
	// Log takes the server's log; nil discards it. It is written to until Close returns.
	Log io.Writer
	// Dir is where the sandbox makes its directory; empty means os.TempDir.
	Dir string
}

// TLS names PEM files. The client of the sandbox shows ClientCertFile, or the server's own certificate if it is empty.
type TLS struct {
	CertFile, KeyFile             string
	CAFile                        string
	ClientCertAuth                bool
	ClientCertFile, ClientKeyFile string
}

// Sandbox is a running etcd. Its methods may be called from several goroutines.
type Sandbox struct {
	opt   Options
	dir   string
	guard string   // the directory that the child removes, dir or one above it
	name  string   // of the member
	net   *network // nil for a server that is no member of a Cluster
	off   []string // the alarms that were switched off

	mu     sync.Mutex
	port   int
	runner runner // nil when nothing runs
	pid    int
	closed bool
}

// runner is what holds the server: this process or a child.
type runner interface {
	// serve starts the server and returns its process id; errPortTaken asks for another port.
	serve(ctx context.Context, cfg serverConfig) (pid int, err error)
	// failure receives the reason if the server stops by itself.
	failure() <-chan error
	// kill ends the server with SIGKILL and leaves its data.
	kill() error
	// stop ends everything, and in a child removes the directory.
	stop() error
}

// errPortTaken says that somebody else took the port between choosing it and listening on it.
var errPortTaken = errors.New("port is taken")

const (
	startAttempts = 8
	// Room for a loaded machine: a start takes well under a second on an idle one, restoring not included.
	startTimeout = time.Minute
)

// Start prepares the data, starts a server and returns when it answers a linearizable read. ctx limits the start only.
// After an error nothing is left behind.
func Start(ctx context.Context, opt Options) (*Sandbox, error) {
	if err := opt.validate(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(opt.Dir, "etcd-rescue-sandbox-")
	if err != nil {
		return nil, fmt.Errorf("start sandbox: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("start sandbox: %w", err)
	}
	s := &Sandbox{opt: opt, dir: dir, guard: dir, name: filepath.Base(dir)}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start sandbox: %w", err), s.Close())
	}
	return s, nil
}

func (o *Options) validate() error {
	switch {
	case o.Snapshot != "" && o.Fixture != "":
		return errors.New("start sandbox: both a snapshot and a fixture are given")
	case o.Mode == InProcess && o.Server != "":
		return errors.New("start sandbox: another server cannot run in this process")
	}
	return nil
}

func (s *Sandbox) start(ctx context.Context) error {
	// The child comes first: from now on it removes the directory if we die, also while data is being prepared.
	if err := s.newRunner(); err != nil {
		return err
	}
	alone := home{dir: s.dataDir(), member: s.name, peerURL: peerURL, initial: s.name + "=" + peerURL}
	if err := prepare(ctx, s.opt, s.dir, alone); err != nil {
		return err
	}
	if err := s.serve(ctx); err != nil || !s.opt.Disarm {
		return err
	}
	return s.disarm(ctx)
}

// disarm switches off all alarms.
func (s *Sandbox) disarm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c, err := s.Client(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	list, err := c.AlarmList(ctx)
	if err != nil {
		return fmt.Errorf("ask for the alarms of the snapshot: %w", err)
	}
	for _, a := range list.Alarms {
		if _, err := c.AlarmDisarm(ctx, (*clientv3.AlarmMember)(a)); err != nil {
			return fmt.Errorf("switch off the alarm %s of the snapshot: %w", a.Alarm, err)
		}
		s.off = append(s.off, a.Alarm.String())
	}
	return nil
}

// Disarmed names the alarms that Options.Disarm has switched off, such as NOSPACE.
func (s *Sandbox) Disarmed() []string { return s.off }

func (s *Sandbox) newRunner() error {
	var err error
	if s.opt.Mode == InProcess {
		s.runner = &inProcess{log: s.opt.Log}
	} else {
		var c *childProcess
		if c, err = startChild(s.opt, s.guard); err == nil {
			s.runner = c
		}
	}
	return err
}

func (s *Sandbox) dataDir() string { return filepath.Join(s.dir, "data") }

// serve starts the server on s.port, or on a free port if it has none yet.
func (s *Sandbox) serve(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var err error
	for range startAttempts {
		port := s.port
		if port == 0 {
			if port, err = FreePort(); err != nil {
				return err
			}
		}
		cfg := serverConfig{
			Name: s.name, DataDir: s.dataDir(), Port: port, Server: s.opt.Server, TLS: s.opt.TLS,
			NoFsync: s.opt.NoFsync, QuotaBytes: s.opt.QuotaBytes, Log: s.opt.Log != nil,
		}
		if s.net != nil {
			if cfg.Cluster, err = s.net.config(cfg); err != nil {
				return err
			}
		}
		if s.pid, err = s.runner.serve(ctx, cfg); err == nil {
			if err = s.ready(ctx, cfg); errors.Is(err, errPortTaken) {
				err = errors.Join(err, s.renew())
			}
		}
		if err == nil {
			s.port = port
			return nil
		}
		if !errors.Is(err, errPortTaken) {
			return err
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return err
}

// ready waits for the server to answer a linearizable read.
func (s *Sandbox) ready(ctx context.Context, cfg serverConfig) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	failed := s.runner.failure()
	go func() {
		select {
		case err := <-failed:
			cancel(err)
		case <-ctx.Done():
		}
	}()
	if err := waitListening(ctx, cfg.Port); err != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	c, err := newClient(ctx, cfg.TLS, cfg.endpoint())
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		ok, err := itself(ctx, c, cfg)
		if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, errPortTaken) {
			err = cause
		}
		if err != nil {
			return fmt.Errorf("etcd does not answer: %w", err)
		}
		if ok {
			return nil
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// itself says whether the server behind c is ours and knows its client URL. Another one may have taken the port, and
// whoever asked for a sandbox is about to delete things.
func itself(ctx context.Context, c *clientv3.Client, cfg serverConfig) (bool, error) {
	if id := cfg.learner(); id != 0 {
		return isLearner(ctx, c, cfg.endpoint(), id)
	}
	list, err := c.MemberList(ctx)
	if err != nil {
		return false, err
	}
	for _, m := range list.Members {
		if m.Name == cfg.Name {
			return slices.Contains(m.ClientURLs, cfg.advertised()), nil
		}
	}
	return false, fmt.Errorf("%w: another etcd answers on it", errPortTaken)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Endpoints are the client URLs, one of them.
func (s *Sandbox) Endpoints() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return []string{serverConfig{Port: s.port, TLS: s.opt.TLS}.endpoint()}
}

// Pid is the process id of the etcd server; this process's own with [InProcess].
func (s *Sandbox) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid
}

// Dir is the directory that holds everything the sandbox has. etcd's data directory is Dir/data.
func (s *Sandbox) Dir() string { return s.dir }

// Client connects to the sandbox. The client ends with ctx; the caller closes it.
func (s *Sandbox) Client(ctx context.Context) (*clientv3.Client, error) {
	return newClient(ctx, s.opt.TLS, s.Endpoints()...)
}

func newClient(ctx context.Context, t *TLS, endpoints ...string) (*clientv3.Client, error) {
	conf, err := t.client()
	if err != nil {
		return nil, err
	}
	c, err := clientv3.New(clientv3.Config{
		Context: ctx, Endpoints: endpoints, TLS: conf, DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("connect to the sandbox: %w", err)
	}
	return c, nil
}

func (t *TLS) client() (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	info := transport.TLSInfo{CertFile: t.ClientCertFile, KeyFile: t.ClientKeyFile, TrustedCAFile: t.CAFile, Logger: zap.NewNop()}
	if info.CertFile == "" {
		info.CertFile, info.KeyFile = t.CertFile, t.KeyFile
	}
	conf, err := info.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("connect to the sandbox: %w", err)
	}
	return conf, nil
}

// Kill ends the server with SIGKILL, as a crash would; its data stay for [Sandbox.Restart]. It needs [Child].
func (s *Sandbox) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.runner == nil {
		return errors.New("kill sandbox: it does not run")
	}
	if err := s.runner.kill(); err != nil {
		return fmt.Errorf("kill sandbox: %w", err)
	}
	return nil
}

// Restart starts the server again on the same data and the same port, after Kill or while it runs.
func (s *Sandbox) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("restart sandbox: it is closed")
	}
	if err := s.restart(ctx); err != nil {
		return fmt.Errorf("restart sandbox: %w", err)
	}
	return nil
}

func (s *Sandbox) restart(ctx context.Context) error {
	if err := s.renew(); err != nil {
		return err
	}
	return s.serve(ctx)
}

// renew ends whatever runs, keeps the data, and makes a new runner.
func (s *Sandbox) renew() error {
	if c, ok := s.runner.(*childProcess); ok {
		c.abandon()
	} else if s.runner != nil {
		if err := s.runner.stop(); err != nil {
			return err
		}
	}
	s.runner = nil
	return s.newRunner()
}

// Close ends the server and removes all its files. It may be called more than once and after Kill.
func (s *Sandbox) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var err error
	if s.runner != nil {
		err = s.runner.stop()
	}
	if err = errors.Join(err, removeAll(s.dir)); err != nil {
		return fmt.Errorf("close sandbox: %w", err)
	}
	return nil
}

// removeAll tries more than once: a server on its way out may still make a file.
func removeAll(dir string) error {
	var err error
	for range 5 {
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
		_ = pause(context.Background(), 20*time.Millisecond)
	}
	return err
}

func clientURL(port int, secure bool) string {
	scheme := "http://127.0.0.1:"
	if secure {
		scheme = "https://127.0.0.1:"
	}
	return scheme + strconv.Itoa(port)
}
