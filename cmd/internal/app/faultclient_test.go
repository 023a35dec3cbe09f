//go:build faults

package app

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/codec"
)

// chronicle is all that happens in a store, in order.
type chronicle struct {
	cancel context.CancelFunc

	mu     sync.Mutex
	events []*clientv3.Event
	others map[int64]bool // revisions that the other client made
	last   int64
	news   chan struct{} // closed and replaced with every answer
	err    error
}

// watchEverything begins after revision rev. It is told of every change before
// that is compacted, with the bytes that were there.
func watchEverything(client *clientv3.Client, rev int64) *chronicle {
	ctx, cancel := context.WithCancel(context.Background())
	h := &chronicle{cancel: cancel, others: map[int64]bool{}, last: rev, news: make(chan struct{})}
	events := client.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(rev+1), clientv3.WithPrevKV())
	go func() {
		for r := range events {
			h.add(r)
		}
		h.add(clientv3.WatchResponse{Canceled: true})
	}()
	return h
}

func (h *chronicle) add(r clientv3.WatchResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := r.Err(); err != nil && h.err == nil {
		h.err = fmt.Errorf("the watch of the history ended: %w", err)
	}
	for _, e := range r.Events {
		h.last = e.Kv.ModRevision
		if bytes.HasPrefix(e.Kv.Key, []byte(fillPrefix)) {
			e.Kv.Value, e.PrevKv = nil, nil
		}
		h.events = append(h.events, e)
	}
	close(h.news)
	h.news = make(chan struct{})
}

// until waits until ok, which is asked with the history locked.
func (h *chronicle) until(ctx context.Context, ok func() bool) error {
	for {
		h.mu.Lock()
		done, news, err := ok(), h.news, h.err
		h.mu.Unlock()
		if done || err != nil {
			return err
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (h *chronicle) reach(ctx context.Context, rev int64) error {
	return h.until(ctx, func() bool { return h.last >= rev })
}

func (h *chronicle) reached() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// changed waits for n changes by the command under test; an error ends the
// wait as well, and is found later.
func (h *chronicle) changed(ctx context.Context, n int) {
	_ = h.until(ctx, func() bool { return len(h.lockedOurs()) >= n })
}

func (h *chronicle) ours() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.lockedOurs())
}

// lockedOurs are the changes that the command under test made.
func (h *chronicle) lockedOurs() []*clientv3.Event {
	var ours []*clientv3.Event
	for _, e := range h.events {
		if !h.others[e.Kv.ModRevision] && !bytes.HasPrefix(e.Kv.Key, []byte(fillPrefix)) {
			ours = append(ours, e)
		}
	}
	return ours
}

// all returns what happened, and which of it the command under test did.
func (h *chronicle) all() (events, ours []*clientv3.Event, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.events[:len(h.events):len(h.events)], h.lockedOurs(), h.err
}

func (h *chronicle) summary() string {
	events, ours, _ := h.all()
	return fmt.Sprintf("%d changes, %d of them ours", len(events), len(ours))
}

func (h *chronicle) byOther(rev int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.others[rev] = true
}

// anotherClient changes, deletes and makes again what the command works on.
func anotherClient(ctx context.Context, w *faultWorld) error {
	keys := w.podKeys()
	for range 400 {
		if ctx.Err() != nil {
			return nil
		}
		key := keys[w.random.IntN(len(keys))]
		w.touched.add(key)
		if err := w.disturb(key); err != nil {
			return err
		}
	}
	return nil
}

// disturb does something to one key.
func (w *faultWorld) disturb(key string) error {
	// Not the fault's context: a change that nobody knows the end of would be
	// taken for one of ours.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r, err := w.client.Get(ctx, key)
	if err != nil {
		return err
	}
	whole := w.whole.keys[key].Value
	if len(r.Kvs) == 0 {
		switch w.random.IntN(4) {
		case 0: // the same object again, bytes and all
			return w.change(ctx, key, 0, clientv3.OpPut(key, string(whole)))
		case 1:
			return w.change(ctx, key, 0, clientv3.OpPut(key, string(w.another(whole))))
		case 2:
			return w.change(ctx, key, 0, clientv3.OpPut(key, string(disown(w.another(whole)))))
		}
		return nil
	}
	now := r.Kvs[0]
	switch w.random.IntN(5) {
	case 0:
		return w.change(ctx, key, now.ModRevision, clientv3.OpPut(key, string(touch(now.Value))))
	case 1:
		return w.change(ctx, key, now.ModRevision, clientv3.OpPut(key, string(disown(now.Value))))
	case 2:
		return w.change(ctx, key, now.ModRevision, clientv3.OpDelete(key))
	case 3:
		return w.remake(ctx, now, w.another(now.Value))
	}
	return w.remake(ctx, now, disown(w.another(now.Value)))
}

func (w *faultWorld) remake(ctx context.Context, now *mvccpb.KeyValue, value []byte) error {
	key := string(now.Key)
	if err := w.change(ctx, key, now.ModRevision, clientv3.OpDelete(key)); err != nil {
		return err
	}
	return w.change(ctx, key, 0, clientv3.OpPut(key, string(value)))
}

// change is guarded, as every client's is. That somebody was faster is no
// error.
func (w *faultWorld) change(ctx context.Context, key string, rev int64, op clientv3.Op) error {
	r, err := w.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", rev)).Then(op).Commit()
	if err == nil && r.Succeeded {
		w.history.byOther(r.Header.Revision)
	}
	return err
}

// another is the object with another UID.
func (w *faultWorld) another(value []byte) []byte {
	uid := codec.DecodeHead(value).Meta.UID
	next := fmt.Sprintf("%08x-0000-4000-8000-%012x", w.random.Uint32(), w.random.Uint64()&0xffffffffffff)
	return bytes.Replace(value, []byte(uid), []byte(next), 1)
}

// disown takes the object out of the selection.
func disown(value []byte) []byte { return bytes.Replace(value, ownedBy, disowned, 1) }

// touch changes a finalizer, as controllers do.
func touch(value []byte) []byte {
	return bytes.Replace(value, []byte("batch.kubernetes.io/job-tracking"), []byte("batch.kubernetes.io/job-trackine"), 1)
}
