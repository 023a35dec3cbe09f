package members

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What is read of a member's metrics, which are its own.
const (
	// maxMetrics bounds the text. etcd's is some 200 KiB.
	maxMetrics = 4 << 20
	// maxLine and maxBuckets bound what is kept of it.
	maxLine, maxBuckets = 64 << 10, 100

	fsyncMetric  = "etcd_disk_wal_fsync_duration_seconds_bucket"
	commitMetric = "etcd_disk_backend_commit_duration_seconds_bucket"
	quotaMetric  = "etcd_server_quota_backend_bytes"
	idMetric     = "etcd_server_id"
)

// Latency is how long something took, of all times since the member started. Its histogram only tells the bounds
// between which that lies, so these are upper bounds.
type Latency struct {
	// Count is how often it was measured; 0: nothing is known.
	Count uint64
	// P50 and P99 are what half, and 99 of a hundred, did not exceed; 0: longer than Longest.
	P50, P99 time.Duration
	// Longest is the largest bound of the histogram.
	Longest time.Duration
}

// Disk is what a member's metrics tell of its disk.
type Disk struct {
	// Fsync is of its write-ahead log, Commit of its db file.
	Fsync, Commit Latency
	// Quota is that of its db file in bytes, 0 if it is not told, below 0 if there is none.
	Quota int64
	// Member is the id of the member whose metrics these are, 0 if it is not told.
	Member uint64
}

// bucket says how many measurements were not longer than a bound, in seconds.
type bucket struct{ bound, count float64 }

// readMetrics reads etcd's metrics in the text format of Prometheus
// (https://prometheus.io/docs/instrumenting/exposition_formats/), of which it understands the lines that it needs.
func readMetrics(r io.Reader) (Disk, error) {
	limited := &io.LimitedReader{R: r, N: maxMetrics + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, maxLine)
	var fsync, commit []bucket
	var d Disk
	for lines.Scan() {
		name, labels, value, ok := metricLine(lines.Text())
		if !ok {
			continue
		}
		switch name {
		case fsyncMetric:
			fsync = addBucket(fsync, labels, value)
		case commitMetric:
			commit = addBucket(commit, labels, value)
		case quotaMetric:
			d.Quota = whole(value)
		case idMetric:
			d.Member = serverID(labels)
		}
	}
	switch {
	case lines.Err() != nil:
		return Disk{}, fmt.Errorf("read the metrics: %w", lines.Err())
	case limited.N <= 0:
		return Disk{}, fmt.Errorf("the metrics are longer than %d bytes", maxMetrics)
	}
	d.Fsync, d.Commit = latency(fsync), latency(commit)
	return d, nil
}

// serverID is the id in `server_id="8e9e05c52164694d"`, 0 if there is none.
func serverID(labels string) uint64 {
	_, rest, _ := strings.Cut(labels, `server_id="`)
	text, _, _ := strings.Cut(rest, `"`)
	id, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		return 0
	}
	return id
}

// metricLine takes `name{label="value",…} number [time]` apart.
func metricLine(line string) (name, labels string, value float64, ok bool) {
	if !strings.HasPrefix(line, "etcd_") {
		return "", "", 0, false
	}
	name, rest, labelled := strings.Cut(line, "{")
	if labelled {
		labels, rest, ok = strings.Cut(rest, "}")
		if !ok {
			return "", "", 0, false
		}
	} else {
		name, rest, _ = strings.Cut(line, " ")
	}
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return "", "", 0, false
	}
	value, err := strconv.ParseFloat(fields[0], 64)
	return name, labels, value, err == nil
}

// addBucket keeps a bucket that means something.
func addBucket(all []bucket, labels string, count float64) []bucket {
	_, rest, ok := strings.Cut(labels, `le="`)
	text, _, ended := strings.Cut(rest, `"`)
	bound, err := strconv.ParseFloat(text, 64)
	if !ok || !ended || err != nil || math.IsNaN(bound) || bound <= 0 || !(count >= 0) || len(all) == maxBuckets {
		return all
	}
	return append(all, bucket{bound, count})
}

// latency is what the cumulative buckets of a histogram tell.
func latency(all []bucket) Latency {
	slices.SortFunc(all, func(a, b bucket) int { return cmp.Compare(a.bound, b.bound) })
	var l Latency
	for _, b := range all {
		if b.bound < longest {
			l.Longest = time.Duration(b.bound * float64(time.Second))
		}
	}
	if len(all) == 0 {
		return l
	}
	total := all[len(all)-1].count
	if math.IsInf(total, 0) || total < 1 {
		return l
	}
	l.Count = uint64(whole(total))
	l.P50, l.P99 = quantile(all, 0.5*total), quantile(all, 0.99*total)
	return l
}

// longest is a bound, in seconds, beyond which none means anything. The last is infinite.
const longest = 1e6

// quantile is the first bound that so many measurements did not exceed.
func quantile(all []bucket, n float64) time.Duration {
	for _, b := range all {
		if b.count >= n && b.bound < longest {
			return time.Duration(b.bound * float64(time.Second))
		}
	}
	return 0
}

// whole is a number as an integer, 0 if it is none that etcd means.
func whole(value float64) int64 {
	if !(math.Abs(value) < 1<<62) {
		return 0
	}
	return int64(value)
}
