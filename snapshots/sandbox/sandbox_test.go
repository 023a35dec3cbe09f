package sandbox

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/restore"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case ChildCommand:
			os.Exit(ServeChild(context.Background(), os.Stdin, os.Stdout, os.Stderr))
		case clusterCommand:
			os.Exit(helperCluster(os.Args[2:]))
		case parentCommand:
			os.Exit(helperParent(os.Args[2:]))
		case foreignCommand:
			os.Exit(helperForeign(os.Args[2:]))
		}
	}
	// The foreign servers of these tests are this binary again, which etcd-like flags alone do not tell.
	if strings.HasPrefix(filepath.Base(os.Args[0]), "etcd-server") {
		os.Exit(helperForeign(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func start(t *testing.T, opt Options) *Sandbox {
	t.Helper()
	if opt.Dir == "" {
		opt.Dir = t.TempDir()
	}
	began := time.Now()
	s, err := Start(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("started in %v", time.Since(began))
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		empty(t, opt.Dir)
	})
	return s
}

// empty demands that nothing is left in the directory that sandboxes were made in.
func empty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func client(t *testing.T, s *Sandbox) *clientv3.Client {
	t.Helper()
	c, err := s.Client(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func put(t *testing.T, c *clientv3.Client, key, value string) {
	t.Helper()
	if _, err := c.Put(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, c *clientv3.Client, key string) string {
	t.Helper()
	r, err := c.Get(t.Context(), key)
	if err != nil || len(r.Kvs) != 1 {
		t.Fatalf("get %q: %v, %v", key, r, err)
	}
	return string(r.Kvs[0].Value)
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// eventually polls; the deadline is for machines that are busy with something else.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for !ok() {
		if pause(ctx, 10*time.Millisecond) != nil {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestStartEmpty(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]Mode{"child": Child, "in process": InProcess} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, Options{Mode: mode, NoFsync: mode == InProcess, QuotaBytes: 64 << 20})
			c := client(t, s)
			put(t, c, "/a", "1")
			if got := get(t, c, "/a"); got != "1" {
				t.Errorf("got %q", got)
			}
			if (s.Pid() == os.Getpid()) != (mode == InProcess) || !alive(s.Pid()) {
				t.Errorf("pid %d, ours is %d", s.Pid(), os.Getpid())
			}
			members, err := c.MemberList(t.Context())
			if err != nil || len(members.Members) != 1 || members.Members[0].ClientURLs[0] != s.Endpoints()[0] {
				t.Errorf("members %v, %v, want %v", members, err, s.Endpoints())
			}
			st, err := c.Status(t.Context(), s.Endpoints()[0])
			if err != nil || st.DbSizeQuota != 64<<20 {
				t.Errorf("status %v, %v", st, err)
			}
			if fi, err := os.Stat(s.Dir()); err != nil || fi.Mode().Perm() != 0o700 {
				t.Errorf("directory: %v, %v", fi, err)
			}
		})
	}
}

// keepPods keeps n of the runaway pods and everything else that is on no short lease.
func keepPods(n int64) func(string) bool {
	var pods atomic.Int64
	return func(key string) bool {
		if strings.HasPrefix(key, "/registry/pods/") {
			return pods.Add(1) <= n
		}
		return !strings.HasPrefix(key, "/registry/masterleases/") && !strings.HasPrefix(key, "/registry/peerserverleases/")
	}
}

func TestRunawayFixture(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Fixture: Runaway30k, Keep: keepPods(100)})
	c := client(t, s)
	r, err := c.Get(t.Context(), "/registry/pods/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || r.Count != 100 || r.Header.Revision != 30440 {
		t.Errorf("pods: %v, %v; want 100 at revision 30440", r, err)
	}
	if r, err = c.Get(t.Context(), "/registry/", clientv3.WithPrefix(), clientv3.WithCountOnly()); err != nil || r.Count < 300 {
		t.Errorf("all: %v, %v", r, err)
	}
}

func TestRevisionStaysWhenTheNewestKeyIsDropped(t *testing.T) {
	t.Parallel()
	src := start(t, Options{Mode: InProcess})
	c := client(t, src)
	put(t, c, "/keep", "1")
	put(t, c, "/drop", "1")
	put(t, c, "/drop", "2")
	for _, last := range []string{"put", "delete"} {
		if last == "delete" {
			if _, err := c.Delete(t.Context(), "/drop"); err != nil {
				t.Fatal(err)
			}
		}
		want, err := c.Get(t.Context(), "/keep")
		if err != nil {
			t.Fatal(err)
		}
		s := start(t, Options{Snapshot: save(t, c), Keep: func(key string) bool { return key == "/keep" }})
		r, err := client(t, s).Get(t.Context(), "\x00", clientv3.WithFromKey())
		if err != nil || len(r.Kvs) != 1 || r.Header.Revision != want.Header.Revision || string(r.Kvs[0].Key) != "/keep" {
			t.Errorf("after a %s: %v, %v; want revision %d", last, r, err, want.Header.Revision)
		}
	}
}

func TestKillThenClose(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, Options{Dir: dir})
	pid := s.Pid()
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if alive(pid) {
		t.Errorf("process %d is alive after Kill", pid)
	}
	if _, err := os.Stat(filepath.Join(s.Dir(), "data")); err != nil {
		t.Errorf("Kill took the data along: %v", err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	empty(t, dir)
	if err := s.Kill(); err == nil {
		t.Error("Kill after Close succeeded")
	}
	if err := s.Restart(t.Context()); err == nil {
		t.Error("Restart after Close succeeded")
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		opt  Options
		kill bool
	}{
		"child, killed":        {Options{}, true},
		"child, running":       {Options{NoFsync: true}, false},
		"child, fixture":       {Options{Fixture: Runaway30k, Keep: keepPods(3)}, true},
		"in process":           {Options{Mode: InProcess}, false},
		"other server, killed": {Options{Server: foreignServer(t)}, true},
		"other server":         {Options{Server: foreignServer(t)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, tt.opt)
			before := s.Endpoints()[0]
			c := client(t, s)
			put(t, c, "/a", "1")
			_ = c.Close()
			if tt.kill {
				if err := s.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s.Endpoints()[0] != before {
				t.Errorf("endpoint %s, was %s", s.Endpoints()[0], before)
			}
			c = client(t, s)
			if got := get(t, c, "/a"); got != "1" {
				t.Errorf("got %q", got)
			}
		})
	}
}

// Restored data must be the data of the snapshot, at every revision that it holds.
func TestReaderAgreesWithEtcd(t *testing.T) {
	t.Parallel()
	const zoo = "../../testdata/zoo-1.36/snapshot.db.zst"
	dir := t.TempDir()
	in, err := os.Open(zoo)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	plain := filepath.Join(dir, "zoo.db")
	if err := restore.Unpack(t.Context(), in, plain); err != nil {
		t.Fatal(err)
	}
	f, err := snapshots.Open(plain, snapshots.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := client(t, start(t, Options{Snapshot: zoo, Mode: InProcess, NoFsync: true}))
	for _, rev := range []int64{1, 2, 100, 333, 777, 1200, 1650, 1717, 1718} {
		compareAt(t, f, c, rev)
	}
}

func TestBadSnapshots(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	write := func(name string, b []byte) string {
		p := filepath.Join(src, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	good := start(t, Options{Mode: InProcess})
	c := client(t, good)
	put(t, c, "/a", "1")
	raw, err := os.ReadFile(save(t, c))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(raw)
	flipped[len(flipped)/2] ^= 1
	a, err := snapshots.CreateArchive(filepath.Join(src, "archive.db"), snapshots.ArchiveInfo{})
	if err != nil || a.Close() != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, path string
		is         error
		text       string
	}{
		{"missing", filepath.Join(src, "missing"), os.ErrNotExist, "missing"},
		{"rubbish", write("rubbish", bytes.Repeat([]byte("rubbish "), 9000)), snapshots.ErrNotDB, "rubbish"},
		{"empty", write("empty", nil), snapshots.ErrNotDB, "empty"},
		{"cut off zstd", write("cut.zst", []byte{0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3}), nil, "cut.zst"},
		{"flipped bit", write("flipped", flipped), snapshots.ErrDamaged, "sha256"},
		{"archive", a.Path(), nil, "archive"},
	} {
		dir := t.TempDir()
		for _, mode := range []Mode{Child, InProcess} {
			s, err := Start(t.Context(), Options{Snapshot: tt.path, Mode: mode, Dir: dir})
			if s != nil || err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%s: %v", tt.name, err)
			}
			empty(t, dir)
		}
	}
}

func TestBadOptions(t *testing.T) {
	t.Parallel()
	script := filepath.Join(t.TempDir(), "etcd")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho this is not etcd >&2\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		opt  Options
		text string
	}{
		{"server does not exist", Options{Server: "/no/such/etcd"}, "/no/such/etcd"},
		{"server is something else", Options{Server: script}, "this is not etcd"},
		{"server in process", Options{Server: script, Mode: InProcess}, "in this process"},
		{"two sources", Options{Snapshot: "x", Fixture: Runaway30k}, "both"},
		{"unknown fixture", Options{Fixture: "nothing"}, `"nothing"`},
		{"child does not exist", Options{Exec: []string{"/no/such/program"}}, "/no/such/program"},
		{"child is something else", Options{Exec: []string{"/bin/false"}}, "exit status 1"},
		{"missing certificate", Options{TLS: &TLS{CertFile: "/no/cert", KeyFile: "/no/key"}}, "/no/cert"},
	} {
		opt := tt.opt
		opt.Dir = t.TempDir()
		if s, err := Start(t.Context(), opt); s != nil || err == nil || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v", tt.name, err)
		}
		empty(t, opt.Dir)
	}
}

func TestCancelledStart(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, opt := range []Options{{}, {Mode: InProcess}, {Fixture: Runaway30k}} {
		opt.Dir = t.TempDir()
		if _, err := Start(ctx, opt); !errors.Is(err, context.Canceled) {
			t.Errorf("%+v: %v", opt, err)
		}
		empty(t, opt.Dir)
	}
}

func TestLog(t *testing.T) {
	t.Parallel()
	for name, opt := range map[string]Options{
		"child": {}, "in process": {Mode: InProcess}, "other server": {Server: foreignServer(t)},
	} {
		var log bytes.Buffer
		opt.Log, opt.Dir = &log, t.TempDir()
		s, err := Start(t.Context(), opt)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if !strings.Contains(log.String(), "elected leader") {
			t.Errorf("%s: no word of etcd's in the log of %d bytes", name, log.Len())
		}
	}
}

func TestFixtureFile(t *testing.T) {
	t.Parallel()
	path, err := FixtureFile(t.Context(), Runaway30k, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f, err := snapshots.Open(path, snapshots.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Revision() != 30440 || f.Size() != 62844928+32 && f.Size() != 62844928 {
		t.Errorf("revision %d, size %d", f.Revision(), f.Size())
	}
}
