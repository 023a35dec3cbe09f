//go:build faults

package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"
)

// The fault table: FAULT_RUNS says how often each fault strikes (once),
// FAULT_SEED repeats the moments of an earlier run, FAULT_RATE is the pace of
// the command under test ("default" leaves it to the command).
const (
	faultPods   = 1500
	faultQuota  = 24 << 20
	runPatience = 4 * time.Minute
)

// fault is something that goes wrong while the command runs.
type fault struct {
	name string
	// strike makes it happen, at a random moment of the run; ctx ends with
	// the command. What it breaks, mend repairs.
	strike func(ctx context.Context, w *faultWorld) error
	// early makes it begin among the first changes.
	early bool
	// full lets the command write no file beyond a random size.
	full bool
	// quota is the space quota of etcd, 0 for its own.
	quota int64
}

func faults() []fault {
	return []fault{
		{name: "kill us", strike: killUs},
		{name: "kill the leader", strike: killLeader},
		{name: "stop the leader 10 s", strike: stopLeader},
		{name: "cut our network", strike: cutNetwork},
		{name: "one member down", strike: oneDown},
		{name: "move the leader each second", strike: moveLeader},
		{name: "quota reached", strike: fillUp, quota: faultQuota},
		{name: "compaction to head", strike: compactToHead},
		{name: "disk full", full: true},
		{name: "another client writes", strike: anotherClient, early: true},
	}
}

func killUs(_ context.Context, w *faultWorld) error {
	w.killed = true
	return ignoreEnded(w.command.Process.Signal(syscall.SIGKILL))
}

func ignoreEnded(err error) error {
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

func killLeader(ctx context.Context, w *faultWorld) error {
	i, err := w.cluster.Leader(ctx)
	if err != nil {
		return err
	}
	if err := w.kill(i); err != nil {
		return err
	}
	w.lasts(ctx, 3*time.Second)
	return w.restart(i)
}

func stopLeader(ctx context.Context, w *faultWorld) error {
	i, err := w.cluster.Leader(ctx)
	if err != nil {
		return err
	}
	if err := w.cluster.Member(i).Stop(); err != nil {
		return err
	}
	w.lasts(ctx, 10*time.Second)
	return w.cluster.Member(i).Continue()
}

// cutNetwork cuts one member or all of them off from us, silently or not.
func cutNetwork(ctx context.Context, w *faultWorld) error {
	first, n := w.random.IntN(w.cluster.Members()), 1
	if w.random.IntN(2) == 0 {
		n = w.cluster.Members()
	}
	rejects := w.random.IntN(2) == 0
	for i := range n {
		m := w.cluster.Member((first + i) % w.cluster.Members())
		if rejects {
			m.Reset()
		} else {
			m.Cut()
		}
	}
	w.lasts(ctx, time.Second+time.Duration(w.random.Int64N(int64(5*time.Second))))
	for i := range w.cluster.Members() {
		w.cluster.Member(i).Heal()
	}
	return nil
}

func oneDown(_ context.Context, w *faultWorld) error {
	return w.kill(w.random.IntN(w.cluster.Members()))
}

func moveLeader(ctx context.Context, w *faultWorld) error {
	for ctx.Err() == nil {
		i, err := w.cluster.Leader(ctx)
		if err == nil {
			err = w.cluster.MoveLeader(ctx, (i+1)%w.cluster.Members())
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		w.lasts(ctx, time.Second)
	}
	return nil
}

func compactToHead(ctx context.Context, w *faultWorld) error {
	head, err := w.head(ctx)
	if err != nil {
		return err
	}
	// What nobody has seen must not be compacted, or nobody could check.
	if err := w.history.reach(ctx, head); err != nil {
		return err
	}
	_, err = w.client.Compact(ctx, head)
	return err
}

// row is a line of the table.
type row struct {
	name       string
	runs       int
	codes      map[int]int
	atOnce     int // the first run did everything
	struck     int // the fault came while the command ran
	longest    time.Duration
	violations int
}

func TestFaults(t *testing.T) {
	seed, err := strconv.ParseUint(cmp.Or(os.Getenv("FAULT_SEED"), strconv.FormatUint(rand.Uint64(), 10)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	runs, err := strconv.Atoi(cmp.Or(os.Getenv("FAULT_RUNS"), "1"))
	if err != nil || runs < 1 {
		t.Fatalf("FAULT_RUNS: %d, %v", runs, err)
	}
	t.Logf("to see the same moments again: FAULT_SEED=%d", seed)
	var rows []*row
	for _, operation := range []string{operationDelete, operationUndo, operationPutBack} {
		for _, f := range faults() {
			r := &row{name: operation + ": " + f.name, codes: map[int]int{}}
			rows = append(rows, r)
			t.Run(operation+"/"+strings.ReplaceAll(f.name, " ", "_"), func(t *testing.T) {
				for n := range runs {
					oneFault(t, r, f, operation, seed, n)
				}
			})
		}
	}
	t.Log("\n" + table(rows))
}

func table(rows []*row) string {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "fault\truns\tstruck in time\texit codes\tdone at once\tlongest\tviolations")
	for _, r := range rows {
		if r.runs == 0 {
			continue
		}
		var codes []string
		for _, code := range slices.Sorted(maps.Keys(r.codes)) {
			word := strconv.Itoa(code)
			if code < 0 {
				word = "killed"
			}
			codes = append(codes, fmt.Sprintf("%s (%d)", word, r.codes[code]))
		}
		fmt.Fprintf(tw, "%s\t%d\t%d\t%s\t%d\t%.1f s\t%d\n",
			r.name, r.runs, r.struck, strings.Join(codes, ", "), r.atOnce, r.longest.Seconds(), r.violations)
	}
	_ = tw.Flush()
	return b.String()
}

// oneFault is one run: the command, the fault, and everything that must hold
// afterwards; then the second run, and what must hold then.
func oneFault(t *testing.T, r *row, f fault, operation string, seed uint64, n int) {
	t.Helper()
	name := fnv.New64a()
	fmt.Fprintf(name, "%s %s %d", operation, f.name, n)
	ctx, cancel := context.WithTimeout(t.Context(), runPatience)
	defer cancel()
	w := newFaultWorld(ctx, t, f, operation, rand.New(rand.NewPCG(seed, name.Sum64())))
	defer w.close()
	first := w.firstRun(ctx, f)
	r.runs++
	r.codes[first.code]++
	r.longest = max(r.longest, first.took)
	if first.code == exitDone {
		r.atOnce++
	}
	if w.struck {
		r.struck++
	}
	w.mend(ctx)
	w.sync(ctx)
	w.checkExit(first)
	w.checkSafe()
	w.checkCounts(first)
	second := w.secondRun(ctx)
	w.sync(ctx)
	w.checkSafe()
	w.checkCounts(first, second...)
	w.checkFinished(ctx)
	t.Logf("run %d: %s; exit code %d after %.1f s; %s", n, w.when, first.code, first.took.Seconds(), w.history.summary())
	if len(w.violations) > 0 {
		r.violations += len(w.violations)
		t.Errorf("FAULT_SEED=%d, run %d, %s:\n  %s\nthe first run said: %s%.2000s",
			seed, n, w.when, strings.Join(w.violations, "\n  "), first.errOut, first.out)
	}
}

// ranCommand is how a run of the command went.
type ranCommand struct {
	result
	args   []string
	took   time.Duration
	report faultReport
	from   int64 // the store's revision before it
}

// faultReport is what is checked of the document that a run prints.
type faultReport struct {
	Deleted, Created, Replaced, Gone, Present, Skipped, Failed, Remaining int64
	Problems                                                              []struct{ Key, Outcome, Why string }
}

func (w *faultWorld) rate() []string {
	if rate := cmp.Or(os.Getenv("FAULT_RATE"), "1000"); rate != "default" {
		return []string{"--rate", rate}
	}
	return nil
}

func (w *faultWorld) deleteArgs(rate ...string) []string {
	return append([]string{"delete", "pods", "-n", "ops-tools", "--owner", "job/error-ret", "--with-owners",
		"--execute", "--yes", "--max-deletes", "5000", "--settle", "0", "-o", "json"}, rate...)
}

func (w *faultWorld) undoArgs() []string {
	return append([]string{"undo", w.archive, "--execute", "--yes", "-o", "json"}, w.rate()...)
}

// args is the command under test.
func (w *faultWorld) args() []string {
	switch w.operation {
	case operationUndo:
		return w.undoArgs()
	case operationPutBack:
		return w.putBackArgs()
	}
	return w.deleteArgs(w.rate()...)
}

// firstRun runs the command and lets the fault strike.
func (w *faultWorld) firstRun(ctx context.Context, f fault) ranCommand {
	w.t.Helper()
	c := w.shell.command(w.args()...)
	if f.full {
		w.fillDisk(c)
	}
	ended, cancel := context.WithCancel(ctx)
	var strike sync.WaitGroup
	w.command = c
	ran := w.run(ctx, c, func() {
		if f.strike == nil {
			return
		}
		wait := w.moment(f)
		strike.Go(func() {
			if wait(ended); ended.Err() != nil {
				return
			}
			w.struck = true
			if err := f.strike(ended, w); err != nil && ended.Err() == nil {
				w.violate("the fault itself: %v", err)
			}
		})
	})
	cancel()
	strike.Wait()
	return ran
}

// fillDisk makes no file of c's grow beyond a random size: the plan's or the
// archive's turn may come at any byte.
func (w *faultWorld) fillDisk(c *exec.Cmd) {
	most := int64(4 << 20)
	if w.operation == operationUndo {
		most = 600 << 10 // all that it writes is the plan
	}
	limit := w.random.Int64N(most)
	path, err := exec.LookPath("etcd-rescue-full")
	if err != nil {
		w.t.Fatal(err)
	}
	c.Path, c.Args = path, append([]string{path, strconv.FormatInt(limit, 10)}, c.Args[1:]...)
	w.when, w.struck = fmt.Sprintf("files end at %d bytes", limit), true
}

// moment is when the fault strikes: after some changes, or after some time,
// which may be before the first.
func (w *faultWorld) moment(f fault) func(context.Context) {
	d, n := time.Duration(w.random.Int64N(int64(time.Second))), 1+w.random.IntN(faultPods*9/10)
	if !f.early && w.random.IntN(4) == 0 {
		w.when = fmt.Sprintf("%s after %s", f.name, d.Round(time.Millisecond))
		return func(ctx context.Context) { w.lasts(ctx, d) }
	}
	if f.early {
		n = 1 + n/10
	}
	w.when = fmt.Sprintf("%s after %d changes", f.name, n)
	from := w.history.ours()
	return func(ctx context.Context) { w.history.changed(ctx, from+n) }
}

// secondRun is what an operator does next.
func (w *faultWorld) secondRun(ctx context.Context) []ranCommand {
	w.t.Helper()
	if w.operation == operationUndo {
		return []ranCommand{w.again(ctx, w.undoArgs())}
	}
	path := w.lastPlan(ctx)
	if path == "" {
		return []ranCommand{w.again(ctx, w.args())}
	}
	ran := []ranCommand{w.again(ctx, append([]string{"apply", path, "--execute", "--yes", "--settle", "0", "-o", "json"}, w.rate()...))}
	if w.touched.any() {
		// What the other client made anew, or changed, is in no plan yet.
		ran = append(ran, w.again(ctx, w.args()))
	}
	return ran
}

// again runs a command that must finish the work.
func (w *faultWorld) again(ctx context.Context, args []string) ranCommand {
	w.t.Helper()
	ran := w.run(ctx, w.shell.command(args...), nil)
	may := ran.code == exitDone || (ran.code == exitPartial && w.touched.any())
	for _, p := range ran.report.Problems {
		may = may && w.touched.has(p.Key)
	}
	if !may {
		w.violate("%s: exit code %d: %s%s", strings.Join(args, " "), ran.code, ran.out, ran.errOut)
	}
	return ran
}
