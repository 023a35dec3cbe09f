package plan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

const (
	prefix      = "/registry/"
	zooFile     = "../../testdata/zoo-1.36/snapshot.db.zst"
	testTimeout = time.Minute
)

// world is a store to plan for.
type world struct {
	t   *testing.T
	src keyspace.Source
}

func openFile(t *testing.T, path string) *snapshots.File {
	t.Helper()
	f, err := snapshots.Open(path, snapshots.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// zoo is a real cluster with many kinds of objects.
func zoo(t *testing.T) *world {
	t.Helper()
	return &world{t, keyspace.FromFile(zooAt(t))}
}

// zooAt is the file of zoo.
func zooAt(t *testing.T) *snapshots.File {
	t.Helper()
	return openFile(t, zooFile)
}

// thing is a made object. Its UID is that of its key, its name the key's last
// segment.
type thing struct {
	key, kind string // "/registry/jobs/a/j", "batch/v1 Job"
	owners    []codec.Owner
	labels    string            // one, as "app=web"
	spec      map[string]string // any
}

// owner refers to the thing at key as the controller.
func owner(kind, key string) codec.Owner {
	apiVersion, kind, _ := strings.Cut(kind, " ")
	return codec.Owner{APIVersion: apiVersion, Kind: kind, Name: key[strings.LastIndex(key, "/")+1:], UID: uidOf(key), Controller: true}
}

func uidOf(key string) string { return "uid of " + key }

func (o thing) value() []byte {
	var refs []map[string]any
	for _, ref := range o.owners {
		refs = append(refs, map[string]any{
			"apiVersion": ref.APIVersion, "kind": ref.Kind, "name": ref.Name, "uid": ref.UID, "controller": ref.Controller,
		})
	}
	labels := map[string]string{}
	if name, value, ok := strings.Cut(o.labels, "="); ok {
		labels[name] = value
	}
	segments, namespace := strings.Split(strings.TrimPrefix(o.key, prefix), "/"), ""
	if n := len(segments); n > 3 || n == 3 && !strings.Contains(segments[0], ".") {
		namespace = segments[n-2]
	}
	apiVersion, kind, _ := strings.Cut(o.kind, " ")
	value, err := json.Marshal(map[string]any{
		"apiVersion": apiVersion, "kind": kind, "spec": o.spec,
		"metadata": map[string]any{"name": o.key[strings.LastIndex(o.key, "/")+1:], "namespace": namespace, "uid": uidOf(o.key), "ownerReferences": refs, "labels": labels},
	})
	if err != nil {
		panic(err)
	}
	return value
}

// entry is the thing as the rev-th change of a store.
func (o thing) entry(rev int64) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{Key: []byte(o.key), Value: o.value(), CreateRevision: rev, ModRevision: rev, Version: 1}
}

// made is a store that holds things.
func made(t *testing.T, things ...thing) *world {
	t.Helper()
	var kvs []*mvccpb.KeyValue
	for i, o := range things {
		kvs = append(kvs, o.entry(int64(i)+1))
	}
	return &world{t, keyspace.FromFile(archive(t, time.Time{}, nil, kvs))}
}

// archive is a file with one batch of entries for each stage.
func archive(t *testing.T, created time.Time, ttl map[int64]int64, stages ...[]*mvccpb.KeyValue) *snapshots.File {
	t.Helper()
	a, err := snapshots.CreateArchive(filepath.Join(t.TempDir(), "archive.db"), snapshots.ArchiveInfo{Time: created, Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	for stage, kvs := range stages {
		if err := a.Append(stage, kvs, ttl); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	return openFile(t, a.Path())
}

// request asks for deletes, with the custom kinds known.
func (w *world) request(sel filter.Selection) Request {
	w.t.Helper()
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	learn := func(ctx context.Context) error {
		crds := keyspace.Prefix(prefix + "apiextensions.k8s.io/customresourcedefinitions/")
		return w.src.Scan(ctx, crds, false, func(kv *mvccpb.KeyValue) error {
			_, err := reader.Catalog.AddCRD(kv.Value)
			return err
		})
	}
	if err := learn(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	owners := filter.NewOwners(w.src, reader, learn)
	sel.Now = time.Date(2026, 11, 22, 15, 8, 0, 0, time.UTC)
	f, err := filter.New(sel, reader, owners)
	if err != nil {
		w.t.Fatal(err)
	}
	return Request{Source: w.src, Filter: f, Owners: owners, Prefix: prefix}
}

// guard lets pass what is allowed.
func (w *world) guard(allowed filter.Overrides) *filter.Guard {
	reader := &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}
	return filter.NewGuard(reader, w.src, allowed)
}

// line is one step of a plan in its place.
type line struct {
	Stage int
	What  string
	Step  Step
}

// planned carries out the request twice, as a preview that holds few owners in
// memory and into a plan, asserts that both say the same, and returns what was
// planned.
func (w *world) planned(req Request) (*Summary, []line) {
	w.t.Helper()
	spooled := req
	spooled.held = 1000
	preview, err := Deletes(w.t.Context(), spooled, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	var sum *Summary
	lines := throughFile(w.t, func(out *Writer) error {
		sum, err = Deletes(w.t.Context(), req, out)
		return err
	})
	if diff := cmp.Diff(preview, sum, cmpopts.IgnoreUnexported(LiveOwner{})); diff != "" {
		w.t.Errorf("the preview differs (-preview +plan):\n%s", diff)
	}
	checkStages(w.t, sum, lines)
	return sum, lines
}

// throughFile writes a plan and reads it back.
func throughFile(t *testing.T, fill func(*Writer) error) []line {
	t.Helper()
	path := filepath.Join(t.TempDir(), "p.jsonl")
	out, err := Create(path, testHeader())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fill(out), out.Close()); err != nil {
		t.Fatal(err)
	}
	p, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var lines []line
	err = p.Steps(t.Context(), func(stage int, what string, s Step) error {
		lines = append(lines, line{stage, what, s})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// checkStages asserts that the Summary's stages and first steps are those of
// the plan, and that no key occurs twice.
func checkStages(t *testing.T, sum *Summary, lines []line) {
	t.Helper()
	steps, keys, first := make([]int64, len(sum.Stages)), map[string]bool{}, []Step(nil)
	for i, l := range lines {
		if l.Stage >= len(steps) {
			t.Fatalf("stage %d of %v", l.Stage, sum.Stages)
		}
		steps[l.Stage]++
		if keys[l.Step.Key] {
			t.Errorf("%s is planned twice", l.Step.Key)
		}
		keys[l.Step.Key] = true
		if i < FirstSteps {
			l.Step.Type = ""
			first = append(first, l.Step)
		}
	}
	for i, st := range sum.Stages {
		if st.Steps != steps[i] {
			t.Errorf("stage %d has %d steps, the summary says %d", i, steps[i], st.Steps)
		}
	}
	if sum.Steps != int64(len(lines)) {
		t.Errorf("%d steps, the summary says %d", len(lines), sum.Steps)
	}
	if diff := cmp.Diff(first, sum.First); diff != "" {
		t.Errorf("first steps (-plan +summary):\n%s", diff)
	}
}

// order shows steps as "stage role key".
func order(lines []line) (shown []string) {
	for _, l := range lines {
		shown = append(shown, fmt.Sprintf("%d %s %s", l.Stage, l.Step.Role, strings.TrimPrefix(l.Step.Key, prefix)))
	}
	return shown
}
