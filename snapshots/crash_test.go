package snapshots

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

const helperCommand = "snapshots-test-helper"

// helper is what the test binary does when a test runs it again.
func helper(args []string) int {
	switch args[0] {
	case "full":
		return helperFull(args[1], args[2] == "nogrow")
	case "append":
		return helperAppend(args[1])
	case "lock":
		return helperLock(args[1])
	}
	return 2
}

// helperFull appends under a file size limit until it is refused and prints how many entries were acknowledged.
func helperFull(path string, noGrow bool) int {
	signal.Ignore(syscall.SIGXFSZ)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 3 << 20, Max: 3 << 20}); err != nil {
		return fail(err)
	}
	a, err := CreateArchive(path, ArchiveInfo{})
	if err != nil {
		return fail(err)
	}
	a.db.NoGrowSync = noGrow // then the limit is met while pages are written, not when the file is made longer
	for i := 0; ; i += 50 {
		if err := a.Append(1, pods(i, 50, 1700), nil); err != nil {
			fmt.Println(a.Len(), a.Append(1, pods(0, 1, 1), nil) != nil, err)
			return 0
		}
	}
}

func helperAppend(path string) int {
	a, err := OpenArchive(path, 0)
	if err != nil {
		return fail(err)
	}
	for {
		n := int(a.Len())
		if err := a.Append(n%5, pods(n, 1+n%97, 1700), nil); err != nil {
			return fail(err)
		}
		fmt.Println(a.Len())
	}
}

func helperLock(path string) int {
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		return fail(err)
	}
	fmt.Println("locked")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return fail(db.Close())
}

func fail(err error) int {
	fmt.Println(err)
	return 1
}

func helperCmd(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	return exec.CommandContext(t.Context(), os.Args[0], append([]string{helperCommand}, args...)...)
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"grow", "nogrow"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "undo.db")
			out, err := helperCmd(t, "full", path, mode).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			count, rest, _ := strings.Cut(string(out), " ")
			acked, err := strconv.Atoi(count)
			if err != nil || acked == 0 || !strings.HasPrefix(rest, "true ") || !strings.Contains(rest, syscall.EFBIG.Error()) {
				t.Fatalf("the helper said %q", out)
			}
			t.Logf("%d entries acknowledged, then: %s", acked, rest)
			checkArchive(t, path, acked, acked)
			a, err := OpenArchive(path, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			if err := a.Append(1, pods(acked, 100, 1700), nil); err != nil {
				t.Fatalf("append when there is room again: %v", err)
			}
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			checkArchive(t, path, acked+100, acked+100)
		})
	}
}

// checkArchive demands entries 0 to n of pods, with least <= n <= most, and a sound file.
func checkArchive(t *testing.T, path string, least, most int) int {
	t.Helper()
	f := open(t, path)
	got, _ := entries(t, f)
	if len(got) < least || len(got) > most {
		t.Errorf("%d entries in the file, want %d to %d", len(got), least, most)
	}
	if !same(got, pods(0, len(got), 1700)) {
		t.Error("the entries are not the ones that were appended")
	}
	if err := errors.Join(f.Check(t.Context()), f.Close()); err != nil {
		t.Error(err)
	}
	return len(got)
}

func TestKilledWhileAppending(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 6 {
		cmd := helperCmd(t, "append", a.Path())
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range 1 + rnd.IntN(20) {
			lines.Scan()
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		acked, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatalf("the helper said %q", lines.Text())
		}
		for lines.Scan() { // acknowledged before the signal arrived
			if n, err := strconv.Atoi(lines.Text()); err == nil {
				acked = n
			}
		}
		_ = cmd.Wait()
		// One append may have been complete on disk but not yet printed.
		n := checkArchive(t, a.Path(), acked, acked+97)
		t.Logf("acknowledged %d, found %d", acked, n)
	}
}

func TestLocked(t *testing.T) {
	t.Parallel()
	path := makeDB(t, history(), nil)
	cmd := helperCmd(t, "lock", path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "locked\n" {
		t.Fatalf("helper: %q, %v", line, err)
	}
	began := time.Now()
	if _, err := Open(path, Options{LockTimeout: 200 * time.Millisecond}); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Errorf("Open of a locked file: %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("waited %v for the lock", took)
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	first := open(t, path)
	if second, err := Open(path, Options{}); err != nil {
		t.Errorf("two readers at once: %v", err)
	} else if err := errors.Join(second.Close(), first.Close()); err != nil {
		t.Error(err)
	}
}
