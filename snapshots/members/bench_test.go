package members

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/snapshot"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

var benchPods = flag.Int("snapshot.pods", 100_000, "how many pods BenchmarkSnapshotSave has; a million are 2 GB")

// BenchmarkSnapshotSave compares a save with what "etcdctl snapshot save" does, which neither checks the sum nor reads
// back, on one store and in turn:
//
//	go test -run '^$' -bench SnapshotSave -benchtime 5x ./snapshots/members
//
// ratio is that of the wall times, cpu-ratio that of this process's CPU; reading back is in neither, and is told by
// itself.
func BenchmarkSnapshotSave(b *testing.B) {
	db, err := lab.DB(b.Context(), lab.Shape{Pods: *benchPods, Namespaces: 10})
	if err != nil {
		b.Fatal(err)
	}
	box, err := sandbox.Start(b.Context(), sandbox.Options{Snapshot: db, NoFsync: true, QuotaBytes: 8 << 30, Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer box.Close()
	var theirs, ours, theirCPU, ourCPU, back time.Duration
	for b.Loop() {
		wall, cpu := bareSave(b, box)
		theirs, theirCPU = theirs+wall, theirCPU+cpu
		wall, cpu, verified := ourSave(b, box)
		ours, ourCPU, back = ours+wall, ourCPU+cpu, back+verified
	}
	n := float64(b.N)
	b.ReportMetric(ours.Seconds()/theirs.Seconds(), "ratio")
	b.ReportMetric(ourCPU.Seconds()/theirCPU.Seconds(), "cpu-ratio")
	b.ReportMetric(theirs.Seconds()/n, "etcdctl-s")
	b.ReportMetric(ours.Seconds()/n, "save-s")
	b.ReportMetric(back.Seconds()/n, "verify-s")
}

// bareSave is the library function behind etcdctl.
func bareSave(b *testing.B, box *sandbox.Sandbox) (wall, cpu time.Duration) {
	b.Helper()
	path := filepath.Join(b.TempDir(), "a.db")
	begun, before := time.Now(), cpuTime(b)
	cfg := clientv3.Config{Endpoints: box.Endpoints()}
	if _, err := snapshot.SaveWithVersion(context.Background(), zap.NewNop(), cfg, path); err != nil {
		b.Fatal(err)
	}
	wall, cpu = time.Since(begun), cpuTime(b)-before
	remove(b, path)
	return wall, cpu
}

func ourSave(b *testing.B, box *sandbox.Sandbox) (wall, cpu, verified time.Duration) {
	b.Helper()
	path := filepath.Join(b.TempDir(), "b.db")
	begun, before := time.Now(), cpuTime(b)
	client, err := clientv3.New(clientv3.Config{Endpoints: box.Endpoints(), Logger: zap.NewNop()})
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	opt := snapshots.SaveOptions{Path: path, Verifying: func() { wall, cpu = time.Since(begun), cpuTime(b)-before }}
	saved, err := snapshots.Save(context.Background(), Snapshots(client), opt)
	if err != nil {
		b.Fatal(err)
	}
	// What comes after the reading back belongs to the save.
	wall = max(wall, time.Since(begun)-saved.VerifyTook)
	remove(b, path)
	return wall, cpu, saved.VerifyTook
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func remove(b *testing.B, path string) {
	b.Helper()
	if err := os.Remove(path); err != nil {
		b.Fatal(err)
	}
}
