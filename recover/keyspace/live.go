package keyspace

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Getter is the one call that reading needs; clientv3.KV has it.
type Getter interface {
	Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error)
}

const (
	firstPage = 100
	minPage   = 16
	maxPage   = 500
	// maxKeysPage is for pages without values, which weigh next to nothing.
	maxKeysPage = 5000
	// pageBytes is what one answer should weigh: etcd builds it in memory
	// as a whole, and so does the client. maxPage bounds what comes when
	// large values follow small ones, which nothing announces.
	pageBytes = 2 << 20
	// slack is how many keys beyond the wanted ones GetAll reads over
	// before it asks for the rest singly.
	slack = 16
)

// Live is a Source over a running etcd.
type Live struct {
	kv      Getter
	rev     int64
	timeout time.Duration
}

// Pin returns a Source fixed at the store's present revision, asked for with
// a linearizable read below prefix, where a restricted user may read. Every
// request gets the given timeout.
func Pin(ctx context.Context, kv Getter, prefix string, timeout time.Duration) (*Live, error) {
	s := &Live{kv: kv, timeout: timeout}
	// The key does not exist: an object's key never ends in a slash.
	resp, err := s.get(ctx, prefix, clientv3.WithKeysOnly())
	if err != nil {
		return nil, fmt.Errorf("read the present revision: %w", err)
	}
	s.rev = resp.Header.Revision
	return s, nil
}

// Current returns a Source that is not pinned: every single answer is the
// newest there is. It is for judging keys again while they change.
func Current(kv Getter, timeout time.Duration) *Live { return &Live{kv: kv, timeout: timeout} }

// Revision is the pinned revision, 0 for Current.
func (s *Live) Revision() int64 { return s.rev }

// get asks at the pinned revision.
func (s *Live) get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	return s.getAt(ctx, s.rev, key, opts...)
}

// getAt is the only place where a request is made. Reads are repeated by
// clientv3 itself while the connection is being made again.
func (s *Live) getAt(ctx context.Context, rev int64, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	resp, err := s.kv.Get(ctx, key, append(opts, clientv3.WithRev(rev))...)
	if errors.Is(err, rpctypes.ErrCompacted) {
		return nil, &CompactedError{Revision: rev}
	}
	return resp, err
}

type page struct {
	kvs []*mvccpb.KeyValue
	err error
}

// Scan implements Source. It reads the next page while fn works on the last
// one, so at most two pages are held. The page size follows the weight of the
// values seen so far.
func (s *Live) Scan(ctx context.Context, r Range, keysOnly bool, fn func(*mvccpb.KeyValue) error) error {
	if r.End == "" {
		return s.scanOne(ctx, r.Start, keysOnly, fn)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pages := make(chan page)
	go func() {
		defer close(pages)
		s.readPages(ctx, r, keysOnly, pages)
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

func (s *Live) readPages(ctx context.Context, r Range, keysOnly bool, pages chan<- page) {
	limit := firstPage
	for start := r.Start; ; {
		opts := []clientv3.OpOption{clientv3.WithRange(r.End), clientv3.WithLimit(int64(limit))}
		if keysOnly {
			opts = append(opts, clientv3.WithKeysOnly())
		}
		resp, err := s.get(ctx, start, opts...)
		p := page{err: err}
		if err == nil {
			p.kvs = resp.Kvs
		}
		select {
		case pages <- p:
		case <-ctx.Done():
			return
		}
		if err != nil || !resp.More || len(resp.Kvs) == 0 {
			return
		}
		most := maxPage
		if keysOnly {
			most = maxKeysPage
		}
		limit = nextLimit(resp.Kvs, most)
		start = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// nextLimit lets the next page weigh about pageBytes, judged by the last one,
// and hold at most so many keys.
func nextLimit(kvs []*mvccpb.KeyValue, most int) int {
	weight := 0
	for _, kv := range kvs {
		weight += len(kv.Key) + len(kv.Value)
	}
	return min(max(pageBytes*len(kvs)/max(weight, 1), minPage), most)
}

// Count implements Source. etcd answers it from its index, without touching
// the disk.
func (s *Live) Count(ctx context.Context, r Range) (int64, error) {
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
