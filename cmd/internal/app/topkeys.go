package app

import (
	"cmp"
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/heat"
)

// hotShare is what share of all writes a place or a key has to have to be
// shown; the others are added up.
const hotShare = 0.01

// hotKeys samples what is written.
type hotKeys struct {
	s       *session
	sampler *heat.Sampler
	period  time.Duration
	sample  *heat.Sample
	lost    error // why the watch ended, if it did
}

func (inv *invocation) runTopKeys(ctx context.Context) error {
	s, err := inv.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	h := &hotKeys{s: s, period: inv.Duration(flagFor)}
	stores := []heat.Store{{Watcher: s.main.Client, Connection: s.main.Client.ActiveConnection(), Prefix: s.reader.Prefix}}
	if s.events != nil {
		stores = append(stores, heat.Store{Watcher: s.events.Client, Connection: s.events.Client.ActiveConnection(), Prefix: s.reader.Prefix})
	}
	h.sampler, err = heat.Start(ctx, stores, heat.Options{Levels: h.levels, By: h.writtenBy, Timeout: s.timeout, Now: inv.Now})
	if err != nil {
		return err
	}
	defer h.sampler.Close()
	inv.say("watching %s for %s, from revision %d on", s.reader.Prefix, term.Duration(h.period), s.mainSource.Revision())
	if !inv.Bool(flagWatch) {
		return h.once(ctx)
	}
	w := newWatching(inv)
	return w.run(ctx, func(ctx context.Context, _ int) (last bool, err error) {
		if err := h.wait(ctx); err != nil {
			return true, err
		}
		if err := w.draw(h.show); err != nil {
			return true, err
		}
		return h.lost != nil, h.verdict()
	}, func(ctx context.Context) error { return ctx.Err() })
}

// once shows one sample. What was sampled before an interrupt is shown too.
func (h *hotKeys) once(ctx context.Context) error {
	interrupted := h.wait(ctx)
	if err := h.show(0); err != nil {
		return err
	}
	return cmp.Or(interrupted, h.verdict())
}

// wait lets a period pass, or what there is of it until an interrupt or the
// end of the watch, and takes the sample.
func (h *hotKeys) wait(ctx context.Context) error {
	period := time.NewTimer(h.period)
	defer period.Stop()
	select {
	case <-period.C:
	case <-ctx.Done():
	case h.lost = <-h.sampler.Lost():
	}
	h.sample = h.sampler.Take()
	if h.lost == nil {
		select { // it may have ended while the last of it was waited for
		case h.lost = <-h.sampler.Lost():
		default:
		}
	}
	return ctx.Err()
}

// silent reports whether etcd still had to say that it has sent everything. One
// that hangs sends nothing, which must not look as if nothing was written. Kine
// is not always able to say it.
func (h *hotKeys) silent() bool {
	kine := h.s.main.Kine || h.s.events != nil && h.s.events.Kine
	return h.lost == nil && !kine && !h.sample.Whole()
}

func (h *hotKeys) verdict() error {
	switch {
	case h.silent():
		return partial("look at etcd (status), then run it again", "writes may be missing from these figures")
	case h.lost == nil:
		return nil
	}
	return partial("look at etcd (status), then run it again; what is shown was written before",
		"after %s %w", term.Duration(h.sample.Took()), h.lost)
}

// levels are the resource and the namespace of a key, or of a key of no known
// resource the first places below the prefix.
func (h *hotKeys) levels(key string) []int {
	prefix := h.s.reader.Prefix
	if k, ok := h.s.reader.Catalog.ParseKey(prefix, key); ok {
		end := len(prefix) + len(k.Resource.Prefix)
		if !k.Resource.Namespaced {
			return []int{end}
		}
		return []int{end, end + len(k.Namespace) + 1}
	}
	const most = 3
	var ends []int
	for at := len(prefix); at < len(key) && len(ends) < most; {
		n := strings.IndexByte(key[at:], '/')
		if n < 0 {
			break
		}
		at += n + 1
		ends = append(ends, at)
	}
	return ends
}

// writtenBy is the field manager whose write is the newest in a value.
func (h *hotKeys) writtenBy(ctx context.Context, key string, value []byte) string {
	v := h.s.reader.Read(ctx, key, value)
	if v.Head.Err != nil {
		return ""
	}
	info, err := codec.Managed(v.Plain)
	if err != nil {
		return ""
	}
	newest, _ := info.Newest()
	return newest.Manager
}

// show prints the sample in at most so many lines, with 0 as many as it takes.
func (h *hotKeys) show(rows int) error {
	inv, total := h.s.inv, h.sample.Total()
	h.say(total)
	f := inv.format()
	most := inv.Int(flagLimit)
	root := h.sample.Tree(hotShare, most)
	if f == formatJSON || f == formatYAML {
		return inv.document(h.document(root))
	}
	if total.Total() == 0 {
		return nil
	}
	t := inv.table()
	if f == formatWide {
		t.Header("WRITES/S", "SHARE", "CREATED", "CHANGED", "DELETED", "KEYS", "BYTES/S", "MANAGER", "WHERE")
	} else {
		t.Header("WRITES/S", "SHARE", "MOSTLY", "MANAGER", "WHERE")
	}
	p := hotTable{h: h, table: t, total: total.Total(), left: rows - 1}
	p.row(root, "everything", "everything", 0)
	p.below(root, "", 1)
	return t.Flush()
}

// say sums up on stderr.
func (h *hotKeys) say(total heat.Writes) {
	inv, took := h.s.inv, h.sample.Took()
	if h.silent() {
		inv.say("warning: etcd does not confirm that it has sent all that was written: it may hang, or be behind")
	}
	if total.Total() == 0 && h.silent() {
		inv.say("no write below %s was received in %s", h.s.reader.Prefix, term.Duration(took))
		return
	}
	if total.Total() == 0 {
		inv.say("nothing was written below %s in %s", h.s.reader.Prefix, term.Duration(took))
		return
	}
	inv.say("%s in %s: %s created, %s changed, %s deleted; %s/s", term.Plural(total.Total(), "write"), term.Duration(took),
		term.Count(total.Creates), term.Count(total.Updates), term.Count(total.Deletes), term.Bytes(int64(perSecond(total.Bytes, took))))
	if n := h.sample.Beyond(); n > 0 {
		inv.say("note: only %s are told apart; %s of other keys are counted to the place above them", term.Plural(int64(h.sample.Keys()), "key"), term.Plural(n, "write"))
	}
}

func perSecond(n int64, took time.Duration) float64 {
	if took <= 0 {
		return 0
	}
	return float64(n) / took.Seconds()
}

// hotTable prints a tree as rows. Places are indented on a terminal; elsewhere
// each row has the whole path.
type hotTable struct {
	h     *hotKeys
	table *term.Table
	total int64
	left  int // rows; below 0 there is no limit
}

func (p *hotTable) below(n *heat.Node, path string, depth int) {
	for _, b := range n.Below {
		for p.h.alone(b) {
			b = b.Below[0]
		}
		name := p.h.name(b, n)
		whole := path + name
		if path != "" {
			whole = path + "/" + name
		}
		p.row(b, name, whole, depth)
		p.below(b, whole, depth+1)
	}
	if n.Others != nil && len(n.Below) > 0 {
		text := term.Plural(n.Others.Keys, "other key")
		if n.Others.Keys == 0 {
			text = "other keys"
		}
		p.row(n.Others, "("+text+")", strings.TrimPrefix(path+"/("+text+")", "/"), depth)
	}
}

func (p *hotTable) row(n *heat.Node, name, path string, depth int) {
	if p.left--; p.left == -1 {
		return // this one does not fit any more, nor any after it
	}
	inv, took := p.h.s.inv, p.h.sample.Took()
	rate := strconv.FormatFloat(perSecond(n.Total(), took), 'f', 3, 64)
	if inv.Streams.OutTTY {
		rate, path = term.Rate(perSecond(n.Total(), took)), strings.Repeat("  ", max(depth-1, 0))+name
	}
	cells := []string{rate, percent(n.Total(), p.total)}
	if inv.format() == formatWide {
		cells = append(cells, inv.number(n.Creates), inv.number(n.Updates), inv.number(n.Deletes), inv.number(n.Keys), inv.size(int64(perSecond(n.Bytes, took))))
	} else {
		cells = append(cells, mostly(n.Writes))
	}
	p.table.Row(append(cells, cmp.Or(n.By, none), path)...)
}

// mostly names what more than half of the writes did.
func mostly(w heat.Writes) string {
	switch half := w.Total() / 2; {
	case w.Creates > half:
		return didCreate
	case w.Updates > half:
		return didChange
	case w.Deletes > half:
		return didDelete
	}
	return "mixed"
}

// name is what a node is called below its parent: a resource, a namespace or a
// name, or of no known resource a part of the key.
func (h *hotKeys) name(n, parent *heat.Node) string {
	if r := h.resource(n.Path); r != nil && parent.Path == "" {
		return r.String()
	}
	return strings.TrimSuffix(strings.TrimPrefix(n.Path, parent.Path), "/")
}

// alone reports whether a place that means nothing by itself holds one other
// place or key only.
func (h *hotKeys) alone(n *heat.Node) bool {
	return len(n.Below) == 1 && n.Others == nil && !h.known(n.Path)
}

// known reports whether objects of a resource lie below a path.
func (h *hotKeys) known(path string) bool {
	_, ok := h.s.reader.Catalog.ParseKey(h.s.reader.Prefix, path+"x")
	return ok || h.resource(path) != nil
}

// resource is the one whose objects lie at a path, nil if none is known.
func (h *hotKeys) resource(path string) *codec.Resource {
	prefix := h.s.reader.Prefix
	for _, object := range []string{"x", "x/x"} { // of a cluster, of a namespace
		if k, ok := h.s.reader.Catalog.ParseKey(prefix, path+object); ok && prefix+k.Resource.Prefix == path {
			return k.Resource
		}
	}
	return nil
}

func (h *hotKeys) document(root *heat.Node) map[string]any {
	doc := h.nodeDocument(root, &heat.Node{})
	doc["version"], doc["kind"], doc["prefix"] = 1, "topKeys", h.s.reader.Prefix
	doc["milliseconds"], doc["complete"], doc["beyond"] = h.sample.Took().Milliseconds(), h.lost == nil && !h.silent(), h.sample.Beyond()
	delete(doc, "path")
	return doc
}

// nodeDocument is a node with what is below it.
func (h *hotKeys) nodeDocument(n, parent *heat.Node) map[string]any {
	doc := map[string]any{
		"writes": n.Total(), "created": n.Creates, "changed": n.Updates, "deleted": n.Deletes, "bytes": n.Bytes, "keys": n.Keys,
		"manager": n.By,
	}
	if n.By == "" {
		doc["manager"] = nil
	}
	if n.Path != "" {
		doc["path"] = n.Path
		h.describeNode(doc, n)
	}
	below := []any{}
	for _, b := range n.Below {
		below = append(below, h.nodeDocument(b, n))
	}
	if !n.Key {
		doc["below"] = below
	}
	if n.Others != nil && len(below) > 0 {
		doc["others"] = h.nodeDocument(&heat.Node{Key: true, Keys: n.Others.Keys, Writes: n.Others.Writes, By: n.Others.By}, n)
	}
	return doc
}

// describeNode says what lies at a node's path.
func (h *hotKeys) describeNode(doc map[string]any, n *heat.Node) {
	prefix := h.s.reader.Prefix
	if r := h.resource(n.Path); r != nil {
		doc["resource"] = r.String()
		return
	}
	path := n.Path
	if !n.Key {
		path += "x" // an object that could lie there
	}
	k, ok := h.s.reader.Catalog.ParseKey(prefix, path)
	if !ok {
		return
	}
	doc["resource"] = k.Resource.String()
	if k.Resource.Namespaced {
		doc["namespace"] = k.Namespace
	}
	if n.Key {
		doc["name"] = k.Name
	}
}
