package app

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// What top can look at.
const (
	topSizes   = "sizes"
	topKeys    = "keys"
	topWriters = "writers"
)

const (
	flagFor       = "for"
	flagSince     = "since"
	flagWatch     = "watch"
	flagInterval  = "interval"
	flagRefreshes = "refreshes"
)

const (
	defaultTop      = 20
	maxTop          = 100_000
	defaultSample   = 10 * time.Second
	defaultInterval = 2 * time.Second
)

func topCommand() *command {
	return &command{
		name: "top", args: "sizes|keys|writers [RESOURCE…]", minArgs: 1, maxArgs: -1,
		summary: "what is big (sizes), what is written (keys), who writes (writers)",
		about: "top sizes: the largest objects, resources and namespaces, and how much of each is managedFields, the bookkeeping of who owns which field. " +
			"Reads every value that is selected once.\n\n" +
			"top keys: watches etcd for a while from now on (--for), and shows what is written: a tree of resources, namespaces and objects with " +
			"writes a second, their share, what they mostly were, and the field manager that wrote most of them. What has less than 1 % of the writes is " +
			"added up in one line. Not with --from: a file does not change.\n\n" +
			"top writers: the field managers, with the objects whose newest write was theirs, the objects that they manage, and their last write, " +
			"as far as managedFields tell: no deletes, nothing of writes that changed no field, and times are whole seconds. -o wide also names the object " +
			"of the last write where a narrow terminal has no room for it. Reads every value that is selected once.\n\n" +
			"Nothing is changed.",
		examples: []string{
			"etcd-rescue top sizes",
			"etcd-rescue top sizes secrets configmaps --limit 50 --from snapshot.db",
			"etcd-rescue top keys --for 30s",
			"etcd-rescue top keys --watch --for 5s",
			"etcd-rescue top writers pods -n team --since 10m",
		},
		flags: slices.Concat([]cli.Flag{
			&cli.IntFlag{Name: flagLimit, Usage: "show at most `N` lines: of each table, and of keys below each place", Value: defaultTop, Category: catOutput},
			&cli.DurationFlag{Name: flagFor, Usage: "keys: watch for `DURATION`", Value: defaultSample, Category: catOutput},
			&cli.StringFlag{Name: flagSince, Usage: "writers: only writes of the last `AGE`, such as 10m or 2d", Category: catSelection},
			&cli.BoolFlag{Name: flagWatch, Usage: "again and again until Ctrl-C: in place on a terminal, elsewhere one report after the other, in JSON one on each line", Category: catOutput},
			&cli.DurationFlag{Name: flagInterval, Usage: "sizes, writers: with --watch wait `DURATION` in between, but at least four times as long as the last reading took", Value: defaultInterval, Category: catOutput},
			&cli.IntFlag{Name: flagRefreshes, Usage: "with --watch end after `N` reports", Category: catOutput},
		}, outputFlags("table, wide, json, yaml"), selectionFlags(), fromFlags(), connectionFlags()),
		run: runTop,
	}
}

func runTop(ctx context.Context, inv *invocation) error {
	if err := inv.checkFormat(formatTable, formatWide, formatJSON, formatYAML); err != nil {
		return err
	}
	if n := inv.Int(flagLimit); n < 1 || n > maxTop {
		return usage("", "--%s takes a number from 1 to 100,000, got %d", flagLimit, n)
	}
	if err := inv.checkTopFlags(); err != nil {
		return err
	}
	switch inv.args[0] {
	case topSizes:
		return inv.topReport(ctx, (*session).showSizes)
	case topWriters:
		return inv.topReport(ctx, (*session).showWriters)
	case topKeys:
		return inv.runTopKeys(ctx)
	}
	return usage("usage: etcd-rescue top sizes|keys|writers", "top does not know %q", inv.args[0])
}

// checkTopFlags refuses what means nothing for what was asked: a flag without
// effect would be taken for one that has it.
func (inv *invocation) checkTopFlags() error {
	what := inv.args[0]
	refused := map[string][]string{
		topSizes:   {flagFor, flagSince},
		topWriters: {flagFor},
		topKeys:    {flagSince, flagInterval, flagFrom, flagNow},
	}[what]
	if what == topKeys {
		for _, f := range selectionFlags() {
			refused = append(refused, f.Names()[0])
		}
		if len(inv.args) > 1 {
			return usage("leave them out: it watches everything below the prefix", "top keys takes no resources, got %q", inv.args[1:])
		}
	}
	for _, name := range refused {
		if !inv.IsSet(name) {
			continue
		}
		if name == flagFrom {
			return usage("top sizes and top writers read files", "top keys watches a running etcd: a file does not change")
		}
		return usage("see: etcd-rescue top --help", "top %s does not take --%s", what, name)
	}
	for _, name := range []string{flagInterval, flagRefreshes} {
		if inv.IsSet(name) && !inv.Bool(flagWatch) {
			return usage("add --"+flagWatch, "--%s is for --%s", name, flagWatch)
		}
	}
	switch {
	case inv.Bool(flagWatch) && inv.from() != "":
		return usage("leave out --"+flagWatch, "--%s reads a running etcd again and again: a file does not change", flagWatch)
	case inv.Duration(flagFor) <= 0:
		return usage("", "--%s takes a duration above zero, got %s", flagFor, inv.Duration(flagFor))
	case inv.Duration(flagInterval) < 0, inv.Int(flagRefreshes) < 0, inv.IsSet(flagRefreshes) && inv.Int(flagRefreshes) == 0:
		return usage("", "--%s and --%s must be above zero", flagInterval, flagRefreshes)
	}
	return nil
}

// topReport opens the store and shows a report of it, with --watch again and
// again.
func (inv *invocation) topReport(ctx context.Context, show func(*session, context.Context, int) error) error {
	s, err := inv.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if !inv.Bool(flagWatch) {
		return show(s, ctx, 0)
	}
	w := newWatching(inv)
	return w.run(ctx, func(ctx context.Context, n int) (last bool, err error) {
		if n > 1 {
			if err := s.repin(ctx); err != nil {
				return true, err
			}
		}
		return false, w.draw(func(rows int) error { return show(s, ctx, rows) })
	}, w.breathe)
}

// topScan reads every selected object once, with its value.
type topScan struct {
	s         *session
	each      func(o filter.Object)
	revision  int64
	undecided int64
	hint      string // for what was not decided
	survey    *survey
}

// all reads every resource named, or the whole registry.
func (t *topScan) all(ctx context.Context, names []string) error {
	t.survey = newSurvey()
	if len(names) == 0 {
		sel, err := t.s.selection(ctx, nil)
		if err != nil {
			return err
		}
		return t.selected(ctx, sel)
	}
	seen := map[string]bool{}
	for _, name := range names {
		sel, err := t.s.selection(ctx, []string{name})
		if err != nil {
			return err
		}
		prefix := sel.Resource
		if r, _, ok := t.s.reader.Catalog.Lookup(sel.Resource); ok {
			prefix = r.Prefix
		}
		if seen[prefix] {
			continue // named twice, as in "pods po"
		}
		seen[prefix] = true
		if err := t.selected(ctx, sel); err != nil {
			return err
		}
	}
	return nil
}

func (t *topScan) selected(ctx context.Context, sel filter.Selection) error {
	sources := t.s.sources()
	if sel.Resource != "" || len(sel.Keys) > 0 {
		src, _, _ := t.s.sourceOf(sel)
		sources = []keyspace.Source{src}
	}
	t.revision = sources[0].Revision()
	for i, src := range sources {
		f, _, err := t.s.filter(sel, src)
		if err != nil {
			return err
		}
		if i == 0 {
			if err := t.s.checkNamespace(ctx, src, f); err != nil {
				return err
			}
		}
		before := t.undecided
		judging := f.Judging(t.judged)
		for _, r := range f.Ranges() {
			if err := scanAny(ctx, src, r, false, func(kv *mvccpb.KeyValue) error { return t.one(ctx, f, judging, kv) }); err != nil {
				return err
			}
		}
		if err := judging.Flush(ctx); err != nil {
			return err
		}
		if hint := t.s.inv.sayUndecided(f); t.undecided > before {
			t.hint = hint
		}
	}
	return nil
}

func (t *topScan) one(ctx context.Context, f *filter.Filter, judging *filter.Judging, kv *mvccpb.KeyValue) error {
	o, err := t.s.inspect(ctx, f, kv)
	if err != nil {
		return err
	}
	err = judging.Add(ctx, o)
	if err == nil && t.s.file != nil {
		err = judging.Flush(ctx) // the next object may be read into the same memory
	}
	return err
}

func (t *topScan) judged(_ context.Context, o filter.Object, d filter.Decision) error {
	switch d {
	case filter.Undecided:
		t.undecided++
	case filter.Keep:
		t.survey.add(o, false)
		t.each(o)
	}
	return nil
}

// verdict is the error that the command ends with.
func (t *topScan) verdict() error {
	if t.undecided > 0 {
		return partial(t.hint, "%s not decided, and not in these figures", objects(t.undecided))
	}
	return nil
}

// foundObject is what a report keeps of an object.
type foundObject struct {
	name string // as messages have it
	key  string
	of   codec.Key
}

// foundOf keeps no more than the beginning of a key that is longer than any of
// Kubernetes' can be.
func foundOf(o filter.Object) foundObject {
	const longest = 4096
	if len(o.KV.Key) > longest {
		key := string(o.KV.Key[:longest])
		return foundObject{name: key, key: key}
	}
	return foundObject{o.Name(), string(o.KV.Key), o.Key}
}

// document adds the object's fields to a JSON entry.
func (f foundObject) document(entry map[string]any) map[string]any {
	entry["key"] = f.key
	if f.of.Resource != nil {
		entry["resource"], entry["name"] = f.of.Resource.String(), f.of.Name
		if f.of.Resource.Namespaced {
			entry["namespace"] = f.of.Namespace
		}
	}
	return entry
}

// percent writes a share of a whole: "97%", "0.4%", "0%".
func percent(part, whole int64) string {
	if whole <= 0 || part <= 0 {
		return "0%"
	}
	share := 100 * float64(part) / float64(whole)
	switch {
	case share >= 9.95 || share == float64(int64(share)):
		return strconv.FormatFloat(share, 'f', 0, 64) + "%"
	case share < 0.1:
		return "<0.1%"
	}
	return strconv.FormatFloat(share, 'f', 1, 64) + "%"
}

// moreLines says that a table was cut, unless it was for want of space.
func (inv *invocation) moreLines(n, most int, what string) {
	if n > 0 && most == inv.Int(flagLimit) {
		inv.say("note: %s; --%s shows more, JSON has all", term.Plural(int64(n), what), flagLimit)
	}
}
