package keyspace

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	firstPage = 100
	minPage   = 4
	maxPage   = 1000
	// maxKeysPage is for pages without values, which weigh next to nothing.
	maxKeysPage = 5000
	// pageBytes is what one answer should weigh: etcd builds it in memory
	// as a whole, and so does the client.
	pageBytes = 2 << 20
	// burstBytes is what one answer may weigh if all its values were as
	// large as the largest of late. Only the first large values behind
	// many small ones, which nothing announces, can weigh more.
	burstBytes = 8 << 20
)

// pageSize is how many keys the next page is to hold.
type pageSize struct {
	most, limit int
	largest     float64 // value of late
}

func newPageSize(keysOnly bool) *pageSize {
	s := &pageSize{most: maxPage, limit: firstPage}
	if keysOnly {
		s.most = maxKeysPage
	}
	return s
}

// saw judges by the last page that held anything.
func (s *pageSize) saw(kvs []*mvccpb.KeyValue) {
	if len(kvs) == 0 {
		return
	}
	s.largest *= 0.9
	weight := 0
	for _, kv := range kvs {
		size := len(kv.Key) + len(kv.Value)
		weight += size
		s.largest = max(s.largest, float64(size))
	}
	s.limit = min(pageBytes*len(kvs)/max(weight, 1), int(burstBytes/max(s.largest, 1)), s.most)
	s.limit = max(s.limit, minPage)
}

// reading is one Scan on its way: what it cost, and how fast etcd answers.
type reading struct {
	s                      *Live
	rev                    int64 // that all its pages are read at
	size                   *pageSize
	keys, visits, requests int64
	calm                   time.Duration // for one key, when etcd was quickest
	rested                 time.Duration
}

// Reading on must not be what finishes etcd off. It says itself when it has
// too much to do; before that it gets slower.
const (
	// slowAnswer is how long an answer takes at least before it counts as
	// slow, slowFactor how much longer than the quickest for each key.
	slowAnswer = 100 * time.Millisecond
	slowFactor = 8
	// readVisits is how many index visits cost etcd as much as to read one
	// key: about 0.5 and 15 microseconds.
	readVisits = 32
	// maxRest is the longest pause after a slow answer.
	maxRest = 2 * time.Second
	// maxTries is how often one page is asked for.
	maxTries = 8
)

// page asks for one page, again if etcd refuses it for now.
func (g *reading) page(ctx context.Context, r Range, opts []clientv3.OpOption) (*clientv3.GetResponse, error) {
	for try := 1; ; try++ {
		began := g.s.now()
		resp, err := g.s.getAt(ctx, g.rev, r.Start, append(opts, clientv3.WithRange(r.End), clientv3.WithLimit(int64(g.size.limit)))...)
		if err == nil {
			g.keys += int64(len(resp.Kvs))
			g.visits += resp.Count
			g.requests++
			if g.rev == 0 {
				g.rev = resp.Header.Revision // the pages of one scan belong together
			}
			return resp, g.rest(ctx, g.s.now().Sub(began), int64(len(resp.Kvs))+resp.Count/readVisits)
		}
		if !errors.Is(err, rpctypes.ErrTooManyRequests) || try == maxTries {
			return nil, err
		}
		g.s.debug("etcd has too many requests", "try", try)
		if err := g.pause(ctx, min(50*time.Millisecond<<try, maxRest)); err != nil {
			return nil, err
		}
	}
}

// rest pauses after a slow answer for as long as that took, so that etcd has
// at least half of its time for others. Answers are compared by the time for
// each key that etcd read, or that its index went over.
func (g *reading) rest(ctx context.Context, took time.Duration, keys int64) error {
	const few = 64
	each := took / time.Duration(max(keys, few))
	if keys >= few && (g.calm == 0 || each < g.calm) {
		g.calm = each
	}
	g.calm += g.calm / 64 // what was long ago may not be possible now
	if g.calm == 0 || took < slowAnswer || each < slowFactor*g.calm {
		return nil
	}
	g.s.debug("etcd answers slowly", "took", took, "each", each, "quickest", g.calm)
	return g.pause(ctx, min(took, maxRest))
}

func (g *reading) pause(ctx context.Context, d time.Duration) error {
	g.rested += d
	return g.s.sleep(ctx, d)
}

// report logs what the scan cost etcd.
func (g *reading) report(r Range) {
	g.s.debug("read", "from", r.Start, "to", r.End, "revision", g.rev, "keys", g.keys, "visits", g.visits, "requests", g.requests, "rested", g.rested)
}

// sleep waits, or returns ctx's error.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Live) debug(msg string, args ...any) {
	if s.opt.Log != nil {
		s.opt.Log.Log(context.Background(), slog.LevelDebug, msg, args...)
	}
}

// readPages reads r page by page, each as the next one that bounds chooses,
// or, once it is known to be long, as a stream.
func (s *Live) readPages(ctx context.Context, r Range, keysOnly bool, pages chan<- page) error {
	g := &reading{s: s, rev: s.rev, size: s.size(keysOnly)}
	defer g.report(r)
	var opts []clientv3.OpOption
	if keysOnly {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	opts = opts[:len(opts):len(opts)]
	b := newBounds(r)
	if err := g.onePage(ctx, b, opts, pages); err != nil {
		return err
	}
	b, err := g.stream(ctx, b, opts, pages)
	for err == nil && !b.done() {
		err = g.onePage(ctx, b, opts, pages)
	}
	return err
}

// onePage reads the next page and hands it on.
func (g *reading) onePage(ctx context.Context, b *bounds, opts []clientv3.OpOption, pages chan<- page) error {
	limit := g.size.limit
	next := b.next(limit)
	resp, err := g.page(ctx, next, opts)
	if err != nil {
		return err
	}
	keys := make([]string, len(resp.Kvs))
	for i, kv := range resp.Kvs {
		keys[i] = string(kv.Key)
	}
	if err := b.got(next, limit, keys, resp.Count); err != nil {
		return err
	}
	g.size.saw(resp.Kvs)
	if len(keys) == 0 {
		return nil
	}
	select {
	case pages <- page{kvs: resp.Kvs}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
