package app

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

var update = flag.Bool("update", false, "write what the commands print into the scripts' golden files")

// rootVariable names the file system root that the commands of a script look
// at the node through, so that the machine that runs the tests does not show.
const rootVariable = "ETCD_RESCUE_TEST_ROOT"

// With the race detector a process waits a second when it ends, in case that
// another thread still reports something.
const (
	raceVariable = "GORACE"
	raceOptions  = "atexit_sleep_ms=0"
)

// TestMain makes this binary the command as well: under its name in scripts,
// and as the child of a sandbox.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == sandbox.ChildCommand {
		os.Exit(likeMain())
	}
	if len(os.Args) > 1 && os.Args[1] == floorCommand {
		os.Exit(floorMain(os.Args[2:]))
	}
	testscript.Main(tests.of(m), map[string]func(){
		"etcd-rescue":      func() { os.Exit(likeMain()) },
		"etcd-rescue-full": func() { os.Exit(onFullDisk()) },
	})
}

// suite is this package's tests with what they share.
type suite struct {
	m    *testing.M
	dir  string // goes away at the end
	once sync.Once
	path string // of the incident
	err  error
}

var tests suite

func (s *suite) of(m *testing.M) *suite {
	s.m = m
	return s
}

// Run implements testscript.TestingM.
func (s *suite) Run() int {
	dir, err := os.MkdirTemp("", "etcd-rescue-tests-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	s.dir = dir
	return s.m.Run()
}

// likeMain is what cmd/etcd-rescue/main.go does, with another root.
func likeMain() int {
	signal.Ignore(syscall.SIGXFSZ)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop)
	return Run(ctx, Process{
		Args:    os.Args[1:],
		Streams: term.Detect(os.Stdin, os.Stdout, os.Stderr, os.Getenv),
		Getenv:  os.Getenv,
		Root:    cmp.Or(os.Getenv(rootVariable), "/"),
		Now:     time.Now,
	})
}

// onFullDisk is the command with no file allowed beyond the number of bytes in
// its first argument, which is how a full disk looks to it.
func onFullDisk() int {
	limit, err := strconv.ParseUint(os.Args[1], 10, 64)
	if err != nil {
		panic(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		panic(err)
	}
	os.Args = append(os.Args[:1], os.Args[2:]...)
	return likeMain()
}

// TestScripts runs testdata/script, each file with etcds of its own.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Files:               scripts(t),
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Setenv(rootVariable, env.WorkDir+"/node")
			env.Setenv(raceVariable, raceOptions)
			config, err := filepath.Abs(zooFixture + "encryption-config.yaml")
			if err != nil {
				return err
			}
			env.Setenv("ENCRYPTION", config)
			zoo, err := filepath.Abs(zooSnapshot)
			if err != nil {
				return err
			}
			env.Setenv("ZOO_SNAPSHOT", zoo)
			env.Values[storesKey{}] = map[string]*scriptStore{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"sandbox": cmdSandbox, "sandbox-zoo": cmdSandboxZoo, "lose-leader": cmdLoseLeader, "alarm": cmdAlarm, "kine": cmdKine,
			"revision": cmdRevision, "unchanged": cmdUnchanged, "restored": cmdRestored, "kept": cmdKept, "untouched": cmdUntouched,
			"etcdput": cmdPut, "etcdcopy": cmdCopy, "etcddel": cmdDelete, "etcdretype": cmdRetype, "etcdgrow": cmdGrow, "etcdcount": cmdCount, "snapshot": cmdSnapshot, "etcdutl-status": cmdStatus,
			"exitcode": cmdExitCode, "same": cmdSame, "refill": cmdRefill, "leased": cmdLeased, "capture": cmdCapture, "replace": cmdReplace, "cut": cmdCut, "sorted": cmdSorted, "sum": cmdSum, "zoo-file": cmdZooFile, "damage": cmdDamage, "closed-port": cmdClosedPort,
		},
	})
}

// long leaves a test out with -short, which is for the race detector: other
// tests do the same with as many goroutines, and sooner.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs without -short")
	}
}

// scripts are the files to run: with -short those in which much happens at the
// same time.
func scripts(t *testing.T) []string {
	all, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(all) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	if !testing.Short() {
		return all
	}
	busy := regexp.MustCompile(`^(apply|compact|connect|defrag|delete|drill|execute|passes|put-back|reclaim|rehearse|snapshot-save|status|top|undo)[a-z-]*\.txtar$`)
	quiet := regexp.MustCompile(`-(refuse|files|again|usage|namespace|events|json)\.txtar$`)
	return slices.DeleteFunc(all, func(path string) bool {
		name := filepath.Base(path)
		return !busy.MatchString(name) || quiet.MatchString(name)
	})
}

// cmdExitCode runs a command and asserts its exit code: exitcode N CMD ARGS.
func cmdExitCode(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	if err != nil || neg || len(args) < 2 {
		ts.Fatalf("usage: exitcode N command [args...]")
	}
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// cmdSame asserts that a command answers the same from a file as live:
// same FILE COMMAND ARGS. The endpoint comes from the environment.
func cmdSame(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: same FILE COMMAND [ARGS...]")
	}
	liveErr := ts.Exec("etcd-rescue", args[1:]...)
	live := ts.ReadFile("stdout")
	fileErr := ts.Exec("etcd-rescue", append(slices.Clone(args[1:]), "--from", args[0])...)
	if file := ts.ReadFile("stdout"); file != live || live == "" {
		ts.Fatalf("live it says:\n%sfrom the file:\n%s", live, file)
	}
	if fmt.Sprint(liveErr) != fmt.Sprint(fileErr) {
		ts.Fatalf("live: %v, from the file: %v", liveErr, fileErr)
	}
}

// cmdClosedPort puts the number of a port that nothing listens on into a
// variable: closed-port NAME.
func cmdClosedPort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: closed-port NAME")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	ts.Check(err)
	ts.Check(l.Close())
	ts.Setenv(args[0], port)
}

// cmdCapture puts the first group of a regular expression over stdout or
// stderr into a variable: capture NAME stdout|stderr REGEXP.
func cmdCapture(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 || neg {
		ts.Fatalf("usage: capture NAME stdout|stderr|file REGEXP")
	}
	re, err := regexp.Compile("(?m)" + args[2])
	ts.Check(err)
	found := re.FindStringSubmatch(ts.ReadFile(args[1]))
	if len(found) != 2 {
		ts.Fatalf("nothing in %s matches %s", args[1], args[2])
	}
	ts.Setenv(args[0], found[1])
}

// cmdReplace replaces the first OLD in a file: replace FILE OLD NEW.
func cmdReplace(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 || neg {
		ts.Fatalf("usage: replace FILE OLD NEW")
	}
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, args[1]) {
		ts.Fatalf("%s does not hold %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Replace(text, args[1], args[2], 1)), 0o600))
}

// cmdCut leaves out the last N lines of a file: cut FILE N.
func cmdCut(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || neg {
		ts.Fatalf("usage: cut FILE N")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	lines := strings.SplitAfter(strings.TrimSuffix(ts.ReadFile(args[0]), "\n"), "\n")
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Join(lines[:len(lines)-n], "")), 0o600))
}

// cmdSorted asserts that the lines of stdout are sorted and none is there
// twice.
func cmdSorted(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 0 || neg {
		ts.Fatalf("usage: sorted")
	}
	lines := strings.Split(strings.TrimSpace(ts.ReadFile("stdout")), "\n")
	for i := 1; i < len(lines); i++ {
		if lines[i-1] >= lines[i] {
			ts.Fatalf("%q stands before %q", lines[i-1], lines[i])
		}
	}
}

// cmdSum asserts that the last column of a table away from a terminal adds up
// to its line TOTAL, and to the number given: sum [N].
func cmdSum(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) > 1 || neg {
		ts.Fatalf("usage: sum [N]")
	}
	lines := strings.Split(strings.TrimSpace(ts.ReadFile("stdout")), "\n")
	var sum, total int64
	for _, line := range lines[1:] {
		cells := strings.Split(line, "\t")
		n, err := strconv.ParseInt(cells[len(cells)-1], 10, 64)
		ts.Check(err)
		if cells[0] == "TOTAL" {
			total = n
		} else {
			sum += n
		}
	}
	if sum != total || (len(args) == 1 && strconv.FormatInt(sum, 10) != args[0]) {
		ts.Fatalf("the lines add up to %d, TOTAL says %d, want %v", sum, total, args)
	}
}
