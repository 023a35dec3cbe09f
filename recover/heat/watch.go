package heat

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/connectivity"
)

// Watcher is what sampling needs of an etcd client.
type Watcher interface {
	Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan
	RequestProgress(ctx context.Context) error
}

// Connection tells whether etcd can be reached; *grpc.ClientConn has it. A
// client's watch says nothing of that: it waits for etcd to come back.
type Connection interface {
	GetState() connectivity.State
	WaitForStateChange(ctx context.Context, from connectivity.State) bool
}

// Store is one etcd to watch. Connection may be nil.
type Store struct {
	Watcher    Watcher
	Connection Connection
	Prefix     string
}

// Options say how to sample.
type Options struct {
	// Keys and Levels are those of NewSample.
	Keys   int
	Levels Levels
	// By tells who wrote a value, "" if nothing does. It may be nil.
	By func(ctx context.Context, key string, value []byte) string
	// Timeout is how long etcd may take to begin watching, and Settle how
	// long Take waits for what is still under way, by default a second.
	Timeout, Settle time.Duration
	// Now is the clock.
	Now func() time.Time
}

// LostError says that a watch ended before it was told to.
type LostError struct{ Err error }

func (e *LostError) Error() string { return fmt.Sprintf("the watch ended: %v", e.Err) }

// Unwrap returns the reason.
func (e *LostError) Unwrap() error { return e.Err }

var (
	errConnection = errors.New("the connection to etcd was lost")
	errClosed     = errors.New("etcd closed it")
)

// Sampler watches stores and counts what is written. Its methods may be called
// from several goroutines, Take from one at a time.
type Sampler struct {
	opt    Options
	stores []Store
	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup
	lost   chan error
	caught chan int // the store of this number has sent everything

	mu     sync.Mutex
	broken bool // a watch has ended by itself
	sample *Sample
	began  time.Time
}

// Start begins to watch every store, from now on, and returns when all of them
// do. Ending ctx ends the start only; Close ends the watches.
func Start(ctx context.Context, stores []Store, opt Options) (*Sampler, error) {
	if opt.Settle <= 0 {
		opt.Settle = time.Second
	}
	s := &Sampler{opt: opt, stores: stores, lost: make(chan error, 2*len(stores)), caught: make(chan int, len(stores))}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.sample = NewSample(opt.Keys, opt.Levels)
	ready := make(chan error, len(stores))
	for i, store := range stores {
		s.done.Go(func() { s.follow(i, store, ready) })
	}
	timeout := time.NewTimer(opt.Timeout)
	defer timeout.Stop()
	for range stores {
		var err error
		select {
		case err = <-ready:
		case <-timeout.C:
			err = fmt.Errorf("etcd did not begin to watch within %s", opt.Timeout)
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			s.Close()
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began = opt.Now()
	return s, nil
}

// follow watches one store until the sampler is closed or the watch ends.
func (s *Sampler) follow(number int, store Store, ready chan<- error) {
	if store.Connection != nil {
		s.done.Go(func() { s.guard(store.Connection) })
	}
	// Without a revision a watch begins at the present. Fragments keep a
	// large transaction from exceeding the size of a message.
	events := store.Watcher.Watch(s.ctx, store.Prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify(), clientv3.WithFragment())
	begun := false
	end := func(err error) {
		if !begun {
			ready <- fmt.Errorf("watch %s: %w", store.Prefix, err)
		} else {
			s.lose(err)
		}
	}
	for resp := range events {
		switch {
		case resp.Err() != nil:
			end(resp.Err())
			return
		case resp.Created && !begun:
			begun = true
			ready <- nil
		case resp.IsProgressNotify():
			select {
			case s.caught <- number:
			default: // nobody has asked for so many
			}
		}
		s.count(resp.Events)
	}
	end(errClosed)
}

// guard waits for the connection to break.
func (s *Sampler) guard(c Connection) {
	for state := c.GetState(); c.WaitForStateChange(s.ctx, state); {
		if state == connectivity.Ready {
			s.lose(errConnection)
			return
		}
		state = c.GetState()
	}
}

// lose says that a watch has ended, unless the sampler was closed.
func (s *Sampler) lose(err error) {
	if s.ctx.Err() == nil {
		s.mu.Lock()
		s.broken = true
		s.mu.Unlock()
		select {
		case s.lost <- &LostError{err}:
		default: // said already
		}
	}
}

func (s *Sampler) count(events []*clientv3.Event) {
	for _, e := range events {
		w := Write{Op: Delete}
		if e.Type == clientv3.EventTypePut {
			w = Write{Op: Update, Bytes: int64(len(e.Kv.Value))}
			if e.IsCreate() {
				w.Op = Create
			}
			if s.opt.By != nil {
				w.By = s.opt.By(s.ctx, string(e.Kv.Key), e.Kv.Value)
			}
		}
		s.mu.Lock()
		s.sample.Add(e.Kv.Key, w)
		s.mu.Unlock()
	}
}

// Lost receives a *LostError when a watch ends by itself: the connection broke,
// or etcd cancelled it. What was counted until then is still there to Take.
func (s *Sampler) Lost() <-chan error { return s.lost }

// Take returns what was counted since the last call, or since Start, and begins
// anew. Everything that was written before the call is in it, as far as etcd
// has sent it within the settle time; Sample.Whole tells whether it has.
func (s *Sampler) Take() *Sample {
	whole := s.settle()
	s.mu.Lock()
	defer s.mu.Unlock()
	ended := s.opt.Now()
	taken := s.sample
	taken.took, taken.whole = ended.Sub(s.began), whole
	s.sample, s.began = NewSample(s.opt.Keys, s.opt.Levels), ended
	return taken
}

// settle waits until every store has sent what was written before, and reports
// whether all of them say so.
func (s *Sampler) settle() bool {
	s.mu.Lock()
	broken := s.broken
	s.mu.Unlock()
	if broken {
		return false
	}
	for len(s.caught) > 0 {
		<-s.caught // late, of the last time
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.opt.Settle)
	defer cancel()
	again := time.NewTicker(s.opt.Settle / asks)
	defer again.Stop()
	for caught := map[int]bool{}; ; {
		for i, store := range s.stores {
			if !caught[i] && store.Watcher.RequestProgress(ctx) != nil {
				return false
			}
		}
		for asked := true; asked; {
			select {
			case i := <-s.caught:
				caught[i] = true
			case <-again.C:
				asked = false
			case <-ctx.Done():
				return false
			}
			if len(caught) == len(s.stores) {
				return true
			}
		}
	}
}

// asks is how often etcd is asked within the settle time: it drops the question
// while it is behind with any event (etcd storage/mvcc/watchable_store.go,
// progressIfSync).
const asks = 10

// Close ends the watches and waits until they have ended.
func (s *Sampler) Close() {
	s.cancel()
	s.done.Wait()
}
