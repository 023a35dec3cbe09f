package app

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/diff"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

func historyCommand() *command {
	return &command{
		name: "history", args: "RESOURCE NAME", minArgs: 1, maxArgs: 2,
		summary: "show the earlier revisions of one object that the store still holds",
		about: "Shows each revision with its size, who wrote it and when as far as managedFields tell, and what changed. etcd keeps what was not " +
			"compacted yet, usually five to ten minutes; a snapshot or db file keeps as much. Objects that were deleted are found too: get --rev shows one " +
			"as it was. Nothing is changed.",
		examples: []string{
			"etcd-rescue history deployment web -n team",
			"etcd-rescue history secret rotated -n team --from snapshot.db",
		},
		flags: slices.Concat(outputFlags("table, json, yaml"), []cli.Flag{
			&cli.IntFlag{Name: flagLimit, Usage: "show the newest `N` revisions", Value: keyspace.DefaultVersions, Category: catOutput},
			&cli.BoolFlag{Name: flagShowSecrets, Usage: "show the data of Secrets instead of a marker", Category: catOutput},
			&cli.StringFlag{Name: flagNamespace, Aliases: []string{"n"}, Usage: "the namespace `NAME` that holds the object", Category: catSelection},
		}, fromFlags(), connectionFlags()),
		run: runHistory,
	}
}

// pastVersion is one line of a history.
type pastVersion struct {
	keyspace.Version
	object  filter.Object
	what    string         // created, changed, deleted, or why there is nothing to say
	written time.Time      // zero if nothing tells
	by      []string       // the field managers that wrote, as far as they tell
	changes []diff.Change  // to the version before
	full    map[string]any // until it has been compared
	safe    map[string]any // the same without what a Secret holds
	err     error          // why the value cannot be read
}

// What a revision did to a key.
const (
	didCreate = "created"
	didChange = "changed"
	didDelete = "deleted"
	didWrite  = "written" // what was before is not known
)

func runHistory(ctx context.Context, inv *invocation) error {
	if err := inv.checkFormat(formatTable, formatJSON, formatYAML); err != nil {
		return err
	}
	if inv.Int(flagLimit) < 1 {
		return usage("leave it out for the newest 1,000", "--%s %d shows nothing", flagLimit, inv.Int(flagLimit))
	}
	s, key, err := inv.openOne(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	src, _, _ := s.sourceFor(key.Resource)
	h := &history{s: s, key: key}
	// One more than is shown, to compare the last one with.
	limit := inv.Int(flagLimit)
	extent, err := src.History(ctx, key.Path(s.reader.Prefix), limit+1, func(v keyspace.Version) error {
		return h.add(ctx, v)
	})
	if err != nil {
		return err
	}
	if len(h.versions) > limit {
		h.versions, extent.Cut = h.versions[:limit], true
	}
	if len(h.versions) == 0 {
		return s.notFound(ctx, src, key)
	}
	h.settle(extent)
	h.sayExtent(extent)
	return h.show(ctx, extent)
}

// history collects the versions of one key, newest first. Each is compared
// when the one before it arrives; only two objects are held whole.
type history struct {
	s          *session
	key        codec.Key
	versions   []*pastVersion
	unreadable listed
}

func (h *history) add(ctx context.Context, v keyspace.Version) error {
	p := &pastVersion{Version: v, what: didDelete}
	if !v.Deleted {
		p.what = didWrite
		p.object = filter.NewObject(ctx, h.s.reader, v.KV)
		p.err = h.decode(p)
		// Only the size is shown of it.
		p.object.Plain, p.object.KV.Value, p.KV = nil, nil, p.object.KV
	}
	if len(h.versions) > 0 {
		h.compare(p, h.versions[len(h.versions)-1])
	}
	h.versions = append(h.versions, p)
	return ctx.Err()
}

func (h *history) decode(p *pastVersion) error {
	if p.object.Head.Err != nil {
		return p.object.Head.Err
	}
	shown, err := codec.Show(p.object.Plain, p.ModRevision, h.key.Resource)
	if err != nil {
		return err
	}
	if p.full, err = codec.Render(shown.Object, codec.RenderOptions{ManagedFields: true, ShowSecrets: true}); err != nil {
		return err
	}
	p.safe, err = codec.Render(shown.Object, codec.RenderOptions{ManagedFields: true, ShowSecrets: h.s.inv.Bool(flagShowSecrets)})
	return err
}

// compare says what the newer version did, seen from the older one.
func (h *history) compare(older, newer *pastVersion) {
	defer newer.forget()
	switch {
	case newer.Deleted:
		return
	case newer.KV.Version == 1:
		newer.create()
		return
	case older.Deleted || older.KV.CreateRevision != newer.KV.CreateRevision || older.full == nil || newer.full == nil:
		newer.writers(nil)
		return
	}
	newer.what = didChange
	for _, c := range diff.Objects(older.full, newer.full, diff.Bookkeeping) {
		newer.changes = append(newer.changes, redacted(c, older.safe, newer.safe))
	}
	newer.writers(older.full)
}

// settle finishes the oldest version, which nothing is compared with.
func (h *history) settle(extent keyspace.Extent) {
	for _, v := range h.versions {
		if v.err != nil {
			h.unreadable.add(fmt.Sprintf("revision %d (%v)", v.ModRevision, v.err))
		}
	}
	last := h.versions[len(h.versions)-1]
	switch {
	case last.Deleted || extent.Cut:
	case last.KV.Version == 1:
		last.create()
	default:
		last.writers(nil)
	}
	last.forget()
}

func (p *pastVersion) create() {
	p.what = didCreate
	p.written = p.object.Head.Meta.Created
	p.writers(nil)
}

func (p *pastVersion) forget() { p.full, p.safe = nil, nil }

// redacted replaces the values of a change by those that may be shown. What a
// Secret hides is in members of members, never in lists.
func redacted(c diff.Change, older, newer map[string]any) diff.Change {
	path, ok := members(c.Path)
	if !ok {
		return c
	}
	if c.Op != diff.Added {
		c.Old = member(older, path)
	}
	if c.Op != diff.Removed {
		c.New = member(newer, path)
	}
	return c
}

// members returns the names on a path that leads through no list.
func members(p diff.Path) (names []string, ok bool) {
	for _, step := range p {
		if step.Kind != diff.Field {
			return nil, false
		}
		names = append(names, step.Name)
	}
	return names, true
}

func member(m map[string]any, path []string) any {
	var value any = m
	for _, name := range path {
		inner, ok := value.(map[string]any)
		if !ok {
			return value // a marker stands in place of the whole
		}
		value = inner[name]
	}
	return value
}

// writers tells who wrote the version: the field managers whose entry is not
// in the version before, or without that the ones that wrote last.
func (p *pastVersion) writers(before map[string]any) {
	var newest time.Time
	old := managers(before)
	type writer struct {
		name string
		at   time.Time
	}
	var found []writer
	for _, entry := range managers(p.full) {
		if slices.ContainsFunc(old, func(o map[string]any) bool { return reflect.DeepEqual(o, entry) }) {
			continue
		}
		text, _ := entry["time"].(string)
		at, _ := time.Parse(time.RFC3339, text)
		if at.After(newest) {
			newest = at
		}
		found = append(found, writer{managerName(entry), at})
	}
	for _, w := range found {
		if before != nil || w.at.Equal(newest) {
			p.by = append(p.by, w.name)
		}
	}
	if p.written.IsZero() {
		p.written = newest
	}
}

func managers(m map[string]any) []map[string]any {
	metadata, _ := m["metadata"].(map[string]any)
	list, _ := metadata["managedFields"].([]any)
	var entries []map[string]any
	for _, e := range list {
		if entry, ok := e.(map[string]any); ok {
			entries = append(entries, entry)
		}
	}
	return entries
}

// managerName is "kubelet (Update status)".
func managerName(entry map[string]any) string {
	name, _ := entry["manager"].(string)
	operation, _ := entry["operation"].(string)
	subresource, _ := entry["subresource"].(string)
	return fmt.Sprintf("%s (%s)", cmp.Or(name, "unnamed"), strings.TrimSpace(operation+" "+subresource))
}

// sayExtent says on stderr what the history cannot show.
func (h *history) sayExtent(e keyspace.Extent) {
	inv := h.s.inv
	if e.Oldest > 1 {
		inv.say("note: revisions before %d were compacted", e.Oldest)
	}
	if e.Step > 1 {
		inv.say("note: if the object was deleted and made again, an earlier life of fewer than %d revisions may be missing: etcd was only sampled for it", e.Step)
	}
	if e.Cut {
		inv.say("note: these are the newest %d revisions; --%s shows more", len(h.versions), flagLimit)
	}
	inv.sayList(h.unreadable, "revision cannot be decoded", "revisions cannot be decoded")
}
