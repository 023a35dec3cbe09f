package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

var snapshotKills = flag.Int("snapshot.kills", 8, "how often TestSnapshotKilled kills a snapshot save")

// TestSnapshotKilled: whenever a save is killed, a file that looks finished is
// a sound snapshot.
func TestSnapshotKilled(t *testing.T) {
	long(t)
	t.Parallel()
	seed := *killSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("to see the same moments again: -seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	box, err := startStore(t.Context(), sandbox.Options{Fixture: sandbox.Runaway30k, NoFsync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(box.close)
	sh := newShell(t, box)
	begun := time.Now()
	sh.run(exitDone, "snapshot", "save", "whole.db")
	whole := time.Since(begun)
	size := fileSize(t, filepath.Join(sh.dir, "whole.db"))
	outcomes := map[string]int{}
	for round := range *snapshotKills {
		outcomes[killSave(t, sh, random, round, size, whole)]++
	}
	t.Logf("%d kills: %v", *snapshotKills, outcomes)
}

// killSave is one round: it kills a save when so much has been written, some
// time after all of it has, or after a time, and looks at what is there.
func killSave(t *testing.T, sh shell, random *rand.Rand, round int, size int64, whole time.Duration) (outcome string) {
	t.Helper()
	dir := filepath.Join(sh.dir, fmt.Sprint(round))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	args := []string{"snapshot", "save", dir, "--quiet", "--keep", "1"}
	if round%4 == 3 {
		args = append(args, "--compress", "zstd")
	}
	c := sh.command(args...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(context.Background())
	killed := make(chan struct{})
	bytes, delay := random.Int64N(size+1), time.Duration(random.Int64N(int64(whole)+1))
	go func() {
		defer close(killed)
		switch round % 3 {
		case 0:
			hasGrown(ended, dir, bytes)
		case 1: // while it is read back, and gets its name
			hasGrown(ended, dir, size)
			pause(ended, delay/2)
		default:
			pause(ended, delay)
		}
		_ = c.Process.Signal(syscall.SIGKILL) // it may have ended by itself
	}()
	r := sh.finish(c)
	cancel()
	<-killed
	if r.code != -1 && r.code != exitDone {
		t.Fatalf("round %d: exit code %d before it was killed:\n%s", round, r.code, r.errOut)
	}
	return soundOrPart(t, dir, round)
}

// soundOrPart fails if dir holds anything but what is marked as unfinished and
// what is sound.
func soundOrPart(t *testing.T, dir string, round int) string {
	t.Helper()
	outcome := "nothing"
	for _, path := range glob(t, dir, "*") {
		if strings.HasSuffix(path, ".part") {
			outcome = "unfinished"
			continue
		}
		report, err := snapshots.Verify(t.Context(), path, snapshots.VerifyOptions{TempDir: t.TempDir()})
		if err != nil || report.Trailer != snapshots.TrailerOK || report.Keys < 30_000 {
			t.Fatalf("round %d: %s looks finished, and is not sound: %+v, %v", round, path, report, err)
		}
		return "finished"
	}
	return outcome
}

// hasGrown returns when a file in dir is that long.
func hasGrown(ctx context.Context, dir string, size int64) {
	for ctx.Err() == nil {
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			return
		}
		for _, path := range files {
			if info, err := os.Stat(path); err == nil && info.Size() >= size {
				return
			}
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// throttle is a network that carries so many bytes from the server on each
// connection, and then breaks it or goes silent.
type throttle struct {
	url    string
	server string
	bytes  int64
	silent bool
	served sync.WaitGroup
}

func newThrottle(t *testing.T, server string, bytes int64, silent bool) *throttle {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &throttle{url: "http://" + l.Addr().String(), server: strings.TrimPrefix(server, "http://"), bytes: bytes, silent: silent}
	ctx, cancel := context.WithCancel(context.Background())
	p.served.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			p.served.Go(func() { p.carry(ctx, near) })
		}
	})
	t.Cleanup(func() { cancel(); l.Close(); p.served.Wait() })
	return p
}

func (p *throttle) carry(ctx context.Context, near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", p.server)
	if err != nil {
		return
	}
	defer far.Close()
	stop := context.AfterFunc(ctx, func() { near.Close(); far.Close() })
	defer stop()
	p.served.Go(func() {
		_, _ = io.Copy(far, near)
		far.Close()
	})
	if _, err := io.CopyN(near, far, p.bytes); err == nil && p.silent {
		<-ctx.Done()
	}
}

// TestSnapshotCutConnection: when the connection breaks or goes silent, nothing
// that looks like a snapshot is left, and the exit code says so; also when it
// goes to standard output.
func TestSnapshotCutConnection(t *testing.T) {
	t.Parallel()
	box, err := startZoo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(box.close)
	for _, silent := range []bool{false, true} {
		sh := newShell(t, box)
		sh.url = newThrottle(t, box.url(), 300_000, silent).url
		for _, args := range [][]string{{}, {"a.db", "--compress", "zstd"}, {"-"}} {
			args = append([]string{"snapshot", "save"}, args...)
			if silent {
				args = append(args, "--command-timeout", "1s")
			}
			r := sh.run(exitConnect, args...)
			if !strings.Contains(r.errOut, "etcd-rescue: snapshot is incomplete: ") || !strings.Contains(r.errOut, "hint: ") || strings.Contains(r.out, "saved") {
				t.Errorf("%q: it says %s%s", args, r.out[:min(len(r.out), 1000)], r.errOut)
			}
			if silent != strings.Contains(r.errOut, "etcd sends nothing any more, for 1s") {
				t.Errorf("%q, silent %v: it says %s", args, silent, r.errOut)
			}
			if files := glob(t, sh.dir, "*"); len(files) > 0 {
				t.Errorf("%q: it left %q", args, files)
			}
		}
	}
}

// TestSnapshotInterrupted: an interrupt removes what is not finished.
func TestSnapshotInterrupted(t *testing.T) {
	t.Parallel()
	box, err := startZoo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(box.close)
	sh := newShell(t, box)
	sh.url = newThrottle(t, box.url(), 300_000, true).url
	c := sh.command("snapshot", "save")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	grown, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	hasGrown(grown, sh.dir, 100_000)
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if r := sh.finish(c); r.code != exitInterrupted || r.out != "" || !strings.HasSuffix(r.errOut, "etcd-rescue: interrupted\n") {
		t.Errorf("exit code %d: %s%s", r.code, r.out, r.errOut)
	}
	if files := glob(t, sh.dir, "*"); len(files) > 0 {
		t.Errorf("it left %q", files)
	}
}

// saidSaved is what the tests read of the JSON document.
type saidSaved struct {
	Member struct {
		ID     string
		Leader bool
		Why    string
	}
	Path          string
	Keys          int64
	WithoutQuorum bool
	Verified      bool
	Pruned        []string
}

func (s shell) saved(args ...string) saidSaved {
	s.t.Helper()
	r := s.run(exitDone, append([]string{"snapshot", "save", "-o", "json"}, args...)...)
	var said saidSaved
	if err := json.Unmarshal([]byte(r.out), &said); err != nil {
		s.t.Fatalf("%v: %s", err, r.out)
	}
	return said
}

// TestSnapshotOfCluster: a follower is taken, one that hangs makes nobody
// wait, and the last one alive still gives a snapshot, which is marked.
func TestSnapshotOfCluster(t *testing.T) {
	long(t)
	t.Parallel()
	path, err := tests.incident()
	if err != nil {
		t.Fatal(err)
	}
	c, err := sandbox.StartCluster(t.Context(), sandbox.ClusterOptions{Options: sandbox.Options{Snapshot: path, Keep: firstPods(20), NoFsync: true}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	leader, err := c.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id := func(i int) string { return fmt.Sprintf("%x", c.Member(i).ID()) }
	sh := shell{t, t.TempDir(), c.Member(leader).Endpoint()} // the others are found
	first := sh.saved()
	if first.Member.Leader || first.Member.ID == id(leader) || first.WithoutQuorum || !first.Verified || first.Keys == 0 {
		t.Errorf("got %+v", first)
	}
	if named := sh.saved("--member", id(leader)); !named.Member.Leader || named.Member.ID != id(leader) {
		t.Errorf("the leader was named: got %+v", named)
	}
	other := (leader + 1) % 3
	last := 3 - leader - other
	if err := c.Member(other).Stop(); err != nil {
		t.Fatal(err)
	}
	if got := sh.saved(); got.Member.ID != id(last) || got.WithoutQuorum {
		t.Errorf("one hangs: got %+v", got)
	}
	for _, i := range []int{leader, other} {
		if err := c.Member(i).Kill(); err != nil {
			t.Fatal(err)
		}
	}
	sh.url = strings.Join(c.Endpoints(), ",")
	before := glob(t, sh.dir, "*.db")
	alone := sh.saved("--keep", "1")
	if alone.Member.ID != id(last) || !alone.WithoutQuorum || !alone.Verified || alone.Keys != first.Keys || len(alone.Pruned) > 0 {
		t.Errorf("two are dead: got %+v", alone)
	}
	if after := glob(t, sh.dir, "*.db"); len(after) != len(before)+1 {
		t.Errorf("older snapshots were removed without quorum: %q of %q are left", after, before)
	}
	r := sh.run(exitDone, "snapshot", "save")
	if !strings.Contains(r.out, ", taken without quorum\n") || !strings.Contains(r.errOut, "warning: etcd has no quorum: ") {
		t.Errorf("it says %s%s", r.out, r.errOut)
	}
	if r := sh.run(exitConnect, "snapshot", "save", "--member", id(leader)); !strings.Contains(r.errOut, "does not answer") {
		t.Errorf("the dead leader was named: %s", r.errOut)
	}
}

// TestSnapshotNotToTerminal: a terminal gets no binary data.
func TestSnapshotNotToTerminal(t *testing.T) {
	t.Parallel()
	var out, errOut bytes.Buffer
	code := Run(t.Context(), Process{
		Args: []string{"snapshot", "save", "-"}, Root: t.TempDir(), Now: time.Now, Getenv: func(string) string { return "" },
		Streams: term.Streams{In: strings.NewReader(""), Out: &out, Err: &errOut, OutTTY: true},
	})
	if want := "etcd-rescue: a snapshot is not written to a terminal\n"; code != exitUsage || out.Len() > 0 || !strings.HasPrefix(errOut.String(), want) {
		t.Errorf("exit code %d, %q, %q", code, out.String(), errOut.String())
	}
}

// TestSnapshotNeedsRoom: too little is noticed before anything is written, and
// an etcd on the same disk keeps some.
func TestSnapshotNeedsRoom(t *testing.T) {
	t.Parallel()
	s := &saving{inv: &invocation{Process: Process{Root: t.TempDir()}}, dir: t.TempDir()}
	free, ok := freeSpace(s.dir)
	if !ok {
		t.Fatal("free space is not known")
	}
	if err := s.room(free / 2); err != nil {
		t.Errorf("half of it: %v", err)
	}
	var f *failure
	if err := s.room(2 * free); !errors.As(err, &f) || f.code != exitFailed || !strings.Contains(f.hint, "snapshot save - | ssh") {
		t.Errorf("twice as much: %v", err)
	}
	// What is compressed is unpacked again, and unpacking leaves some of the disk free.
	s.compress = snapshots.Zstd
	if err := s.room(free / 2); err != nil {
		t.Errorf("half of it, compressed: %v", err)
	}
	const others = 8 << 20 // may be written or removed meanwhile
	if err := s.room(free - others); !errors.As(err, &f) || !strings.Contains(f.hint, "leave out --compress") {
		t.Errorf("nearly all of it, compressed: %v", err)
	}
	if err := s.explain(t.Context(), fmt.Errorf("read back: %w", snapshots.ErrNoSpace)); !errors.As(err, &f) || !strings.Contains(f.hint, "leave out --compress") {
		t.Errorf("it is noticed when it is read back: %v", err)
	}
	s.dir = ""
	if err := s.room(2 * free); err != nil {
		t.Errorf("standard output: %v", err)
	}
}
