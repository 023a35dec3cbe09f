package app

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// zooSnapshot is the real cluster with many kinds of objects and damage.
const zooSnapshot = "../../../testdata/zoo-1.36/snapshot.db.zst"

// store is a sandbox and a client of it.
type store struct {
	*sandbox.Sandbox
	client *clientv3.Client
}

func startStore(ctx context.Context, opt sandbox.Options) (*store, error) {
	box, err := sandbox.Start(ctx, opt)
	if err != nil {
		return nil, err
	}
	client, err := box.Client(context.Background())
	if err != nil {
		box.Close()
		return nil, err
	}
	return &store{box, client}, nil
}

func (s *store) close() {
	s.client.Close()
	s.Close()
}

func (s *store) url() string { return s.Endpoints()[0] }

// still leaves out the keys that live on short leases, so that the revision
// of a sandbox stands still.
func still(key string) bool {
	return !strings.HasPrefix(key, "/registry/masterleases/") && !strings.HasPrefix(key, "/registry/peerserverleases/")
}

// firstPods keeps so many of the incident's pods.
func firstPods(pods int) func(string) bool {
	taken := map[string]bool{}
	return func(key string) bool {
		switch {
		case !still(key), strings.HasPrefix(key, "/registry/events/"):
			return false
		case !strings.HasPrefix(key, "/registry/pods/ops-tools/"):
			return true
		}
		if len(taken) < pods {
			taken[key] = true
		}
		return taken[key]
	}
}

// incident makes, once, a small snapshot of the fixture's first killPods
// pods: to unpack the whole for every store takes most of the time.
func (s *suite) incident() (string, error) {
	s.once.Do(func() {
		s.path = filepath.Join(s.dir, "incident.db")
		s.err = s.makeIncident()
	})
	return s.path, s.err
}

func (s *suite) makeIncident() error {
	ctx := context.Background()
	box, err := startStore(ctx, sandbox.Options{Fixture: sandbox.Runaway30k, NoFsync: true, Mode: sandbox.InProcess, Keep: firstPods(killPods)})
	if err != nil {
		return err
	}
	defer box.close()
	if _, err := box.client.Defragment(ctx, box.url()); err != nil {
		return err
	}
	return box.save(ctx, s.path)
}

// startIncident starts a store with so many of the incident's pods.
func startIncident(ctx context.Context, pods int, mode sandbox.Mode) (*store, error) {
	path, err := tests.incident()
	if err != nil {
		return nil, err
	}
	return startStore(ctx, sandbox.Options{Snapshot: path, NoFsync: true, Mode: mode, Keep: firstPods(pods)})
}

// startRunaway starts the incident for a test, in this process.
func startRunaway(t *testing.T, pods int) *store {
	t.Helper()
	s, err := startIncident(t.Context(), pods, sandbox.InProcess)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// contents is everything that a store holds at one revision.
type contents struct {
	revision int64
	keys     map[string]*mvccpb.KeyValue
}

func (s *store) contents(ctx context.Context) (*contents, error) {
	src, err := keyspace.Pin(ctx, s.client, "/registry/", keyspace.Options{Timeout: time.Minute})
	if err != nil {
		return nil, err
	}
	c := &contents{src.Revision(), map[string]*mvccpb.KeyValue{}}
	return c, src.Scan(ctx, keyspace.Range{Start: "\x00", End: "\x00"}, false, func(kv *mvccpb.KeyValue) error {
		c.keys[string(kv.Key)] = kv
		return nil
	})
}

func (c *contents) below(prefix string) int {
	n := 0
	for key := range c.keys {
		if strings.HasPrefix(key, prefix) {
			n++
		}
	}
	return n
}

// sameValues says where the values of two stores differ, "" if nowhere.
func sameValues(before, after *contents) string {
	all := maps.Clone(before.keys)
	maps.Copy(all, after.keys)
	for _, key := range slices.Sorted(maps.Keys(all)) {
		b, a := before.keys[key], after.keys[key]
		switch {
		case a == nil:
			return key + " is gone"
		case b == nil:
			return key + " is new"
		case !bytes.Equal(a.Value, b.Value):
			return key + " has another value"
		}
	}
	return ""
}

// unchanged says what happened to a store, "" if nothing did.
func unchanged(before, after *contents) string {
	if diff := sameValues(before, after); diff != "" {
		return diff
	}
	for key, b := range before.keys {
		if a := after.keys[key]; a.ModRevision != b.ModRevision || a.Lease != b.Lease {
			return key + " was written again"
		}
	}
	if before.revision != after.revision {
		return fmt.Sprintf("the revision was %d and is %d", before.revision, after.revision)
	}
	return ""
}

// lost names the first key of before that neither the store nor an archive
// holds byte for byte, "" if there is none.
func lost(ctx context.Context, before, after *contents, archives ...string) (string, error) {
	archived := map[string][]byte{}
	for _, path := range archives {
		f, err := snapshots.Open(path, snapshots.Options{})
		if err != nil {
			return "", err
		}
		err = f.Entries(ctx, func(_ snapshots.Position, kv *mvccpb.KeyValue) error {
			archived[string(kv.Key)] = bytes.Clone(kv.Value)
			return nil
		})
		if f.Close(); err != nil {
			return "", err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(before.keys)) {
		now, want := after.keys[key], before.keys[key].Value
		if value, ok := archived[key]; (now == nil || !bytes.Equal(now.Value, want)) && !(ok && bytes.Equal(value, want)) {
			return key, nil
		}
	}
	return "", nil
}

// save writes a snapshot of the store, as etcdctl snapshot save does.
func (s *store) save(ctx context.Context, path string) error {
	r, err := s.client.Snapshot(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	_, err = io.Copy(out, r)
	return err
}

// glob returns the files in dir that match, sorted.
func glob(t *testing.T, dir, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return files
}
