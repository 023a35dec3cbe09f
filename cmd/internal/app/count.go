package app

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

func countCommand() *command {
	return &command{
		name: "count", args: "[RESOURCE…]", maxArgs: -1,
		summary: "count objects, by resource, namespace, owner, node or phase",
		about: "Counts at one revision. Without a resource it counts the whole registry, and the sum is checked against etcd's " +
			"own count of the prefix. Values are read too, so that broken ones are named, unless there are more than 100,000 or --keys-only is given. Nothing is changed.",
		examples: []string{
			"etcd-rescue count",
			"etcd-rescue count pods --by namespace,phase",
			"etcd-rescue count pods --by owner --bytes",
			"etcd-rescue count --from snapshot.db",
		},
		flags: slices.Concat([]cli.Flag{
			&cli.StringFlag{Name: flagBy, Usage: "group by `WHAT`, comma-separated: " + joinWords(groupings()), Category: catOutput},
			&cli.BoolFlag{Name: flagBytes, Usage: "add up the bytes of the values too (reads them)", Category: catOutput},
			&cli.BoolFlag{Name: flagKeysOnly, Usage: "do not read values: quicker, but broken ones are not named", Category: catOutput},
		}, outputFlags("table, json, yaml"), selectionFlags(), fromFlags(), connectionFlags()),
		run: runCount,
	}
}

func groupings() []string {
	return []string{"resource", "namespace", "owner", "node", "phase", "kind", "created", "stored", "encryption"}
}

// countGroup is one line of a count.
type countGroup struct {
	by      []string
	objects int64
	bytes   int64
}

// countResult is what count found.
type countResult struct {
	by        []string
	withBytes bool
	revision  int64
	groups    []countGroup
	objects   int64
	bytes     int64
	undecided int64
	hint      string // for what was not decided
	survey    *survey
}

type counter struct {
	s      *session
	result *countResult
	groups map[string]*countGroup
}

func runCount(ctx context.Context, inv *invocation) error {
	by, err := inv.groupBy()
	if err != nil {
		return err
	}
	if err := inv.checkFormat("table", "json", "yaml"); err != nil {
		return err
	}
	s, err := inv.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	c := &counter{s: s, groups: map[string]*countGroup{}, result: &countResult{by: by, withBytes: inv.Bool(flagBytes), survey: newSurvey()}}
	if len(by) == 0 {
		c.result.by = []string{"resource"}
	}
	if err := c.all(ctx, inv.args); err != nil {
		return err
	}
	return inv.showCount(c.finish())
}

func (inv *invocation) groupBy() ([]string, error) {
	if inv.String(flagBy) == "" {
		return nil, nil
	}
	by := strings.Split(inv.String(flagBy), ",")
	for _, b := range by {
		if !slices.Contains(groupings(), b) {
			return nil, usage("it can be any of: "+joinWords(groupings()), "cannot count --by %q", b)
		}
	}
	return by, nil
}

// all counts every resource named, or the whole registry.
func (c *counter) all(ctx context.Context, names []string) error {
	if len(names) == 0 {
		names = []string{""}
	}
	seen := map[string]bool{}
	for _, name := range names {
		var args []string
		if name != "" {
			args = []string{name}
		}
		sel, err := c.s.selection(ctx, args)
		if err != nil {
			return err
		}
		prefix := ""
		if r, _, ok := c.s.reader.Catalog.Lookup(sel.Resource); ok {
			prefix = r.Prefix
		}
		if seen[prefix] {
			continue // named twice, as in "pods po" and "events events.events.k8s.io"
		}
		seen[prefix] = true
		if err := c.selected(ctx, sel); err != nil {
			return err
		}
	}
	return nil
}

func (c *counter) selected(ctx context.Context, sel filter.Selection) error {
	sources := c.s.sources()
	if sel.Resource != "" {
		r, _, _ := c.s.reader.Catalog.Lookup(sel.Resource)
		src, _, _ := c.s.sourceFor(r)
		sources = []keyspace.Source{src}
	}
	for i, src := range sources {
		f, _, err := c.s.filter(sel, src)
		if err != nil {
			return err
		}
		if i == 0 {
			if err := c.s.checkNamespace(ctx, src, f); err != nil {
				return err
			}
		}
		c.result.revision = sources[0].Revision()
		if err := c.scan(ctx, src, f); err != nil {
			return err
		}
		if hint := c.s.inv.sayUndecided(f); c.result.undecided > 0 {
			c.result.hint = hint
		}
	}
	if sel.Resource == "" && len(sel.Keys) == 0 {
		c.result.survey.lookOutside(ctx, c.s, sources[0])
	}
	return nil
}

// maxChecked is how many values are read just to name the broken ones among
// them: reading must not be what finishes etcd off.
const maxChecked = 100_000

// keysOnly decides whether values are left unread.
func (c *counter) keysOnly(ctx context.Context, src keyspace.Source, f *filter.Filter) (bool, error) {
	needed := f.NeedsValue() || c.result.withBytes || c.needsValue()
	switch {
	case needed && c.s.inv.Bool(flagKeysOnly):
		return false, usage("leave it out", "--%s contradicts what was asked for: that stands in the values", flagKeysOnly)
	case needed:
		return false, nil
	case c.s.inv.Bool(flagKeysOnly):
		return true, nil
	}
	var n int64
	for _, r := range f.Ranges() {
		count, err := src.Count(ctx, r)
		if err != nil {
			return false, err
		}
		n += count
	}
	if n > maxChecked {
		c.s.inv.say("note: the values of %s are not read, so broken ones are not named; --%s reads them", objects(n), flagBytes)
	}
	return n > maxChecked, nil
}

// scan counts one store. Its sum is checked against etcd's own count where
// that counts the same keys.
func (c *counter) scan(ctx context.Context, src keyspace.Source, f *filter.Filter) error {
	keysOnly, err := c.keysOnly(ctx, src, f)
	if err != nil {
		return err
	}
	for _, r := range f.Ranges() {
		var seen int64
		err := src.Scan(ctx, r, keysOnly, func(kv *mvccpb.KeyValue) error {
			seen++
			return c.one(ctx, f, kv, keysOnly)
		})
		if err != nil {
			return err
		}
		n, err := src.Count(ctx, r)
		if err != nil {
			return err
		}
		if n != seen {
			return fmt.Errorf("read %d keys of %s, but the store counts %d at the same revision", seen, r.Start, n)
		}
	}
	return nil
}

func (c *counter) needsValue() bool {
	for _, b := range c.result.by {
		if b != "resource" && b != "namespace" {
			return true
		}
	}
	return false
}

func (c *counter) one(ctx context.Context, f *filter.Filter, kv *mvccpb.KeyValue, keysOnly bool) error {
	o, err := c.s.inspect(ctx, f, kv)
	if err != nil {
		return err
	}
	d, err := f.Judge(ctx, o)
	if err != nil {
		return err
	}
	switch d {
	case filter.Drop:
		return nil
	case filter.Undecided:
		c.result.undecided++
		return nil
	}
	c.result.survey.add(o, keysOnly)
	values := make([]string, len(c.result.by))
	for i, b := range c.result.by {
		values[i] = property(o, b)
	}
	id := strings.Join(values, "\x00")
	g := c.groups[id]
	if g == nil {
		g = &countGroup{by: values}
		c.groups[id] = g
	}
	g.objects++
	g.bytes += o.Size
	return nil
}

// none stands for a property that an object does not have.
const none = "<none>"

func property(o filter.Object, by string) string {
	value := ""
	switch by {
	case "resource":
		if o.Key.Resource == nil {
			return "<unknown>"
		}
		value = o.Key.Resource.String()
	case "namespace":
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
	case "created":
		if !o.Head.Meta.Created.IsZero() {
			value = o.Head.Meta.Created.UTC().Truncate(time.Minute).Format(time.RFC3339)
		}
	case "owner":
		value = ownerOf(o.Head.Meta.Owners)
	}
	return cmp.Or(value, none)
}

// ownerOf names the controlling owner, else the first one.
func ownerOf(owners []codec.Owner) string {
	for _, o := range owners {
		if o.Controller {
			return filter.OwnerRef{Group: o.Group(), Kind: o.Kind, Name: o.Name}.String()
		}
	}
	if len(owners) > 0 {
		o := owners[0]
		return filter.OwnerRef{Group: o.Group(), Kind: o.Kind, Name: o.Name}.String()
	}
	return ""
}

// finish adds up and sorts: the largest group first, times in their order.
func (c *counter) finish() *countResult {
	for _, g := range c.groups {
		c.result.groups = append(c.result.groups, *g)
		c.result.objects += g.objects
		c.result.bytes += g.bytes
	}
	byTime := len(c.result.by) > 0 && c.result.by[0] == "created"
	slices.SortFunc(c.result.groups, func(a, b countGroup) int {
		names := slices.Compare(a.by, b.by)
		if byTime {
			return names
		}
		return cmp.Or(cmp.Compare(b.objects, a.objects), names)
	})
	return c.result
}

func (inv *invocation) showCount(r *countResult) error {
	r.survey.say(inv)
	if inv.format() == "table" {
		inv.countTable(r)
	} else if err := inv.document(countDocument(r)); err != nil {
		return err
	}
	if r.undecided > 0 {
		return partial(r.hint, "%s not decided, and not counted", objects(r.undecided))
	}
	return nil
}

func (inv *invocation) countTable(r *countResult) {
	t := inv.table()
	var header []string
	for _, b := range r.by {
		header = append(header, strings.ToUpper(b))
	}
	header = append(header, "OBJECTS")
	if r.withBytes {
		header = append(header, "BYTES")
	}
	t.Header(header...)
	row := func(names []string, objects, bytes int64) {
		cells := append(slices.Clone(names), inv.number(objects))
		if r.withBytes {
			cells = append(cells, inv.size(bytes))
		}
		t.Row(cells...)
	}
	for _, g := range r.groups {
		row(g.by, g.objects, g.bytes)
	}
	if len(r.groups) != 1 {
		row(append([]string{"TOTAL"}, make([]string, len(r.by)-1)...), r.objects, r.bytes)
	}
	t.Flush()
}

func countDocument(r *countResult) map[string]any {
	groups := []any{}
	for _, g := range r.groups {
		by := map[string]any{}
		for i, name := range r.by {
			by[name] = g.by[i]
			if g.by[i] == none {
				by[name] = nil
			}
		}
		group := map[string]any{"by": by, "objects": g.objects}
		if r.withBytes {
			group["bytes"] = g.bytes
		}
		groups = append(groups, group)
	}
	doc := map[string]any{
		"version": 1, "kind": "count", "revision": r.revision, "by": r.by, "groups": groups,
		"objects": r.objects, "undecided": r.undecided,
	}
	r.survey.document(doc)
	if r.withBytes {
		doc["bytes"] = r.bytes
	}
	return doc
}
