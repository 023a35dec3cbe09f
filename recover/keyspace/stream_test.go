package keyspace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// streaming is a client whose streams a test may spoil.
type streaming struct {
	*clientv3.Client
	streams, pages int
	spoil          func(ctx context.Context, cancel func(), kv clientv3.KV, key string, opts []clientv3.OpOption) (clientv3.GetStreamChan, error)
}

func (s *streaming) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	s.pages++
	return s.Client.Get(ctx, key, opts...)
}

func (s *streaming) GetStream(ctx context.Context, key string, opts ...clientv3.OpOption) (clientv3.GetStreamChan, error) {
	s.streams++
	if s.spoil == nil {
		return s.Client.GetStream(ctx, key, opts...)
	}
	ctx, cancel := context.WithCancel(ctx)
	return s.spoil(ctx, cancel, s.Client, key, opts)
}

const streamed = "/registry/streamed/"

// streamStore holds more keys than are worth a stream.
func streamStore(t *testing.T) (client *clientv3.Client, want []string) {
	t.Helper()
	client = etcd(t)
	for i := range 3 * streamWorth / 2 {
		want = append(want, fmt.Sprintf("%sns-%d/x-%05d", streamed, i%7, i))
	}
	slices.Sort(want)
	putAll(t, client, want)
	return client, want
}

func TestStreamEqualsPages(t *testing.T) {
	t.Parallel()
	client, want := streamStore(t)
	for name, opt := range map[string]Options{"pinned": {Timeout: time.Minute}, "serializable": {Timeout: time.Minute, Serializable: true}} {
		for _, keysOnly := range []bool{false, true} {
			kv := &streaming{Client: client}
			src, err := Pin(t.Context(), kv, "/registry/", opt)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			err = src.Scan(t.Context(), Prefix(streamed), keysOnly, func(kv *mvccpb.KeyValue) error {
				got = append(got, string(kv.Key))
				if keysOnly != (len(kv.Value) == 0) {
					return fmt.Errorf("key %q with %d bytes", kv.Key, len(kv.Value))
				}
				return nil
			})
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s, keysOnly %v: %d keys of %d, %v", name, keysOnly, len(got), len(want), err)
			}
			if kv.streams != 1 || kv.pages != 2 { // one of them pins
				t.Errorf("%s: %d streams and %d pages, want 1 and 2", name, kv.streams, kv.pages)
			}
		}
	}
}

// chunksOf makes a stream of its own of such keys.
func chunksOf(chunks ...[]string) clientv3.GetStreamChan {
	out := make(chan clientv3.RangeStreamResponse, len(chunks))
	for _, keys := range chunks {
		resp := &clientv3.GetResponse{}
		for _, key := range keys {
			resp.Kvs = append(resp.Kvs, &mvccpb.KeyValue{Key: []byte(key), Value: []byte("x")})
		}
		out <- clientv3.RangeStreamResponse{RangeResponse: (*etcdserverpb.RangeResponse)(resp)}
	}
	close(out)
	return out
}

func TestSpoiltStreams(t *testing.T) {
	t.Parallel()
	client, want := streamStore(t)
	rest := want[firstPage:]
	type spoil = func(ctx context.Context, cancel func(), kv clientv3.KV, key string, opts []clientv3.OpOption) (clientv3.GetStreamChan, error)
	answer := func(chunks ...[]string) spoil {
		return func(context.Context, func(), clientv3.KV, string, []clientv3.OpOption) (clientv3.GetStreamChan, error) {
			return chunksOf(chunks...), nil
		}
	}
	for name, c := range map[string]struct {
		spoil spoil
		fails string
	}{
		"a server before 3.7": {spoil: func(context.Context, func(), clientv3.KV, string, []clientv3.OpOption) (clientv3.GetStreamChan, error) {
			return nil, status.Error(codes.Unimplemented, "unknown method RangeStream")
		}},
		"one that breaks off": {spoil: func(ctx context.Context, cancel func(), kv clientv3.KV, key string, opts []clientv3.OpOption) (clientv3.GetStreamChan, error) {
			whole, err := kv.GetStream(ctx, key, opts...)
			out := make(chan clientv3.RangeStreamResponse)
			go func() {
				defer close(out)
				n := 0
				for chunk := range whole {
					if n++; n == 3 {
						cancel()
					}
					out <- chunk
				}
			}()
			return out, err
		}},
		"one that says nothing": {spoil: func(ctx context.Context, _ func(), _ clientv3.KV, _ string, _ []clientv3.OpOption) (clientv3.GetStreamChan, error) {
			out := make(chan clientv3.RangeStreamResponse)
			context.AfterFunc(ctx, func() { close(out) })
			return out, nil
		}},
		"one that ends too early": {spoil: answer(rest[:1000]), fails: "less than it counted"},
		"one with keys twice":     {spoil: answer(rest[:1000], rest[999:]), fails: "etcd streams"},
		"one that starts again":   {spoil: answer(want), fails: "etcd streams"},
		"one with keys of others": {spoil: answer(rest[:10], []string{"/registry/z"}), fails: "etcd streams"},
		"one with too many keys":  {spoil: answer(rest, []string{streamed + "z/1"}), fails: "more keys than it counted"},
	} {
		kv := &streaming{Client: client, spoil: c.spoil}
		src, err := Pin(t.Context(), kv, "/registry/", Options{Timeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			got, err := names(scanned(t, src, Prefix(streamed), func(int) {}))
			switch {
			case c.fails != "":
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("%s: %v, want an error that says %q", name, err, c.fails)
				}
			case err != nil || !slices.Equal(got, want):
				t.Errorf("%s: %d keys of %d, %v", name, len(got), len(want), err)
			}
		}
		if name == "a server before 3.7" && kv.streams != 1 {
			t.Errorf("%s was asked %d times for a stream", name, kv.streams)
		}
	}
}

// names leaves out the revisions.
func names(scanned []string, err error) (keys []string, _ error) {
	for _, s := range scanned {
		key, _, _ := strings.Cut(s, " ")
		keys = append(keys, key)
	}
	return keys, err
}

// TestCompactionDuringAStream: what etcd has sent by then may be all.
func TestCompactionDuringAStream(t *testing.T) {
	t.Parallel()
	client, want := streamStore(t)
	src, err := Pin(t.Context(), &streaming{Client: client}, "/registry/", Options{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	done := false
	got, err := names(scanned(t, src, Prefix(streamed), func(n int) {
		if done || n < 10 {
			return
		}
		done = true
		resp, err := client.Put(t.Context(), "/registry/later", "x")
		if err == nil {
			_, err = client.Compact(t.Context(), resp.Header.Revision)
		}
		if err != nil {
			t.Error(err)
		}
	}))
	var compacted *CompactedError
	whole := err == nil && slices.Equal(got, want)
	if !whole && (!errors.As(err, &compacted) || !slices.Equal(got, want[:len(got)])) {
		t.Errorf("%d keys of %d and %v, want all of them, or their beginning and a CompactedError", len(got), len(want), err)
	}
}
