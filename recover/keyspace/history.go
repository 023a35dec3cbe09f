package keyspace

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// DefaultVersions is how many versions History yields when it is asked
	// for 0.
	DefaultVersions = 1000
	maxVersions     = 1 << 30
	// probes is in how many parts Live.History cuts the time before a key
	// was made, to look for earlier lives of it.
	probes = 32
)

// Version is what one revision made of a key.
type Version struct {
	// ModRevision is the revision that wrote or deleted the key.
	ModRevision int64
	// Deleted says that the revision deleted the key; KV is nil then.
	Deleted bool
	// KV belongs to the receiver.
	KV *mvccpb.KeyValue
}

// Extent says how much of a key's past a call of History covers.
type Extent struct {
	// Oldest is the oldest revision that the store can still read, 1 if
	// nothing was ever compacted; 0 if there was no need to find it out,
	// and for an archive.
	Oldest int64
	// Step over 1 says that the store could only be sampled: an earlier
	// life of the key, from its making to its deletion, is missing if it
	// lasted fewer than Step revisions and no sample met it. With 0 or 1
	// nothing is missing that the store still holds.
	Step int64
	// Cut says that there are more versions than were asked for.
	Cut bool
}

// Historian is a Source that knows the past of single keys. Live and File are.
type Historian interface {
	Source
	// History calls fn for the revisions of key that the store still holds,
	// newest first, up to most of them; 0 means DefaultVersions. An error
	// of fn ends it and is returned as it is.
	History(ctx context.Context, key string, most int, fn func(Version) error) (Extent, error)
	// At returns the key as it was at revision rev, nil if it did not exist
	// then. It fails with CompactedError when the store does not tell that
	// any more, and with FutureError when it does not yet. Every
	// ModRevision that History yields can be asked for.
	At(ctx context.Context, key string, rev int64) (*mvccpb.KeyValue, error)
}

// FutureError says that a revision is newer than the newest one of the source.
type FutureError struct{ Revision, Newest int64 }

func (e *FutureError) Error() string {
	return fmt.Sprintf("revision %d is in the future; the newest is %d", e.Revision, e.Newest)
}

// errCut ends a history early; it never leaves this package.
var errCut = errors.New("cut")

// checkRevision refuses what no store has; etcd would take 0 for the present.
func checkRevision(rev, newest int64) error {
	if rev < 1 {
		return fmt.Errorf("revision %d: the first one is 1", rev)
	}
	if rev > newest {
		return &FutureError{Revision: rev, Newest: newest}
	}
	return nil
}

// yielder counts versions on their way out.
type yielder struct {
	fn     func(Version) error
	left   int
	extent Extent
}

func newYielder(most int, fn func(Version) error) yielder {
	if most <= 0 {
		most = DefaultVersions
	}
	return yielder{fn: fn, left: min(most, maxVersions)}
}

func (y *yielder) yield(v Version) error {
	if y.left == 0 {
		y.extent.Cut = true
		return errCut
	}
	y.left--
	return y.fn(v)
}

func (y *yielder) done(err error) (Extent, error) {
	if errors.Is(err, errCut) {
		err = nil
	}
	return y.extent, err
}

// past reads the history of one key from etcd.
type past struct {
	*Live
	yielder
	key string
}

// History implements Historian. The present life of the key, back to its
// making or to the compacted revision, is exact: the version before one that
// was written at revision m is what the key was at m-1. The last version at or
// before the compacted revision can be read there, if the key existed then.
//
// Earlier lives are looked for. No request lists them but a watch from the
// compacted revision, and for that etcd loads every change since then, of all
// keys, into memory at once (server/storage/mvcc/watchable_store.go,
// rangeEvents); we do not do that to a store in trouble. Instead the time
// before the key was made is cut into 32 parts, and the key is counted at the
// end of each, which costs etcd a look into its index. Where it existed the
// revision that deleted it is found by bisection, and the life is read
// backwards from there. See Extent.Step for what this can miss.
//
// It makes one request for each version, and where earlier lives are possible
// about 30 to find the compacted revision, 32 probes, and up to log2(Step) for
// each life found.
func (s *Live) History(ctx context.Context, key string, most int, fn func(Version) error) (Extent, error) {
	p := &past{Live: s, yielder: newYielder(most, fn), key: key}
	rev, err := p.now(ctx)
	if err != nil {
		return p.done(err)
	}
	absentAt, err := p.life(ctx, rev)
	if err == nil && absentAt > 0 {
		err = p.earlier(ctx, absentAt)
	}
	return p.done(err)
}

// At implements Historian.
func (s *Live) At(ctx context.Context, key string, rev int64) (*mvccpb.KeyValue, error) {
	p := &past{Live: s, key: key}
	newest, err := p.now(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkRevision(rev, newest); err != nil {
		return nil, err
	}
	kv, err := p.read(ctx, rev)
	if _, gone := compactedAt(err); !gone {
		return kv, err
	}
	oldest, err := p.oldest(ctx, rev+1, newest)
	if err != nil {
		return nil, err
	}
	if oldest == 0 {
		return nil, &CompactedError{Revision: newest}
	}
	// What was written at or before rev and is still there has been there all the time.
	kv, err = p.read(ctx, oldest)
	if kv != nil && kv.ModRevision <= rev {
		return kv, nil
	}
	if _, gone := compactedAt(err); err != nil && !gone {
		return nil, err
	}
	return nil, &CompactedError{Revision: rev, Oldest: oldest}
}

// now is the revision that counts as the present.
func (p *past) now(ctx context.Context) (int64, error) {
	if p.rev > 0 {
		return p.rev, nil
	}
	resp, err := p.get(ctx, p.key, clientv3.WithCountOnly())
	if err != nil {
		return 0, fmt.Errorf("read the present revision: %w", err)
	}
	return resp.Header.Revision, nil
}

// read is the key at revision rev, nil if it did not exist.
func (p *past) read(ctx context.Context, rev int64) (*mvccpb.KeyValue, error) {
	resp, err := p.getAt(ctx, rev, p.key)
	if err != nil {
		return nil, fmt.Errorf("read %s at revision %d: %w", p.key, rev, err)
	}
	if len(resp.Kvs) == 0 {
		return nil, nil
	}
	kv := resp.Kvs[0]
	if kv.ModRevision < 1 || kv.ModRevision > rev {
		return nil, fmt.Errorf("read %s at revision %d: etcd answered with revision %d", p.key, rev, kv.ModRevision)
	}
	return kv, nil
}

// exists tells whether the key existed at revision rev, without reading it.
func (p *past) exists(ctx context.Context, rev int64) (bool, error) {
	resp, err := p.getAt(ctx, rev, p.key, clientv3.WithCountOnly())
	if err != nil {
		return false, fmt.Errorf("look for %s at revision %d: %w", p.key, rev, err)
	}
	return resp.Count > 0, nil
}

// compactedAt is the revision whose read failed because it was compacted.
func compactedAt(err error) (rev int64, ok bool) {
	var c *CompactedError
	if !errors.As(err, &c) {
		return 0, false
	}
	return c.Revision, true
}

// life yields the versions of the key from rev backwards. It returns the
// revision at which the key was absent, 0 if nothing older can be read. It is
// a CompactedError only if rev itself cannot be read.
func (p *past) life(ctx context.Context, rev int64) (absentAt int64, err error) {
	for at := rev; at > 0; {
		kv, err := p.read(ctx, at)
		if _, gone := compactedAt(err); gone && at != rev {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		if kv == nil {
			return at, nil
		}
		if err := p.yield(Version{ModRevision: kv.ModRevision, KV: kv}); err != nil {
			return 0, err
		}
		at = kv.ModRevision - 1
	}
	return 0, nil
}

// earlier finds the lives of the key before absentAt, where it was absent.
func (p *past) earlier(ctx context.Context, absentAt int64) error {
	low, err := p.oldest(ctx, 1, absentAt)
	if p.extent.Oldest = low; low > 0 {
		p.extent.Step = (absentAt - low + probes - 1) / probes
	}
	for err == nil && low > 0 && low < absentAt {
		absentAt, err = p.probe(ctx, max(low, absentAt-p.extent.Step), absentAt)
		if rev, gone := compactedAt(err); gone {
			// Somebody compacts meanwhile. What is above may still be there.
			low, err = p.oldest(ctx, rev+1, absentAt)
			p.extent.Oldest = low
		}
	}
	return err
}

// probe looks whether the key existed at revision at. If so it yields the
// newest life that it can find between there and absentAt. It returns the next
// older revision at which the key was absent, 0 if nothing older can be read;
// with an error the oldest one it has come to know.
func (p *past) probe(ctx context.Context, at, absentAt int64) (int64, error) {
	found, err := p.exists(ctx, at)
	if err != nil {
		return absentAt, err
	}
	if !found {
		return at, nil
	}
	deleted := absentAt
	for at+1 < deleted {
		mid := at + (deleted-at)/2
		found, err := p.exists(ctx, mid)
		if err != nil {
			return absentAt, err
		}
		if found {
			at = mid
		} else {
			deleted = mid
		}
	}
	if err := p.yield(Version{ModRevision: deleted, Deleted: true}); err != nil {
		return deleted, err
	}
	older, err := p.life(ctx, at)
	if err != nil {
		return deleted, err
	}
	return older, nil
}

// oldest is the oldest revision from low to high that can be read, 0 if none
// can. etcd says that a revision was compacted, but not up to where.
func (p *past) oldest(ctx context.Context, low, high int64) (int64, error) {
	if low > high {
		return 0, nil
	}
	if ok, err := p.readable(ctx, low); ok || err != nil {
		return low, err
	}
	if ok, err := p.readable(ctx, high); !ok || err != nil {
		return 0, err
	}
	for low+1 < high {
		mid := low + (high-low)/2
		ok, err := p.readable(ctx, mid)
		if err != nil {
			return 0, err
		}
		if ok {
			high = mid
		} else {
			low = mid
		}
	}
	return high, nil
}

func (p *past) readable(ctx context.Context, rev int64) (bool, error) {
	_, err := p.exists(ctx, rev)
	if _, gone := compactedAt(err); gone {
		return false, nil
	}
	return err == nil, err
}
