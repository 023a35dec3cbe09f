package sandbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/restore"
)

//go:embed fixtures/*.db.zst
var fixtures embed.FS

// Fixture is a snapshot that is part of this program.
type Fixture string

// Runaway30k is a real cluster in which a Job made 30,000 pods; fixtures/README.md describes it.
const Runaway30k Fixture = "runaway-30k"

// FixtureFile writes an embedded snapshot, decompressed, to a new file in dir and returns its path. The file must not
// exist. After an error it is gone.
func FixtureFile(ctx context.Context, f Fixture, dir string) (path string, err error) {
	in, err := fixtures.Open("fixtures/" + string(f) + ".db.zst")
	if err != nil {
		return "", fmt.Errorf("there is no fixture %q", f)
	}
	defer in.Close()
	path = filepath.Join(dir, string(f)+".db")
	if err := restore.Unpack(ctx, in, path); err != nil {
		return "", fmt.Errorf("fixture %q: %w", f, err)
	}
	return path, nil
}

// home is a data directory to be made, of a member of a cluster that may have no other.
type home struct{ dir, member, peerURL, initial string }

// prepare restores the snapshot, if there is one, into each home, whose directory must not exist. All of them get the
// same bytes.
func prepare(ctx context.Context, opt Options, dir string, homes ...home) error {
	src, err := source(ctx, opt, dir)
	if err != nil || src == "" {
		return err
	}
	for _, h := range homes {
		_, err := restore.Restore(ctx, restore.Options{
			Snapshot: src, Hash: restore.HashIfThere,
			DataDir: h.dir, Name: h.member, PeerURLs: []string{h.peerURL}, InitialCluster: h.initial, InitialClusterToken: clusterToken,
		})
		if err != nil {
			return fmt.Errorf("restore snapshot %q: %w", opt.Snapshot+string(opt.Fixture), err)
		}
	}
	if src == opt.Snapshot {
		return nil
	}
	return os.Remove(src)
}

// source is the snapshot itself, or our own copy of it, decompressed, if it comes from this program or is to be changed.
func source(ctx context.Context, opt Options, dir string) (string, error) {
	if opt.Fixture == "" && opt.Keep == nil {
		return opt.Snapshot, nil
	}
	path, err := ownCopy(ctx, opt, dir)
	if err != nil || path == "" || opt.Keep == nil {
		return path, err
	}
	if err := soundSnapshot(ctx, path); err != nil {
		return "", fmt.Errorf("copy of snapshot %q: %w", opt.Snapshot+string(opt.Fixture), err)
	}
	if err := dropKeys(ctx, path, opt.Keep); err != nil {
		return "", fmt.Errorf("drop keys from the copy of the snapshot: %w", err)
	}
	return path, nil
}

func ownCopy(ctx context.Context, opt Options, dir string) (string, error) {
	if opt.Fixture != "" {
		return FixtureFile(ctx, opt.Fixture, dir)
	}
	if opt.Snapshot == "" {
		return "", nil
	}
	in, err := os.Open(opt.Snapshot)
	if err != nil {
		return "", fmt.Errorf("read snapshot: %w", err)
	}
	defer in.Close()
	path := filepath.Join(dir, "source.db")
	if err := restore.Unpack(ctx, in, path); err != nil {
		return "", fmt.Errorf("read snapshot %q: %w", opt.Snapshot, err)
	}
	return path, nil
}

// soundSnapshot checks a copy before it is changed, which bbolt does not do, and cuts off its hash.
func soundSnapshot(ctx context.Context, path string) error {
	f, err := snapshots.Open(path, snapshots.Options{})
	if err != nil {
		return err
	}
	defer f.Close()
	if err := restore.Check(ctx, f, restore.HashIfThere); err != nil || !f.HasHash() {
		return err
	}
	return os.Truncate(path, f.Size()-sha256.Size)
}

// dropKeys removes all revisions of the keys that keep refuses.
func dropKeys(ctx context.Context, path string, keep func(string) bool) error {
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("key"))
		drop, err := refused(ctx, b, keep)
		if err != nil || len(drop) == 0 {
			return err
		}
		if last, _ := b.Cursor().Last(); bytes.Equal(last, drop[len(drop)-1]) {
			if err := entomb(b, last); err != nil {
				return err
			}
		}
		for _, k := range drop {
			if err := b.Delete(k); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, db.Close())
}

// refused lists, in order, the revisions to be dropped. A deletion at the very end stays, for it holds the revision.
func refused(ctx context.Context, b *bolt.Bucket, keep func(string) bool) ([][]byte, error) {
	var drop [][]byte
	verdicts := map[string]bool{}
	last, _ := b.Cursor().Last()
	err := b.ForEach(func(k, v []byte) error {
		var kv mvccpb.KeyValue
		if err := proto.Unmarshal(v, &kv); err != nil {
			return err
		}
		keeps, ok := verdicts[string(kv.Key)]
		if !ok {
			keeps = len(kv.Key) == 0 || keep(string(kv.Key))
			verdicts[string(kv.Key)] = keeps
		}
		if !keeps && !(len(k) == tombstoneLen && bytes.Equal(k, last)) {
			drop = append(drop, bytes.Clone(k))
		}
		return ctx.Err()
	})
	return drop, err
}

// tombstoneLen is the length of the key of a deletion in bucket "key": a revision and a 't'.
const tombstoneLen = 18

// entomb puts a deletion where the newest entry stood. Without it the revision would go back, since etcd takes it
// from the last entry of the bucket.
func entomb(b *bolt.Bucket, last []byte) error {
	var kv mvccpb.KeyValue
	if err := proto.Unmarshal(b.Get(last), &kv); err != nil {
		return err
	}
	v, err := proto.Marshal(&mvccpb.KeyValue{Key: kv.Key})
	if err != nil {
		return err
	}
	return b.Put(append(bytes.Clone(last), 't'), v)
}
