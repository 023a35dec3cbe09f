package snapshots

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// readAhead is how many pieces are received while others are written. A piece of etcd's is 32 KiB.
const readAhead = 64

// errSilent is why a stream is given up.
var errSilent = errors.New("etcd sends nothing any more")

// piece is what one call of Recv gave.
type piece struct {
	resp *etcdserverpb.SnapshotResponse
	err  error
}

// receive writes a snapshot to w and checks its sum as it comes.
func receive(ctx context.Context, src Snapshotter, w io.Writer, opt SaveOptions, saved *Saved) error {
	stream, cancel := context.WithCancel(ctx)
	defer cancel()
	pieces := make(chan piece, readAhead)
	go pull(stream, src, pieces)
	r := &receiver{opt: opt, out: w, sum: newStreamSum()}
	if r.opt.Stall <= 0 {
		r.opt.Stall = defaultStall
	}
	err := r.all(ctx, pieces)
	if err == nil {
		err = r.sum.check()
	}
	if err != nil {
		return err
	}
	saved.Bytes, saved.SHA256, saved.StorageVersion = r.sum.n, hex.EncodeToString(r.sum.tail), r.version
	return nil
}

// pull asks for one piece after the other until there is an error, io.EOF included.
func pull(ctx context.Context, src Snapshotter, pieces chan<- piece) {
	stream, err := src.Snapshot(ctx)
	for {
		p := piece{err: err}
		if err == nil {
			p.resp, p.err = stream.Recv()
		}
		select {
		case pieces <- p:
		case <-ctx.Done():
			return
		}
		if p.err != nil {
			return
		}
	}
}

// receiver is one save on its way.
type receiver struct {
	opt     SaveOptions
	out     io.Writer
	sum     *streamSum
	total   int64
	version string
}

func (r *receiver) all(ctx context.Context, pieces <-chan piece) error {
	silence := time.NewTimer(r.opt.Stall)
	defer silence.Stop()
	for {
		var p piece
		select {
		case p = <-pieces:
		case <-silence.C:
			return r.cutOff(fmt.Errorf("%w, for %s", errSilent, r.opt.Stall))
		case <-ctx.Done():
			return ctx.Err()
		}
		switch {
		case errors.Is(p.err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case p.err != nil:
			return r.cutOff(p.err)
		case len(p.resp.GetBlob()) == 0:
			// A server whose disk fails sends empty pieces for ever (v3rpc/maintenance.go).
			continue
		}
		if err := r.take(p.resp); err != nil {
			return err
		}
		silence.Reset(r.opt.Stall) // writing counts for nothing
	}
}

func (r *receiver) cutOff(err error) error {
	return fmt.Errorf("%w: %d bytes came, then: %w", ErrCutOff, r.sum.n, err)
}

func (r *receiver) take(resp *etcdserverpb.SnapshotResponse) error {
	if r.sum.n == 0 {
		// RemainingBytes does not count the sum.
		r.total = int64(min(resp.RemainingBytes, 1<<62)) + int64(len(resp.Blob)) + sha256.Size
		r.version = resp.Version
		if r.opt.Room != nil {
			if err := r.opt.Room(r.total); err != nil {
				return err
			}
		}
	}
	if _, err := r.out.Write(resp.Blob); err != nil {
		return err
	}
	r.sum.add(resp.Blob)
	if r.opt.Received != nil {
		r.opt.Received(len(resp.Blob), r.total)
	}
	return nil
}

// streamSum is the sum of all bytes but the last 32, which are what it should be.
type streamSum struct {
	h    hash.Hash
	tail []byte
	n    int64
}

func newStreamSum() *streamSum {
	return &streamSum{h: sha256.New(), tail: make([]byte, 0, 2*sha256.Size)}
}

func (s *streamSum) add(b []byte) {
	s.n += int64(len(b))
	if over := len(b) - sha256.Size; over >= 0 {
		s.h.Write(s.tail)
		s.h.Write(b[:over])
		s.tail = append(s.tail[:0], b[over:]...)
		return
	}
	s.tail = append(s.tail, b...)
	if over := len(s.tail) - sha256.Size; over > 0 {
		s.h.Write(s.tail[:over])
		s.tail = append(s.tail[:0], s.tail[over:]...)
	}
}

// check is called at the end. A db file is made of whole pages, so that its length tells whether the sum has come.
func (s *streamSum) check() error {
	const sector = 512
	switch {
	case s.n%sector != sha256.Size:
		return fmt.Errorf("%w: %d bytes came, and no sha256 after them", ErrCutOff, s.n)
	case !bytes.Equal(s.h.Sum(nil), s.tail):
		return fmt.Errorf("%w: the sha256 at its end does not match its %d bytes", ErrChecksum, s.n-sha256.Size)
	}
	return nil
}
