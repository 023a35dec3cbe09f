package app

import (
	"bufio"
	"bytes"
	"fmt"
	"time"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/diff"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// maxObjectChanges bounds the bytes of the changes of one object in a document.
const maxObjectChanges = 1 << 20

// diffDocument is the comparison as one JSON or YAML document, written piece by
// piece: what the stores are, then every difference in the order of keys, then
// the sums.
type diffDocument struct {
	d     *storeDiff
	out   *bufio.Writer
	items int64
}

func newDiffDocument(d *storeDiff) *diffDocument {
	return &diffDocument{d: d, out: bufio.NewWriterSize(d.inv.Streams.Out, 1<<16)}
}

func (v *diffDocument) yaml() bool { return v.d.inv.format() == formatYAML }

// marshal writes a map without the braces around it in JSON, and without the
// last line end.
func (v *diffDocument) marshal(m map[string]any) ([]byte, error) {
	if v.yaml() {
		b, err := codec.MarshalYAML(m)
		return bytes.TrimSuffix(b, []byte("\n")), err
	}
	var b bytes.Buffer
	err := term.JSON(&b, m)
	text := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	return bytes.TrimSuffix(bytes.TrimPrefix(text, []byte("{\n")), []byte("\n}")), err
}

// begin writes what the stores are.
func (v *diffDocument) begin() error {
	head := map[string]any{"version": 1, "kind": "snapshotDiff", "a": v.d.a.document(), "b": v.d.b.document(), "sameCluster": nil}
	if same, known := v.d.sameCluster(); known {
		head["sameCluster"] = same
	}
	v.d.inv.sayHowRead(head)
	b, err := v.marshal(head)
	if err != nil {
		return err
	}
	if v.yaml() {
		_, err = fmt.Fprintf(v.out, "%s\nchanges:", b)
	} else {
		_, err = fmt.Fprintf(v.out, "{\n%s,\n    \"changes\": [", b)
	}
	return err
}

func (v *diffDocument) difference(d *diff.Difference) error {
	if v.items == 0 {
		if err := v.begin(); err != nil {
			return err
		}
	}
	v.items++
	b, err := v.marshal(differenceDocument(d))
	if err != nil {
		return err
	}
	if v.yaml() {
		_, err = fmt.Fprintf(v.out, "\n- %s", bytes.TrimPrefix(indent(b, "  "), []byte("  ")))
		return err
	}
	comma := ","
	if v.items == 1 {
		comma = ""
	}
	_, err = fmt.Fprintf(v.out, "%s\n        {\n%s\n        }", comma, indent(b, "        "))
	return err
}

// finish writes the sums, and closes the document.
func (v *diffDocument) finish(sum *diff.Summary) error {
	empty := ""
	if v.items == 0 {
		if err := v.begin(); err != nil {
			return err
		}
		empty = " []"
	}
	b, err := v.marshal(summaryDocument(sum))
	if err != nil {
		return err
	}
	switch {
	case v.yaml():
		_, err = fmt.Fprintf(v.out, "%s\n%s\n", empty, b)
	case v.items == 0:
		_, err = fmt.Fprintf(v.out, "],\n%s\n}\n", b)
	default:
		_, err = fmt.Fprintf(v.out, "\n    ],\n%s\n}\n", b)
	}
	if err != nil {
		return err
	}
	return v.out.Flush()
}

func (x *diffSide) document() map[string]any {
	doc := map[string]any{"store": x.what(), "prefix": x.s.reader.Prefix, "revision": x.revision()}
	if !x.live() {
		doc["path"], doc["damaged"] = x.name, x.damaged()
	}
	if !x.asOf.IsZero() {
		doc["asOf"] = x.asOf.UTC().Format(time.RFC3339)
	}
	if x.cluster != "" {
		doc["cluster"] = x.cluster
	}
	return doc
}

func differenceDocument(d *diff.Difference) map[string]any {
	o := d.Object()
	doc := foundOf(*o).document(map[string]any{"did": string(d.Op)})
	if d.Class != "" {
		doc["class"] = string(d.Class)
	}
	if d.Old != nil {
		doc["old"] = versionDocument(d.Old)
	}
	if d.New != nil {
		doc["new"] = versionDocument(d.New)
	}
	if len(d.By) > 0 {
		doc["by"] = writersDocument(d.By)
	}
	if d.Err != nil {
		doc["unreadable"] = d.Err.Error()
	}
	if d.Op != diff.Changed || d.Class == diff.Routine || d.Class == diff.Unreadable {
		return doc
	}
	doc["recreated"] = d.Recreated
	changes, room := []any{}, maxObjectChanges
	for _, c := range d.Changes {
		shown := shownOf(c)
		if room -= shown.size(); room < 0 {
			break
		}
		changes = append(changes, shown.document())
	}
	doc["changes"], doc["moreChanges"] = changes, len(d.Changes)-len(changes)
	return doc
}

// shownOf is a change as it may be shown.
func shownOf(c diff.Change) *shownChange {
	shown := &shownChange{path: c.Path.String(), op: c.Op}
	if c.Op != diff.Added {
		shown.old = valueOf(c.Old)
	}
	if c.Op != diff.Removed {
		shown.new = valueOf(c.New)
	}
	return shown
}

func (c *shownChange) size() int { return len(c.path) + len(c.old.json) + len(c.new.json) }

func versionDocument(o *filter.Object) map[string]any {
	doc := map[string]any{
		"revision": o.KV.ModRevision, "createRevision": o.KV.CreateRevision, "version": o.KV.Version, "bytes": o.Size, "stored": string(o.Head.Status),
	}
	if uid := o.Head.Meta.UID; uid != "" {
		doc["uid"] = uid
	}
	if created := o.Head.Meta.Created; !created.IsZero() {
		doc["created"] = created.UTC().Format(time.RFC3339)
	}
	return doc
}

func writersDocument(by []codec.ManagedEntry) []any {
	list := []any{}
	for _, e := range by {
		entry := map[string]any{"manager": e.Manager, "operation": e.Operation}
		if e.Subresource != "" {
			entry["subresource"] = e.Subresource
		}
		if !e.Time.IsZero() {
			entry["time"] = e.Time.UTC().Format(time.RFC3339)
		}
		list = append(list, entry)
	}
	return list
}

func summaryDocument(sum *diff.Summary) map[string]any {
	groups := []any{}
	for _, g := range sum.Groups {
		doc := countsDocument(&g.Counts)
		doc["resource"], doc["isRoutine"] = g.Resource, g.IsRoutine
		if g.Namespace != "" {
			doc["namespace"] = g.Namespace
		}
		groups = append(groups, doc)
	}
	doc := map[string]any{
		"groups": groups, "total": countsDocument(&sum.Total), "routine": countsDocument(&sum.Routine),
		"undecided": sum.Undecided, "unmatched": sum.Unmatched,
	}
	if sum.OtherGroups > 0 {
		others := countsDocument(&sum.Others)
		others["groups"] = sum.OtherGroups
		doc["others"] = others
	}
	return doc
}

func countsDocument(c *diff.Counts) map[string]any {
	return map[string]any{
		"before": c.Before, "after": c.After, "bytesBefore": c.BytesBefore, "bytesAfter": c.BytesAfter,
		"added": c.Added, "removed": c.Removed, "configured": c.Configured, "status": c.StatusOnly, "rewritten": c.Rewritten,
		"routine": c.Routine, "unreadable": c.Unreadable, "recreated": c.Recreated,
	}
}
