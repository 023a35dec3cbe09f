package app

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// benchInFlight is what recover/apply has in flight, and so has the floor.
const benchInFlight = 64

// BenchmarkDelete30000 compares the whole command, planning and archive
// included, with a bare loop over the same keys with the same guarded
// transactions and the same number in flight, on a fresh store each:
//
//	go test -run '^$' -bench Delete30000 -benchtime 3x ./cmd/internal/app
//
// It reports the ratio of the wall times and the peak of the process's
// anonymous memory.
func BenchmarkDelete30000(b *testing.B) {
	binary := filepath.Join(b.TempDir(), "etcd-rescue")
	build := exec.Command("go", "build", "-o", binary, module+"cmd/etcd-rescue")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	var floor, whole time.Duration
	var peak int64
	for b.Loop() {
		floor += bareLoop(b, binary)
		took, rss := wholeDelete(b, binary)
		whole += took
		peak = max(peak, rss)
	}
	b.ReportMetric(whole.Seconds()/floor.Seconds(), "ratio")
	b.ReportMetric(floor.Seconds()/float64(b.N), "floor-s")
	b.ReportMetric(whole.Seconds()/float64(b.N), "delete-s")
	b.ReportMetric(float64(peak)/1024, "RssAnon-MiB")
}

func benchStore(b *testing.B, binary string) *sandbox.Sandbox {
	b.Helper()
	box, err := sandbox.Start(context.Background(), sandbox.Options{
		Fixture: sandbox.Runaway30k, Exec: []string{binary, sandbox.ChildCommand}, Dir: b.TempDir(),
		Keep: func(key string) bool {
			return !strings.Contains(key, "serverleases/") && !strings.Contains(key, "masterleases/")
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	return box
}

// bareLoop deletes the pods of a fresh store, knowing their keys and
// revisions beforehand.
func bareLoop(b *testing.B, binary string) time.Duration {
	b.Helper()
	box := benchStore(b, binary)
	defer box.Close()
	ctx := context.Background()
	client, err := box.Client(ctx)
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	src, err := keyspace.Pin(ctx, client, drillPrefix, keyspace.Options{Timeout: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	var kvs []*mvccpb.KeyValue
	err = src.Scan(ctx, keyspace.Prefix(drillPrefix+"pods/"+drillNamespace+"/"), true, func(kv *mvccpb.KeyValue) error {
		kvs = append(kvs, kv)
		return nil
	})
	if err != nil || len(kvs) != drillPods {
		b.Fatalf("%d pods, %v", len(kvs), err)
	}
	work := make(chan *mvccpb.KeyValue)
	begun := time.Now()
	var workers sync.WaitGroup
	for range benchInFlight {
		workers.Go(func() {
			for kv := range work {
				key := string(kv.Key)
				_, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)).
					Then(clientv3.OpDelete(key)).Else(clientv3.OpGet(key)).Commit()
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
	return time.Since(begun)
}

// wholeDelete runs the command as a process of its own.
func wholeDelete(b *testing.B, binary string) (took time.Duration, peakKiB int64) {
	b.Helper()
	box := benchStore(b, binary)
	defer box.Close()
	cmd := exec.Command(binary, "delete", "pods", "-n", drillNamespace, "--owner", "job/"+drillJob, "--with-owners",
		"--execute", "--yes", "--max-deletes", "40000", "--rate", "max", "--settle", "0s",
		"--archive-dir", b.TempDir(), "--endpoints", box.Endpoints()[0])
	begun := time.Now()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			took = time.Since(begun)
			if err != nil || !strings.Contains(out.String(), fmt.Sprintf("Deleted %d,%03d objects", drillPods/1000, drillPods%1000+1)) {
				b.Fatalf("%v:\n%s", err, out.String())
			}
			return took, peakKiB
		case <-tick.C:
			peakKiB = max(peakKiB, rssAnon(cmd.Process.Pid))
		}
	}
}

// rssAnon reads a process's anonymous memory in KiB.
func rssAnon(pid int) int64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == "RssAnon:" {
			n, _ := strconv.ParseInt(fields[1], 10, 64)
			return n
		}
	}
	return 0
}
