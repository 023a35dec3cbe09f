package snapshots

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/zap"

	bolt "go.etcd.io/bbolt"

	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
)

// etcdStore is etcd's own code over a db file.
type etcdStore struct {
	mvcc.KV
	hashes mvcc.HashStorage
	close  func() error
}

func openStore(t testing.TB, path string) *etcdStore {
	t.Helper()
	b := backend.NewDefaultBackend(zap.NewNop(), path)
	s := mvcc.NewStore(zap.NewNop(), b, &lease.FakeLessor{}, mvcc.StoreConfig{})
	// A running member remembers the hash of a compaction, with the compacted revision before it; etcdutl does not.
	st := &etcdStore{s, mvcc.NewHashStorage(zap.NewNop(), s), sync.OnceValue(func() error { return errors.Join(s.Close(), b.Close()) })}
	t.Cleanup(func() { _ = st.close() })
	return st
}

func (s *etcdStore) hash(t testing.TB, rev int64) HashKV {
	t.Helper()
	s.Commit()
	h, _, err := s.hashes.HashByRev(rev)
	if err != nil {
		t.Fatal(err)
	}
	return HashKV{Hash: h.Hash, Revision: h.Revision, CompactRevision: h.CompactRevision}
}

// compact returns when the entries are gone from the file.
func (s *etcdStore) compact(t testing.TB, rev int64) {
	t.Helper()
	done, err := compactAt(s.Compact, rev)
	if err != nil {
		t.Fatal(err)
	}
	<-done
	s.Commit()
}

// Traces are of a package that is no dependency of ours; empty ones do.
func begin[Trace any](write func(*Trace) mvcc.TxnWrite) mvcc.TxnWrite { return write(new(Trace)) }

func compactAt[Trace any](compact func(*Trace, int64) (<-chan struct{}, error), rev int64) (<-chan struct{}, error) {
	return compact(new(Trace), rev)
}

// live makes random changes: keys that are put, deleted and made again, and transactions of several.
func (s *etcdStore) live(rnd *rand.Rand, n int) {
	for range n {
		txn := begin(s.Write)
		for range 1 + rnd.IntN(3) {
			key := fmt.Appendf(nil, "/registry/things/%02d", rnd.IntN(40))
			if rnd.IntN(3) == 0 {
				txn.DeleteRange(key, nil)
			} else {
				txn.Put(key, make([]byte, rnd.IntN(200)), lease.NoLease)
			}
		}
		txn.End()
	}
}

func hashOfFile(t testing.TB, path string, rev int64) HashKV {
	t.Helper()
	r, err := Verify(t.Context(), path, VerifyOptions{Revision: rev})
	if err != nil {
		t.Fatal(err)
	}
	return *r.HashKV
}

// The hash is that of etcd's own code, whatever was deleted and compacted, at every revision that can be asked for.
func TestHashIsEtcds(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		path := filepath.Join(t.TempDir(), "db")
		s := openStore(t, path)
		want := map[int64]HashKV{0: s.hash(t, 0)}
		s.live(rnd, 150)
		for range seed % 3 {
			s.compact(t, s.Rev()-int64(rnd.IntN(30)))
			s.live(rnd, 60)
		}
		if seed > 5 { // nothing stays alive
			txn := begin(s.Write)
			txn.DeleteRange([]byte("/"), []byte("0"))
			txn.End()
			s.compact(t, s.Rev()-int64(seed-6))
		}
		want[0] = s.hash(t, 0)
		for rev := max(want[0].CompactRevision, 2); rev <= s.Rev(); rev += 1 + int64(rnd.IntN(9)) {
			want[rev] = s.hash(t, rev)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		for rev, w := range want {
			diff(t, fmt.Sprintf("seed %d, revision %d", seed, rev), hashOfFile(t, path, rev), w)
		}
	}
}

// A compaction that was scheduled and not carried out counts, as it does when etcd starts on the file.
func TestHashOfScheduledCompaction(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	s := openStore(t, path)
	s.live(rand.New(rand.NewPCG(1, 2)), 200)
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("scheduledCompactRev"), Position{Main: 150}.bytes())
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	before := hashOfFile(t, path, 0)
	again := openStore(t, path)
	diff(t, "before etcd carries it out", before, again.hash(t, 0))
	if err := again.close(); err != nil {
		t.Fatal(err)
	}
	diff(t, "after", hashOfFile(t, path, 0), before)
	if _, err := Verify(t.Context(), path, VerifyOptions{Revision: 149}); !errors.Is(err, ErrCompacted) {
		t.Error(err)
	}
	if _, err := Verify(t.Context(), path, VerifyOptions{Revision: 1 << 40}); !errors.Is(err, ErrFutureRev) {
		t.Error(err)
	}
}

// The numbers are those of etcdutl 3.7 (snapshot status, hashkv).
func TestVerifyFixtures(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]Report{
		zooFixture: {
			Bytes: 4665376, Pages: 1139, Free: 4, Keys: 790, Entries: 1717, Tombstones: 30, Revision: 1718,
			HashKV: &HashKV{Hash: 3494479289, Revision: 1718, CompactRevision: -1},
		},
		runawayFixture: {
			Bytes: 62844960, Pages: 15343, Free: 5, Keys: 30229, Entries: 30439, Revision: 30440,
			HashKV: &HashKV{Hash: 3438337070, Revision: 30440, CompactRevision: -1},
		},
	} {
		got, err := Verify(t.Context(), path, VerifyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want.Path, want.Compressed, want.Kind, want.Trailer = path, true, KindSnapshot, TrailerOK
		diff(t, path, *got, want)
	}
}

// etcdutl's restore with a bumped revision leaves an entry without a key, and marks all as compacted.
func TestHashOfBumpedRestore(t *testing.T) {
	t.Parallel()
	db := bumped(t)
	got := hashOfFile(t, db, 0)
	diff(t, "hash", got, HashKV{Hash: 1889615645, Revision: 2718, CompactRevision: 2718})
	copied := writeFile(t, "db", readFile(t, db))
	s := openStore(t, copied)
	diff(t, "etcd's own", s.hash(t, 0), got)
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	diff(t, "after the compaction", hashOfFile(t, copied, 0), got)
}
