package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// floorCommand is the first argument that makes this test binary what the
// commands are compared with: floorCommand MODE ENDPOINT-OR-FILE.
const floorCommand = "floor"

// floorMode is a bare way to read the pods.
type floorMode string

const (
	floorValues floorMode = "values" // the cursor, nothing decoded
	floorKeys   floorMode = "keys"   // the same without values
	floorCount  floorMode = "count"  // one count of everything
	floorOpen   floorMode = "open"   // pages of 500, each up to the end of the prefix
	floorUnary  floorMode = "unary"  // one answer with everything
	floorFile   floorMode = "file"   // the bytes of a file
)

const (
	floorPrefix = "/registry/pods/"
	floorLimit  = 500
	// The collector is set as in cmd/etcd-rescue, so that it is the work
	// that is compared.
	floorGCPercent   = 400
	floorMemoryLimit = 96 << 20
)

// floorMain is the process. It says how much it read as commands do with
// --log-level debug.
func floorMain(args []string) int {
	if len(args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: "+floorCommand+" MODE ENDPOINT-OR-FILE")
		return 2
	}
	debug.SetGCPercent(floorGCPercent)
	if floorMode(args[0]) != floorUnary {
		// It would spend its time on trying to fit.
		debug.SetMemoryLimit(floorMemoryLimit)
	}
	var w wire
	keys, err := w.read(context.Background(), floorMode(args[0]), args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintf(os.Stderr, "msg=read visits=%d keys=%d requests=%d\n", w.visits.Load(), keys, w.requests.Load())
	return 0
}

// wire counts what goes over a connection, whichever calls are made.
type wire struct{ visits, requests atomic.Int64 }

func (w *wire) read(ctx context.Context, mode floorMode, target string) (keys int64, err error) {
	if mode == floorFile {
		return 0, readFile(target)
	}
	c, err := clientv3.New(clientv3.Config{
		Context: ctx, Endpoints: []string{target}, DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(w.unary), grpc.WithChainStreamInterceptor(w.stream)},
	})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	switch mode {
	case floorCount:
		resp, err := c.Get(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			return 0, err
		}
		return resp.Count, nil
	case floorOpen:
		return readOpen(ctx, c)
	case floorUnary:
		resp, err := c.Get(ctx, floorPrefix, clientv3.WithPrefix())
		if err != nil {
			return 0, err
		}
		return int64(len(resp.Kvs)), nil
	case floorValues, floorKeys:
		src, err := keyspace.Pin(ctx, c, "/registry/", keyspace.Options{Timeout: time.Minute})
		if err != nil {
			return 0, err
		}
		err = src.Scan(ctx, keyspace.Prefix(floorPrefix), mode == floorKeys, func(*mvccpb.KeyValue) error {
			keys++
			return nil
		})
		return keys, err
	}
	return 0, fmt.Errorf("unknown mode %q", mode)
}

// readOpen is the usual loop.
func readOpen(ctx context.Context, c *clientv3.Client) (keys int64, err error) {
	end, rev := clientv3.GetPrefixRangeEnd(floorPrefix), int64(0)
	for start := floorPrefix; ; {
		resp, err := c.Get(ctx, start, clientv3.WithRange(end), clientv3.WithLimit(floorLimit), clientv3.WithRev(rev))
		if err != nil {
			return keys, err
		}
		keys += int64(len(resp.Kvs))
		if !resp.More {
			return keys, nil
		}
		start, rev = string(resp.Kvs[len(resp.Kvs)-1].Key)+"\x00", resp.Header.Revision
	}
}

// readFile reads as cat does.
func readFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for buf := make([]byte, 128<<10); ; {
		if _, err := f.Read(buf); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (w *wire) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if r, ok := reply.(*etcdserverpb.RangeResponse); ok {
		w.requests.Add(1)
		w.visits.Add(r.Count)
	}
	return err
}

func (w *wire) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, cc, method, opts...)
	if err == nil && method == etcdserverpb.KV_RangeStream_FullMethodName {
		w.requests.Add(1)
		s = &countedStream{s, w}
	}
	return s, err
}

// countedStream adds up what a RangeStream visits: each key that it sends,
// once, for it counts only as it goes.
type countedStream struct {
	grpc.ClientStream
	w *wire
}

func (s *countedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if r, ok := m.(*etcdserverpb.RangeStreamResponse); ok && err == nil {
		s.w.visits.Add(int64(len(r.GetRangeResponse().GetKvs())))
	}
	return err
}
