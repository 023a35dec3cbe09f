package app

import (
	"cmp"
	"context"
	"crypto/sha256"
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
	what    string            // created, changed, deleted, or written
	written time.Time         // zero if nothing tells
	by      []string          // the field managers that wrote, as far as they tell
	changes []shownChange     // to the version before
	more    int               // changes that are not kept
	whole   map[string]any    // until it has been compared
	sum     [sha256.Size]byte // of the plain value
	same    bool              // the value before has the same bytes
	err     error             // why the value cannot be read
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
	h := &history{s: s, key: key, room: maxChangeBytes}
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
// when the one before it arrives; only two objects are held whole, and of the
// changes what fits into room.
type history struct {
	s          *session
	key        codec.Key
	versions   []*pastVersion
	room       int // bytes of changes that may still be kept
	unreadable listed
	omitted    listed
}

func (h *history) add(ctx context.Context, v keyspace.Version) error {
	p := &pastVersion{Version: v, what: didDelete}
	if !v.Deleted {
		p.what = didWrite
		p.object = filter.NewObject(ctx, h.s.reader, v.KV)
		p.sum = sha256.Sum256(p.object.Plain)
		p.err = h.decode(p)
		// Only the size is shown of it.
		p.object.Plain, p.object.KV.Value = nil, nil
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
	if len(shown.Omitted) > 0 {
		h.omitted.add(fmt.Sprintf("revision %d (%s)", p.ModRevision, joinWords(shown.Omitted)))
	}
	p.whole, err = renderForDiff(shown, h.key.Resource, h.s.inv.Bool(flagShowSecrets))
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
	case older.Deleted || older.KV.CreateRevision != newer.KV.CreateRevision || older.whole == nil || newer.whole == nil:
		newer.writers(nil)
		return
	}
	newer.what, newer.same = didChange, older.sum == newer.sum
	for _, c := range diff.Objects(older.whole, newer.whole, diff.Bookkeeping) {
		h.keep(newer, c)
	}
	newer.writers(older.whole)
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

func (p *pastVersion) forget() { p.whole = nil }

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
	for _, entry := range managers(p.whole) {
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
	inv.sayList(h.omitted, "revision holds fields that this build does not know and does not compare", "revisions hold fields that this build does not know and does not compare")
	inv.sayList(h.unreadable, "revision cannot be decoded", "revisions cannot be decoded")
}
