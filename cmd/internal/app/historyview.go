package app

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/diff"
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
	if v.what == didChange {
		did = term.Plural(int64(len(v.changes)), "field") + " changed"
	}
	return []string{fmt.Sprint(v.ModRevision), fmt.Sprint(v.KV.Version), written, inv.size(v.object.Size),
		string(v.object.Head.Status), did, joinWords(v.by)}
}

// details lists the changes of one version below the table.
func (h *history) details(v *pastVersion) {
	if len(v.changes) == 0 {
		return
	}
	out := h.s.inv.Streams.Out
	fmt.Fprintf(out, "\nrevision %d:\n", v.ModRevision)
	for _, c := range v.changes {
		if repeats(c) {
			fmt.Fprintf(out, "  %s: %s\n", c.Path, c.Op)
			continue
		}
		fmt.Fprintf(out, "  %s\n", strings.TrimRight(c.String(), " "))
	}
}

// repeats tells an annotation that holds the whole object once more. Its
// change says nothing that the others do not; JSON has it.
func repeats(c diff.Change) bool {
	path, ok := members(c.Path)
	return ok && len(path) > 0 && path[0] == "metadata" && codec.SecretPath(path)
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
			changes = append(changes, changeDocument(c))
		}
		doc["changes"] = changes
	}
	return doc
}

func changeDocument(c diff.Change) map[string]any {
	doc := map[string]any{"path": c.Path.String(), "op": string(c.Op)}
	if c.Op != diff.Added {
		doc["old"] = c.Old
	}
	if c.Op != diff.Removed {
		doc["new"] = c.New
	}
	return doc
}
