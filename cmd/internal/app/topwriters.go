package app

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

const (
	// maxWriters is how many field managers are told apart; a cluster has a
	// few dozen.
	maxWriters = 4096
	// maxSubresources is how many subresources of one are kept; Kubernetes
	// has fewer than ten in all.
	maxSubresources = 16
	// longestManager is what kube-apiserver allows (k8s.io/apimachinery
	// pkg/apis/meta/v1/validation, FieldManagerMaxLength).
	longestManager = 128
	unnamedWriter  = "<unnamed>"
	otherWriters   = "<others>"
)

// fieldManager is what is known of one field manager.
type fieldManager struct {
	name         string
	objects      int64 // that it manages fields of
	newest       int64 // whose newest write was its own
	last         time.Time
	object       foundObject // that the last write changed
	operations   map[string]int64
	subresources map[string]int64

	counted, newer int64 // numbers of the objects that were counted last
}

// fieldManagers is what top writers finds.
type fieldManagers struct {
	scan      topScan
	now       time.Time
	since     time.Time // zero: all writes count
	by        map[string]*fieldManager
	objects   int64 // looked at
	managed   int64 // with a write that counts
	unmanaged int64 // without managedFields
	unknown   int64 // whose managedFields cannot be read
}

func (s *session) showWriters(ctx context.Context, rows int) error {
	inv := s.inv
	r := &fieldManagers{by: map[string]*fieldManager{}}
	if err := r.clock(ctx, s); err != nil {
		return err
	}
	r.scan = topScan{s: s, each: r.add}
	if err := r.scan.all(ctx, inv.args[1:]); err != nil {
		return err
	}
	r.scan.survey.say(inv)
	if f := inv.format(); f == formatJSON || f == formatYAML {
		if err := inv.document(r.document()); err != nil {
			return err
		}
		return r.scan.verdict()
	}
	if err := r.table(inv, rows); err != nil {
		return err
	}
	return r.scan.verdict()
}

// clock finds out what ages count from, if any is asked for.
func (r *fieldManagers) clock(ctx context.Context, s *session) error {
	since := s.inv.String(flagSince)
	table := s.inv.format() == formatTable || s.inv.format() == formatWide
	if since == "" && !(table && s.inv.Streams.OutTTY) {
		return nil
	}
	age := time.Duration(0)
	if since != "" {
		var err error
		if age, err = filter.ParseAge(since); err != nil {
			return usage("such as 10m or 2d", "--%s: %w", flagSince, err)
		}
	}
	var err error
	if r.now, err = s.clock(ctx); err != nil {
		return err
	}
	if since != "" {
		r.since = r.now.Add(-age)
	}
	return nil
}

func (r *fieldManagers) add(o filter.Object) {
	r.objects++
	if o.Head.Err != nil {
		r.unknown++
		return
	}
	info, err := codec.Managed(o.Plain)
	if err != nil {
		r.unknown++
		return
	}
	if len(info.Entries) == 0 {
		r.unmanaged++
		return
	}
	var newest time.Time
	for _, e := range info.Entries {
		if e.Time.After(newest) {
			newest = e.Time
		}
	}
	counts := false
	for _, e := range info.Entries {
		if !r.since.IsZero() && e.Time.Before(r.since) {
			continue
		}
		counts = true
		r.manager(e.Manager).add(o, e, r.objects, newest)
	}
	if counts {
		r.managed++
	}
}

// manager returns the account of a field manager.
func (r *fieldManagers) manager(name string) *fieldManager {
	name = cmp.Or(name[:min(len(name), longestManager)], unnamedWriter)
	w := r.by[name]
	if w == nil && len(r.by) >= maxWriters {
		name = otherWriters
		w = r.by[name]
	}
	if w == nil {
		name = strings.Clone(name)
		w = &fieldManager{name: name, operations: map[string]int64{}, subresources: map[string]int64{}}
		r.by[name] = w
	}
	return w
}

// add counts one entry of the n-th object. A manager has an entry for each
// operation, subresource and version that it wrote with.
func (w *fieldManager) add(o filter.Object, e codec.ManagedEntry, n int64, newest time.Time) {
	if w.counted < n {
		w.counted = n
		w.objects++
	}
	// The same second as the newest may be the same write or another one.
	if w.newer < n && !newest.IsZero() && e.Time.Equal(newest) {
		w.newer = n
		w.newest++
	}
	// Of several in that second the first by key, in whatever order they come.
	if e.Time.After(w.last) || e.Time.Equal(w.last) && !e.Time.IsZero() && string(o.KV.Key) < w.object.key {
		w.last, w.object = e.Time, foundOf(o)
	}
	countFew(w.operations, e.Operation)
	countFew(w.subresources, e.Subresource)
}

// countFew counts a name of which there are only few; more are left out.
func countFew(m map[string]int64, name string) {
	if _, known := m[name]; known || name != "" && len(name) <= longestManager && len(m) < maxSubresources {
		m[strings.Clone(name)]++
	}
}

// sorted returns the managers whose writes are the newest of the most objects
// first.
func (r *fieldManagers) sorted() []*fieldManager {
	return slices.SortedFunc(maps.Values(r.by), func(a, b *fieldManager) int {
		return cmp.Or(cmp.Compare(b.newest, a.newest), cmp.Compare(b.objects, a.objects), cmp.Compare(a.name, b.name))
	})
}

func (r *fieldManagers) table(inv *invocation, rows int) error {
	const header = 1
	list, most := r.sorted(), inv.Int(flagLimit)
	if rows > 0 {
		most = max(min(most, rows-header), 1)
	}
	switch {
	case r.objects == 0:
		inv.say("no objects found in %s", r.scan.s.describe())
		return nil
	case len(list) == 0 && !r.since.IsZero():
		inv.say("no write since %s in the managedFields of %s", r.since.UTC().Format(time.RFC3339), objects(r.objects))
		return nil
	}
	r.say(inv)
	wide := inv.format() == formatWide
	var cells [][]string
	if wide {
		cells = append(cells, []string{"LAST WRITE", "NEWEST", "SHARE", "OBJECTS", "OPERATIONS", "SUBRESOURCES", "MANAGER", "LAST OBJECT"})
	} else {
		cells = append(cells, []string{"LAST WRITE", "NEWEST", "OBJECTS", "MANAGER", "LAST OBJECT"})
	}
	for _, w := range list[:min(most, len(list))] {
		row := []string{r.when(inv, w.last), inv.number(w.newest)}
		if wide {
			row = append(row, percent(w.newest, r.managed), inv.number(w.objects), joinKeys(w.operations), joinKeys(w.subresources))
		} else {
			row = append(row, inv.number(w.objects))
		}
		cells = append(cells, append(row, w.name, cmp.Or(w.object.name, none)))
	}
	columns := len(cells[0])
	if !wide && !inv.cutLast(cells) {
		columns--
	}
	t := inv.table()
	for _, row := range cells {
		t.Row(row[:columns]...)
	}
	inv.moreLines(len(list)-most, most, "more manager")
	return t.Flush()
}

// say names what is not in the table.
func (r *fieldManagers) say(inv *invocation) {
	if r.unmanaged > 0 {
		inv.say("note: %s without managedFields: who writes them is not known", objects(r.unmanaged))
	}
	if r.unknown > 0 {
		inv.say("note: managedFields are not known of %s", objects(r.unknown))
	}
}

// when is an age on a terminal, and a time elsewhere.
func (r *fieldManagers) when(inv *invocation, t time.Time) string {
	switch {
	case t.IsZero():
		return unknownCell
	case inv.Streams.OutTTY:
		// A file's clock is the newest time of an object, and a write may be newer.
		return duration.HumanDuration(max(r.now.Sub(t), 0))
	}
	return t.UTC().Format(time.RFC3339)
}

func joinKeys(m map[string]int64) string {
	return cmp.Or(strings.Join(slices.Sorted(maps.Keys(m)), ","), none)
}

// cutLast shortens the last column to what fits the terminal, and reports
// whether there is room for it at all; -o wide has it whole.
func (inv *invocation) cutLast(rows [][]string) bool {
	const gap, least = 3, 12
	if !inv.Streams.OutTTY || inv.Streams.OutWidth <= 0 {
		return true
	}
	last := len(rows[0]) - 1
	room := inv.Streams.OutWidth
	for i := range last {
		widest := 0
		for _, row := range rows {
			widest = max(widest, term.Width(term.Clean(row[i])))
		}
		room -= widest + gap
	}
	for _, row := range rows {
		row[last] = term.Cut(term.Clean(row[last]), max(room, 1))
	}
	return room >= least
}

func (r *fieldManagers) document() map[string]any {
	list := []any{}
	for _, w := range r.sorted() {
		entry := map[string]any{
			"manager": w.name, "objects": w.objects, "newest": w.newest, "operations": w.operations, "subresources": w.subresources,
		}
		if !w.last.IsZero() {
			entry["lastWrite"], entry["lastObject"] = w.last.UTC().Format(time.RFC3339), w.object.document(map[string]any{})
		}
		list = append(list, entry)
	}
	doc := map[string]any{
		"version": 1, "kind": "topWriters", "revision": r.scan.revision, "managers": list,
		"objects": r.objects, "managed": r.managed, "unmanaged": r.unmanaged, "managedUnknown": r.unknown, "undecided": r.scan.undecided,
	}
	if !r.since.IsZero() {
		doc["since"] = r.since.UTC().Format(time.RFC3339)
	}
	r.scan.survey.document(doc)
	delete(doc, "outside") // not looked for
	return doc
}
