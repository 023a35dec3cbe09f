package app

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// row prints one line of a table: what kubectl would show, or for a value that
// cannot be decoded its name from the key and its status.
func (p *printer) row(o filter.Object) error {
	columns := p.columns()
	if p.shown == 1 {
		p.header(columns)
	}
	cells := make([]string, 0, len(columns)+2)
	if p.namespace {
		cells = append(cells, o.Key.Namespace)
	}
	values := p.cells(o, columns)
	for i, c := range columns {
		if !c.Wide || p.inv.format() == "wide" {
			cells = append(cells, values[i])
		}
	}
	if p.inv.format() == "wide" {
		cells = append(cells, string(o.Head.Status))
	}
	p.table.Row(cells...)
	return nil
}

func (p *printer) columns() []codec.Column {
	if p.resource == nil {
		return []codec.Column{{Name: "KEY"}, {Name: "AGE"}}
	}
	return p.resource.Columns()
}

func (p *printer) header(columns []codec.Column) {
	var names []string
	if p.namespace {
		names = append(names, "NAMESPACE")
	}
	for _, c := range columns {
		name := c.Name
		if name == "AGE" && !p.inv.Streams.OutTTY {
			name = "CREATED"
		}
		if !c.Wide || p.inv.format() == "wide" {
			names = append(names, name)
		}
	}
	if p.inv.format() == "wide" {
		names = append(names, "STORED")
	}
	p.table.Header(names...)
}

func (p *printer) cells(o filter.Object, columns []codec.Column) []string {
	values := make([]string, len(columns))
	values[0] = o.Key.Name
	if p.resource == nil {
		values[0] = string(o.KV.Key)
		if o.Head.Err != nil {
			p.broken.add(fmt.Sprintf("%s (%s)", o.KV.Key, o.Head.Status))
			values[1] = "<" + string(o.Head.Status) + ">"
		}
	} else if obj, err := codec.Decode(o.Plain, o.KV.ModRevision); err == nil {
		copy(values, codec.Cells(obj, p.resource, p.now))
		// The key is the truth: a copied value may carry another name.
		values[0] = o.Key.Name
		if !codec.MetaMatchesKey(o.Head, o.Key) {
			p.broken.add(fmt.Sprintf("%s (its metadata names %s/%s)", o.KV.Key, o.Head.Meta.Namespace, o.Head.Meta.Name))
		}
	} else if !p.byHead(o, columns, values) {
		p.broken.add(fmt.Sprintf("%s (%s)", o.KV.Key, o.Head.Status))
		for i := 1; i < len(values); i++ {
			values[i] = "<" + string(o.Head.Status) + ">"
		}
	}
	p.age(o, columns, values)
	return values
}

// byHead shows a kind that this build does not know by its metadata.
func (p *printer) byHead(o filter.Object, columns []codec.Column, values []string) bool {
	if o.Head.Err != nil {
		return false
	}
	for i := 1; i < len(columns); i++ {
		values[i] = "<unknown>"
	}
	return true
}

// age shows how old the object is, and away from a terminal when it was made.
func (p *printer) age(o filter.Object, columns []codec.Column, values []string) {
	created := o.Head.Meta.Created
	if created.IsZero() {
		return
	}
	for i, c := range columns {
		if c.Name != "AGE" {
			continue
		}
		if p.inv.Streams.OutTTY {
			values[i] = duration.HumanDuration(p.now.Sub(created))
		} else {
			values[i] = created.UTC().Format(time.RFC3339)
		}
	}
}

// whole prints the object itself.
func (p *printer) whole(o filter.Object) error {
	m, err := p.object(o)
	if err != nil {
		reason := err.Error()
		if !strings.Contains(reason, string(o.KV.Key)) {
			reason = fmt.Sprintf("%s (%s)", o.KV.Key, reason)
		}
		p.broken.add(reason)
		if !p.inv.Bool(flagIncludeBroken) {
			return nil
		}
		m = p.placeholder(o)
	}
	switch p.inv.format() {
	case "jsonl":
		return p.line(m)
	case "yaml":
		return p.yaml(m)
	}
	return p.jsonItem(m)
}

// object decodes and renders what is stored, refusing what disagrees with
// its key.
func (p *printer) object(o filter.Object) (map[string]any, error) {
	obj, err := codec.Decode(o.Plain, o.KV.ModRevision)
	if err != nil {
		return nil, err
	}
	if o.Key.Resource != nil && !codec.MetaMatchesKey(o.Head, o.Key) {
		return nil, fmt.Errorf("%s: its metadata names %s/%s", o.KV.Key, o.Head.Meta.Namespace, o.Head.Meta.Name)
	}
	return codec.Render(obj, p.render)
}

// placeholder stands for an object that cannot be shown, named by its key.
func (p *printer) placeholder(o filter.Object) map[string]any {
	metadata := map[string]any{"name": o.Key.Name, "resourceVersion": fmt.Sprint(o.KV.ModRevision)}
	if o.Key.Namespace != "" {
		metadata["namespace"] = o.Key.Namespace
	}
	m := map[string]any{"metadata": metadata, "status": map[string]any{"etcdRescue": string(o.Head.Status), "key": string(o.KV.Key), "bytes": o.Size}}
	if r := o.Key.Resource; r != nil {
		m["kind"] = r.Kind
	}
	return m
}

func (p *printer) line(m map[string]any) error {
	b, err := codec.MarshalJSON(m, "")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.out, "%s\n", bytes.TrimRight(b, "\n"))
	return err
}

// The List around the items is written piece by piece, in the shape that
// kubectl prints.

func (p *printer) jsonItem(m map[string]any) error {
	b, err := codec.MarshalJSON(m, "    ")
	if err != nil {
		return err
	}
	b = bytes.TrimRight(b, "\n")
	if p.single {
		_, err = fmt.Fprintf(p.out, "%s\n", b)
		return err
	}
	p.listItems++
	before := ",\n"
	if p.listItems == 1 {
		before = "{\n    \"apiVersion\": \"v1\",\n    \"items\": [\n"
	}
	_, err = fmt.Fprintf(p.out, "%s%s", before, indent(b, "        "))
	return err
}

func (p *printer) yaml(m map[string]any) error {
	b, err := codec.MarshalYAML(m)
	if err != nil {
		return err
	}
	if p.single {
		_, err = p.out.Write(b)
		return err
	}
	p.listItems++
	if p.listItems == 1 {
		fmt.Fprint(p.out, "apiVersion: v1\nitems:\n")
	}
	item := indent(bytes.TrimRight(b, "\n"), "  ")
	_, err = fmt.Fprintf(p.out, "- %s\n", bytes.TrimPrefix(item, []byte("  ")))
	return err
}

func (p *printer) closeList() error {
	var text string
	switch {
	case p.inv.format() == "json" && p.listItems == 0:
		text = "{\n    \"apiVersion\": \"v1\",\n    \"items\": [],\n    \"kind\": \"List\",\n    \"metadata\": {\n        \"resourceVersion\": \"\"\n    }\n}\n"
	case p.inv.format() == "json":
		text = "\n    ],\n    \"kind\": \"List\",\n    \"metadata\": {\n        \"resourceVersion\": \"\"\n    }\n}\n"
	case p.inv.format() == "yaml" && p.listItems == 0:
		text = "apiVersion: v1\nitems: []\nkind: List\nmetadata:\n  resourceVersion: \"\"\n"
	case p.inv.format() == "yaml":
		text = "kind: List\nmetadata:\n  resourceVersion: \"\"\n"
	}
	_, err := p.out.WriteString(text)
	return err
}

// indent puts pad before every line that is not empty. A line break inside a
// JSON or YAML string is escaped or indented there already, so the meaning
// stays.
func indent(b []byte, pad string) []byte {
	lines := bytes.Split(b, []byte("\n"))
	for i, line := range lines {
		if len(line) > 0 {
			lines[i] = append([]byte(pad), line...)
		}
	}
	return bytes.Join(lines, []byte("\n"))
}
