package sandbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"

	"github.com/etcd-rescue/etcd-rescue/snapshots"
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
	if err := unpack(ctx, in, path); err != nil {
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
	if err := soundSnapshot(ctx, src); err != nil {
		return fmt.Errorf("copy of snapshot %q: %w", opt.Snapshot+string(opt.Fixture), err)
	}
	if opt.Keep != nil {
		if err := dropKeys(ctx, src, opt.Keep); err != nil {
			return fmt.Errorf("drop keys from the copy of the snapshot: %w", err)
		}
	}
	for _, h := range homes {
		if err := restore(src, h); err != nil {
			return fmt.Errorf("restore snapshot: %w", err)
		}
	}
	return os.Remove(src)
}

// source makes our own copy of the snapshot, decompressed.
func source(ctx context.Context, opt Options, dir string) (string, error) {
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
	if err := unpack(ctx, in, path); err != nil {
		return "", fmt.Errorf("read snapshot %q: %w", opt.Snapshot, err)
	}
	return path, nil
}

// unpack copies in to a new file and decompresses it if it is zstd.
func unpack(ctx context.Context, in io.Reader, path string) (err error) {
	magic := make([]byte, 4)
	n, err := io.ReadFull(in, magic)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	in = io.MultiReader(bytes.NewReader(magic[:n]), in)
	if bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		z, err := zstd.NewReader(in)
		if err != nil {
			return err
		}
		defer z.Close()
		in = z
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, ctxReader{ctx, in})
	if err = errors.Join(err, out.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// ctxReader makes a long copy stop when ctx ends.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// soundSnapshot checks a snapshot and cuts off its hash. etcd's own restore ends the process on a damaged file.
func soundSnapshot(ctx context.Context, path string) error {
	f, err := snapshots.Open(path, snapshots.Options{})
	if err != nil {
		return err
	}
	defer f.Close()
	if f.IsArchive() {
		return errors.New("this is an archive of deleted objects, from which no etcd can start")
	}
	if f.HasHash() {
		if err := checkHash(ctx, path, f.Size()-sha256.Size); err != nil {
			return err
		}
	}
	if err := f.Check(ctx); err != nil {
		return err
	}
	if f.HasHash() {
		return os.Truncate(path, f.Size()-sha256.Size)
	}
	return nil
}

func checkHash(ctx context.Context, path string, n int64) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	h := sha256.New()
	if _, err := io.CopyN(h, ctxReader{ctx, in}, n); err != nil {
		return err
	}
	want, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	if !bytes.Equal(h.Sum(nil), want) {
		return fmt.Errorf("%w: it does not match the sha256 at its end", snapshots.ErrDamaged)
	}
	return nil
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

// restore makes a data directory. The hash is gone by now; it was checked when the copy was made.
func restore(src string, h home) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("etcd panicked: %v", r)
		}
	}()
	return snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath:        src,
		Name:                h.member,
		OutputDataDir:       h.dir,
		PeerURLs:            []string{h.peerURL},
		InitialCluster:      h.initial,
		InitialClusterToken: clusterToken,
		SkipHashCheck:       true,
	})
}
