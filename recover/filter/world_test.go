package filter_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

const prefix = "/registry/"

// now is the moment that ages count from; the zoo was made around it.
func now() time.Time { return time.Date(2026, 11, 22, 15, 8, 0, 0, time.UTC) }

// world is a store with what is needed to filter it.
type world struct {
	t       testing.TB
	src     *keyspace.File
	reader  *codec.Reader
	owners  *filter.Owners
	learned int // how often the custom kinds were asked for
}

func newWorld(t testing.TB, path string) *world {
	t.Helper()
	f, err := snapshots.Open(path, snapshots.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	w := &world{t: t, src: keyspace.FromFile(f), reader: &codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}}
	w.owners = filter.NewOwners(w.src, w.reader, nil)
	return w
}

// zooFile opens a compressed file of the zoo.
func zooFile(t testing.TB, name string) io.Reader {
	t.Helper()
	in, err := os.Open("../../testdata/zoo-1.36/" + name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	z, err := zstd.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(z.Close)
	return z
}

// zoo is a real cluster with many kinds of objects.
func zoo(t testing.TB) *world {
	t.Helper()
	return newWorld(t, "../../testdata/zoo-1.36/snapshot.db.zst")
}

// object is what a made object needs to say.
type object struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   meta   `json:"metadata"`
}

type meta struct {
	UID               string   `json:"uid"`
	Name              string   `json:"name"`
	CreationTimestamp string   `json:"creationTimestamp,omitempty"`
	OwnerReferences   []ownRef `json:"ownerReferences,omitempty"`
}

type ownRef struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
	Controller bool   `json:"controller"`
}

// made is a store with the given objects by key. An object's UID and name are
// those of its key, so that an owner is named by owned.
func made(t *testing.T, objects map[string]object) *world {
	t.Helper()
	a, err := snapshots.CreateArchive(filepath.Join(t.TempDir(), "made.db"), snapshots.ArchiveInfo{})
	if err != nil {
		t.Fatal(err)
	}
	var kvs []*mvccpb.KeyValue
	for key, o := range objects {
		o.Metadata.UID, o.Metadata.Name = "uid of "+key, key[strings.LastIndex(key, "/")+1:]
		value, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		kvs = append(kvs, &mvccpb.KeyValue{Key: []byte(key), Value: value, CreateRevision: 1, ModRevision: 1, Version: 1})
	}
	if err := errors.Join(a.Append(0, kvs, nil), a.Close()); err != nil {
		t.Fatal(err)
	}
	return newWorld(t, a.Path())
}

// owned makes references to the objects stored at keys, of one kind.
func owned(apiVersion, kind string, keys ...string) (refs []ownRef) {
	for _, key := range keys {
		refs = append(refs, ownRef{apiVersion, kind, key[strings.LastIndex(key, "/")+1:], "uid of " + key, true})
	}
	return refs
}

// learnCustom makes the owners learn the custom kinds of the store.
func (w *world) learnCustom() {
	w.owners = filter.NewOwners(w.src, w.reader, w.learn)
}

// learn adds the custom kinds, as the program does.
func (w *world) learn(ctx context.Context) error {
	w.learned++
	r := keyspace.Prefix(prefix + "apiextensions.k8s.io/customresourcedefinitions/")
	return w.src.Scan(ctx, r, false, func(kv *mvccpb.KeyValue) error {
		_, err := w.reader.Catalog.AddCRD(kv.Value)
		return err
	})
}

func (w *world) filter(sel filter.Selection) *filter.Filter {
	w.t.Helper()
	sel.Now = now()
	f, err := filter.New(sel, w.reader, w.owners)
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

// selects returns the keys that a selection keeps and those it cannot decide
// on, in the ranges that it names.
func (w *world) selects(sel filter.Selection) (kept, undecided []string) {
	w.t.Helper()
	f := w.filter(sel)
	for _, r := range f.Ranges() {
		err := w.src.Scan(w.t.Context(), r, false, func(kv *mvccpb.KeyValue) error {
			d, err := f.Judge(w.t.Context(), f.Inspect(w.t.Context(), kv))
			switch d {
			case filter.Keep:
				kept = append(kept, string(kv.Key))
			case filter.Undecided:
				undecided = append(undecided, string(kv.Key))
			}
			return err
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	if !slices.IsSorted(kept) {
		w.t.Errorf("%v: not in key order", sel)
	}
	return kept, undecided
}

// short leaves the prefix out of keys.
func short(keys []string) []string {
	var names []string
	for _, key := range keys {
		names = append(names, strings.TrimPrefix(key, prefix))
	}
	return names
}
