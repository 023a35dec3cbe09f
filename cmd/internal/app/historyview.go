package app

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

func (h *history) show(ctx context.Context, extent keyspace.Extent) error {
	inv := h.s.inv
	if inv.format() != formatTable {
		if err := inv.document(h.document(extent)); err != nil {
			return err
		}
		return h.verdict()
	}
	t := inv.table()
	written, now := "WRITTEN", time.Time{}
	if inv.Streams.OutTTY {
		var err error
		if now, err = h.s.clock(ctx); err != nil {
			return err
		}
		written = "AGE"
	}
	t.Header("REVISION", "VERSION", written, "BYTES", "STORED", "DID", "BY")
	for _, v := range h.versions {
		t.Row(h.row(v, now)...)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, v := range h.versions {
		h.details(v)
	}
	return h.verdict()
}

func (h *history) row(v *pastVersion, now time.Time) []string {
	inv := h.s.inv
	if v.Deleted {
		return []string{fmt.Sprint(v.ModRevision), "", "", "", "", v.what, ""}
	}
	written := "<unknown>"
	switch {
	case v.written.IsZero():
	case inv.Streams.OutTTY:
		written = duration.HumanDuration(now.Sub(v.written))
	default:
		written = v.written.UTC().Format(time.RFC3339)
	}
	did := v.what
	switch n := len(v.changes) + v.more; {
	case v.what != didChange:
	case v.same:
		did = "written again, unchanged"
	case n == 0:
		did = "changed, in no field that is shown"
	default:
		did = term.Plural(int64(n), "field") + " changed"
	}
	return []string{fmt.Sprint(v.ModRevision), fmt.Sprint(v.KV.Version), written, inv.size(v.object.Size),
		string(v.object.Head.Status), did, joinWords(v.by)}
}

// details lists the changes of one version below the table.
func (h *history) details(v *pastVersion) {
	if len(v.changes)+v.more == 0 {
		return
	}
	out := h.s.inv.Streams.Out
	fmt.Fprintf(out, "\nrevision %d:\n", v.ModRevision)
	for _, c := range v.changes {
		fmt.Fprintf(out, "  %s\n", c.text)
	}
	if v.more > 0 {
		fmt.Fprintf(out, "  and %s more\n", term.Plural(int64(v.more), "change"))
	}
}

func (h *history) verdict() error {
	if h.unreadable.count == 0 {
		return nil
	}
	return partial("", "%s of %d cannot be decoded", term.Plural(h.unreadable.count, "revision"), len(h.versions))
}

func (h *history) document(extent keyspace.Extent) map[string]any {
	revisions := []any{}
	for _, v := range h.versions {
		revisions = append(revisions, v.document())
	}
	return map[string]any{
		"version": 1, "kind": "history", "key": h.key.Path(h.s.reader.Prefix), "revisions": revisions,
		"oldest": extent.Oldest, "sampled": max(extent.Step, 1), "cut": extent.Cut,
	}
}

func (v *pastVersion) document() map[string]any {
	doc := map[string]any{"revision": v.ModRevision, "did": v.what}
	if v.Deleted {
		return doc
	}
	doc["version"], doc["createRevision"], doc["bytes"] = v.KV.Version, v.KV.CreateRevision, v.object.Size
	doc["stored"], doc["by"] = string(v.object.Head.Status), append([]string{}, v.by...)
	if !v.written.IsZero() {
		doc["written"] = v.written.UTC().Format(time.RFC3339)
	}
	if v.what == didChange {
		changes := []any{}
		for _, c := range v.changes {
			changes = append(changes, c.document())
		}
		doc["changes"], doc["moreChanges"] = changes, v.more
	}
	return doc
}
