package members

import (
	"testing"
	"time"
)

// BenchmarkDefrag measures how fast a member copies what is in use, which [DefragRate] is a rule of thumb for:
//
//	go test -run '^$' -bench Defrag -benchtime 5x ./snapshots/members -defrag.mib 1024
//
// MiB/s is of what is in use, while nobody waits; slowest that of the slowest time. The copy is synced, as in service.
func BenchmarkDefrag(b *testing.B) {
	r := startRing(b, 1)
	r.litter(*defragMiB)
	var took, worst time.Duration
	var inUse int64
	for b.Loop() {
		steps, _ := PlanDefrag(r.list(), Always)
		done, err := Defrag(b.Context(), r.quick(steps), nil)
		if err != nil {
			b.Fatal(err)
		}
		took, worst, inUse = took+done[0].Took, max(worst, done[0].Took), done[0].After.InUse
	}
	b.ReportMetric(float64(inUse)/mib, "MiB")
	b.ReportMetric(float64(inUse)*float64(b.N)/mib/took.Seconds(), "MiB/s")
	b.ReportMetric(float64(inUse)/mib/worst.Seconds(), "slowest-MiB/s")
}
