//go:build controlplane

package app

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

const (
	// livePods is how many pods the Job has.
	livePods = 30_000
	// quietWindow is how long the servers are watched before and after a delete.
	quietWindow = 30 * time.Second
)

// BenchmarkLivePace measures what a delete at the default pace costs a live control plane, and what kubectl's costs, on
// the same store: 30,000 pods that a real Job made on a dead node. kube-controller-manager has its default limits.
//
//	go test -tags controlplane -run '^$' -bench LivePace -benchtime 1x -timeout 1h ./cmd/internal/app
//
// It prints tables; the metrics of the last one are our cost divided by kubectl's. What is compared is told in docs/performance.md.
func BenchmarkLivePace(b *testing.B) {
	kubectl, err := lab.Kubernetes(b.Context(), "kubectl")
	if err != nil {
		b.Fatal(err)
	}
	snapshot := filepath.Join(b.TempDir(), "live.db")
	b.Run("prepare", func(b *testing.B) { prepareLive(b, snapshot) })
	var ours liveCost
	b.Run("etcd-rescue", func(b *testing.B) {
		ours = measureLive(b, snapshot, func(k *kubernetes, dir string) {
			k.rescue(dir, exitDone, "delete", "pods", "-n", incidentNamespace, "--owner", "job/"+incidentJob, "--with-owners",
				"--execute", "--yes", "--max-deletes", strconv.Itoa(livePods*2), "--settle", "0")
		})
	})
	b.Run("kubectl", func(b *testing.B) {
		theirs := measureLive(b, snapshot, func(k *kubernetes, _ string) {
			k.kubectl(kubectl, "delete", "job", incidentJob, "-n", incidentNamespace, "--cascade=background", "--wait=false")
			k.kubectl(kubectl, "delete", "pods", "--all", "-n", incidentNamespace, "--wait=false")
		})
		ours.against(b, theirs)
	})
}

// prepareLive makes the incident with a fast controller, once, and saves the store.
func prepareLive(b *testing.B, snapshot string) {
	if _, err := os.Stat(snapshot); err == nil {
		return
	}
	k := startKubernetes(b, sandbox.Options{}, fastManager())
	k.incident(livePods, livePods)
	k.calm()
	if err := k.save(b.Context(), snapshot); err != nil {
		b.Fatal(err)
	}
}

func liveServers() []string { return []string{"etcd", "apiserver", "manager"} }

// liveCost is what the servers had to do before, during and after a delete.
type liveCost struct{ phases []livePhase }

type livePhase struct {
	name string
	wall time.Duration
	cpu  map[string]time.Duration // used in this time
	peak map[string]int64         // of RssAnon, in KiB
	pods int64                    // left at its end
}

// cpu is what a server used during and after the delete, in seconds.
func (c liveCost) cpu(server string) float64 {
	return (c.phases[1].cpu[server] + c.phases[2].cpu[server]).Seconds()
}

// grown is the peak of a server's memory divided by what it had before.
func (c liveCost) grown(server string) float64 {
	return float64(max(c.phases[1].peak[server], c.phases[2].peak[server])) / float64(c.phases[0].peak[server])
}

// against reports our cost divided by theirs.
func (c liveCost) against(b *testing.B, theirs liveCost) {
	if len(c.phases) == 0 {
		return // -bench chose only a part
	}
	for _, server := range liveServers() {
		b.ReportMetric(c.cpu(server)/theirs.cpu(server), server+"-CPU-ratio")
		b.ReportMetric(c.grown(server)/theirs.grown(server), server+"-growth-ratio")
	}
}

// measureLive starts the servers on the snapshot, waits until the controllers work, and watches them.
func measureLive(b *testing.B, snapshot string, remove func(k *kubernetes, dir string)) liveCost {
	k := startKubernetes(b, sandbox.Options{Snapshot: snapshot}, lab.ControlPlaneOptions{LeaderElect: true})
	k.deployment(metav1.NamespaceDefault, "web", 3) // now the controllers know all that is there
	dir := b.TempDir()
	cost := liveCost{phases: []livePhase{
		k.watched("before", quiet),
		k.watched("during", func() { remove(k, dir) }),
		k.watched("after", quiet),
	}}
	b.Log("\n" + cost.table())
	return cost
}

func quiet() {
	ctx, cancel := context.WithTimeout(context.Background(), quietWindow)
	defer cancel()
	<-ctx.Done()
}

func (k *kubernetes) kubectl(program string, args ...string) {
	k.Helper()
	cmd := exec.CommandContext(k.Context(), program, append([]string{"--kubeconfig", k.plane.Kubeconfig()}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		k.Fatalf("kubectl %s: %v: %.2000s", strings.Join(args, " "), err, out)
	}
}

// watched runs something and watches the servers.
func (k *kubernetes) watched(name string, run func()) livePhase {
	k.Helper()
	p := livePhase{name: name, cpu: map[string]time.Duration{}, peak: map[string]int64{}}
	pids := map[string]int{"etcd": k.Pid()}
	pids["apiserver"], pids["manager"] = k.plane.Pids()
	for server, pid := range pids {
		p.cpu[server] = -processCPU(k, pid)
	}
	begun := time.Now()
	stop := samplePeaks(pids, p.peak)
	run()
	stop()
	p.wall = time.Since(begun)
	for server, pid := range pids {
		p.cpu[server] += processCPU(k, pid)
	}
	p.pods = k.incidentPods()
	return p
}

// samplePeaks looks at the memory of processes until stop is called; only then peak may be read.
func samplePeaks(pids map[string]int, peak map[string]int64) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			for server, pid := range pids {
				peak[server] = max(peak[server], rssAnon(pid))
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	}()
	return func() { cancel(); <-done }
}

// processCPU is the time that a process has used so far. The id of its clock is made as clock_getcpuclockid makes it.
func processCPU(t testing.TB, pid int) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// table is the cost as docs/performance.md shows it.
func (c liveCost) table() string {
	var t strings.Builder
	t.WriteString("| phase | wall | pods left |")
	for _, server := range liveServers() {
		fmt.Fprintf(&t, " %s CPU | of a core | peak RssAnon |", server)
	}
	t.WriteString("\n|---|---|---|" + strings.Repeat("---|", 3*len(liveServers())) + "\n")
	for _, p := range c.phases {
		fmt.Fprintf(&t, "| %s | %.1f s | %d |", p.name, p.wall.Seconds(), p.pods)
		for _, server := range liveServers() {
			fmt.Fprintf(&t, " %.1f s | %.0f%% | %d MiB |", p.cpu[server].Seconds(), 100*p.cpu[server].Seconds()/p.wall.Seconds(), p.peak[server]>>10)
		}
		t.WriteString("\n")
	}
	return t.String()
}
