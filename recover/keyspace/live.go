package keyspace

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Getter is the one call that reading needs; clientv3.KV has it.
type Getter interface {
	Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error)
}

// slack is how many keys beyond the wanted ones GetAll reads over before it
// asks for the rest singly.
const slack = 16

// Options are how a Live source reads.
type Options struct {
	// Timeout is for each request.
	Timeout time.Duration
	// Serializable takes the answers of one member without asking a leader.
	// They may be stale.
	Serializable bool
	// Kine says that the server is kine, where only whole prefixes that end
	// in "/" are right ranges.
	Kine bool
	// Log takes a line at level debug for each scan; nil: none.
	Log *slog.Logger
}

// Live is a Source over a running etcd.
type Live struct {
	kv    Getter
	rev   int64
	opt   Options
	now   func() time.Time
	sleep func(context.Context, time.Duration) error
	// noStream is set once the server has shown not to know streams.
	noStream atomic.Bool
	size     func(keysOnly bool) *pageSize
}

// Pin returns a Source fixed at the store's present revision, asked for below
// prefix, where a restricted user may read. It is a linearizable read unless
// opt says otherwise.
func Pin(ctx context.Context, kv Getter, prefix string, opt Options) (*Live, error) {
	s := Current(kv, opt)
	// The key does not exist: an object's key never ends in a slash.
	key, opts := prefix, []clientv3.OpOption{clientv3.WithKeysOnly()}
	if opt.Kine {
		key, opts = prefix+kineHealth, nil
	}
	resp, err := s.get(ctx, key, opts...)
	if err != nil {
		return nil, fmt.Errorf("read the present revision: %w", err)
	}
	s.rev = resp.Header.Revision
	return s, nil
}

// PinAt is Pin at revision rev of the past. It fails with CompactedError when
// the store does not hold that any more, and with FutureError when it does not
// yet; of a Serializable source what counts is what the member holds.
func PinAt(ctx context.Context, kv Getter, prefix string, rev int64, opt Options) (*Live, error) {
	s, err := Pin(ctx, kv, prefix, opt)
	if err != nil {
		return nil, err
	}
	if err := checkRevision(rev, s.rev); err != nil {
		return nil, err
	}
	p := &past{Live: s, key: prefix}
	if opt.Kine {
		p.key = prefix + kineHealth
	}
	ok, err := p.readable(ctx, rev)
	if err != nil {
		return nil, err
	}
	if !ok {
		oldest, err := p.oldest(ctx, rev+1, s.rev)
		if err != nil {
			return nil, err
		}
		return nil, &CompactedError{Revision: rev, Oldest: oldest}
	}
	s.rev = rev
	return s, nil
}

// Current returns a Source that is not pinned: every single answer is the
// newest there is. It is for judging single keys again while they change.
func Current(kv Getter, opt Options) *Live {
	return &Live{kv: kv, opt: opt, now: time.Now, sleep: sleep, size: newPageSize}
}

// Revision is the pinned revision, 0 for Current.
func (s *Live) Revision() int64 { return s.rev }

// get asks at the pinned revision.
func (s *Live) get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	return s.getAt(ctx, s.rev, key, opts...)
}

// getAt is the only place where a request is made. Reads are repeated by
// clientv3 itself while the connection is being made again.
func (s *Live) getAt(ctx context.Context, rev int64, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	limited, cancel := context.WithTimeout(ctx, s.opt.Timeout)
	defer cancel()
	opts = append(opts, clientv3.WithRev(rev))
	if s.opt.Serializable {
		opts = append(opts, clientv3.WithSerializable())
	}
	resp, err := s.kv.Get(limited, key, opts...)
	if err != nil {
		return nil, s.readError(ctx, rev, err)
	}
	return resp, nil
}

type page struct {
	kvs []*mvccpb.KeyValue
	err error
}

// Scan implements Source. What it costs etcd is linear in the number of keys:
// see bounds. It reads the next page while fn works on the last one. It slows
// down when etcd answers slowly, and waits when etcd has too many requests.
func (s *Live) Scan(ctx context.Context, r Range, keysOnly bool, fn func(*mvccpb.KeyValue) error) error {
	if r.End == "" {
		return s.scanOne(ctx, r.Start, keysOnly, fn)
	}
	if s.opt.Kine {
		return s.scanKine(ctx, r, keysOnly, fn)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pages := make(chan page)
	go func() {
		defer close(pages)
		if err := s.readPages(ctx, r, keysOnly, pages); err != nil {
			select {
			case pages <- page{err: err}:
			case <-ctx.Done():
			}
		}
	}()
	for p := range pages {
		if p.err != nil {
			return p.err
		}
		for _, kv := range p.kvs {
			if err := fn(kv); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

func (s *Live) scanOne(ctx context.Context, key string, keysOnly bool, fn func(*mvccpb.KeyValue) error) error {
	kv, err := s.Get(ctx, key)
	if err != nil || kv == nil {
		return err
	}
	if keysOnly {
		kv.Value = nil
	}
	return fn(kv)
}

// Count implements Source. etcd answers it from its index, without touching
// the disk.
func (s *Live) Count(ctx context.Context, r Range) (int64, error) {
	if s.opt.Kine {
		return s.countKine(ctx, r)
	}
	opts := []clientv3.OpOption{clientv3.WithCountOnly()}
	if r.End != "" {
		opts = append(opts, clientv3.WithRange(r.End))
	}
	resp, err := s.get(ctx, r.Start, opts...)
	if err != nil {
		return 0, err
	}
	return resp.Count, nil
}

// Get implements Source.
func (s *Live) Get(ctx context.Context, key string) (*mvccpb.KeyValue, error) {
	if s.opt.Kine {
		return s.getKine(ctx, key)
	}
	resp, err := s.get(ctx, key)
	if err != nil || len(resp.Kvs) == 0 {
		return nil, err
	}
	return resp.Kvs[0], nil
}

// GetAll implements Source. Keys that lie close together, which is what a
// plan's steps do, come with one ranged read over their span; what that read
// did not reach, because too many other keys lie between, is asked for singly.
// The spans of successive calls do not overlap when the caller goes through
// sorted keys, so the index is walked once in all, however sparse they are.
func (s *Live) GetAll(ctx context.Context, keys []string) (map[string]*mvccpb.KeyValue, error) {
	found := make(map[string]*mvccpb.KeyValue, len(keys))
	if len(keys) == 0 {
		return found, nil
	}
	if s.opt.Kine {
		return s.getAllKine(ctx, keys)
	}
	wanted := make(map[string]bool, len(keys))
	for _, key := range keys {
		wanted[key] = true
	}
	last := keys[len(keys)-1] + "\x00"
	resp, err := s.get(ctx, keys[0], clientv3.WithRange(last), clientv3.WithLimit(int64(len(keys)+slack)))
	if err != nil {
		return nil, err
	}
	reached := last
	for _, kv := range resp.Kvs {
		if wanted[string(kv.Key)] {
			found[string(kv.Key)] = kv
		}
	}
	if resp.More {
		reached = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
	for _, key := range keys {
		if key < reached {
			continue
		}
		kv, err := s.Get(ctx, key)
		if err != nil {
			return nil, err
		}
		if kv != nil {
			found[key] = kv
		}
	}
	return found, nil
}
