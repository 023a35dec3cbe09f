package filter_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

func TestWhereInTheZoo(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	tests := []struct {
		resource, where string
		want            []string
	}{
		{"deployments.apps", `object.spec.replicas == 0`, []string{"deployments/volcano-system/volcano-admission"}},
		{"pods", `object.metadata.name == "guarded" && object.spec.containers.all(c, c.image != "")`, []string{"pods/team/guarded"}},
		{"pods", `object.?metadata.?finalizers.orValue([]).exists(f, f.startsWith("example.com/"))`, []string{"pods/team/guarded", "pods/team/guarded-live"}},
		{"pods", `object.?spec.?nodeName.orValue("") == ""`, []string{"pods/team/unschedulable"}},
		{"persistentvolumes", `has(object.spec.claimRef) && object.spec.claimRef.namespace == "vanished"`, []string{"persistentvolumes/nfs-lost"}},
		{"persistentvolumeclaims", `quantity(object.spec.resources.requests.storage).isGreaterThan(quantity("1Ei"))`, nil},
		{"namespaces", `object.status.phase == "Terminating"`, []string{"namespaces/mirror-old", "namespaces/sandbox-7", "namespaces/tenant-gone"}},
		{"nodes", `object.?spec.?unschedulable.orValue(false)`, []string{"minions/w-3"}},
		{"jobs.batch.volcano.sh", `key.endsWith("/sync-all") && object.metadata.finalizers == ["mirror.example.com/drain"]`, []string{"batch.volcano.sh/jobs/mirror-old/sync-all"}},
		{"", `size > 300000`, []string{"configmaps/data-lake/big-table"}},
		{"secrets", `object.metadata.name == "legacy-plain" && size(object.data) > 0`, []string{"secrets/team/legacy-plain"}},
	}
	if err := w.learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.where, func(t *testing.T) {
			kept, _ := w.selects(filter.Selection{Resource: tt.resource, Where: tt.where})
			if diff := cmp.Diff(tt.want, short(kept)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestWhereSeesTheResourceAskedFor: an event has other fields in its newer
// group. A selection that went through a plan asks for the same.
func TestWhereSeesTheResourceAskedFor(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	const involved, regarding = `object.involvedObject.kind == "Pod"`, `object.regarding.kind == "Pod"`
	events, none := w.selects(filter.Selection{Resource: "events", Where: involved})
	if len(events) == 0 || len(none) > 0 {
		t.Fatalf("%d events of pods, %d not decided", len(events), len(none))
	}
	for _, tt := range []struct {
		resource, where string
		works           bool
	}{
		{"events", involved, true},
		{"events", regarding, false},
		{"events.events.k8s.io", regarding, true},
		{"events.events.k8s.io", regarding + ` && object.apiVersion == "events.k8s.io/v1"`, true},
		{"events.events.k8s.io", involved, false},
		{"", `key.startsWith("/registry/events/") && ` + involved, true},
	} {
		f := w.filter(filter.Selection{Resource: tt.resource, Where: tt.where})
		written, err := json.Marshal(f.Selection())
		var again filter.Selection
		if err := errors.Join(err, json.Unmarshal(written, &again)); err != nil {
			t.Fatal(err)
		}
		for _, sel := range []filter.Selection{f.Selection(), again} {
			kept, undecided := w.selects(sel)
			switch {
			case !tt.works && (len(kept) > 0 || len(undecided) == 0):
				t.Errorf("%s --where '%s': %d kept, %d not decided; want none and all", tt.resource, tt.where, len(kept), len(undecided))
			case tt.works && !cmp.Equal(events, kept):
				t.Errorf("%s --where '%s' (-want +got):\n%s", tt.resource, tt.where, cmp.Diff(events, kept))
			}
		}
	}
	// What a plan writes down is the name that finds the view again.
	f := w.filter(filter.Selection{Resource: "events.events.k8s.io"})
	if r, _, ok := w.reader.Catalog.Lookup(f.Resource().String()); !ok || r != f.Resource() {
		t.Errorf("%s finds %v", f.Resource(), r)
	}
}

// TestWhereSees the whole object, managed fields and Secret data included, and
// what etcd says of the key.
func TestWhereSees(t *testing.T) {
	t.Parallel()
	const secret = `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","creationTimestamp":"2026-11-21T15:08:00Z","managedFields":[{"manager":"kubectl"}]},
		"data":{"password":"aHVudGVyMg=="},"big":9007199254740993,"half":0.5,"list":["a","b"],"memory":"100Mi"}`
	tests := []struct {
		where string
		want  filter.Decision
	}{
		{`object.data.password == "aHVudGVyMg=="`, filter.Keep},
		{`object.metadata.managedFields[0].manager == "kubectl"`, filter.Keep},
		{`object.metadata.resourceVersion == "7"`, filter.Keep},
		{`object.big == 9007199254740993`, filter.Keep},
		{`object.big == 9007199254740992`, filter.Drop},
		{`type(object.big) == int && type(object.half) == double`, filter.Keep},
		{`object.big > 1.5 && object.half < 1`, filter.Keep},
		{`key == "/registry/secrets/a/s"`, filter.Keep},
		{fmt.Sprintf(`size == %d && modRevision == 7 && version == 3`, len(secret)), filter.Keep},
		{`now == timestamp("2026-11-22T15:08:00Z")`, filter.Keep},
		{`timestamp(object.metadata.creationTimestamp) <= now - duration("24h")`, filter.Keep},
		{`timestamp(object.metadata.creationTimestamp) < now - duration("24h")`, filter.Drop},
		{`object.?spec.?replicas.orValue(0) > 3`, filter.Drop},
		{`!has(object.spec)`, filter.Keep},
		{`quantity(object.memory).compareTo(quantity("0.1Gi")) < 0 && isQuantity(object.memory)`, filter.Keep},
		// What the limits stand before still works.
		{`object.list == ["a", "b"] && object.list != ["b", "a"] && "a" in object.list && "data" in object`, filter.Keep},
		{`object.list.join("-") == "a-b" && ["x"].join() == "x" && object.list.join("-").replace("-", "+") == "a+b" && "aaa".replace("a", "b", 2) == "bba"`, filter.Keep},
		{`[object.list, ["a"]].flatten().distinct() == ["a", "b"] && [[[1]]].flatten(2) == [1]`, filter.Keep},
		{`sets.contains(object.list, ["b"]) && sets.equivalent(object.list, ["b", "a"]) && sets.intersects(object.list, ["b", "c"])`, filter.Keep},
		{`"%s:%d".format([object.metadata.name, object.big]) == "s:9007199254740993"`, filter.Keep},
		{`object.metadata.name.matches("^s$") && object.metadata.name.matches(object.metadata.name) && math.greatest(1, 2) == 2`, filter.Keep},
		// A dynamic result is looked at when it is there.
		{`object.list.size() == 2 ? dyn(true) : dyn(1)`, filter.Keep},
		{`object.metadata.name`, filter.Undecided},
		{`object.spec.replicas > 3`, filter.Undecided},
		// CEL's own rule: what decides alone outweighs an error.
		{`object.spec.replicas > 3 || version == 3`, filter.Keep},
		{`object.spec.replicas > 3 && version == 4`, filter.Drop},
	}
	for _, tt := range tests {
		if d, why := whereOf(t, tt.where, secret); d != tt.want {
			t.Errorf("%s: %v, want %v; %v", tt.where, d, tt.want, why)
		}
	}
}

// whereOf judges one Secret.
func whereOf(t *testing.T, where, value string) (filter.Decision, []filter.Reason) {
	t.Helper()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	f, err := filter.New(filter.Selection{Where: where, Now: now()}, reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	kv := &mvccpb.KeyValue{Key: []byte(prefix + "secrets/a/s"), Value: []byte(value), ModRevision: 7, Version: 3}
	d, err := f.Judge(t.Context(), f.Inspect(t.Context(), kv))
	if err != nil {
		t.Fatal(err)
	}
	why, more := f.WhyUndecided()
	if (d == filter.Undecided) != (len(why) == 1) || more {
		t.Errorf("%s: %v, but the reasons are %v, %v", where, d, why, more)
	}
	return d, why
}

// TestReasonsQuoteNoValue: an error of the evaluation may be about a value.
func TestReasonsQuoteNoValue(t *testing.T) {
	t.Parallel()
	const secret = `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"data":{"password":"hunter2"},"list":["hunter2"]}`
	tests := []struct{ where, want string }{
		{`object.spec.x == 1`, "--where: no such key: spec"},
		{`object["spec"] == 1`, "--where: no such key: spec"},
		{`object.data.Password == ""`, "--where: no such key: Password"},
		{`object[object.data.password] == 1`, "--where: evaluation fails"},
		{`object.list.all(x, object.metadata[x] == 1)`, "--where: evaluation fails"},
		{`int(object.data.password) == 1`, "--where: evaluation fails"},
		{`timestamp(object.data.password) < now`, "--where: evaluation fails"},
		{`duration(object.data.password) < duration("1h")`, "--where: evaluation fails"},
		{`sign(quantity(object.data.password)) == 1`, "--where: evaluation fails"},
		{`"a".matches("[" + object.data.password)`, "--where: evaluation fails"},
		{`object.data.password + 1 == 2`, "--where: evaluation fails"},
		{`object.list[3] == ""`, "--where: evaluation fails"},
		{`{"a": 1}[object.data.password] == 1`, "--where: evaluation fails"},
		{`object.data.password`, "--where gives no bool"},
	}
	for _, tt := range tests {
		d, why := whereOf(t, tt.where, secret)
		want := []filter.Reason{{Text: tt.want, Key: prefix + "secrets/a/s"}}
		if diff := cmp.Diff(want, why); d != filter.Undecided || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", tt.where, d, diff)
		}
	}
}

// TestHostileExpressionsEnd, and leave the object undecided.
func TestHostileExpressionsEnd(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	t.Parallel()
	object := map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "s"},
		"text": strings.Repeat("a", 1<<20), "list": strings.Split(strings.Repeat("x", 3000), ""), "quantity": "1e1000000000",
	}
	value, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	double := "[1]" + strings.Repeat(".map(x, [x, x])", 40) // two to the fortieth elements, all shared
	for _, where := range []string{
		`object.list.all(a, object.list.all(b, object.list.all(c, a == b || c == "x")))`,
		double + " == " + double,
		`dyn(1) in dyn(` + double + `)`,
		`size(` + double + `.flatten(39)) == 1`,
		`size(` + double + `.distinct()) == 1`,
		`sets.contains(` + double + `, ` + double + `)`,
		`"%s".format([` + double + `]) == ""`,
		`object.text.replace("", object.text) == ""`,
		`object.list.map(x, object.text).join() == ""`,
		`object.list.join(object.text) == ""`,
		`object.list.map(x, object.text + x).size() == 1`,
		`object.list.map(x, object.text.reverse()).size() == 1`,
		`object.list.map(x, "%s%s".format([object.text, x])).size() == 1`,
		`object.list.exists(x, object != object)`,
		`object.list.exists(x, size(object.text) == 1)`,
		`object.list.exists(x, math.greatest(lists.range(3000)) == -1)`,
		`lists.range(1000000).size() == 1`,
		`object.text.matches("(a{1000}b?)" + "(a{1000}b?)$")`,
		`sign(quantity(object.quantity)) == 1`,
		`isQuantity(object.quantity)`,
	} {
		d, why := whereOf(t, where, string(value))
		if d != filter.Undecided || why[0].Text != "--where takes too much work" {
			t.Errorf("%.80s: %v, %v", where, d, why)
		}
	}
}

// TestWhereWithoutTheObject decides on values that cannot be read, because it
// reads none.
func TestWhereWithoutTheObject(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	broken := []string{prefix + "secrets/team/old-key-1", prefix + "configmaps/team/corrupt", "talos:v1:x"}
	tests := []struct {
		where string
		want  []filter.Decision
	}{
		{`size == 512`, []filter.Decision{filter.Drop, filter.Keep, filter.Drop}},
		{`!key.startsWith("/registry/")`, []filter.Decision{filter.Drop, filter.Drop, filter.Keep}},
		{`version > 0 && modRevision > 0 && now > timestamp("2020-01-01T00:00:00Z")`, []filter.Decision{filter.Keep, filter.Keep, filter.Keep}},
		// The object is asked for only where the rest does not decide.
		{`size == 512 || object.kind == "Secret"`, []filter.Decision{filter.Undecided, filter.Keep, filter.Undecided}},
		{`size == 512 && object.kind == "Secret"`, []filter.Decision{filter.Drop, filter.Undecided, filter.Drop}},
		{`has(object.spec) || !has(object.spec)`, []filter.Decision{filter.Undecided, filter.Undecided, filter.Undecided}},
		{`object.?spec.hasValue()`, []filter.Decision{filter.Undecided, filter.Undecided, filter.Undecided}},
		{`[1].exists(object, object == 1)`, []filter.Decision{filter.Keep, filter.Keep, filter.Keep}},
	}
	for _, tt := range tests {
		f := w.filter(filter.Selection{Keys: broken, Where: tt.where})
		for i, key := range broken {
			if got := w.judge(f, key); got != tt.want[i] {
				t.Errorf("%s on %s: %v, want %v", tt.where, key, got, tt.want[i])
			}
		}
		if !f.NeedsValue() {
			t.Errorf("%s needs no values, but the size is that of the value", tt.where)
		}
	}
}

// TestWhyUndecided: each reason once, with the first key, and no more than
// five.
func TestWhyUndecided(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	all := w.filter(filter.Selection{Labels: "app=x", Where: `object.spec.x > 1`})
	for _, key := range []string{"secrets/team/old-key-2", "secrets/team/old-key-1", "configmaps/team/corrupt", "configmaps/team/corrupt"} {
		w.judge(all, prefix+key)
	}
	why, more := all.WhyUndecided()
	want := []filter.Reason{
		{Text: "its value is encrypted", Key: prefix + "secrets/team/old-key-2"},
		{Text: "its value cannot be decoded", Key: prefix + "configmaps/team/corrupt"},
	}
	if diff := cmp.Diff(want, why); diff != "" || more {
		t.Errorf("more %v (-want +got):\n%s", more, diff)
	}
	f := w.filter(filter.Selection{Where: `object.a || object.b || object.c || object.d || object.e || object.f || object.g`})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for _, field := range []string{"", "a", "b", "c", "d", "e", "f"} {
				value := fmt.Sprintf(`{"apiVersion":"v1","kind":"X","metadata":{},"%s":false}`, field)
				kv := &mvccpb.KeyValue{Key: []byte(prefix + "configmaps/x/" + field), Value: []byte(value)}
				if d, err := f.Judge(t.Context(), f.Inspect(t.Context(), kv)); d != filter.Undecided || err != nil {
					t.Errorf("%q: %v, %v", field, d, err)
				}
			}
		})
	}
	wg.Wait()
	why, _ = f.WhyUndecided()
	for i, r := range why {
		if i > 0 && r == why[i-1] {
			t.Errorf("twice: %v", r)
		}
	}
	if len(why) == 0 || len(why) > 5 {
		t.Errorf("%d reasons: %v", len(why), why)
	}
}

// TestOnlySoManyReasons are remembered.
func TestOnlySoManyReasons(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	f := w.filter(filter.Selection{Where: `object[["a", "b", "c", "d", "e", "f", "g"][modRevision]] == 1`})
	for i := range int64(7) {
		kv := &mvccpb.KeyValue{Key: []byte(prefix + "x"), Value: []byte(`{"apiVersion":"v1","kind":"X","metadata":{}}`), ModRevision: i}
		if d, err := f.Judge(t.Context(), f.Inspect(t.Context(), kv)); d != filter.Undecided || err != nil {
			t.Errorf("%d: %v, %v", i, d, err)
		}
		why, more := f.WhyUndecided()
		if len(why) != min(int(i)+1, 5) || more != (i >= 5) {
			t.Errorf("after %d: %v, %v", i, why, more)
		}
	}
}

// TestDropOutweighsUndecided: what one filter drops is not reported because
// another could not decide.
func TestDropOutweighsUndecided(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	const encrypted = prefix + "secrets/team/old-key-1"
	for where, want := range map[string]filter.Decision{`size < 0`: filter.Drop, `size > 0`: filter.Undecided, `object.kind == "x"`: filter.Undecided} {
		if got := w.judge(w.filter(filter.Selection{Terminating: true, Where: where}), encrypted); got != want {
			t.Errorf("terminating and %s: %v, want %v", where, got, want)
		}
	}
}

// TestWhereWithoutTheValue: an object that is remembered without its value is
// judged again with it, and so gives no reason.
func TestWhereWithoutTheValue(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	f := w.filter(filter.Selection{Where: `object.kind == "Pod"`})
	kv, err := w.src.Get(t.Context(), prefix+"pods/team/guarded")
	if err != nil {
		t.Fatal(err)
	}
	o := f.Inspect(t.Context(), kv)
	o.Plain = nil
	d, err := f.Judge(t.Context(), o)
	if why, _ := f.WhyUndecided(); d != filter.Undecided || err != nil || len(why) > 0 {
		t.Errorf("%v, %v, %v; want undecided without a reason", d, err, why)
	}
}

func TestInterruptedEvaluationDecidesNothing(t *testing.T) {
	t.Parallel()
	w := zoo(t)
	f := w.filter(filter.Selection{Where: `lists.range(3000).all(x, x >= 0)`})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o := f.Inspect(t.Context(), &mvccpb.KeyValue{Key: []byte(prefix + "x")})
	if d, err := f.Judge(ctx, o); d != filter.Drop || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v; want the interrupt", d, err)
	}
	if d, err := f.Judge(t.Context(), o); d != filter.Keep || err != nil {
		t.Errorf("without interrupt: %v, %v", d, err)
	}
}

func TestBadWhereIsAUsageError(t *testing.T) {
	t.Parallel()
	const variables = "the variables are key, modRevision, now, object, size and version"
	tests := []struct {
		where string
		want  []string
	}{
		{`object.spec. == 1`, []string{"--where", "line 1, column 14", "Syntax error"}},
		{"size > 1 &&\n objekt.x == 1", []string{"line 2, column 2", "undeclared reference to 'objekt'", variables}},
		{`nosuch(object)`, []string{"undeclared reference to 'nosuch'"}},
		{`size + 1`, []string{"gives int, but must give bool"}},
		{`object.?spec`, []string{"gives optional_type(dyn)", "must give bool"}},
		{`"true"`, []string{"gives string"}},
		{`size == "1"`, []string{"line 1, column 6", "no matching overload"}},
		{`key.matches("[")`, []string{"line 1, column 13", "invalid matches argument"}},
		{`key.matches("(a{1000}b?)(a{1000}b?)")`, []string{"regular expression is too big"}},
		{`now > timestamp("yesterday")`, []string{"line 1, column 17"}},
		{`a + b + c + d + e + f == 1`, []string{"and 3 more", variables}},
		{`"` + strings.Repeat("x", 16<<10) + `" == key`, []string{"longer than 16384 bytes"}},
		{strings.Repeat("(", 5000), []string{"--where"}},
		{strings.Repeat("[", 100) + strings.Repeat("]", 100) + " == key", []string{"no matching overload", "..."}},
		{" ", []string{"line 1, column 2"}},
	}
	for _, tt := range tests {
		_, err := filter.New(filter.Selection{Where: tt.where}, &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}, nil)
		if !errors.Is(err, filter.ErrUsage) {
			t.Errorf("%.40q: %v, want ErrUsage", tt.where, err)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%.40q: %v, want %q in it", tt.where, err, want)
			}
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%.40q: more than one line: %v", tt.where, err)
		}
	}
}

// BenchmarkWhere judges the pods of a real cluster.
func BenchmarkWhere(b *testing.B) {
	w := zoo(b)
	var pods []filter.Object
	err := w.src.Scan(b.Context(), keyspace.Prefix(prefix+"pods/"), false, func(kv *mvccpb.KeyValue) error {
		pods = append(pods, filter.NewObject(b.Context(), w.reader, kv))
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	for _, where := range []string{`size > 100000`, `object.?spec.?nodeName.orValue("") == "w-9"`} {
		b.Run(where, func(b *testing.B) {
			f := w.filter(filter.Selection{Where: where})
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := f.Judge(b.Context(), pods[i%len(pods)]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
