package census

import (
	"context"
	"errors"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// maxRun is how many keys of one namespace are read before the rest of it is
// counted. A deleted namespace may have left a million objects.
const maxRun = 1000

var errRun = errors.New("the rest of this namespace is counted")

// search reads the keys of a range where none should be, and puts them into
// cells by what they say. In a search of everything it skips what has been
// counted.
func (c *counter) search(ctx context.Context, r keyspace.Range) error {
	for {
		s := &searcher{c: c}
		err := c.req.Source.Scan(ctx, r, true, s.key)
		if !errors.Is(err, errRun) {
			return err
		}
		end := keyspace.Prefix(s.last[:strings.LastIndexByte(s.last, '/')+1]).End
		counts, err := c.countAll(ctx, []keyspace.Range{{Start: s.last + "\x00", End: end}})
		if err != nil {
			return err
		}
		c.add(s.cell, counts[0])
		r.Start = end
	}
}

// searcher reads up to the first long run of keys.
type searcher struct {
	c    *counter
	cell cellKey // of the last key
	last string
	run  int // keys of that cell in a row
}

func (s *searcher) key(kv *mvccpb.KeyValue) error {
	c, key := s.c, string(kv.Key)
	if c.req.Whole && c.counted(key[len(c.prefix):]) {
		return nil
	}
	c.out.Searched++
	cell, object := c.cellOf(key)
	if !object {
		c.unknown(key)
	}
	if cell != s.cell || !object {
		s.cell, s.run = cell, 0
	}
	c.add(cell, 1)
	s.last = key
	// Only below a namespace all keys are of one cell.
	if s.run++; s.run >= maxRun && object && cell.namespace != "" && !c.req.Whole {
		return errRun
	}
	return nil
}

// counted tells whether a key is in a range that was counted.
func (c *counter) counted(rest string) bool {
	p := c.placeOf(rest)
	if p == nil || !p.namespaced {
		return p != nil
	}
	namespace, _, below := strings.Cut(rest[len(p.prefix):], "/")
	return below && c.exists[namespace]
}

// cellOf tells where a key belongs, and whether it is certainly an object's.
func (c *counter) cellOf(key string) (k cellKey, object bool) {
	rest := key[len(c.prefix):]
	if parsed, ok := c.req.Reader.Catalog.ParseKey(c.prefix, key); ok && (parsed.Resource.Custom || c.known(parsed.Resource)) {
		return cellKey{parsed.Resource.Prefix, parsed.Namespace}, true
	}
	if p := c.placeOf(rest); p != nil {
		return cellKey{prefix: p.prefix}, false
	}
	one := strings.IndexByte(rest, '/') + 1
	two := one + strings.IndexByte(rest[one:], '/') + 1
	if strings.Contains(rest[:one], ".") {
		return cellKey{prefix: rest[:two]}, false
	}
	return cellKey{prefix: rest[:one]}, false
}

func (c *counter) unknown(key string) {
	if c.out.Unknown++; len(c.out.UnknownKeys) < maxUnknown {
		c.out.UnknownKeys = append(c.out.UnknownKeys, key)
	}
}
