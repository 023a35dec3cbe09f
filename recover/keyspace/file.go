package keyspace

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// File is a Source over a snapshot, a member's db file or an archive.
type File struct {
	f   *snapshots.File
	rev int64
	at  int64 // the revision that f is asked for, 0 for its newest
}

// FromFile reads f at its newest revision. The caller keeps f open for as
// long as the Source is used, and closes it.
func FromFile(f *snapshots.File) *File { return &File{f: f, rev: f.Revision()} }

// ErrNoRevisions is returned by FromFileAt for an archive: of each key it holds
// what was archived, and not what the store was at some revision.
var ErrNoRevisions = errors.New("an archive has no revisions to choose from")

// FromFileAt reads f as it was at revision rev; 0 means the newest, as
// [FromFile] reads it. It fails with CompactedError and with FutureError where f
// does not tell that, and with ErrNoRevisions for an archive. f remembers where
// things stand at its newest revision and at one other.
func FromFileAt(f *snapshots.File, rev int64) (*File, error) {
	switch {
	case rev == 0:
		return FromFile(f), nil
	case f.IsArchive():
		return nil, ErrNoRevisions
	}
	if err := checkRevision(rev, f.Revision()); err != nil {
		return nil, err
	}
	if oldest := f.Compacted(); rev < oldest {
		return nil, &CompactedError{Revision: rev, Oldest: oldest}
	}
	return &File{f: f, rev: rev, at: rev}, nil
}

// Revision is the newest revision in the file, or that given to FromFileAt.
func (s *File) Revision() int64 { return s.rev }

// Scan implements Source.
func (s *File) Scan(ctx context.Context, r Range, keysOnly bool, fn func(*mvccpb.KeyValue) error) error {
	if keysOnly {
		return s.f.ScanKeys(ctx, r.Start, r.End, s.at, fn)
	}
	return s.f.Scan(ctx, r.Start, r.End, s.at, fn)
}

// ScanUnordered is Scan in no particular order, at the speed of reading the
// file once from its end to its beginning. The KeyValue and its bytes are fn's
// only until it returns, and are then used again: fn copies what it keeps.
func (s *File) ScanUnordered(ctx context.Context, r Range, keysOnly bool, fn func(*mvccpb.KeyValue) error) error {
	return s.f.Newest(ctx, r.Start, r.End, s.at, keysOnly, fn)
}

// Count implements Source.
func (s *File) Count(ctx context.Context, r Range) (int64, error) {
	return s.f.Count(ctx, r.Start, r.End, s.at)
}

// Get implements Source.
func (s *File) Get(_ context.Context, key string) (*mvccpb.KeyValue, error) {
	return s.f.Get(key, s.at)
}

// GetAll implements Source.
func (s *File) GetAll(ctx context.Context, keys []string) (map[string]*mvccpb.KeyValue, error) {
	found := make(map[string]*mvccpb.KeyValue, len(keys))
	for _, key := range keys {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		kv, err := s.f.Get(key, s.at)
		if err != nil {
			return nil, err
		}
		if kv != nil {
			found[key] = kv
		}
	}
	return found, nil
}

// History implements Historian. It is exact for a db file: it goes through all
// stored revisions once, keeps where those of key stand, and reads their values
// one by one. What a compaction had begun to remove and not yet removed is
// yielded too. An archive holds a key as it was when it was archived, so it has
// one version for each time, and no deletions.
func (s *File) History(ctx context.Context, key string, most int, fn func(Version) error) (Extent, error) {
	y := newYielder(most, fn)
	places, err := s.newest(ctx, key, y.left+1)
	if err != nil {
		return y.extent, err
	}
	if !s.f.IsArchive() {
		y.extent.Oldest = max(s.f.Compacted(), 1)
	}
	var last int64
	for i := len(places) - 1; i >= 0; i-- {
		if err := ctx.Err(); err != nil {
			return y.extent, err
		}
		v, err := s.version(places[i])
		if err != nil {
			return y.extent, err
		}
		// A plan that is run again archives what it had archived, but not yet deleted.
		if v.ModRevision == last && s.f.IsArchive() {
			continue
		}
		last = v.ModRevision
		if err := y.yield(v); err != nil {
			return y.done(err)
		}
	}
	return y.extent, nil
}

// stored is where one revision of a key stands in a file.
type stored struct {
	at      snapshots.Position
	deleted bool
}

// newest finds the last most places of key, in the order of the file.
func (s *File) newest(ctx context.Context, key string, most int) ([]stored, error) {
	var found []stored
	err := s.f.Revisions(ctx, key, func(at snapshots.Position, deleted bool) error {
		if s.at > 0 && at.Main > s.at {
			return errCut
		}
		if len(found)/2 >= most {
			found = append(found[:0], found[len(found)-most:]...)
		}
		found = append(found, stored{at, deleted})
		return nil
	})
	if errors.Is(err, errCut) {
		err = nil
	}
	return found[max(0, len(found)-most):], err
}

func (s *File) version(p stored) (Version, error) {
	if p.deleted {
		return Version{ModRevision: p.at.Main, Deleted: true}, nil
	}
	kv, err := s.f.At(p.at)
	if err != nil {
		return Version{}, err
	}
	v := Version{ModRevision: p.at.Main, KV: kv}
	if s.f.IsArchive() {
		v.ModRevision = kv.ModRevision
	}
	return v, nil
}

// At implements Historian. An archive does not know what happened between its
// entries: the newest one at or before rev counts.
func (s *File) At(ctx context.Context, key string, rev int64) (*mvccpb.KeyValue, error) {
	if err := checkRevision(rev, s.rev); err != nil {
		return nil, err
	}
	if s.f.IsArchive() {
		return s.archivedAt(ctx, key, rev)
	}
	var found *stored
	replaced := false // at or before the oldest revision that can be read
	oldest := s.f.Compacted()
	err := s.f.Revisions(ctx, key, func(at snapshots.Position, deleted bool) error {
		if at.Main > rev {
			replaced = at.Main <= oldest
			return errCut
		}
		found = &stored{at, deleted}
		return nil
	})
	if err != nil && !errors.Is(err, errCut) {
		return nil, err
	}
	exact := found != nil && (found.at.Main == rev || !replaced)
	if rev < oldest && !exact {
		return nil, &CompactedError{Revision: rev, Oldest: oldest}
	}
	if found == nil || found.deleted {
		return nil, nil
	}
	return s.f.At(found.at)
}

func (s *File) archivedAt(ctx context.Context, key string, rev int64) (found *mvccpb.KeyValue, err error) {
	_, err = s.History(ctx, key, maxVersions, func(v Version) error {
		if v.ModRevision > rev {
			return nil
		}
		found = v.KV
		return errCut
	})
	return found, err
}
