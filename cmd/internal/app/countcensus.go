package app

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/census"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// byCensus counts without reading keys or values, where only those are asked
// for and the store is live. With few objects it leaves them to the scan, which
// names broken values.
func (c *counter) byCensus(ctx context.Context, src keyspace.Source, f *filter.Filter) (done bool, err error) {
	live, ok := src.(census.Source)
	sel := f.Selection()
	if c.s.file != nil || !ok || f.NeedsValue() || c.needsHead() || c.result.withBytes || len(sel.Keys)+len(sel.Names) > 0 {
		return false, nil
	}
	req := census.Request{Source: live, Reader: c.s.reader, Resource: f.Resource(), Namespace: sel.Namespace, Whole: c.s.onKine(src)}
	if req.Resource == nil {
		// Only a census of everything finds what outlived its definition.
		req.Namespace = ""
	}
	if req.Namespaces, err = c.otherNamespaces(ctx, src); err != nil {
		return false, err
	}
	taken, err := census.Take(ctx, req)
	if err != nil {
		return false, err
	}
	keysOnly := c.s.inv.Bool(flagKeysOnly)
	if !keysOnly && taken.Total <= maxChecked {
		return false, nil
	}
	c.logCensus(taken)
	if sel.Namespace == "" {
		unknown := &c.result.survey.unknown
		for _, key := range taken.UnknownKeys {
			addSorted(unknown, key)
		}
		unknown.count += taken.Unknown - int64(len(taken.UnknownKeys))
	}
	var counted int64
	for _, cell := range taken.Cells {
		if sel.Namespace == "" || cell.Namespace == sel.Namespace {
			c.result.groups.Add(c.cellBy(cell), cell.Objects, 0)
			counted += cell.Objects
		}
	}
	if !keysOnly {
		c.sayUnchecked(counted)
	}
	if sel.Namespace == "" {
		c.sayOrphaned(taken)
	}
	return true, nil
}

// otherNamespaces are the names of the namespaces that exist, for the events'
// own etcd, which holds none; nil for the main one.
func (c *counter) otherNamespaces(ctx context.Context, src keyspace.Source) ([]string, error) {
	if c.s.eventsSource == nil || src == keyspace.Source(c.s.mainSource) {
		return nil, nil
	}
	names := []string{}
	prefix := c.s.reader.Prefix + "namespaces/"
	err := c.s.mainSource.Scan(ctx, keyspace.Prefix(prefix), true, func(kv *mvccpb.KeyValue) error {
		names = append(names, strings.TrimPrefix(string(kv.Key), prefix))
		return nil
	})
	return names, err
}

// logCensus proves that nothing was left out: the ranges are disjoint, and
// together they hold what the whole does.
func (c *counter) logCensus(taken *census.Census) {
	if log := c.s.inv.logger(); log != nil {
		log.Debug("census", "ranges", taken.Ranges, "sum", taken.Sum, "total", taken.Total, "revision", taken.Revision,
			"rounds", taken.Rounds, "searched", taken.Searched)
	}
}

// cellBy is what the objects of a cell are grouped by. Of a custom resource
// without its definition the place alone tells the name.
func (c *counter) cellBy(cell census.Cell) []string {
	o := filter.Object{Value: codec.Value{Key: codec.Key{Resource: cell.Resource, Namespace: cell.Namespace}}}
	if cell.Resource == nil {
		sample := c.s.reader.Prefix + cell.Prefix
		if cell.Namespace != "" {
			sample += cell.Namespace + "/"
		}
		o.Key, _ = c.s.reader.Catalog.ParseKey(c.s.reader.Prefix, sample+"x")
	}
	for i, b := range c.result.by {
		c.values[i] = c.property(&o, b)
	}
	return c.values
}

// sayOrphaned names the namespaces that do not exist any more and hold objects.
func (c *counter) sayOrphaned(taken *census.Census) {
	held := map[string]int64{}
	for _, cell := range taken.Cells {
		if cell.Orphaned {
			held[cell.Namespace] += cell.Objects
		}
	}
	var all int64
	var names []string
	for name, n := range held {
		names = append(names, fmt.Sprintf("%s (%s)", name, objects(n)))
		all += n
	}
	if len(names) == 0 {
		return
	}
	slices.Sort(names)
	const few = 10
	shown, more := joinWords(names[:min(few, len(names))]), ""
	if len(names) > few {
		more = fmt.Sprintf(" and %d more", len(names)-few)
	}
	c.s.inv.say("note: %s in namespaces that do not exist any more: %s%s; orphans", objects(all), shown, more)
}
