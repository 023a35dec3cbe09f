package alive

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

const (
	// mostKeys is how many keys of a kind are looked at. No cluster has so
	// many API servers.
	mostKeys = 100
	// longestGap is how much silence the time between two Looks may add: in a
	// longer one etcd itself may have been away, and nobody could renew.
	longestGap = 10 * time.Second
)

// Watch compares what a store shows from one Look to the next. It is not safe
// for concurrent use.
type Watch struct {
	// Frozen says why nobody can renew anything, as "etcd takes no writes
	// (NOSPACE)"; "" if they can. While it is set nothing is taken for Gone,
	// because leases then run out under living API servers, which go on serving
	// reads and watches. It may be changed between Looks.
	Frozen string

	reader *codec.Reader
	now    func() time.Time
	last   time.Time // of the last Look that succeeded
	seen   map[string]*past
}

// past is what earlier Looks saw of a key.
type past struct {
	name   string
	rev    int64
	silent time.Duration // of watching, without a change
	moved  time.Time     // when a Look last found it changed
}

// New returns a Watch of the store that reader understands. now is the clock
// that renewals are compared with; clocks of API servers may differ from it by
// up to Window before their Leases say nothing any more.
func New(reader *codec.Reader, now func() time.Time) *Watch {
	return &Watch{reader: reader, now: now, seen: map[string]*past{}}
}

// Look reads the keys and says who lives. src must show the present: a pinned
// source is good for one Look, [keyspace.Current] for any number.
//
// One Look tells all of a cluster from 1.26 on, whose API servers renew an
// identity Lease (KEP-1965). Of an older one it tells who may live: it takes a
// second Look, 10 s later, to see a masterlease move. A store that was just
// restored shows the masterleases of its snapshot for 15 s.
//
// What it cannot tell: for a minute or two after etcd itself was away, API
// servers live that have not found back to it, for they try less and less
// often; a first Look then takes them for Gone. So it does with API servers with
// --endpoint-reconciler-type=none whose clock differs from this one by more than
// Window. And a kube-controller-manager with --leader-elect=false and an old
// Lease left behind counts as Gone after Window of Looks.
//
// An error is of reading; the Watch is then as it was before.
func (w *Watch) Look(ctx context.Context, src keyspace.Source) (View, error) {
	f, err := w.find(ctx, src)
	if err != nil {
		return View{}, err
	}
	return w.judge(f), nil
}

// found is what one Look reads.
type found struct {
	masters    []sign // masterleases
	identities []sign // identity Leases of API servers
	manager    *sign
	scheduler  *sign
}

var errEnough = errors.New("seen enough")

// find reads the keys.
func (w *Watch) find(ctx context.Context, src keyspace.Source) (found, error) {
	var f found
	masters, leases := w.reader.Prefix+"masterleases/", w.reader.Prefix+"leases/kube-system/"
	err := scan(ctx, src, keyspace.Prefix(masters), true, func(kv *mvccpb.KeyValue) {
		name := strings.TrimPrefix(string(kv.Key), masters)
		f.masters = append(f.masters, sign{key: string(kv.Key), name: clip(name), rev: kv.ModRevision})
	})
	if err != nil {
		return f, fmt.Errorf("read the API servers' masterleases: %w", err)
	}
	// Their names are apiserver-HASH (k8s.io/apiserver pkg/server/config.go).
	own := keyspace.Range{Start: leases + "apiserver-", End: leases + "apiserver."}
	err = scan(ctx, src, own, false, func(kv *mvccpb.KeyValue) {
		if s, ok := lease(ctx, w.reader, kv, true); ok {
			f.identities = append(f.identities, s)
		}
	})
	if err != nil {
		return f, fmt.Errorf("read the API servers' Leases: %w", err)
	}
	kvs, err := src.GetAll(ctx, []string{leases + Manager, leases + Scheduler})
	if err != nil {
		return f, fmt.Errorf("read the Leases of %s and %s: %w", Manager, Scheduler, err)
	}
	for key, to := range map[string]**sign{leases + Manager: &f.manager, leases + Scheduler: &f.scheduler} {
		if kv := kvs[key]; kv != nil {
			s, _ := lease(ctx, w.reader, kv, false)
			*to = &s
		}
	}
	return f, nil
}

// scan hands out the first mostKeys keys of r.
func scan(ctx context.Context, src keyspace.Source, r keyspace.Range, keysOnly bool, fn func(*mvccpb.KeyValue)) error {
	n := 0
	err := src.Scan(ctx, r, keysOnly, func(kv *mvccpb.KeyValue) error {
		if n++; n > mostKeys {
			return errEnough
		}
		fn(kv)
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// observe notes what has changed since the last Look.
func (w *Watch) observe(f found, now time.Time) {
	gap := min(max(now.Sub(w.last), 0), longestGap)
	if w.last.IsZero() || w.Frozen != "" {
		gap = 0
	}
	w.last = now
	signs := append(append([]sign{}, f.masters...), f.identities...)
	for _, s := range []*sign{f.manager, f.scheduler} {
		if s != nil {
			signs = append(signs, *s)
		}
	}
	old := w.seen
	w.seen = make(map[string]*past, len(signs))
	for _, s := range signs {
		p := &past{name: s.name, rev: s.rev}
		if before := old[s.key]; before != nil {
			p.moved, p.silent = before.moved, before.silent+gap
			if before.rev != s.rev {
				p.moved, p.silent = now, 0
			}
		}
		w.seen[s.key] = p
	}
	w.remember(old)
}

// remember keeps masterleases that have vanished: their API servers are known
// to be gone.
func (w *Watch) remember(old map[string]*past) {
	kept := 0
	for key, p := range old {
		if w.seen[key] == nil && strings.HasPrefix(key, w.reader.Prefix+"masterleases/") && kept < mostKeys {
			kept++
			w.seen[key] = &past{name: p.name, moved: p.moved}
		}
	}
}
