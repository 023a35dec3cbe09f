package app

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// The groupings that a key alone tells, and the one that is drawn.
const (
	byResource  = "resource"
	byNamespace = "namespace"
	byCreated   = "created"
)

// none stands for a property that an object does not have.
const none = "<none>"

// unknownResource stands for the resource of a key of no known shape.
const unknownResource = "<unknown>"

// maxChecked is how many values are read just to name the broken ones among
// them: reading must not be what finishes etcd off.
const maxChecked = 100_000

// depth is how far into each object a count looks.
type depth int

const (
	keysAlone  depth = iota // values are not read
	sizesAlone              // values are read, but not decoded
	wholeHeads              // values are decoded
)

// counter counts what one command names.
type counter struct {
	s      *session
	result *countResult
	depth  depth
	// mayStop says that values are decoded only to name the broken ones, and
	// that after maxChecked of them there are too many for it.
	mayStop bool
	// namesLater says that broken ones are named by a second pass, if there
	// are few enough.
	namesLater bool
	decoded    int64
	judging    *filter.Judging

	values   []string          // of the object at hand, used again
	dirs     map[string]*place // by all of a key but the name
	last     *place
	minutes  map[int64]string
	owner    codec.Owner // the last one, and what it is called
	ownerRef string
}

func newCounter(s *session, result *countResult) *counter {
	return &counter{s: s, result: result, values: make([]string, len(result.by)), dirs: map[string]*place{}, minutes: map[int64]string{}}
}

// count counts one store, by the census where that is enough.
func (c *counter) count(ctx context.Context, src keyspace.Source, f *filter.Filter) error {
	done, err := c.byCensus(ctx, src, f)
	if done || err != nil {
		return err
	}
	return c.scan(ctx, src, f)
}

// plan decides how deep to look. Where the number of keys is known it returns
// that too, else -1.
func (c *counter) plan(ctx context.Context, src keyspace.Source, f *filter.Filter) (int64, error) {
	c.depth, c.mayStop, c.namesLater, c.decoded = wholeHeads, false, false, 0
	keysOnly := c.s.inv.Bool(flagKeysOnly)
	if keysOnly && (f.NeedsValue() || c.result.withBytes || c.needsHead()) {
		return 0, usage("leave it out", "--%s contradicts what was asked for: that stands in the values", flagKeysOnly)
	}
	_, isFile := src.(unordered)
	var n int64 = -1
	if !isFile {
		n = 0
		for _, r := range f.Ranges() {
			count, err := src.Count(ctx, r)
			if err != nil {
				return 0, err
			}
			n += count
		}
	}
	switch {
	case keysOnly:
		c.depth = keysAlone
	case f.NeedsValue() || c.needsHead():
	case n > maxChecked:
		c.stopDecoding()
		c.sayUnchecked(n)
	case c.s.file != nil && c.s.file.Size() > bigFile:
		c.stopDecoding()
		c.namesLater = true
	case isFile:
		c.mayStop = true
	}
	return n, nil
}

// stopDecoding goes on without decoding.
func (c *counter) stopDecoding() {
	c.depth, c.mayStop = keysAlone, false
	if c.result.withBytes {
		c.depth = sizesAlone
	}
}

func (c *counter) sayUnchecked(n int64) {
	done := "read"
	if c.result.withBytes {
		done = "decoded"
	}
	c.s.inv.say("note: the values of %s are not %s, so broken ones are not named; --%s stored names them", objects(n), done, flagBy)
}

// scan counts one store by reading it. Its sum is checked against etcd's own
// count where that counts the same keys.
func (c *counter) scan(ctx context.Context, src keyspace.Source, f *filter.Filter) error {
	n, err := c.plan(ctx, src, f)
	if err != nil {
		return err
	}
	could := c.mayStop
	var seen int64
	count := func(kv *mvccpb.KeyValue) error {
		seen++
		return c.one(ctx, f, kv)
	}
	c.judging = f.Judging(c.judged)
	for _, r := range f.Ranges() {
		if err := c.read(ctx, src, r, count); err != nil {
			return err
		}
	}
	if err := c.judging.Flush(ctx); err != nil {
		return err
	}
	if n >= 0 && n != seen {
		return fmt.Errorf("read %d keys of %s, but the store counts %d at the same revision", seen, f.Ranges()[0].Start, n)
	}
	switch {
	case could && !c.mayStop || c.namesLater && seen > maxChecked:
		c.sayUnchecked(seen)
	case c.namesLater:
		if err := c.nameBroken(ctx, src, f); err != nil {
			return err
		}
	}
	c.flush()
	return nil
}

// bigFile is how large a file is, in bytes, that probably holds more objects
// than would be decoded.
const bigFile = 32 << 20

// nameBroken reads once more what was counted without decoding it.
func (c *counter) nameBroken(ctx context.Context, src keyspace.Source, f *filter.Filter) error {
	v := c.result.survey
	unknown, outside := v.unknown, v.outside // as they were counted
	v.unknown, v.outside = listed{}, listed{}
	c.depth = wholeHeads
	for _, r := range f.Ranges() {
		err := c.read(ctx, src, r, func(kv *mvccpb.KeyValue) error {
			o, err := c.s.inspect(ctx, f, kv)
			if err != nil {
				return err
			}
			d, err := f.Judge(ctx, o)
			if err == nil && d == filter.Keep {
				v.add(o, false)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	v.unknown, v.outside = unknown, outside
	return nil
}

// read goes through a range as the source likes it best. Of a file that means
// all of it: the whole registry is so read together with what lies outside.
func (c *counter) read(ctx context.Context, src keyspace.Source, r keyspace.Range, fn func(*mvccpb.KeyValue) error) error {
	keysOnly := c.depth == keysAlone
	if prefix := c.s.reader.Prefix; c.s.file != nil && r == keyspace.Prefix(prefix) {
		inside := fn
		r = keyspace.Range{Start: "\x00", End: "\x00"}
		fn = func(kv *mvccpb.KeyValue) error {
			if !bytes.HasPrefix(kv.Key, []byte(prefix)) {
				c.result.survey.addOutside(kv.Key)
				return nil
			}
			return inside(kv)
		}
	}
	return scanAny(ctx, src, r, keysOnly, fn)
}

// needsHead reports whether a grouping is not in the key.
func (c *counter) needsHead() bool {
	for _, b := range c.result.by {
		if b != byResource && b != byNamespace {
			return true
		}
	}
	return false
}

// one counts one object.
func (c *counter) one(ctx context.Context, f *filter.Filter, kv *mvccpb.KeyValue) error {
	if c.mayStop {
		if c.decoded++; c.decoded > maxChecked {
			c.stopDecoding()
			c.result.survey.forgetValues() // what was found by then says nothing of the rest
		}
	}
	if c.depth == wholeHeads {
		return c.decode(ctx, f, kv)
	}
	if p := c.place(kv.Key); p != nil {
		p.objects++
		p.bytes += int64(len(kv.Value))
		return nil
	}
	return c.first(ctx, f, kv)
}

// place is where objects differ in nothing but their names: a resource in a
// namespace. Where nothing but keys and sizes is asked for, one look at it
// serves all of its objects.
type place struct {
	dir            string
	by             []string
	objects, bytes int64
}

// maxPlaces are held before they are added up, so that memory stays bounded.
const maxPlaces = 1 << 14

// place finds where a key belongs, nil if nothing is known of it yet.
func (c *counter) place(key []byte) *place {
	i := bytes.LastIndexByte(key, '/') + 1
	if bytes.IndexByte(key[i:], '%') >= 0 || i == len(key) || key[i] == '.' {
		return nil // perhaps no object's name
	}
	if c.last == nil || string(key[:i]) != c.last.dir {
		c.last = c.dirs[string(key[:i])]
	}
	return c.last
}

// first judges an object of a place that is not known yet, or that is none.
func (c *counter) first(ctx context.Context, f *filter.Filter, kv *mvccpb.KeyValue) error {
	o := filter.Object{KV: kv, Size: int64(len(kv.Value))}
	o.Key, _ = c.s.reader.Catalog.ParseKey(c.s.reader.Prefix, string(kv.Key))
	d, err := f.Judge(ctx, o)
	if err != nil || d != filter.Keep {
		return err
	}
	c.result.survey.add(o, true)
	for i, b := range c.result.by {
		c.values[i] = c.property(&o, b)
	}
	sel := f.Selection()
	if o.Key.Resource == nil || o.Key.Name[0] == '.' || strings.Contains(o.Key.Name, "%") || len(sel.Keys)+len(sel.Names) > 0 {
		c.result.groups.Add(c.values, 1, o.Size)
		return nil
	}
	if len(c.dirs) >= maxPlaces {
		c.flush()
	}
	dir := string(kv.Key[:bytes.LastIndexByte(kv.Key, '/')+1])
	c.dirs[dir] = &place{dir: dir, by: append([]string(nil), c.values...), objects: 1, bytes: o.Size}
	return nil
}

// flush adds up what was counted by places.
func (c *counter) flush() {
	for _, p := range c.dirs {
		c.result.groups.Add(p.by, p.objects, p.bytes)
	}
	clear(c.dirs)
	c.last = nil
}

// decode counts an object by what its value says.
func (c *counter) decode(ctx context.Context, f *filter.Filter, kv *mvccpb.KeyValue) error {
	o, err := c.s.inspect(ctx, f, kv)
	if err != nil {
		return err
	}
	err = c.judging.Add(ctx, o)
	if err == nil && c.s.file != nil {
		err = c.judging.Flush(ctx) // the next object may be read into the same memory
	}
	return err
}

func (c *counter) judged(_ context.Context, o filter.Object, d filter.Decision) error {
	switch d {
	case filter.Drop:
		return nil
	case filter.Undecided:
		c.result.undecided++
		return nil
	}
	c.result.survey.add(o, false)
	for i, b := range c.result.by {
		c.values[i] = c.property(&o, b)
	}
	c.result.groups.Add(c.values, 1, o.Size)
	return nil
}

// property is what one object is grouped by.
func (c *counter) property(o *filter.Object, by string) string {
	value := ""
	switch by {
	case byResource:
		return resourceName(o)
	case byNamespace:
		value = o.Key.Namespace
	case "node":
		value = o.Head.Node
	case "phase":
		value = o.Head.Phase
	case "kind":
		value = o.Head.Meta.Kind
	case "stored":
		value = string(o.Head.Status)
	case "encryption":
		value = o.Provider
	case byCreated:
		value = c.created(o.Head.Meta.Created)
	case "owner":
		value = c.ownerOf(o.Head.Meta.Owners)
	}
	return cmp.Or(value, none)
}

func resourceName(o *filter.Object) string {
	if o.Key.Resource == nil {
		return unknownResource
	}
	return o.Key.Resource.String()
}

// created is the minute of a time, or what the timeline has room for. Objects
// of one minute stand together, so most of the texts are known.
func (c *counter) created(t time.Time) string {
	if t.IsZero() || t.Year() < 0 || t.Year() > 9999 { // RFC 3339 has no others
		return ""
	}
	minute := t.Unix() / 60
	text, ok := c.minutes[minute]
	if ok {
		return text
	}
	const most = 10_000
	if len(c.minutes) >= most {
		clear(c.minutes)
	}
	if c.result.times != nil {
		text = c.result.times.add(t)
	} else {
		text = t.UTC().Truncate(time.Minute).Format(time.RFC3339)
	}
	c.minutes[minute] = text
	return text
}

// ownerOf names the controlling owner, else the first one.
func (c *counter) ownerOf(owners []codec.Owner) string {
	if len(owners) == 0 {
		return ""
	}
	owner := &owners[0]
	for i := range owners {
		if owners[i].Controller {
			owner = &owners[i]
			break
		}
	}
	if c.ownerRef == "" || owner.Name != c.owner.Name || owner.Kind != c.owner.Kind || owner.APIVersion != c.owner.APIVersion {
		c.owner = *owner
		c.ownerRef = filter.OwnerRef{Group: owner.Group(), Kind: owner.Kind, Name: owner.Name}.String()
	}
	return c.ownerRef
}
