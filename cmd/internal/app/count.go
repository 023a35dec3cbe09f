package app

import (
	"context"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/tally"
)

func countCommand() *command {
	return &command{
		name: "count", args: "[RESOURCE…]", maxArgs: -1,
		summary: "count objects, by resource, namespace, owner, node or phase",
		about: "Counts at one revision. Without a resource it counts the whole registry, and the sum is checked against etcd's " +
			"own count of the prefix. Values are read too, so that broken ones are named, unless there are more than 100,000 or --keys-only is given. " +
			"--by created draws when objects were made, by the minute, the hour or the day. Up to two million groups are exact; beyond that the smallest are merged " +
			"and figures that are approximate begin with ~. Nothing is changed.",
		examples: []string{
			"etcd-rescue count",
			"etcd-rescue count pods --by namespace,phase",
			"etcd-rescue count pods --by owner --bytes",
			"etcd-rescue count pods --by created",
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
	return []string{byResource, byNamespace, "owner", "node", "phase", "kind", byCreated, "stored", "encryption"}
}

// countResult is what count found.
type countResult struct {
	by        []string
	withBytes bool
	revision  int64
	groups    *tally.Table
	times     *timeline // nil unless grouped by created first
	undecided int64
	hint      string // for what was not decided
	survey    *survey
}

func newCountResult(by []string, withBytes bool, limits tally.Limits) *countResult {
	r := &countResult{by: by, withBytes: withBytes, groups: tally.New(len(by), limits), survey: newSurvey()}
	if by[0] == byCreated {
		r.times = newTimeline()
	}
	return r
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
	if len(by) == 0 {
		by = []string{byResource}
	}
	c := newCounter(s, newCountResult(by, inv.Bool(flagBytes), tally.Limits{}))
	if err := c.all(ctx, inv.args); err != nil {
		return err
	}
	return inv.showCount(c.result)
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
	if sel.Resource != "" || len(sel.Keys) > 0 {
		src, _, _ := c.s.sourceOf(sel)
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
		if err := c.count(ctx, src, f); err != nil {
			return err
		}
		if hint := c.s.inv.sayUndecided(f); c.result.undecided > 0 {
			c.result.hint = hint
		}
	}
	if _, read := sources[0].(unordered); !read && sel.Resource == "" && len(sel.Keys) == 0 {
		c.result.survey.lookOutside(ctx, c.s, sources[0])
	}
	return nil
}
