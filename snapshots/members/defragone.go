package members

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// everyWord is how often somebody who waits is told so.
	everyWord = 5 * time.Second
	// pollPause is between two questions to a member whose answer got lost.
	pollPause = 500 * time.Millisecond
	// calmAnswers is how many answers in a row it takes to believe that nothing of a lost request is still to come: it may
	// lie unread in the member's socket.
	calmAnswers = 3
	// mostTries is how often a request is made whose answer got lost and that did nothing.
	mostTries = 2
)

// one defragments the member of the step. A nil result means that nothing was asked of it.
func (d *defragmenter) one(ctx context.Context) (*Defragmented, error) {
	m := d.step.Member
	client, err := d.Dial(ctx, m.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", m.Label(), err)
	}
	defer client.Close()
	// What leads to another member by now would have that one defragmented.
	if _, err := d.answers(ctx, client, m); err != nil {
		return nil, fmt.Errorf("ask %s how it is: %w", m.Label(), err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.tell(DefragEvent{Stage: DefragBegun})
	result := &Defragmented{Before: m}
	w := &waiting{defragmenter: d, begun: d.Now(), interrupted: ctx.Done()}
	// From here on nothing is given up: the member goes on whether we wait or not.
	ctx = context.WithoutCancel(ctx)
	for range mostTries {
		err := w.request(ctx, client)
		lost := isLost(err)
		if err != nil && !lost {
			result.Err = fmt.Errorf("defragment %s: %w", m.Label(), err)
		}
		if lost {
			w.lost = err
		}
		result.After = w.answer(ctx, client, lost)
		result.Unsure = lost && result.After.DBSize >= m.DBSize
		if !result.Unsure {
			break
		}
	}
	result.Took = d.Now().Sub(w.begun)
	switch {
	case result.Err != nil:
		return result, result.Err
	case result.Unsure:
		return result, fmt.Errorf("defragment %s: the connection broke, and its file is no smaller: %w", m.Label(), w.lost)
	}
	return result, nil
}

// isLost tells an answer that did not arrive from one that etcd gave. etcd's own failures have other codes: Unknown for
// those of the disk, PermissionDenied, Unimplemented (api/v3rpc/rpctypes).
func isLost(err error) bool {
	if err == nil {
		return false
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return true
	}
	code := status.Code(err)
	if known, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		code = known.Code()
	}
	return code == grpccodes.Unavailable || code == grpccodes.Canceled || code == grpccodes.DeadlineExceeded || code == grpccodes.Internal
}

// waiting is the wait for one member.
type waiting struct {
	*defragmenter
	begun, told time.Time
	interrupted <-chan struct{} // nil once that was told
	lost        error
}

// request asks the member to defragment itself, and returns when that call does. It has no deadline: while the
// connection lives, the member is at it.
func (w *waiting) request(ctx context.Context, client *clientv3.Client) error {
	answer := make(chan error, 1)
	go func() {
		// On the connection on which the member has just said who it is; clientv3's own method makes another one.
		_, err := etcdserverpb.NewMaintenanceClient(client.ActiveConnection()).Defragment(ctx, &etcdserverpb.DefragmentRequest{})
		answer <- rpctypes.Error(err)
	}()
	tick := time.NewTicker(min(w.Patience, everyWord))
	defer tick.Stop()
	for {
		select {
		case err := <-answer:
			return err
		case <-tick.C:
			w.word()
		case <-w.interrupted:
			w.interrupt()
		}
	}
}

// answer returns the member as it is when it answers again, however long that takes.
func (w *waiting) answer(ctx context.Context, client *clientv3.Client, lost bool) Member {
	need := 1
	if lost {
		need = calmAnswers
		w.say()
	}
	for got := 0; ; {
		m, err := w.answers(ctx, client, w.step.Member)
		if err == nil && w.inflight(ctx, []Member{m}) == nil {
			got++
		} else {
			got = 0
		}
		if got >= need {
			return m
		}
		w.word()
		t := time.NewTimer(pollPause)
		select {
		case <-t.C:
		case <-w.interrupted:
			w.interrupt()
		}
		t.Stop()
	}
}

// answers asks the member for its status, and for a read of its own store, both of which wait for a defragmentation
// (etcdserver/server.go: Defragment holds the lock of Backend; backend.go: defrag that of reads).
func (d *defragmenter) answers(ctx context.Context, client *clientv3.Client, m Member) (Member, error) {
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	resp, err := etcdserverpb.NewMaintenanceClient(client.ActiveConnection()).Status(ctx, &etcdserverpb.StatusRequest{})
	if err != nil {
		return m, rpctypes.Error(err)
	}
	if id := resp.Header.GetMemberId(); id != m.ID {
		return m, fmt.Errorf("another member answers there: %x", id)
	}
	if _, err := client.Get(ctx, "health", clientv3.WithCountOnly(), clientv3.WithSerializable()); err != nil && !errors.Is(err, rpctypes.ErrPermissionDenied) {
		return m, err
	}
	now := Member{ID: m.ID, Name: m.Name, ClientURLs: m.ClientURLs, PeerURLs: m.PeerURLs}
	now.fill(answer{endpoint: m.Endpoint, status: (*clientv3.StatusResponse)(resp)})
	return now, nil
}

// word tells now and then that it takes longer.
func (w *waiting) word() {
	now := w.Now()
	if w.lost == nil && now.Sub(w.begun) < w.Patience || now.Sub(w.told) < min(w.Patience, everyWord) {
		return
	}
	w.say()
}

func (w *waiting) say() {
	w.told = w.Now()
	text := "still at it"
	if w.lost != nil {
		text = fmt.Sprintf("the connection broke, but it goes on by itself (%v)", w.lost)
	}
	w.tell(DefragEvent{Stage: DefragWaiting, For: w.told.Sub(w.begun), Text: text})
}

func (w *waiting) interrupt() {
	w.interrupted = nil
	w.tell(DefragEvent{Stage: DefragWaiting, For: w.Now().Sub(w.begun), Text: "interrupted: no other member is begun, and this one cannot be stopped"})
}
