package app

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/diff"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// zooStore is the zoo in an etcd, and what a script does to it.
type zooStore struct {
	*store
	t *testing.T
}

func newZoo(t *testing.T) zooStore {
	t.Helper()
	s, err := startZoo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return zooStore{s, t}
}

func (z zooStore) value(key string) []byte {
	z.t.Helper()
	got, err := z.client.Get(z.t.Context(), key)
	if err != nil || len(got.Kvs) != 1 {
		z.t.Fatalf("%s: %v, %d", key, err, len(got.Kvs))
	}
	return got.Kvs[0].Value
}

func (z zooStore) put(key string, value []byte) {
	z.t.Helper()
	if _, err := z.client.Put(z.t.Context(), key, string(value)); err != nil {
		z.t.Fatal(err)
	}
}

func (z zooStore) edit(key string, changes ...codec.Change) {
	z.t.Helper()
	value, _, err := codec.Edit(z.value(key), changes...)
	if err != nil {
		z.t.Fatal(err)
	}
	z.put(key, value)
}

func (z zooStore) del(key string) {
	z.t.Helper()
	if _, err := z.client.Delete(z.t.Context(), key); err != nil {
		z.t.Fatal(err)
	}
}

func (z zooStore) snapshot(name string) string {
	z.t.Helper()
	path := filepath.Join(z.t.TempDir(), name)
	if err := z.save(z.t.Context(), path); err != nil {
		z.t.Fatal(err)
	}
	return path
}

// incidentInZoo is what was done during an incident: a Deployment gets another image,
// a webhook leaves a namespace alone, a quota and an object are made, a
// Deployment is deleted, another is deleted and made again, and meanwhile the
// cluster lives on.
func (z zooStore) incidentInZoo() {
	const deployments = "/registry/deployments/"
	z.edit(deployments+"team/web", codec.SetField("spec.template.spec.containers[name=web].image", "harbor.example/team/web:fixed"))
	z.edit("/registry/mutatingwebhookconfigurations/volcano-admission-service-pods-mutate",
		codec.SetField("webhooks[name=mutatepod.volcano.sh].namespaceSelector.matchExpressions[0].values", []string{"volcano-system", "kube-system", "team-x"}))
	z.put(deployments+"team/copy", z.value(deployments+"team/api"))
	z.del(deployments + "harbor/core")
	again := z.value(deployments + "platform/cache")
	uid := codec.DecodeHead(again).Meta.UID
	z.del(deployments + "platform/cache")
	z.put(deployments+"platform/cache", bytes.ReplaceAll(again, []byte(uid), []byte(strings.Repeat("0", len(uid)))))
	z.edit("/registry/minions/w-1", codec.SetField("status.nodeInfo.bootID", "another"))
	z.edit("/registry/leases/kube-node-lease/w-1", codec.SetField("spec.leaseTransitions", 7))
	z.put(deployments+"team/api", z.value(deployments+"team/api")) // written again, as it was
	z.edit("/registry/deployments/monitoring/grafana", codec.SetGeneration(99))
}

// inDocument is what a document of snapshot diff says of differences.
type inDocument struct {
	Changes []struct {
		Key, Did, Class string
		Recreated       bool
		Changes         []struct{ Path, Op string }
	}
}

// lines are the differences, each in a line.
func (doc *inDocument) lines() (lines []string) {
	for _, c := range doc.Changes {
		text := fmt.Sprintf("%s %s %s", strings.TrimPrefix(c.Key, "/registry/"), c.Did, c.Class)
		if c.Recreated {
			text += " recreated"
		}
		for _, f := range c.Changes {
			text += fmt.Sprintf(" %s:%s", f.Path, f.Op)
		}
		lines = append(lines, text)
	}
	return lines
}

func diffLines(t *testing.T, args ...string) []string {
	t.Helper()
	code, out, errs := runHere(t, append([]string{"snapshot", "diff", "-o", "json"}, args...)...)
	if code != exitDone {
		t.Fatalf("%v: exit code %d: %s", args, code, errs)
	}
	var doc inDocument
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		t.Fatalf("%v: %v in %s", args, err, out)
	}
	return doc.lines()
}

// TestSnapshotDiffNamesTheChanges: of the zoo before and after a scripted set
// of changes exactly these are named, between files and against the running
// etcd, and backwards.
func TestSnapshotDiffNamesTheChanges(t *testing.T) {
	t.Parallel()
	z := newZoo(t)
	before := z.snapshot("before.db")
	z.incidentInZoo()
	after := z.snapshot("after.db")
	const selector = "webhooks[name=mutatepod.volcano.sh].namespaceSelector.matchExpressions[key=kubernetes.io/metadata.name].values[]"
	want := []string{
		"deployments/harbor/core removed ",
		"deployments/monitoring/grafana changed rewritten",
		"deployments/platform/cache changed configured recreated",
		"deployments/team/copy added ",
		"deployments/team/web changed configured spec.template.spec.containers[name=web].image:changed",
		"leases/kube-node-lease/w-1 changed routine",
		"minions/w-1 changed status status.nodeInfo.bootID:changed",
		"mutatingwebhookconfigurations/volcano-admission-service-pods-mutate changed configured " + selector + ":added",
	}
	if d := cmp.Diff(want, diffLines(t, before, after)); d != "" {
		t.Errorf("files: %s", d)
	}
	if d := cmp.Diff(want, diffLines(t, before, liveStore, "--endpoints", z.url())); d != "" {
		t.Errorf("live: %s", d)
	}
	swap := strings.NewReplacer("removed ", "added ", "added ", "removed ", ":added", ":removed", ":removed", ":added")
	back := diffLines(t, liveStore, before, "--endpoints", z.url())
	for i := range back {
		back[i] = swap.Replace(back[i])
	}
	if d := cmp.Diff(want, back); d != "" {
		t.Errorf("backwards: %s", d)
	}
	for _, args := range [][]string{{before, before}, {after, liveStore, "--endpoints", z.url()}} {
		if got := diffLines(t, args...); len(got) != 0 {
			t.Errorf("%v differ: %v", args, got)
		}
	}
}

// TestSnapshotDiffIsCleanAndSilent: nothing that a store holds reaches the
// terminal as a control sequence, and nothing of a Secret at all.
func TestSnapshotDiffIsCleanAndSilent(t *testing.T) {
	t.Parallel()
	z := newZoo(t)
	before := z.snapshot("before.db")
	object := func(kind, name, value string) []byte {
		b, err := json.Marshal(map[string]any{
			"apiVersion": "v1", "kind": kind, "metadata": map[string]any{"name": name, "namespace": "team", "uid": "u"}, "data": map[string]any{"\x1b[1m": value},
		})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, name := range []string{"\x1b[31mred", "plain"} {
		z.put("/registry/configmaps/team/"+name, object("ConfigMap", name, "a\x1b[2Jb"))
		z.put("/registry/secrets/team/"+name, object("Secret", name, "c2VjcmV0"))
	}
	middle := z.snapshot("middle.db")
	for _, name := range []string{"\x1b[31mred", "plain"} {
		z.put("/registry/configmaps/team/"+name, object("ConfigMap", name, "c\x1b[2Jd"))
		z.put("/registry/secrets/team/"+name, object("Secret", name, "b3RoZXI="))
	}
	after := z.snapshot("after.db")
	for _, args := range [][]string{{before, after}, {middle, after}, {after, before}} {
		for _, format := range []string{"table", "json", "yaml"} {
			_, out, errs := runHere(t, append([]string{"snapshot", "diff", "-o", format}, args...)...)
			for _, not := range []string{"\x1b", "c2VjcmV0", "b3RoZXI="} {
				if strings.Contains(out+errs, not) {
					t.Errorf("%v -o %s: %q is in it", args, format, not)
				}
			}
			if !strings.Contains(out, "team/plain") {
				t.Errorf("%v -o %s: the objects are not in it: %s", args, format, out)
			}
		}
	}
}

// TestSnapshotDiffOfWhatWasCompacted says on which side, and where else to look.
func TestSnapshotDiffOfWhatWasCompacted(t *testing.T) {
	t.Parallel()
	z := newZoo(t)
	if _, err := z.client.Compact(t.Context(), 1400); err != nil {
		t.Fatal(err)
	}
	file := z.snapshot("compacted.db")
	for _, sides := range [][]string{{"live", "live"}, {"live", file}, {file, file}, {file, "live"}} {
		args := append([]string{"snapshot", "diff", "--endpoints", z.url(), "--encryption-config", zooFixture + "encryption-config.yaml"}, sides...)
		code, out, errs := runHere(t, append(args, "--rev-a", "1399")...)
		if code != exitFailed || out != "" || !strings.Contains(errs, "A: revision 1399 was compacted; the oldest that can be read is 1400") ||
			!strings.Contains(errs, "a snapshot that was taken before") {
			t.Errorf("%v: exit code %d, %s, %s", sides, code, out, errs)
		}
		if code, out, errs := runHere(t, append(args, "--rev-a", "1400")...); code != exitDone || !strings.Contains(out, "revision 1400") {
			t.Errorf("%v: exit code %d, %s, %s", sides, code, out, errs)
		}
	}
}

// TestSplitPart: events come from their own etcd, wherever a range begins and
// ends, and nothing is read twice or left out.
func TestSplitPart(t *testing.T) {
	t.Parallel()
	main, events := keyspace.Current(nil, keyspace.Options{}), keyspace.Current(nil, keyspace.Options{})
	other := diff.Part{Source: events, Range: keyspace.Range{Start: "c", End: "e"}}
	for _, tt := range []struct{ start, end, want string }{
		{"a", "z", "main a-c events c-e main e-z"},
		{"a", "c", "main a-c"},
		{"a", "d", "main a-c events c-d"},
		{"c", "e", "events c-e"},
		{"d", "z", "events d-e main e-z"},
		{"e", "z", "main e-z"},
		{"d", "", "events d-"},
		{"e", "", "main e-"},
	} {
		without := other
		without.Source = nil
		for _, p := range splitPart(diff.Part{Source: main, Range: keyspace.Range{Start: tt.start, End: tt.end}}, without) {
			if p.Source != keyspace.Source(main) || !strings.Contains(tt.want, "main "+p.Range.Start+"-"+p.Range.End) {
				t.Errorf("%s-%s without events: reads %s-%s", tt.start, tt.end, p.Range.Start, p.Range.End)
			}
		}
		var got []string
		for _, p := range splitPart(diff.Part{Source: main, Range: keyspace.Range{Start: tt.start, End: tt.end}}, other) {
			name := "main"
			if p.Source == keyspace.Source(events) {
				name = "events"
			}
			got = append(got, name, p.Range.Start+"-"+p.Range.End)
		}
		if text := strings.Join(got, " "); text != tt.want {
			t.Errorf("%s-%s: %s, want %s", tt.start, tt.end, text, tt.want)
		}
	}
}

// TestTopEntries: those that matter most are kept, each rank in the order it
// came, and no more are made than may be kept.
func TestTopEntries(t *testing.T) {
	t.Parallel()
	list := topEntries{most: 3}
	for i, rank := range []int{5, 1, 5, 1, 9, 0, 1} {
		list.add(rank, func() diffEntry { return diffEntry{head: fmt.Sprint(i)} })
	}
	var got []string
	for _, e := range list.entries {
		got = append(got, e.head)
	}
	if d := cmp.Diff([]string{"5", "1", "3"}, got); d != "" || list.total != 7 {
		t.Error(d, list.total)
	}
	list.add(9, func() diffEntry { t.Error("made an entry that is not kept"); return diffEntry{} })
}
