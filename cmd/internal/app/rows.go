package app

import (
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// tableSink prints a line for each object: what kubectl would show, or for a
// value that cannot be decoded its name from the key and its status.
type tableSink struct {
	p       *printer
	table   *term.Table
	columns []codec.Column
	name    int // the column of the name: NAME is not the first one of events
	wide    bool
	labels  bool
	begun   bool
}

func newTableSink(p *printer) *tableSink {
	t := &tableSink{
		p: p, table: term.NewTable(p.out, p.inv.Streams.OutTTY),
		columns: []codec.Column{{Name: "KEY"}, {Name: "AGE"}},
		wide:    p.inv.format() == formatWide, labels: p.inv.Bool(flagShowLabels),
	}
	if p.resource != nil {
		t.columns = p.resource.Columns()
	}
	t.name = max(0, slices.IndexFunc(t.columns, func(c codec.Column) bool { return c.Name == "NAME" }))
	return t
}

func (t *tableSink) finish() error { return t.table.Flush() }

func (t *tableSink) print(o filter.Object) error {
	if !t.begun && !t.p.inv.Bool(flagNoHeaders) {
		t.header()
	}
	t.begun = true
	values := t.cells(o)
	cells := make([]string, 0, len(values)+3)
	if t.p.namespace {
		cells = append(cells, o.Key.Namespace)
	}
	for i, c := range t.columns {
		if !c.Wide || t.wide {
			cells = append(cells, values[i])
		}
	}
	if t.wide {
		cells = append(cells, string(o.Head.Status))
	}
	if t.labels {
		cells = append(cells, labelText(o.Head.Meta.Labels))
	}
	t.table.Row(cells...)
	return nil
}

func labelText(l codec.Labels) string {
	if len(l) == 0 {
		return none
	}
	pairs := make([]string, len(l))
	for i, label := range l {
		pairs[i] = label.Key + "=" + label.Value
	}
	return strings.Join(pairs, ",")
}

func (t *tableSink) header() {
	var names []string
	if t.p.namespace {
		names = append(names, "NAMESPACE")
	}
	for _, c := range t.columns {
		name := c.Name
		if name == "AGE" && !t.p.inv.Streams.OutTTY {
			name = "CREATED"
		}
		if !c.Wide || t.wide {
			names = append(names, name)
		}
	}
	if t.wide {
		names = append(names, "STORED")
	}
	if t.labels {
		names = append(names, "LABELS")
	}
	t.table.Header(names...)
}

func (t *tableSink) cells(o filter.Object) []string {
	values, err := t.fill(o)
	if err == nil {
		err = disagrees(o)
	} else {
		values = make([]string, len(t.columns))
		for i := range values {
			values[i] = "<" + string(o.Head.Status) + ">"
		}
	}
	if err != nil {
		// The key is the truth: a copied value may carry another name.
		t.p.miss(o, err)
		values[t.name] = o.Key.Name
	}
	switch r := o.Key.Resource; {
	case t.p.resource == nil || r == nil:
		values[t.name] = string(o.KV.Key)
	case r.Internal: // these carry no name
		values[t.name] = o.Key.Name
	}
	t.age(o, values)
	return values
}

// fill makes the cells. Of objects of any kind the head is enough.
func (t *tableSink) fill(o filter.Object) ([]string, error) {
	if o.Head.Err != nil {
		return nil, o.Head.Err
	}
	if t.p.resource == nil {
		return make([]string, len(t.columns)), nil
	}
	shown, err := codec.Show(o.Plain, o.KV.ModRevision, t.p.resourceOf(o))
	if err != nil {
		return nil, err
	}
	return codec.Cells(shown.Object, t.p.resource, t.p.now), nil
}

// age shows how old the object is, and away from a terminal when it was made.
func (t *tableSink) age(o filter.Object, values []string) {
	created := o.Head.Meta.Created
	if created.IsZero() {
		return
	}
	for i, c := range t.columns {
		if c.Name != "AGE" {
			continue
		}
		if t.p.inv.Streams.OutTTY {
			values[i] = duration.HumanDuration(t.p.now.Sub(created))
		} else {
			values[i] = created.UTC().Format(time.RFC3339)
		}
	}
}
