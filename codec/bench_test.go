package codec

import (
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// runawayPods returns the values of the 30,000 pods that a Job made in a real
// cluster (snapshots/sandbox/fixtures), in key order.
func runawayPods(tb testing.TB) [][]byte {
	tb.Helper()
	live := liveKeys(tb, "../../snapshots/sandbox/fixtures/runaway-30k.db.zst")
	var keys []string
	for key := range live {
		if strings.HasPrefix(key, prefix+"pods/ops-tools/") {
			keys = append(keys, key)
		}
	}
	if len(keys) != 30_000 {
		tb.Fatalf("%d pods", len(keys))
	}
	slices.Sort(keys)
	pods := make([][]byte, len(keys))
	for i, key := range keys {
		pods[i] = live[key].value
	}
	return pods
}

// decoder is one way to read a value, without keeping what is read.
type decoder func(value []byte) error

func headAlone(value []byte) error { return DecodeHead(value).Err }

// headsInTurn keeps what a scan would keep between values.
func headsInTurn() decoder {
	var d HeadDecoder
	return func(value []byte) error { return d.Decode(value).Err }
}

func full(value []byte) error {
	_, err := Decode(value, 1)
	return err
}

// scan reads pods as they come from a store: page by page, and each page in
// memory that was written just before. Waiting for the processor to fetch old
// memory would otherwise be a good part of what is measured.
type scan struct {
	pods [][]byte
	page [500][]byte
}

// timed reads all pods and returns how long decoding took.
func (s *scan) timed(b *testing.B, decode decoder) (took time.Duration) {
	for start := 0; start < len(s.pods); start += len(s.page) {
		for i := range s.page {
			s.page[i] = append(s.page[i][:0], s.pods[start+i]...)
		}
		begun := time.Now()
		for _, value := range s.page {
			if err := decode(value); err != nil {
				b.Fatal(err)
			}
		}
		took += time.Since(begun)
	}
	return took
}

func BenchmarkDecodeHead(b *testing.B) { benchmarkPods(b, headAlone) }

func BenchmarkHeadDecoder(b *testing.B) { benchmarkPods(b, headsInTurn()) }

func BenchmarkDecode(b *testing.B) { benchmarkPods(b, full) }

// benchmarkPods reports the cost of one pod. One operation reads all of them.
func benchmarkPods(b *testing.B, decode decoder) {
	s := scan{pods: runawayPods(b)}
	s.timed(b, decode) // fills the pages
	var before, after runtime.MemStats
	var took time.Duration
	runtime.ReadMemStats(&before)
	for b.Loop() {
		took += s.timed(b, decode)
	}
	runtime.ReadMemStats(&after)
	each := float64(b.N * len(s.pods))
	b.ReportMetric(0, "ns/op") // not of decoding alone
	b.ReportMetric(float64(took.Nanoseconds())/each, "ns/object")
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/each, "B/object")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/each, "allocs/object")
}

// BenchmarkHeadAgainstFull reports how many times faster than the whole object
// its head is read: by a HeadDecoder, and by DecodeHead, which can share
// nothing.
//
//	go test -run '^$' -bench HeadAgainstFull -benchtime 10x ./codec
func BenchmarkHeadAgainstFull(b *testing.B) {
	s := scan{pods: runawayPods(b)}
	var head, alone, whole time.Duration
	inTurn := headsInTurn()
	for b.Loop() {
		head += s.timed(b, inTurn)
		alone += s.timed(b, headAlone)
		whole += s.timed(b, full)
	}
	each := float64(b.N * len(s.pods))
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(head.Nanoseconds())/each, "head-ns/object")
	b.ReportMetric(float64(alone.Nanoseconds())/each, "lone-head-ns/object")
	b.ReportMetric(float64(whole.Nanoseconds())/each, "full-ns/object")
	b.ReportMetric(float64(whole)/float64(head), "ratio")
	b.ReportMetric(float64(whole)/float64(alone), "lone-ratio")
}

func BenchmarkParseKey(b *testing.B) {
	c := NewCatalog()
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := c.ParseKey("/registry/", "/registry/pods/team/web-7c998f9cdf-5qdwg"); !ok {
			b.Fatal("not understood")
		}
	}
}

func BenchmarkDecodeHeadJSON(b *testing.B) {
	live := zoo(b)
	value := live[prefix+"batch.volcano.sh/jobs/mirror-old/sync-all"].value
	b.SetBytes(int64(len(value)))
	b.ReportAllocs()
	for b.Loop() {
		if h := DecodeHead(value); h.Err != nil {
			b.Fatal(h.Err)
		}
	}
}
