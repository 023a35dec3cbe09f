package keyspace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// moody is an etcd as none can be made to be on demand, with its own clock.
type moody struct {
	index
	calls int
	now   time.Time
	rests []time.Duration
	// answer may change an answer, or refuse it; took is how long it took.
	answer func(call int, resp *clientv3.GetResponse) error
	took   func(call int) time.Duration
}

func (f *moody) Get(_ context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	op := clientv3.OpGet(key, opts...)
	keys, count := f.page(Range{key, string(op.RangeBytes())}, int(op.Limit()))
	resp := &clientv3.GetResponse{Header: &pb.ResponseHeader{Revision: 7}, Count: count, More: count > int64(len(keys))}
	for _, key := range keys {
		resp.Kvs = append(resp.Kvs, &mvccpb.KeyValue{Key: []byte(key)})
	}
	f.calls++
	if f.took != nil {
		f.now = f.now.Add(f.took(f.calls))
	}
	if f.answer != nil {
		if err := f.answer(f.calls, resp); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

// scan reads everything that f has, in pages of 100 keys.
func (f *moody) scan(ctx context.Context) (keys []string, err error) {
	s := Current(f, Options{Timeout: time.Hour})
	s.now = func() time.Time { return f.now }
	s.sleep = func(ctx context.Context, d time.Duration) error {
		f.rests = append(f.rests, d)
		f.now = f.now.Add(d)
		return ctx.Err()
	}
	s.size = func(bool) *pageSize { return &pageSize{most: 100, limit: 100} }
	err = s.Scan(ctx, Prefix("/"), false, func(kv *mvccpb.KeyValue) error {
		keys = append(keys, string(kv.Key))
		return nil
	})
	return keys, err
}

func thousand() (keys []string) {
	for i := range 1000 {
		keys = append(keys, fmt.Sprintf("/pods/%04d", i))
	}
	return keys
}

func TestTooManyRequests(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	errOther := errors.New("other")
	tests := []struct {
		name   string
		refuse func(call int) error
		rests  []time.Duration
		err    error
	}{
		{"never", func(int) error { return nil }, nil, nil},
		{"twice at the third page", func(call int) error {
			if call == 3 || call == 4 {
				return rpctypes.ErrTooManyRequests
			}
			return nil
		}, []time.Duration{100 * ms, 200 * ms}, nil},
		{"now and then", func(call int) error {
			if call%4 == 2 {
				return rpctypes.ErrTooManyRequests
			}
			return nil
		}, slices.Repeat([]time.Duration{100 * ms}, 4), nil},
		{"for ever", func(int) error { return rpctypes.ErrTooManyRequests },
			[]time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 2000 * ms, 2000 * ms}, rpctypes.ErrTooManyRequests},
		{"something else", func(int) error { return errOther }, nil, errOther},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := &moody{index: index{keys: thousand()}, answer: func(call int, _ *clientv3.GetResponse) error { return tt.refuse(call) }}
			got, err := f.scan(t.Context())
			if !errors.Is(err, tt.err) || err == nil && !slices.Equal(got, f.keys) {
				t.Errorf("%d keys, %v; want %v", len(got), err, tt.err)
			}
			if !slices.Equal(f.rests, tt.rests) {
				t.Errorf("rested %v, want %v", f.rests, tt.rests)
			}
		})
	}
}

func TestSlowAnswers(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	tests := []struct {
		name string
		took func(call int) time.Duration
		want []time.Duration
	}{
		{"quick", func(int) time.Duration { return ms }, nil},
		{"all equally slow for each key", nil, nil},
		{"a slow one", func(call int) time.Duration {
			if call == 4 {
				return 700 * ms
			}
			return 5 * ms
		}, []time.Duration{700 * ms}},
		{"a very slow one", func(call int) time.Duration {
			if call == 4 {
				return time.Minute
			}
			return 5 * ms
		}, []time.Duration{maxRest}},
		{"slower, but not slow", func(call int) time.Duration {
			if call == 4 {
				return 99 * ms
			}
			return ms
		}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := &moody{index: index{keys: thousand()}, took: tt.took}
			visits := 0
			if tt.took == nil {
				f.took = func(int) time.Duration {
					d := 5 * ms * time.Duration(f.visits-visits)
					visits = f.visits
					return d
				}
			}
			got, err := f.scan(t.Context())
			if err != nil || !slices.Equal(got, f.keys) {
				t.Errorf("%d keys, %v", len(got), err)
			}
			if !slices.Equal(f.rests, tt.want) {
				t.Errorf("rested %v, want %v", f.rests, tt.want)
			}
		})
	}
}

// TestAlwaysSlowStore: a store that has become slow for good is read on, at
// half of its time.
func TestAlwaysSlowStore(t *testing.T) {
	t.Parallel()
	f := &moody{index: index{keys: thousand()}}
	f.took = func(call int) time.Duration {
		if call < 4 {
			return time.Millisecond
		}
		return time.Second
	}
	began := f.now
	got, err := f.scan(t.Context())
	if err != nil || !slices.Equal(got, f.keys) {
		t.Fatalf("%d keys, %v", len(got), err)
	}
	slow := time.Duration(f.calls - 3)
	if took := f.now.Sub(began); took > 2*slow*time.Second+time.Second || len(f.rests) == 0 {
		t.Errorf("%d slow answers took %s, with %d pauses", slow, took, len(f.rests))
	}
}

// TestCancelEndsAPause: nobody waits for the end of it.
func TestCancelEndsAPause(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	f := &moody{index: index{keys: thousand()}, answer: func(call int, _ *clientv3.GetResponse) error {
		if call == 3 {
			cancel()
			return rpctypes.ErrTooManyRequests
		}
		return nil
	}}
	if got, err := f.scan(ctx); !errors.Is(err, context.Canceled) || f.calls != 3 {
		t.Errorf("%v after %d keys and %d requests", err, len(got), f.calls)
	}
	if err := sleep(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("sleep: %v", err)
	}
}

// TestLyingServer: what cannot be true is an error, and never an endless loop.
func TestLyingServer(t *testing.T) {
	t.Parallel()
	drop := func(resp *clientv3.GetResponse) { resp.Kvs = resp.Kvs[:len(resp.Kvs)-1] }
	lies := map[string]func(call int, resp *clientv3.GetResponse){
		"loses a key that it counts": func(call int, resp *clientv3.GetResponse) {
			if call == 3 {
				drop(resp)
			}
		},
		"loses a key and does not count it": func(call int, resp *clientv3.GetResponse) {
			if call == 3 {
				drop(resp)
				resp.Count--
			}
		},
		"counts one too many at last": func(_ int, resp *clientv3.GetResponse) { resp.Count++ },
		"counts ever more":            func(call int, resp *clientv3.GetResponse) { resp.Count += int64(call) * 1000 },
		"empty answers with more":     func(_ int, resp *clientv3.GetResponse) { resp.Kvs, resp.More = nil, true },
		"empty answers later":         func(call int, resp *clientv3.GetResponse) { resp.Kvs = resp.Kvs[:len(resp.Kvs)/call] },
		"empty answers without count": func(call int, resp *clientv3.GetResponse) {
			if call > 2 {
				resp.Kvs, resp.Count, resp.More = nil, 0, true
			}
		},
		"negative counts":        func(_ int, resp *clientv3.GetResponse) { resp.Count = -resp.Count },
		"very large counts":      func(_ int, resp *clientv3.GetResponse) { resp.Count = 1<<63 - 1 },
		"no counts":              func(_ int, resp *clientv3.GetResponse) { resp.Count = 0 },
		"the same keys again":    func(_ int, resp *clientv3.GetResponse) { resp.Kvs[0].Key = []byte("/pods/0000") },
		"keys before the range":  func(_ int, resp *clientv3.GetResponse) { resp.Kvs[0].Key = []byte("!") },
		"keys behind the range":  func(_ int, resp *clientv3.GetResponse) { resp.Kvs[len(resp.Kvs)-1].Key = []byte("\xff") },
		"keys without a name":    func(_ int, resp *clientv3.GetResponse) { resp.Kvs[0].Key = nil },
		"keys out of order":      func(_ int, resp *clientv3.GetResponse) { slices.Reverse(resp.Kvs) },
		"more keys than allowed": func(_ int, resp *clientv3.GetResponse) { resp.Kvs = append(resp.Kvs, resp.Kvs...) },
	}
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &moody{index: index{keys: thousand()}}
			f.answer = func(call int, resp *clientv3.GetResponse) error {
				lie(call, resp)
				return nil
			}
			got, err := f.scan(t.Context())
			if err == nil || f.calls > 200 {
				t.Errorf("%d keys after %d requests, %v; want an error", len(got), f.calls, err)
			}
			if !sort.StringsAreSorted(got) || len(slices.Compact(got)) != len(got) {
				t.Error("keys were yielded twice or out of order")
			}
		})
	}
}
