package app

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

// millionVariable, if it is set, makes the benchmarks of this file run at the
// size that docs/performance.md tells of, on real servers, in about an hour.
// Without it they run at a five-hundredth of that on the server inside the
// program, which shows in seconds that they work, but says nothing about
// speed.
const millionVariable = "ETCD_RESCUE_MILLION"

// full says whether to run at full size.
func full() bool { return os.Getenv(millionVariable) != "" }

// millionShape is one of lab.Shapes at the size that was asked for.
func millionShape(name string) lab.Shape {
	s := lab.Shapes()[name]
	if !full() {
		s.Pods, s.Namespaces = s.Pods/500, min(s.Namespaces, 20)
	}
	return s
}

// millionServers are the servers to measure on; "" is the one inside the
// program.
func millionServers() []string {
	if full() {
		return []string{"etcd-3.6", "etcd-3.7"}
	}
	return []string{""}
}

// unaryPods is how many pods still fit into one answer.
const unaryPods = 200_000

// BenchmarkMillion measures reading from a live etcd, each command as a
// process of its own against what it is compared with, also a process of its
// own, in turn:
//
//	ETCD_RESCUE_MILLION=1 go test -run '^$' -bench Million -benchtime 1x -timeout 4h ./cmd/internal/app
//
// What the metrics mean is told in docs/performance.md.
func BenchmarkMillion(b *testing.B) {
	binary := releaseBinary(b)
	for _, server := range millionServers() {
		b.Run(cmp.Or(server, "sandbox"), func(b *testing.B) {
			for _, name := range []string{"50ns", "5000ns", "1ns", "owners"} {
				b.Run(name, func(b *testing.B) {
					t := startBed(b, binary, server, millionShape(name))
					for _, trial := range t.trials() {
						b.Run(trial.name, func(b *testing.B) { t.measure(b, trial) })
					}
				})
			}
		})
	}
}

// bed is what trials run on.
type bed struct {
	binary, self, etcdctl string
	shape                 lab.Shape
	db                    string
	dir                   string
	url                   string
	pid                   int // of the server, 0 if there is none
}

// releaseBinary builds the program as it is released.
func releaseBinary(b *testing.B) string {
	b.Helper()
	binary := filepath.Join(b.TempDir(), "etcd-rescue")
	buildGo(b, binary, module+"cmd/etcd-rescue")
	return binary
}

func buildGo(b *testing.B, to, from string) {
	b.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, from)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
}

// fileBed has no server.
func fileBed(b *testing.B, binary string, shape lab.Shape) *bed {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	db, err := lab.DB(context.Background(), shape)
	if err != nil {
		b.Fatal(err)
	}
	return &bed{binary: binary, self: self, shape: shape, db: db, dir: b.TempDir()}
}

// startBed starts a server on a generated store.
func startBed(b *testing.B, binary, server string, shape lab.Shape) *bed {
	b.Helper()
	ctx := context.Background()
	t := fileBed(b, binary, shape)
	opt := sandbox.Options{
		Snapshot: t.db, Exec: []string{binary, sandbox.ChildCommand}, QuotaBytes: 8 << 30, NoFsync: true, Dir: t.dir,
	}
	var err error
	if server != "" {
		if opt.Server, err = lab.Server(ctx, server); err != nil {
			b.Fatal(err)
		}
		if t.etcdctl, err = lab.Server(ctx, "etcd-3.6/etcdctl"); err != nil {
			b.Fatal(err)
		}
	}
	box, err := sandbox.Start(ctx, opt)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { box.Close() })
	t.url, t.pid = box.Endpoints()[0], box.Pid()
	return t
}

// trial is one thing to measure.
type trial struct {
	name    string
	argv    []string
	against []string // what it is compared with, nil if with nothing
	lines   int      // that it must print, 0 if that is not known
	steps   int      // that its plan must have
	once    bool     // not run before it is measured: it takes minutes
}

// plan is where trials write their plan.
func (t *bed) plan() string { return filepath.Join(t.dir, "plan.jsonl") }

func (t *bed) rescue(args ...string) []string {
	return append(append([]string{t.binary}, args...), "--endpoints", t.url, "--log-level", "debug")
}

func (t *bed) floor(mode floorMode) []string {
	return []string{t.self, floorCommand, string(mode), cmp.Or(t.url, t.db)}
}

// trials are what is measured on a live etcd, baselines among them.
func (t *bed) trials() []trial {
	list := t.rescue("list", "pods", "-A", "-o", "name")
	values := t.floor(floorValues)
	trials := []trial{
		{name: "floor", argv: values},
		{name: "count-by-owner-phase", argv: t.rescue("count", "pods", "-A", "--by", "owner,phase", "--bytes"), against: values},
	}
	if t.shape.OwnOwners {
		return trials
	}
	trials = append(trials, []trial{
		{name: "floor-keys", argv: t.floor(floorKeys)},
		{name: "count-only", argv: t.floor(floorCount)},
		{name: "list", argv: list, against: values, lines: t.shape.Pods},
		{name: "list-owner", argv: t.rescue("list", "pods", "-A", "--owner", "job/"+lab.Job, "-o", "name"), against: values},
		{name: "census", argv: t.rescue("count", "--by", "resource,namespace"), against: t.floor(floorCount)},
		{name: "plan", argv: t.rescue("delete", "pods", "-A", "--owner", "cronjob/"+lab.CronJob, "--plan", t.plan()), against: values, steps: t.shape.Pods},
		{name: "open-range", argv: t.floor(floorOpen), against: list, once: true},
	}...)
	if t.shape.Pods <= unaryPods {
		trials = append(trials, trial{name: "unary", argv: t.floor(floorUnary), against: values})
	}
	if t.etcdctl != "" {
		argv := []string{t.etcdctl, "--endpoints", t.url, "--command-timeout", "10m", "get", "--prefix", "--keys-only", floorPrefix}
		trials = append(trials, trial{name: "etcdctl-keys", argv: argv, against: t.floor(floorKeys), lines: 2 * t.shape.Pods})
	}
	return trials
}

// BenchmarkMillionFile measures reading from a db file against reading its
// bytes.
func BenchmarkMillionFile(b *testing.B) {
	binary := releaseBinary(b)
	for _, name := range []string{"50ns", "5000ns", "1ns", "owners"} {
		b.Run(name, func(b *testing.B) {
			t := fileBed(b, binary, millionShape(name))
			t.measure(b, trial{
				argv:    []string{binary, "count", "--from", t.db, "--by", "namespace", "--bytes"},
				against: t.floor(floorFile),
			})
		})
	}
}

// BenchmarkMillionStart measures starting and ending the program against a Go
// program that does next to nothing. It reports medians.
func BenchmarkMillionStart(b *testing.B) {
	dir := b.TempDir()
	source, hello := filepath.Join(dir, "hello.go"), filepath.Join(dir, "hello")
	if err := os.WriteFile(source, []byte("package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(\"hello\") }\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	buildGo(b, hello, source)
	binary := releaseBinary(b)
	const runs = 41
	var whole, least []time.Duration
	for b.Loop() {
		for range runs {
			least = append(least, startAndEnd(b, hello))
			whole = append(whole, startAndEnd(b, binary, "version"))
		}
	}
	slices.Sort(whole)
	slices.Sort(least)
	info, err := os.Stat(binary)
	if err != nil {
		b.Fatal(err)
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	w, l := ms(whole[len(whole)/2]), ms(least[len(least)/2])
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(w, "version-ms")
	b.ReportMetric(l, "hello-ms")
	b.ReportMetric(max(3*l+30, 45), "limit-ms")
	b.ReportMetric(float64(info.Size())/(1<<20), "binary-MiB")
}

func startAndEnd(b *testing.B, argv ...string) time.Duration {
	b.Helper()
	begun := time.Now()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return time.Since(begun)
}

// measure runs a trial, and what it is compared with, in turn. A first pass
// of both is not measured: the server has grown then, and the file is in
// memory.
func (t *bed) measure(b *testing.B, tr trial) {
	if !tr.once {
		for _, argv := range [][]string{tr.against, tr.argv} {
			if argv != nil {
				t.run(b, argv)
			}
		}
	}
	var whole, least figures
	for b.Loop() {
		if tr.against != nil {
			least.add(t.run(b, tr.against))
		}
		f := t.run(b, tr.argv)
		if tr.lines != 0 && f.lines != tr.lines {
			b.Fatalf("%q printed %d lines, want %d", tr.argv, f.lines, tr.lines)
		}
		if tr.steps != 0 {
			var trailer string
			eachLine(b, t.plan(), func(line string) { trailer = line })
			if !strings.Contains(trailer, fmt.Sprintf(`"steps":%d,`, tr.steps)) {
				b.Fatalf("%q made a plan that ends with %s, want %d steps", tr.argv, trailer, tr.steps)
			}
		}
		whole.add(f)
	}
	whole.report(b, least)
}

// report gives the mean of the runs, but of memory the largest, and how much
// more it is than what it is compared with.
func (f figures) report(b *testing.B, base figures) {
	n := float64(b.N)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(f.wall.Seconds()/n, "s")
	b.ReportMetric(f.client.Seconds()/n, "client-s")
	b.ReportMetric(float64(f.peak)/1024, "RssAnon-MiB")
	if f.served {
		b.ReportMetric(f.server.Seconds()/n, "server-s")
		b.ReportMetric(float64(f.growth)/1024, "server-growth-MiB")
	}
	if f.keys > 0 {
		b.ReportMetric(float64(f.visits)/float64(f.keys), "visits/key")
		b.ReportMetric(float64(f.requests)/n, "requests")
	}
	if base.wall > 0 {
		b.ReportMetric(base.wall.Seconds()/n, "base-s")
		b.ReportMetric(f.wall.Seconds()/base.wall.Seconds(), "ratio")
	}
	if base.server > 0 {
		b.ReportMetric(base.server.Seconds()/n, "base-server-s")
		b.ReportMetric(f.server.Seconds()/base.server.Seconds(), "server-ratio")
	}
}
