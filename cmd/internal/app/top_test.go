package app

import (
	"bytes"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/heat"
)

func TestPercent(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		part, whole int64
		want        string
	}{
		{0, 0, "0%"}, {0, 7, "0%"}, {7, 7, "100%"}, {1, 3, "33%"}, {1, 50, "2%"}, {1, 60, "1.7%"}, {1, 1000, "0.1%"}, {1, 5000, "<0.1%"},
		{999, 10000, "10%"}, {9, 7, "129%"},
	} {
		if got := percent(tc.part, tc.whole); got != tc.want {
			t.Errorf("%d of %d: %s, want %s", tc.part, tc.whole, got, tc.want)
		}
	}
}

// TestLargest: whatever order they come in, the largest are kept, of equal ones
// the first by key.
func TestLargest(t *testing.T) {
	t.Parallel()
	const most = 10
	var all []filter.Object
	for i := range 200 {
		all = append(all, filter.Object{KV: &mvccpb.KeyValue{Key: fmt.Appendf(nil, "/k%03d", i)}, Size: int64(i % 20)})
	}
	var want []string
	for i := range most {
		want = append(want, fmt.Sprintf("/k%03d 19", 19+20*i))
	}
	random := rand.New(rand.NewSource(1))
	for range 50 {
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		var l largest
		for _, o := range all {
			l.offer(o, 0, most)
		}
		slices.SortFunc(l, sizedObject.order)
		var got []string
		for _, o := range l {
			got = append(got, fmt.Sprintf("%s %d", o.key, o.bytes))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
	}
}

// TestGroupsAreBounded: what finds no room of its own is in one sum.
func TestGroupsAreBounded(t *testing.T) {
	t.Parallel()
	g := sizeGroups{by: map[string]*sizeSum{}}
	const more = 500
	for i := range maxSizeGroups + more {
		g.add(fmt.Sprintf("ns%d", i), 2, 1)
	}
	g.add("ns0", 5, -1)
	g.add(strings.Repeat("x", longestName+1), 2, 1)
	sums := g.sorted()
	if len(sums) != maxSizeGroups+1 {
		t.Fatalf("%d sums", len(sums))
	}
	if got, want := *sums[0], (sizeSum{name: "ns0", objects: 2, bytes: 7, managed: 1, of: 2, unknown: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got, want := *sums[maxSizeGroups], (sizeSum{name: "<others>", objects: more + 1, bytes: 2 * (more + 1), managed: more + 1, of: 2 * (more + 1)}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func managedObject(key string, entries ...string) filter.Object {
	plain := `{"apiVersion":"v1","kind":"X","metadata":{"managedFields":[` + strings.Join(entries, ",") + `]}}`
	return filter.Object{KV: &mvccpb.KeyValue{Key: []byte(key)}, Value: codec.Value{Plain: []byte(plain)}}
}

func managedBy(manager, rest string) string {
	return fmt.Sprintf(`{"manager":%q,"operation":"Update"%s}`, manager, rest)
}

// TestFieldManagers: one object may have several entries of a manager, and
// entries of the same second.
func TestFieldManagers(t *testing.T) {
	t.Parallel()
	at := func(s int) string { return fmt.Sprintf(`,"time":"2026-01-01T00:00:%02dZ"`, s) }
	status := `,"subresource":"status"`
	r := &fieldManagers{by: map[string]*fieldManager{}}
	r.add(managedObject("/b", managedBy("one", at(1)), managedBy("one", at(5)+status), managedBy("two", at(5))))
	r.add(managedObject("/a", managedBy("one", at(5)), managedBy("two", at(4))))
	r.add(managedObject("/c", managedBy("", ""), managedBy("three", "")))
	r.add(managedObject("/d"))
	r.add(managedObject("/e", `7`))
	var got []string
	for _, m := range r.sorted() {
		got = append(got, fmt.Sprint(m.name, " ", m.newest, " of ", m.objects, " ", m.last.Format("05"), " ", m.object.key, " ", m.operations, m.subresources))
	}
	want := []string{
		"one 2 of 2 05 /a map[Update:3] map[status:1]",
		"two 1 of 2 05 /b map[Update:2] map[]",
		"<unnamed> 0 of 1 00  map[Update:1] map[]",
		"three 0 of 1 00  map[Update:1] map[]",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if r.objects != 5 || r.managed != 3 || r.unmanaged != 1 || r.unknown != 1 {
		t.Errorf("%+v", r)
	}
	late := &fieldManagers{by: map[string]*fieldManager{}, since: time.Date(2026, 1, 1, 0, 0, 5, 0, time.UTC)}
	late.add(managedObject("/a", managedBy("one", at(5)), managedBy("two", at(4)), managedBy("three", "")))
	late.add(managedObject("/b", managedBy("two", at(4))))
	if len(late.by) != 1 || late.by["one"].objects != 1 || late.managed != 1 {
		t.Errorf("since then: %+v", late)
	}
}

// TestManyFieldManagers: hostile names need bounded memory.
func TestManyFieldManagers(t *testing.T) {
	t.Parallel()
	r := &fieldManagers{by: map[string]*fieldManager{}}
	for i := range maxWriters + 10 {
		r.add(managedObject("/a", fmt.Sprintf(`{"manager":"m%d","operation":"o%d","subresource":"s%d"}`, i, i, i)))
	}
	others := r.by[otherWriters]
	if len(r.by) != maxWriters+1 || others == nil || others.objects != 10 {
		t.Fatalf("%d managers, %+v", len(r.by), others)
	}
	long := strings.Repeat("x", 1<<16)
	r.add(managedObject(long, fmt.Sprintf(`{"manager":%q,"time":"2026-01-01T00:00:00Z"}`, "m0"+long)))
	if others.objects != 11 || len(others.object.key) != 4096 || others.object.of.Resource != nil {
		t.Errorf("%d objects, last %+v", others.objects, others.object)
	}
	for i := range 1000 {
		r.add(managedObject("/a", fmt.Sprintf(`{"manager":"m0","operation":"x%d","subresource":"x%d"}`, i, i)))
	}
	if m := r.by["m0"]; len(m.operations) > maxSubresources || len(m.subresources) > maxSubresources || m.objects != 1001 {
		t.Errorf("%+v", m)
	}
}

func TestHotLevels(t *testing.T) {
	t.Parallel()
	h := &hotKeys{s: &session{reader: &codec.Reader{Catalog: codec.NewCatalog(), Prefix: "/registry/"}}}
	for key, want := range map[string]string{
		"/registry/pods/team/web":                 "/registry/pods/|team/|web",
		"/registry/namespaces/team":               "/registry/namespaces/|team",
		"/registry/example.com/bars/team/x":       "/registry/example.com/bars/|team/|x",
		"/registry/services/specs/team/web":       "/registry/services/specs/|team/|web",
		"/registry/strange":                       "/registry/strange",
		"/registry/strange/a/b/c/d":               "/registry/strange/|a/|b/|c/d",
		"/registry/pods/team/":                    "/registry/pods/|team/",
		"/registry/":                              "/registry/",
		"/registry/masterleases/192.168.1.1":      "/registry/masterleases/|192.168.1.1",
		"/registry/apiregistration.k8s.io/":       "/registry/apiregistration.k8s.io/",
		"/registry/minions/node1":                 "/registry/minions/|node1",
		"/registry/leases/kube-node-lease/node-1": "/registry/leases/|kube-node-lease/|node-1",
	} {
		var parts []string
		at := 0
		for _, end := range h.levels(key) {
			if end < len(key) {
				parts = append(parts, key[at:end])
				at = end
			}
		}
		if got := strings.Join(append(parts, key[at:]), "|"); got != want {
			t.Errorf("%s: %s, want %s", key, got, want)
		}
	}
}

func TestMostly(t *testing.T) {
	t.Parallel()
	for want, w := range map[string]heat.Writes{
		"created": {Creates: 2, Updates: 1}, "changed": {Updates: 5, Deletes: 4}, "deleted": {Deletes: 1}, "mixed": {Creates: 1, Deletes: 1},
	} {
		if got := mostly(w); got != want {
			t.Errorf("%+v: %s, want %s", w, got, want)
		}
	}
}

func TestCutLast(t *testing.T) {
	t.Parallel()
	inv := &invocation{Process: Process{Streams: term.Streams{OutTTY: true, OutWidth: 30}}}
	rows := [][]string{{"A", "OBJECT"}, {"1234567", "pod team/a-very-long-name-of-a-pod"}}
	if !inv.cutLast(rows) {
		t.Error("no room")
	}
	var out bytes.Buffer
	table := term.NewTable(&out, true)
	for _, row := range rows {
		table.Row(row...)
	}
	table.Flush()
	if want := "A         OBJECT\n1234567   pod team/a-very-lon…\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	inv.Streams.OutWidth = 20
	if inv.cutLast(rows) {
		t.Error("room in 20 columns")
	}
}
