package snapshots

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

const (
	zooFixture     = "../testdata/zoo-1.36/snapshot.db.zst"
	runawayFixture = "sandbox/fixtures/runaway-30k.db.zst"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == helperCommand {
		os.Exit(helper(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// unzstd decompresses a fixture into the test's own directory.
func unzstd(t testing.TB, src string) string {
	t.Helper()
	in, err := os.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	z, err := zstd.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	dst := filepath.Join(t.TempDir(), "snapshot.db")
	out, err := os.Create(dst)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, z); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return dst
}

func open(t testing.TB, path string) *File {
	t.Helper()
	f, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// change is one revision of a db file that a test makes up.
type change struct {
	rev, sub int64
	key      string
	value    string
	deleted  bool
	create   int64
	version  int64
}

// makeDB writes a db file as etcd would have, and its meta bucket with the given entries.
func makeDB(t testing.TB, changes []change, meta map[string][]byte) string {
	t.Helper()
	return writeDB(t, func(tx *bolt.Tx, keys *bolt.Bucket) error {
		for _, c := range changes {
			k := Position{c.rev, c.sub}.bytes()
			kv := &mvccpb.KeyValue{Key: []byte(c.key)}
			if c.deleted {
				k = append(k, 't')
			} else {
				kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version = []byte(c.value), c.create, c.rev, c.version
			}
			v, err := proto.Marshal(kv)
			if err != nil {
				return err
			}
			if err := keys.Put(k, v); err != nil {
				return err
			}
		}
		m, err := tx.CreateBucket([]byte("meta"))
		for k, v := range meta {
			err = errors.Join(err, m.Put([]byte(k), v))
		}
		return err
	})
}

// rawDB writes a db file whose entries are these bytes, one for each revision from 2 on.
func rawDB(t testing.TB, entries [][]byte) string {
	t.Helper()
	return writeDB(t, func(_ *bolt.Tx, keys *bolt.Bucket) error {
		for i, e := range entries {
			if err := keys.Put(Position{Main: int64(i + 2)}.bytes(), e); err != nil {
				return err
			}
		}
		return nil
	})
}

func writeDB(t testing.TB, fill func(*bolt.Tx, *bolt.Bucket) error) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "made.db")
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		keys, err := tx.CreateBucket([]byte("key"))
		if err != nil {
			return err
		}
		return fill(tx, keys)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func scan(t testing.TB, f *File, start, end string, rev int64) []*mvccpb.KeyValue {
	t.Helper()
	var got []*mvccpb.KeyValue
	if err := f.Scan(t.Context(), start, end, rev, func(kv *mvccpb.KeyValue) error {
		got = append(got, kv)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return got
}

func keysOf(kvs []*mvccpb.KeyValue) []string {
	out := []string{}
	for _, kv := range kvs {
		out = append(out, string(kv.Key)+"="+string(kv.Value))
	}
	return out
}

func diff(t testing.TB, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("%s: -want +got:\n%s", what, d)
	}
}

func same(a, b []*mvccpb.KeyValue) bool {
	return slices.EqualFunc(a, b, func(x, y *mvccpb.KeyValue) bool { return proto.Equal(x, y) })
}

// pod is the n-th of many distinct entries, of about size bytes.
func pod(n int, size int) *mvccpb.KeyValue {
	v := make([]byte, size)
	for i := range v {
		v[i] = byte(i*7 + n)
	}
	return &mvccpb.KeyValue{
		Key:            fmt.Appendf(nil, "/registry/pods/ops-tools/error-ret-%05d", n),
		Value:          v,
		CreateRevision: int64(n + 1), ModRevision: int64(2*n + 2), Version: 3,
	}
}

func pods(from, n, size int) []*mvccpb.KeyValue {
	kvs := make([]*mvccpb.KeyValue, n)
	for i := range kvs {
		kvs[i] = pod(from+i, size)
	}
	return kvs
}

func newArchive(t testing.TB) *Archive {
	t.Helper()
	a, err := CreateArchive(filepath.Join(t.TempDir(), "undo.db"), ArchiveInfo{
		Tool: "etcd-rescue test", User: "root", Host: "cp-0", Command: "delete pods", ClusterUID: "8d1f", Etcd: "main",
		Prefix: "/registry/", Time: time.Date(2026, 3, 1, 3, 0, 0, 0, time.UTC),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

// readAll calls everything that reads, and gives the first error.
func readAll(ctx context.Context, f *File) error {
	_, err := f.Count(ctx, "", "\x00", 0)
	nop := func(*mvccpb.KeyValue) error { return nil }
	err = errors.Join(err, f.Scan(ctx, "", "\x00", 0, nop), f.Scan(ctx, "/registry/", "/registry0", f.Revision()/2, nop))
	err = errors.Join(err, f.Entries(ctx, func(p Position, _ *mvccpb.KeyValue) error {
		f.Stage(p)
		if p.Main%16 == 1 {
			_, err := f.At(p)
			return err
		}
		return nil
	}))
	err = errors.Join(err, f.Revisions(ctx, "/registry/pods/team/x", func(Position, bool) error { return nil }))
	err = errors.Join(err, f.Newest(ctx, "", "\x00", 0, false, nop), f.Newest(ctx, "/registry/", "/registry0", f.Revision()/2, true, nop))
	_, getErr := f.Get("/registry/pods/ops-tools/error-ret-00007", 0)
	_, _, findErr := f.Find(ctx, []byte("/registry/pods/ops-tools/error-ret-00008"))
	err = errors.Join(err, getErr, findErr)
	f.LeaseTTL(7)
	_, noteErr := f.Notes(ctx)
	return errors.Join(err, noteErr, f.Check(ctx))
}
