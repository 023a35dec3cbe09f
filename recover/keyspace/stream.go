package keyspace

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// streamer is a Getter that can ask for one long answer in chunks. etcd from
// 3.7 gives it, each chunk of about a request's size and read by itself
// (server/etcdserver/v3_server.go, rangeStream), and walks its index once.
type streamer interface {
	GetStream(ctx context.Context, key string, opts ...clientv3.OpOption) (clientv3.GetStreamChan, error)
}

// streamWorth is how many keys must remain after the first page: for fewer a
// page or two will do.
const streamWorth = 4 * maxPage

// stream reads what b has left as one stream, where the server has that. What
// it could not read is left to b: an old server does not know the request, and
// a stream that breaks off is not tried again.
func (g *reading) stream(ctx context.Context, b *bounds, opts []clientv3.OpOption, pages chan<- page) (*bounds, error) {
	kv, ok := g.s.kv.(streamer)
	if !ok || b.done() || g.s.noStream.Load() || b.ends[0].left < streamWorth {
		return b, nil
	}
	rest := &chunks{reading: g, pos: b.pos, whole: b.ends[0]}
	err := rest.read(ctx, kv, opts, pages)
	switch {
	case err == nil && rest.whole.left == 0:
		return &bounds{}, nil
	case err == nil:
		return nil, fmt.Errorf("etcd streamed %d keys less than it counted at the same revision", rest.whole.left)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case status.Code(err) == codes.Unimplemented:
		g.s.noStream.Store(true)
	}
	if lie := (*streamError)(nil); errors.As(err, &lie) {
		return nil, err
	}
	g.s.debug("read on in pages", "because", err)
	if rest.pos == b.pos {
		return b, nil // and all that it knows
	}
	b = newBounds(Range{rest.pos, rest.whole.key})
	b.ends[0].left = rest.whole.left
	return b, nil
}

// streamError says that a stream contradicts what was asked for.
type streamError struct{ text string }

func (e *streamError) Error() string { return e.text }

// chunks is a stream on its way.
type chunks struct {
	*reading
	pos   string // everything before it was handed on
	whole end
}

func (c *chunks) read(ctx context.Context, kv streamer, opts []clientv3.OpOption, pages chan<- page) error {
	ctx, cancel := context.WithCancel(ctx)
	opts = append(opts, clientv3.WithRange(c.whole.key), clientv3.WithRev(c.rev))
	if c.s.opt.Serializable {
		opts = append(opts, clientv3.WithSerializable())
	}
	stream, err := kv.GetStream(ctx, c.pos, opts...)
	if err != nil {
		cancel()
		return err
	}
	defer func() {
		cancel()
		go func() { // the client's own goroutine waits until all is taken
			for range stream {
			}
		}()
	}()
	c.requests++
	for {
		chunk, err := c.next(ctx, stream)
		if err != nil || chunk == nil {
			return err
		}
		if err := c.take(chunk); err != nil {
			return err
		}
		select {
		case pages <- page{kvs: chunk}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// next waits for a chunk, at most as long as for an answer; nil at the end.
func (c *chunks) next(ctx context.Context, stream clientv3.GetStreamChan) ([]*mvccpb.KeyValue, error) {
	began := c.s.now()
	timer := time.NewTimer(c.s.opt.Timeout)
	defer timer.Stop()
	for {
		select {
		case chunk, ok := <-stream:
			if !ok {
				return nil, nil
			}
			if err := chunk.Err(); err != nil {
				return nil, err
			}
			if len(chunk.Kvs) > 0 {
				return chunk.Kvs, c.rest(ctx, c.s.now().Sub(began), int64(len(chunk.Kvs)))
			}
		case <-timer.C:
			return nil, context.DeadlineExceeded
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take holds a chunk against what was asked for and counted.
func (c *chunks) take(kvs []*mvccpb.KeyValue) error {
	n := int64(len(kvs))
	if n > c.whole.left {
		return &streamError{"etcd streams more keys than it counted at the same revision"}
	}
	pos := c.pos
	for _, kv := range kvs {
		key := string(kv.Key)
		if key < pos || !before(key, c.whole.key) {
			return &streamError{fmt.Sprintf("etcd streams key %q behind %q, of what lies before %q", key, pos, c.whole.key)}
		}
		pos = key + "\x00"
	}
	c.pos = pos
	c.whole.left -= n
	c.keys += n
	c.visits += n
	return nil
}
