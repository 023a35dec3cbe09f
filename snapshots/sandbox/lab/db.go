package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// Shape says what a generated store holds.
type Shape struct {
	Pods, Namespaces int
	// OwnOwners gives every pod an owner of its own, which does not exist; else
	// the pods belong to the four Jobs of their namespace.
	OwnOwners bool
}

// Shapes returns the shapes that the benchmarks use, by name.
func Shapes() map[string]Shape {
	return map[string]Shape{
		"50ns":   {Pods: 1_000_000, Namespaces: 50},
		"5000ns": {Pods: 200_000, Namespaces: 5_000},
		"1ns":    {Pods: 500_000, Namespaces: 1},
		"owners": {Pods: 1_000_000, Namespaces: 50, OwnOwners: true},
	}
}

// generation changes with what Generate writes, so that no old file is taken from the cache.
const generation = 2

// DB returns the db file of a shape. It is generated on first use and kept in the user's cache directory; nobody may
// change it.
func DB(ctx context.Context, s Shape) (string, error) {
	owners := "jobs"
	if s.OwnOwners {
		owners = "owners"
	}
	path, err := cached("db", fmt.Sprintf("%d-pods-%d-namespaces-%s-%d.db", s.Pods, s.Namespaces, owners, generation))
	if err != nil {
		return "", err
	}
	return path, once(path, func(part string) error { return Generate(ctx, part, s) })
}

// cached returns a path in the user's cache directory, whose directory exists.
func cached(kind, name string) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(base, "etcd-rescue", kind, name)
	return path, os.MkdirAll(filepath.Dir(path), 0o700)
}

// once makes a file under another name, unless it is there, and renames it.
func once(path string, create func(part string) error) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	part := fmt.Sprintf("%s.%d.part", path, os.Getpid())
	err := create(part)
	if err == nil {
		err = os.Rename(part, path)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(part))
	}
	return nil
}

// Generate writes a db file: the registry of a real cluster, but for its pods, and then the namespaces, Jobs and pods
// of the shape, each key at a revision of its own. The same shape gives the same objects. Pods of all namespaces come
// mixed in time, and their names in no order, as the pods of real Jobs do. It needs about 130 MiB of memory besides the
// page cache. The file must not exist; after an error it may be there, incomplete.
func Generate(ctx context.Context, path string, s Shape) error {
	dir, err := os.MkdirTemp("", "etcd-rescue-lab-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fixture, err := sandbox.FixtureFile(ctx, sandbox.Runaway30k, dir)
	if err != nil {
		return err
	}
	w, err := create(path)
	if err != nil {
		return err
	}
	m, err := w.base(fixture)
	if err == nil {
		err = m.write(ctx, s, w.put)
	}
	return errors.Join(err, w.close())
}

// writer appends keys to a new db file.
type writer struct {
	db  *bolt.DB
	tx  *bolt.Tx
	key *bolt.Bucket
	rev int64
	n   int // in this transaction
}

// batch bounds what one transaction keeps in memory.
const batch = 4096

func create(path string) (*writer, error) {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(err, os.ErrExist)
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		NoSync: true, NoGrowSync: true, NoFreelistSync: true, FreelistType: bolt.FreelistMapType, InitialMmapSize: 4 << 30,
	})
	if err != nil {
		return nil, err
	}
	w := &writer{db: db}
	if err := w.begin(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return w, nil
}

func (w *writer) begin() (err error) {
	if w.tx, err = w.db.Begin(true); err != nil {
		return err
	}
	if w.key, err = w.tx.CreateBucketIfNotExists([]byte("key")); err != nil {
		return err
	}
	w.key.FillPercent = 0.9 // as in etcd
	return nil
}

func (w *writer) commit() error {
	if err := w.tx.Commit(); err != nil {
		return err
	}
	return w.begin()
}

// base copies a db file but for what would change by itself or is to be generated. It returns what to copy from.
func (w *writer) base(path string) (*models, error) {
	from, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer from.Close()
	m := &models{}
	return m, from.View(func(tx *bolt.Tx) error {
		err := tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			to, err := w.tx.CreateBucketIfNotExists(name)
			if err != nil {
				return err
			}
			return b.ForEach(func(k, v []byte) error {
				if string(name) == "lease" || string(name) == "key" && !w.keeps(m, k, v) {
					return nil
				}
				return to.Put(k, v)
			})
		})
		// bbolt keeps the values, which are memory of from, until the transaction ends.
		return errors.Join(err, w.commit())
	})
}

// keeps remembers the models on its way. Keys on leases would go, and move the revision, soon after a start.
func (w *writer) keeps(m *models, rev, value []byte) bool {
	w.rev = int64(binary.BigEndian.Uint64(rev))
	var kv mvccpb.KeyValue
	if err := proto.Unmarshal(value, &kv); err != nil {
		return false
	}
	key := string(kv.Key)
	m.take(key, kv.Value)
	return kv.Lease == 0 && !strings.HasPrefix(key, "/registry/pods/") && !strings.HasPrefix(key, "/registry/events/")
}

// put writes a key at the next revision.
func (w *writer) put(key string, value []byte) error {
	if w.n++; w.n > batch {
		if err := w.commit(); err != nil {
			return err
		}
		w.n = 1
	}
	w.rev++
	rev := make([]byte, 17)
	binary.BigEndian.PutUint64(rev, uint64(w.rev))
	rev[8] = '_'
	kv := mvccpb.KeyValue{Key: []byte(key), CreateRevision: w.rev, ModRevision: w.rev, Version: 1, Value: value}
	stored, err := proto.Marshal(&kv)
	if err != nil {
		return err
	}
	return w.key.Put(rev, stored)
}

func (w *writer) close() error {
	var err error
	if w.tx != nil {
		err = w.tx.Commit()
	}
	return errors.Join(err, w.db.Close())
}
