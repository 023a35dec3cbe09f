package members

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// histogram is what etcd prints: cumulative buckets, each bound twice the one before.
func histogram(name string, first float64, counts ...int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# HELP %s What it is.\n# TYPE %s histogram\n", name, name)
	sum := 0
	for i, n := range counts {
		sum += n
		bound := fmt.Sprint(first * float64(int(1)<<i))
		if i == len(counts)-1 {
			bound = "+Inf"
		}
		fmt.Fprintf(&b, "%s_bucket{le=%q} %d\n", name, bound, sum)
	}
	fmt.Fprintf(&b, "%s_sum 1.5\n%s_count %d\n", name, name, sum)
	return b.String()
}

func TestReadMetrics(t *testing.T) {
	t.Parallel()
	const fsync, commit = "etcd_disk_wal_fsync_duration_seconds", "etcd_disk_backend_commit_duration_seconds"
	ms := time.Millisecond
	for _, tc := range []struct {
		name, text string
		want       Disk
	}{
		{"nothing", "", Disk{}},
		{"no metrics", "<html>404</html>\n", Disk{}},
		{"both", histogram(fsync, 0.001, 90, 8, 1, 1, 0) + "etcd_server_quota_backend_bytes 2.147483648e+09\n" + histogram(commit, 0.001, 1, 0, 99, 0),
			Disk{Fsync: Latency{100, ms, 4 * ms, 8 * ms}, Commit: Latency{100, 4 * ms, 4 * ms, 4 * ms}, Quota: 2 << 30}},
		{"whose they are", "etcd_server_id{server_id=\"8e9e05c52164694d\"} 1\n", Disk{Member: 0x8e9e05c52164694d}},
		{"of nobody", "etcd_server_id{server_id=\"m1\"} 1\n", Disk{}},
		{"longer than the longest", histogram(fsync, 0.001, 1, 0, 9), Disk{Fsync: Latency{10, 0, 0, 2 * ms}}},
		{"nothing measured yet", histogram(fsync, 0.001, 0, 0, 0), Disk{Fsync: Latency{Longest: 2 * ms}}},
		{"in any order, with a time", fsync + "_bucket{le=\"+Inf\"} 10 1700000000000\n" + fsync + "_bucket{a=\"b\",le=\"0.002\"} 10\n" + fsync + "_bucket{le=\"0.001\"} 5\n",
			Disk{Fsync: Latency{10, ms, 2 * ms, 2 * ms}}},
		{"no quota", "etcd_server_quota_backend_bytes -1\n", Disk{Quota: -1}},
		{"what means nothing", fsync + "_bucket{le=\"x\"} 1\n" + fsync + "_bucket{le=\"NaN\"} 1\n" + fsync + "_bucket{le=\"-1\"} 1\n" + fsync + "_bucket{le=\"1\"} NaN\n" +
			fsync + "_bucket{le=\"1\"} -5\n" + fsync + "_bucket{le=\"1\"\n" + fsync + "_bucket 1\n" + fsync + "_bucket{le=\"1\"}\n" + fsync + "_bucket{le=\"1} 1\n" +
			"etcd_server_quota_backend_bytes +Inf\netcd_server_quota_backend_bytes 1e300\n", Disk{}},
		{"a bound beyond all reason", fsync + "_bucket{le=\"1e300\"} 5\n", Disk{Fsync: Latency{Count: 5}}},
		{"infinitely many", fsync + "_bucket{le=\"1\"} +Inf\n", Disk{Fsync: Latency{Longest: time.Second}}},
	} {
		got, err := readMetrics(strings.NewReader(tc.text))
		if diff := cmp.Diff(tc.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v, -want +got:\n%s", tc.name, err, diff)
		}
	}
}

// TestMetricsOfAnother: an address that leads to several members may have shown us the metrics of another.
func TestMetricsOfAnother(t *testing.T) {
	t.Parallel()
	open := func(context.Context, string) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader("etcd_server_id{server_id=\"a1\"} 1\netcd_server_quota_backend_bytes 8\n")), nil
	}
	if d, err := askMetrics(t.Context(), open, "http://vip:2379", 0xa1); err != nil || d.Quota != 8 {
		t.Errorf("its own: %+v, %v", d, err)
	}
	if d, err := askMetrics(t.Context(), open, "http://vip:2379", 0xa2); err == nil || d != (Disk{}) {
		t.Errorf("those of another: %+v, %v", d, err)
	}
}

// TestReadMetricsBounded: what is read of a server that never ends has an end.
func TestReadMetricsBounded(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"too long":           strings.Repeat("etcd_a 1\n", maxMetrics/9+1),
		"a line without end": strings.Repeat("x", maxLine+1),
	} {
		if got, err := readMetrics(strings.NewReader(text)); err == nil || got != (Disk{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	var many strings.Builder
	for i := range maxBuckets + 50 {
		fmt.Fprintf(&many, "%s{le=\"%d\"} %d\n", fsyncMetric, i+1, i+1)
	}
	if got, err := readMetrics(strings.NewReader(many.String())); err != nil || got.Fsync.Count != maxBuckets {
		t.Errorf("many buckets: %+v, %v", got, err)
	}
}

func FuzzReadMetrics(f *testing.F) {
	f.Add(histogram("etcd_disk_wal_fsync_duration_seconds", 0.001, 90, 8, 1, 1, 0))
	f.Add("etcd_server_quota_backend_bytes{} 1e18\n" + commitMetric + "{le=\"1e-300\"} 1e300")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := readMetrics(strings.NewReader(text))
		for _, l := range []Latency{d.Fsync, d.Commit} {
			if l.P50 < 0 || l.P99 < 0 || l.Longest < 0 || l.P99 != 0 && l.P50 > l.P99 || err != nil && d != (Disk{}) {
				t.Errorf("%+v, %v", d, err)
			}
		}
	})
}
