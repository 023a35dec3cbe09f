package plan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// flood is a store with very many pods, made while they are read. Each has a
// Job of its own, which is there and belongs to one of the CronJobs.
type flood struct {
	pods, namespaces, cronJobs int
	ownJobs                    bool // else one Job in each namespace
	pod, job, cronJob          template
	gets                       int
	watch                      func() // called once in a while
}

const (
	nameMark  = "name-00000000"
	jobMark   = "jobs-00000000"
	cronMark  = "cron-00000000"
	spaceMark = "space-0000"
)

func newFlood(tb testing.TB, pods, namespaces int, ownJobs bool) *flood {
	tb.Helper()
	yes := true
	ref := func(apiVersion, kind, name string) []metav1.OwnerReference {
		return []metav1.OwnerReference{{APIVersion: apiVersion, Kind: kind, Name: name, UID: types.UID("11111111-2222-3333-uid-" + name), Controller: &yes}}
	}
	meta := func(name string, owners []metav1.OwnerReference) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Name: name, Namespace: spaceMark, UID: types.UID("11111111-2222-3333-uid-" + name), OwnerReferences: owners,
			Labels: map[string]string{"app": "flood", "batch.kubernetes.io/job-name": "x"}, Finalizers: []string{"batch.kubernetes.io/job-tracking"},
			CreationTimestamp: metav1.Unix(1_790_000_000, 0),
		}
	}
	encode := func(kind, apiVersion string, m metav1.ObjectMeta) template {
		pod := &corev1.Pod{ObjectMeta: m}
		pod.APIVersion, pod.Kind = apiVersion, kind
		pod.Spec.NodeName, pod.Status.Phase = "node7", corev1.PodFailed
		pod.Spec.Containers = []corev1.Container{{Name: "c", Image: "example.com/c:1", Args: []string{strings.Repeat("x", 1000)}}}
		var out bytes.Buffer
		if err := protobuf.NewSerializer(nil, nil).Encode(pod, &out); err != nil {
			tb.Fatal(err)
		}
		return newTemplate(out.Bytes())
	}
	return &flood{
		pods: pods, namespaces: namespaces, cronJobs: 1000, ownJobs: ownJobs, watch: func() {},
		pod:     encode("Pod", "v1", meta(nameMark, ref("batch/v1", "Job", jobMark))),
		job:     encode("Job", "batch/v1", meta(jobMark, ref("batch/v1", "CronJob", cronMark))),
		cronJob: encode("CronJob", "batch/v1", meta(cronMark, nil)),
	}
}

// template is a value with the places where numbers go.
type template struct {
	value []byte
	at    map[string][]int // by mark
}

func newTemplate(value []byte) template {
	t := template{value, map[string][]int{}}
	for _, mark := range []string{nameMark, jobMark, cronMark, spaceMark} {
		for i := range value {
			if bytes.HasPrefix(value[i:], []byte(mark)) {
				t.at[mark] = append(t.at[mark], i)
			}
		}
	}
	return t
}

func (f *flood) name(mark string, i int) []byte { return fmt.Appendf(nil, "%s%08d", mark[:5], i) }

func (f *flood) space(i int) []byte { return fmt.Appendf(nil, "space-%04d", i) }

// make fills numbers and the namespace into a template.
func (f *flood) make(key string, t template, space []byte, marks ...any) *mvccpb.KeyValue {
	value := bytes.Clone(t.value)
	for _, at := range t.at[spaceMark] {
		copy(value[at:], space)
	}
	rev := int64(2)
	for i := 0; i < len(marks); i += 2 {
		name := f.name(marks[i].(string), marks[i+1].(int))
		for _, at := range t.at[marks[i].(string)] {
			copy(value[at:], name)
		}
		rev += int64(marks[i+1].(int))
	}
	return &mvccpb.KeyValue{Key: []byte(key), Value: value, CreateRevision: rev, ModRevision: rev, Version: 1}
}

func (f *flood) jobOf(pod int) int {
	if f.ownJobs {
		return pod
	}
	return f.spaceOf(pod)
}

func (f *flood) spaceOf(pod int) int { return pod / (f.pods/f.namespaces + 1) }

func (f *flood) Revision() int64 { return 7 }

func (f *flood) Scan(ctx context.Context, r keyspace.Range, _ bool, fn func(*mvccpb.KeyValue) error) error {
	if r.End == "" {
		if kv := f.at(r.Start); kv != nil {
			return fn(kv)
		}
		return nil
	}
	if !f.holds(r) {
		return nil
	}
	for i := range f.pods {
		space := f.space(f.spaceOf(i))
		key := fmt.Sprintf("%spods/%s/%s", prefix, space, f.name(nameMark, i))
		if err := fn(f.make(key, f.pod, space, nameMark, i, jobMark, f.jobOf(i))); err != nil {
			return err
		}
		if i%50_000 == 0 {
			f.watch()
		}
	}
	return ctx.Err()
}

// holds reports whether a range is that of all pods.
func (f *flood) holds(r keyspace.Range) bool {
	return r.Start == prefix+"pods/" || f.namespaces == 1 && r.Start == fmt.Sprintf("%spods/%s/", prefix, f.space(0))
}

func (f *flood) Count(_ context.Context, r keyspace.Range) (int64, error) {
	if f.holds(r) {
		return int64(f.pods), nil
	}
	return 0, nil
}

func (f *flood) Get(_ context.Context, key string) (*mvccpb.KeyValue, error) {
	f.gets++
	return f.at(key), nil
}

func (f *flood) at(key string) *mvccpb.KeyValue {
	parts := strings.Split(strings.TrimPrefix(key, prefix), "/")
	if len(parts) != 3 {
		return nil
	}
	var i int
	if _, err := fmt.Sscanf(parts[2][5:], "%d", &i); err != nil {
		return nil
	}
	switch parts[0] {
	case "jobs":
		return f.make(key, f.job, []byte(parts[1]), jobMark, i, cronMark, i%f.cronJobs)
	case "cronjobs":
		return f.make(key, f.cronJob, []byte(parts[1]), cronMark, i)
	}
	return nil
}

func (f *flood) GetAll(_ context.Context, keys []string) (map[string]*mvccpb.KeyValue, error) {
	f.gets++
	if f.gets%200 == 0 {
		f.watch()
	}
	found := map[string]*mvccpb.KeyValue{}
	for _, key := range keys {
		if kv := f.at(key); kv != nil {
			found[key] = kv
		}
	}
	return found, nil
}

// request asks for all pods that one node holds, which are all.
func (f *flood) request(tb testing.TB, sel filter.Selection) Request {
	tb.Helper()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	owners := filter.NewOwners(f, reader, nil)
	judge, err := filter.New(sel, reader, owners)
	if err != nil {
		tb.Fatal(err)
	}
	return Request{Source: f, Filter: judge, Owners: owners, Prefix: prefix}
}

func everyPod() filter.Selection { return filter.Selection{Resource: "pods", Node: "node7"} }

// inUse is what of the heap is in use.
func inUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// written makes the plan and returns what it says and the most that was in use
// meanwhile, beyond what was before.
func (f *flood) written(tb testing.TB, req Request, path string) (*Summary, int64) {
	tb.Helper()
	before, most := inUse(), int64(0)
	f.watch = func() { most = max(most, inUse()-before) }
	out, err := Create(path, testHeader())
	if err != nil {
		tb.Fatal(err)
	}
	defer out.Abort()
	sum, err := Deletes(tb.Context(), req, out)
	if err != nil {
		tb.Fatal(err)
	}
	f.watch()
	if err := out.Close(); err != nil {
		tb.Fatal(err)
	}
	return sum, most
}

// TestVeryManyOwners: each of very many pods has a Job of its own. All are
// planned, in little memory and with few requests.
func TestVeryManyOwners(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	const pods = 50_000
	f := newFlood(t, pods, 5000, true)
	req := f.request(t, everyPod())
	req.WithOwners = true
	path := filepath.Join(t.TempDir(), "p.jsonl")
	sum, most := f.written(t, req, path)
	if limit := int64(40 << 20); most > limit {
		t.Errorf("%d MiB were in use", most>>20)
	}
	if f.gets > pods/20 {
		t.Errorf("%d requests for %d owners", f.gets, pods)
	}
	crons := sum.MakersTotal - pods
	if sum.Steps != 2*pods+crons || sum.MakersPlanned != sum.MakersTotal || len(sum.Makers) != MostMakers || crons < 1000 {
		t.Errorf("%d steps, %d of %d owners planned, %d named", sum.Steps, sum.MakersPlanned, sum.MakersTotal, len(sum.Makers))
	}
	p, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	seen := map[string]int{}
	last := -1
	err = p.Steps(t.Context(), func(stage int, what string, s Step) error {
		if stage < last {
			return errors.New("stages are out of order")
		}
		last = stage
		seen[fmt.Sprint(stage, " ", s.Resource, " ", s.Role)]++
		return nil
	})
	want := fmt.Sprint(map[string]int{"0 cronjob owner": int(crons), "1 job owner": pods, "2 pod selected": pods})
	if got := fmt.Sprint(seen); got != want || err != nil {
		t.Errorf("the plan holds %v, want %v; %v", got, want, err)
	}
}

// TestNamespaceWithVeryManyObjects, each with an owner of its own, is planned
// in little memory and with few requests.
func TestNamespaceWithVeryManyObjects(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	const pods = 50_000
	f := newFlood(t, pods, 1, true)
	sum, most := f.written(t, f.request(t, wholly("space-0000")), filepath.Join(t.TempDir(), "p.jsonl"))
	if limit := int64(40 << 20); most > limit {
		t.Errorf("%d MiB were in use", most>>20)
	}
	if sum.Steps != pods || sum.MakersTotal != 0 || f.gets > pods/20 {
		t.Errorf("%d steps, %d owners to be named, %d requests", sum.Steps, sum.MakersTotal, f.gets)
	}
}

// TestVeryManyDependents, through owners of their own, are planned in little
// memory and with few requests.
func TestVeryManyDependents(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	const pods = 50_000
	f := newFlood(t, pods, 1, true)
	f.cronJobs = 1
	req := f.request(t, filter.Selection{Resource: "cronjobs.batch", Namespace: "space-0000", Names: []string{"cron-00000000"}})
	req.WithDependents = true
	sum, most := f.written(t, req, filepath.Join(t.TempDir(), "p.jsonl"))
	if limit := int64(48 << 20); most > limit {
		t.Errorf("%d MiB were in use", most>>20)
	}
	if sum.Steps != pods+1 || sum.Dependents != pods || f.gets > pods/10 {
		t.Errorf("%d steps, %d dependents, %d requests", sum.Steps, sum.Dependents, f.gets)
	}
}

// TestAncestorsOfVeryManyOwnersAreReadTogether, when the selection itself asks
// for an ancestor.
func TestAncestorsOfVeryManyOwnersAreReadTogether(t *testing.T) {
	const pods = 20_000
	f := newFlood(t, pods, 10, true)
	req := f.request(t, filter.Selection{Resource: "pods", Owner: &filter.OwnerRef{Group: "batch", Kind: "CronJob", Name: "cron-00000007"}})
	sum, err := Deletes(t.Context(), req, nil)
	if err != nil {
		t.Fatal(err)
	}
	if sum.Steps != pods/1000 || f.gets > pods/10 {
		t.Errorf("%d selected with %d requests, want %d and few", sum.Steps, f.gets, pods/1000)
	}
}

// TestPlansOfAnySizeAreReadInLittleMemory.
func TestPlansOfAnySizeAreReadInLittleMemory(t *testing.T) {
	const pods = 50_000
	f := newFlood(t, pods, 50, false)
	path := filepath.Join(t.TempDir(), "p.jsonl")
	sum, most := f.written(t, f.request(t, everyPod()), path)
	if sum.Steps != pods || most > 10<<20 {
		t.Errorf("%d steps written in %d MiB", sum.Steps, most>>20)
	}
	before, n := inUse(), 0
	most = 0
	p, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	err = p.Steps(t.Context(), func(int, string, Step) error {
		if n++; n%20_000 == 0 {
			most = max(most, inUse()-before)
		}
		return nil
	})
	if n != pods || err != nil || most > 2<<20 {
		t.Errorf("%d steps read in %d KiB, %v", n, most>>10, err)
	}
}

func BenchmarkMillionOfANamespace(b *testing.B) {
	for _, tt := range []struct {
		name string
		sel  filter.Selection
	}{
		{"namespace", wholly("space-0000")},
		{"dependents", filter.Selection{Resource: "cronjobs.batch", Namespace: "space-0000", Names: []string{"cron-00000000"}}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			for b.Loop() {
				f := newFlood(b, 1_000_000, 1, true)
				f.cronJobs = 1
				req := f.request(b, tt.sel)
				req.WithDependents = tt.sel.Contents == nil
				path := filepath.Join(b.TempDir(), fmt.Sprint("p", b.N, os.Getpid()))
				sum, most := f.written(b, req, path)
				b.ReportMetric(float64(most)/(1<<20), "MiB")
				b.ReportMetric(float64(f.gets), "requests")
				b.ReportMetric(float64(sum.Steps), "steps")
				os.Remove(path)
			}
		})
	}
}

func BenchmarkMillion(b *testing.B) {
	for _, tt := range []struct {
		name                string
		namespaces          int
		ownJobs, withOwners bool
		plan                bool
	}{
		{"preview", 50, false, false, false},
		{"plan", 50, false, false, true},
		{"plan5000", 5000, false, false, true},
		{"owners", 5000, true, false, true},
		{"withOwners", 5000, true, true, true},
	} {
		b.Run(tt.name, func(b *testing.B) {
			for b.Loop() {
				f := newFlood(b, 1_000_000, tt.namespaces, tt.ownJobs)
				req := f.request(b, everyPod())
				req.WithOwners = tt.withOwners
				path := filepath.Join(b.TempDir(), fmt.Sprint("p", b.N, os.Getpid()))
				if !tt.plan {
					if _, err := Deletes(b.Context(), req, nil); err != nil {
						b.Fatal(err)
					}
					continue
				}
				_, most := f.written(b, req, path)
				b.ReportMetric(float64(most)/(1<<20), "MiB")
				os.Remove(path)
			}
		})
	}
}
