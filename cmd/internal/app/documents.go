package app

import (
	"bytes"
	"fmt"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// documentSink prints objects whole, as JSON or YAML. The List around them is
// written piece by piece, in the shape that kubectl prints.
type documentSink struct {
	p     *printer
	items int64
}

func (d *documentSink) print(o filter.Object) error {
	m, ok := d.p.whole(o)
	if !ok {
		return nil
	}
	b, err := d.marshal(m)
	if err != nil {
		d.p.miss(o, err)
		return nil
	}
	switch d.p.inv.format() {
	case formatJSONL:
		_, err = d.p.out.Write(b)
	case formatYAML:
		err = d.yaml(b)
	default:
		err = d.json(bytes.TrimRight(b, "\n"))
	}
	return err
}

func (d *documentSink) marshal(m map[string]any) ([]byte, error) {
	switch d.p.inv.format() {
	case formatJSONL:
		return codec.MarshalJSON(m, "")
	case formatYAML:
		return codec.MarshalYAML(m)
	}
	return codec.MarshalJSON(m, "    ")
}

func (d *documentSink) json(b []byte) (err error) {
	if d.p.single {
		_, err = fmt.Fprintf(d.p.out, "%s\n", b)
		return err
	}
	d.items++
	before := ",\n"
	if d.items == 1 {
		before = "{\n    \"apiVersion\": \"v1\",\n    \"items\": [\n"
	}
	_, err = fmt.Fprintf(d.p.out, "%s%s", before, indent(b, "        "))
	return err
}

func (d *documentSink) yaml(b []byte) (err error) {
	if d.p.single {
		_, err = d.p.out.Write(b)
		return err
	}
	d.items++
	if d.items == 1 {
		fmt.Fprint(d.p.out, "apiVersion: v1\nitems:\n")
	}
	item := indent(bytes.TrimRight(b, "\n"), "  ")
	_, err = fmt.Fprintf(d.p.out, "- %s\n", bytes.TrimPrefix(item, []byte("  ")))
	return err
}

// finish closes the List.
func (d *documentSink) finish() error {
	if d.p.single {
		return nil
	}
	var text string
	switch format := d.p.inv.format(); {
	case format == formatJSON && d.items == 0:
		text = "{\n    \"apiVersion\": \"v1\",\n    \"items\": [],\n    \"kind\": \"List\",\n    \"metadata\": {\n        \"resourceVersion\": \"\"\n    }\n}\n"
	case format == formatJSON:
		text = "\n    ],\n    \"kind\": \"List\",\n    \"metadata\": {\n        \"resourceVersion\": \"\"\n    }\n}\n"
	case format == formatYAML && d.items == 0:
		text = "apiVersion: v1\nitems: []\nkind: List\nmetadata:\n  resourceVersion: \"\"\n"
	case format == formatYAML:
		text = "kind: List\nmetadata:\n  resourceVersion: \"\"\n"
	}
	_, err := d.p.out.WriteString(text)
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
