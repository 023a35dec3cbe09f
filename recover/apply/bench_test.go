package apply_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

const (
	benchPods = 100_000
	// benchInFlight is what a Run has in flight by itself, and so has the bare
	// loop.
	benchInFlight = 64
)

// BenchmarkRun100000 compares a run of a plan that is written already, archive
// and journal included, with a bare loop over the same keys with the same
// guarded transactions and the same number in flight. Each has a fresh store,
// etcd in a child process with fsync on:
//
//	go test -run '^$' -bench Run100000 -benchtime 3x ./recover/apply
//
// share is how much of the bare loop's pace the run reaches; the aim is 0.8.
// ownCPU and etcdCPU are the processor time of this process and of etcd, a run
// by a bare loop.
func BenchmarkRun100000(b *testing.B) {
	path, err := lab.DB(b.Context(), lab.Shape{Pods: benchPods, Namespaces: 10})
	if err != nil {
		b.Fatal(err)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // as cmd/etcd-rescue has it
	var bare, run cost
	var size, appends int64
	for b.Loop() {
		onBenchStore(b, path, func(client *clientv3.Client, kvs []*mvccpb.KeyValue, pid int) {
			bare.add(pid, func() { bareLoop(b, client, kvs) })
		})
		onBenchStore(b, path, func(client *clientv3.Client, kvs []*mvccpb.KeyValue, pid int) {
			r := newBenchRun(b, client, kvs)
			run.add(pid, func() { r.run(b) })
			size += r.size(b)
			appends += r.archive.calls.Load()
		})
	}
	n := float64(b.N)
	b.ReportMetric(bare.wall.Seconds()/run.wall.Seconds(), "share")
	b.ReportMetric(bare.wall.Seconds()/n, "bare-s")
	b.ReportMetric(run.wall.Seconds()/n, "run-s")
	b.ReportMetric(run.own.Seconds()/bare.own.Seconds(), "ownCPU")
	b.ReportMetric(run.own.Seconds()/n, "own-s")
	b.ReportMetric(run.etcd.Seconds()/n, "etcd-s")
	b.ReportMetric(run.etcd.Seconds()/bare.etcd.Seconds(), "etcdCPU")
	b.ReportMetric(float64(size)/n/benchPods, "archive-B/object")
	b.ReportMetric(float64(appends)/n, "appends")
}

// cost is what something took.
type cost struct{ wall, own, etcd time.Duration }

func (c *cost) add(pid int, do func()) {
	own, etcd, begun := ownCPU(), cpuOf(pid), time.Now()
	do()
	c.wall += time.Since(begun)
	c.own += ownCPU() - own
	c.etcd += cpuOf(pid) - etcd
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// cpuOf reads a process's time from /proc, in hundredths of a second.
func cpuOf(pid int) time.Duration {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// onBenchStore calls fn with a fresh store and its pods, without values.
func onBenchStore(b *testing.B, path string, fn func(client *clientv3.Client, kvs []*mvccpb.KeyValue, pid int)) {
	b.Helper()
	box, err := sandbox.Start(b.Context(), sandbox.Options{Snapshot: path, Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer box.Close()
	client, err := box.Client(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	src, err := keyspace.Pin(b.Context(), client, prefix, keyspace.Options{Timeout: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	var kvs []*mvccpb.KeyValue
	err = src.Scan(b.Context(), keyspace.Prefix(prefix+"pods/"), true, func(kv *mvccpb.KeyValue) error {
		kvs = append(kvs, kv)
		return nil
	})
	if err != nil || len(kvs) != benchPods {
		b.Fatalf("%d pods, %v", len(kvs), err)
	}
	fn(client, kvs, box.Pid())
}

func bareLoop(b *testing.B, client *clientv3.Client, kvs []*mvccpb.KeyValue) {
	work := make(chan *mvccpb.KeyValue)
	var workers sync.WaitGroup
	for range benchInFlight {
		workers.Go(func() {
			for kv := range work {
				key := string(kv.Key)
				ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
				_, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)).
					Then(clientv3.OpDelete(key)).Else(clientv3.OpGet(key)).Commit()
				cancel()
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	for _, kv := range kvs {
		work <- kv
	}
	close(work)
	workers.Wait()
}

// countedArchive counts what is asked of an archive.
type countedArchive struct {
	*snapshots.Archive
	calls atomic.Int64
}

func (a *countedArchive) Append(stage int, kvs []*mvccpb.KeyValue, ttl map[int64]int64) error {
	a.calls.Add(1)
	return a.Archive.Append(stage, kvs, ttl)
}

type benchRun struct {
	plan    *plan.Plan
	archive *countedArchive
	journal *apply.JournalFile
	apply.Run
}

// newBenchRun does beforehand what is not measured: the plan.
func newBenchRun(b *testing.B, client *clientv3.Client, kvs []*mvccpb.KeyValue) *benchRun {
	b.Helper()
	dir := b.TempDir()
	w, err := plan.Create(filepath.Join(dir, "plan.jsonl"), plan.Header{Operation: "delete", Prefix: prefix})
	if err != nil {
		b.Fatal(err)
	}
	for _, kv := range kvs {
		parts := strings.Split(string(kv.Key), "/")
		step := plan.Step{
			Action: plan.Delete, Key: string(kv.Key), ModRevision: kv.ModRevision, CreateRevision: kv.CreateRevision,
			Resource: "pods", Namespace: parts[3], Name: parts[4], Size: 1600, Role: plan.Selected, Reason: "selected",
		}
		if err := w.Add(0, "pods", step); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	r := &benchRun{Run: apply.Run{Store: client, Options: apply.Options{Prefix: prefix}}}
	if r.plan, err = plan.Open(b.Context(), filepath.Join(dir, "plan.jsonl")); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { r.plan.Close() })
	a, err := snapshots.CreateArchive(filepath.Join(dir, "archive.db"), snapshots.ArchiveInfo{Run: "bench", Prefix: prefix, Time: time.Now()})
	if err != nil {
		b.Fatal(err)
	}
	r.archive = &countedArchive{Archive: a}
	r.journal, err = apply.OpenJournal(filepath.Join(dir, "journal.jsonl"), apply.JournalHeader{Steps: benchPods}, nil)
	if err != nil {
		b.Fatal(err)
	}
	r.Archive, r.Journal = r.archive, r.journal
	return r
}

func (r *benchRun) run(b *testing.B) {
	result, err := r.Plan(b.Context(), r.plan)
	if err != nil || result.Counts[apply.Deleted] != benchPods {
		b.Fatalf("%+v, %v", result, err)
	}
	if err := r.journal.Close(result); err != nil {
		b.Fatal(err)
	}
	if err := r.archive.Close(); err != nil {
		b.Fatal(err)
	}
}

func (r *benchRun) size(b *testing.B) int64 {
	info, err := os.Stat(r.archive.Path())
	if err != nil {
		b.Fatal(err)
	}
	return info.Size()
}
