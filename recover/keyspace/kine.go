package keyspace

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// kine answers etcd's calls from an SQL table. What it makes of a range
// depends on its version (k3s-io/kine pkg/server/list.go):
//
//   - up to 0.13 at least, the end of a range is turned into a prefix, by its
//     last byte minus one and a "/" where none is, and the start says only
//     where to go on. Of any range that is no whole prefix it lists and counts
//     other keys than were meant. It knows no serializable read and no
//     keys-only; a single key that ends in "/" is the first key below it; and
//     names are compared by LIKE, to which "_" is any letter. Up to 0.11 keys
//     come in the order of their revisions, and a page goes on only behind a
//     key that exists.
//   - from 0.16 ranges are etcd's, but for those up to the end of all keys,
//     which are empty.
//
// What is right everywhere: a single key that does not end in "/"; pages of a
// whole prefix that ends in "/", each behind the last key of the one before;
// a count of such a prefix; all of it at one revision.

const (
	// kineHealth lies below the prefix in every kine, and in no etcd.
	kineHealth = "health"
	// kineRoot is below what all keys are that kine holds for Kubernetes.
	kineRoot = "/"
	// kineHeld is how many bytes of keys and values are held at most, to sort
	// what a kine lists by revision.
	kineHeld = 64 << 20
)

// KineError says that a kine's answers contradict each other, so that nothing
// made of them can be trusted.
type KineError struct{ Prefix, Text string }

func (e *KineError) Error() string { return fmt.Sprintf("kine, below %s: %s", e.Prefix, e.Text) }

// wholeAround is the smallest whole prefix that covers r. For a range that
// reaches beyond kineRoot it is kineRoot: kine holds nothing else but its own
// books.
func wholeAround(r Range) string {
	if r.End == "\x00" {
		return kineRoot
	}
	for dir := r.Start; ; {
		i := strings.LastIndexByte(dir, '/')
		if i < 0 {
			return kineRoot
		}
		if r.End <= Prefix(dir[:i+1]).End {
			return dir[:i+1]
		}
		dir = dir[:i]
	}
}

func (r Range) holds(key string) bool {
	return key >= r.Start && (key < r.End || r.End == "\x00")
}

// whole tells whether r is a whole prefix that ends in "/".
func (r Range) whole() bool { return strings.HasSuffix(r.Start, "/") && r == Prefix(r.Start) }

// scanKine is Scan on kine: it lists the smallest whole prefix around r, passes
// on what is in r, and compares the number of all that was listed with a count
// at the same revision. A difference is a KineError, after the last call of fn;
// if fn ended the scan nothing is compared.
func (s *Live) scanKine(ctx context.Context, r Range, keysOnly bool, fn func(*mvccpb.KeyValue) error) error {
	dir := wholeAround(r)
	// Every page makes kine count what is left, so they should not be small.
	p := &kinePages{live: s, dir: dir, rev: s.rev, keysOnly: keysOnly, size: newPageSize(true)}
	pass := func(kv *mvccpb.KeyValue) error {
		key := string(kv.Key)
		if !strings.HasPrefix(key, dir) || !r.holds(key) {
			return nil
		}
		if keysOnly {
			kv.Value = nil
		}
		return fn(kv)
	}
	held, more, err := p.next(ctx)
	if err != nil {
		return err
	}
	byName := more
	if more {
		if byName, err = p.byName(ctx); err != nil {
			return err
		}
	}
	if byName {
		err = p.stream(ctx, held, pass)
	} else {
		err = p.sorted(ctx, held, more, pass)
	}
	if err != nil {
		return err
	}
	return p.check(ctx)
}

// kinePages pages through a whole prefix.
type kinePages struct {
	live     *Live
	dir      string
	rev      int64 // 0: that of the first answer
	keysOnly bool
	size     *pageSize
	last     string // the last key that was listed
	listed   int64
}

// next is the next page, as kine orders it.
func (p *kinePages) next(ctx context.Context) (kvs []*mvccpb.KeyValue, more bool, err error) {
	start := p.dir
	if p.last != "" {
		start = p.last + "\x00"
	}
	resp, err := p.list(ctx, start, p.size.limit)
	if err != nil {
		return nil, false, err
	}
	if p.rev == 0 {
		p.rev = resp.Header.GetRevision()
	}
	if len(resp.Kvs) == 0 {
		return nil, false, nil
	}
	last := string(resp.Kvs[len(resp.Kvs)-1].Key)
	if last == p.last {
		return nil, false, &KineError{p.dir, "it lists the same keys again and again"}
	}
	p.last, p.listed = last, p.listed+int64(len(resp.Kvs))
	p.size.saw(resp.Kvs)
	return resp.Kvs, resp.More, nil
}

func (p *kinePages) list(ctx context.Context, start string, limit int) (*clientv3.GetResponse, error) {
	opts := []clientv3.OpOption{clientv3.WithRange(Prefix(p.dir).End), clientv3.WithLimit(int64(limit))}
	if !p.keysOnly {
		return p.live.getAt(ctx, p.rev, start, opts...)
	}
	resp, err := p.live.getAt(ctx, p.rev, start, append(slices.Clone(opts), clientv3.WithKeysOnly())...)
	if status.Code(err) == codes.Unimplemented {
		p.keysOnly = false // not known there: the values come along
		return p.live.getAt(ctx, p.rev, start, opts...)
	}
	return resp, err
}

// byName tells whether kine lists in the order of keys. Those that do not find
// nothing behind a key that does not exist.
func (p *kinePages) byName(ctx context.Context) (bool, error) {
	resp, err := p.list(ctx, p.dir+"\x01", 1)
	return err == nil && len(resp.Kvs) > 0, err
}

// stream passes on one page after another.
func (p *kinePages) stream(ctx context.Context, kvs []*mvccpb.KeyValue, pass func(*mvccpb.KeyValue) error) error {
	last := ""
	for more := true; ; {
		for _, kv := range kvs {
			if string(kv.Key) <= last {
				return &KineError{p.dir, "it lists keys in an order of its own"}
			}
			last = string(kv.Key)
			if err := pass(kv); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
		var err error
		if kvs, more, err = p.next(ctx); err != nil {
			return err
		}
	}
}

// sorted reads everything before it passes it on.
func (p *kinePages) sorted(ctx context.Context, kvs []*mvccpb.KeyValue, more bool, pass func(*mvccpb.KeyValue) error) error {
	var all []*mvccpb.KeyValue
	for weight := 0; ; {
		for _, kv := range kvs {
			weight += len(kv.Key) + len(kv.Value)
		}
		if all = append(all, kvs...); !more {
			break
		}
		if weight > kineHeld {
			return &KineError{p.dir, "this version lists in the order of revisions, and there is too much to be sorted in memory; ask for less at once, such as one namespace"}
		}
		var err error
		if kvs, more, err = p.next(ctx); err != nil {
			return err
		}
	}
	slices.SortFunc(all, func(a, b *mvccpb.KeyValue) int { return strings.Compare(string(a.Key), string(b.Key)) })
	for i, kv := range all {
		if i > 0 && string(all[i-1].Key) == string(kv.Key) {
			return &KineError{p.dir, "it lists a key twice"}
		}
		if err := pass(kv); err != nil {
			return err
		}
	}
	return nil
}

// check compares what was listed with one count.
func (p *kinePages) check(ctx context.Context) error {
	n, err := p.live.countWhole(ctx, p.rev, p.dir)
	if err != nil {
		return fmt.Errorf("count what was listed: %w", err)
	}
	if n != p.listed {
		return &KineError{p.dir, fmt.Sprintf("it listed %d keys and counted %d at the same revision %d", p.listed, n, p.rev)}
	}
	return nil
}

func (s *Live) countWhole(ctx context.Context, rev int64, dir string) (int64, error) {
	resp, err := s.getAt(ctx, rev, dir, clientv3.WithRange(Prefix(dir).End), clientv3.WithCountOnly())
	if err != nil {
		return 0, err
	}
	return resp.Count, nil
}

// countKine is Count on kine. What is no whole prefix has to be listed.
func (s *Live) countKine(ctx context.Context, r Range) (int64, error) {
	if r.End == "" {
		kv, err := s.getKine(ctx, r.Start)
		if kv == nil {
			return 0, err
		}
		return 1, nil
	}
	if r.whole() && !strings.ContainsAny(r.Start, "_%") {
		return s.countWhole(ctx, s.rev, r.Start)
	}
	if rest, ok := besides(r); ok {
		all, err := s.countWhole(ctx, s.rev, kineRoot)
		if err != nil {
			return 0, err
		}
		inside, err := s.countWhole(ctx, s.rev, rest)
		if err != nil || all == inside {
			return 0, err
		}
	}
	var n int64
	err := s.scanKine(ctx, r, true, func(*mvccpb.KeyValue) error { n++; return nil })
	return n, err
}

// besides recognises what lies before or behind a whole prefix, up to either
// end of all keys. It is empty if that prefix holds as much as kineRoot.
func besides(r Range) (prefix string, ok bool) {
	if r.Start == "\x00" && strings.HasSuffix(r.End, "/") {
		return r.End, true
	}
	if r.End == "\x00" && strings.HasSuffix(r.Start, "0") { // "0" follows "/"
		return strings.TrimSuffix(r.Start, "0") + "/", true
	}
	return "", false
}

// getKine is Get on kine. Old versions may answer with another key.
func (s *Live) getKine(ctx context.Context, key string) (*mvccpb.KeyValue, error) {
	resp, err := s.get(ctx, key, clientv3.WithLimit(1))
	if err != nil || len(resp.Kvs) == 0 {
		return nil, err
	}
	if string(resp.Kvs[0].Key) == key {
		return resp.Kvs[0], nil
	}
	var found *mvccpb.KeyValue
	one := Range{key, key + "\x00"}
	err = s.scanKine(ctx, one, false, func(kv *mvccpb.KeyValue) error { found = kv; return nil })
	return found, err
}

// getAllKine is GetAll on kine: with one list where most of what it reads is
// wanted, else singly.
func (s *Live) getAllKine(ctx context.Context, keys []string) (map[string]*mvccpb.KeyValue, error) {
	found := make(map[string]*mvccpb.KeyValue, len(keys))
	span := Range{keys[0], keys[len(keys)-1] + "\x00"}
	n, err := s.countWhole(ctx, s.rev, wholeAround(span))
	if err != nil {
		return nil, err
	}
	if s.rev > 0 && n <= int64(2*len(keys)+slack) {
		err := s.scanKine(ctx, span, false, func(kv *mvccpb.KeyValue) error {
			if _, wanted := slices.BinarySearch(keys, string(kv.Key)); wanted {
				found[string(kv.Key)] = kv
			}
			return nil
		})
		return found, err
	}
	for _, key := range keys {
		kv, err := s.getKine(ctx, key)
		if err != nil {
			return nil, err
		}
		if kv != nil {
			found[key] = kv
		}
	}
	return found, nil
}
