package codec

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
)

// serverTable is the answer of a kube-apiserver to a request for a table.
type serverTable struct {
	Now     time.Time `json:"now"` // at most a second after the cells were made
	Columns []struct {
		Name     string `json:"name"`
		Priority int    `json:"priority"`
	} `json:"columns"`
	Rows []struct {
		Namespace string         `json:"namespace"`
		Name      string         `json:"name"`
		Cells     []any          `json:"cells"`
		Object    map[string]any `json:"object"`
	} `json:"rows"`
}

func serverTables(tb testing.TB, file string) map[string]*serverTable {
	tb.Helper()
	var tables map[string]*serverTable
	if err := json.Unmarshal(unzstd(tb, file), &tables); err != nil {
		tb.Fatal(err)
	}
	return tables
}

// header is the columns as kubectl prints them.
func (s *serverTable) header() []Column {
	var list []Column
	for _, c := range s.Columns {
		list = append(list, Column{Name: strings.ToUpper(c.Name), Wide: c.Priority > 0})
	}
	return list
}

// printed is a row as kubectl prints it: nothing for null, no cell without a
// column, one line.
func (s *serverTable) printed(row []any) []string {
	var cells []string
	for _, cell := range row[:min(len(row), len(s.Columns))] {
		text := ""
		if cell != nil {
			text = firstLine(fmt.Sprint(cell))
		}
		cells = append(cells, text)
	}
	return cells
}

// sameRow compares with what was true when the server looked at its clock.
func sameRow(obj runtime.Object, r *Resource, now time.Time, want []string) (diff string) {
	got := Cells(obj, r, now)
	earlier := Cells(obj, r, now.Add(-time.Second))
	for i := range got {
		if i < len(want) && earlier[i] == want[i] {
			got[i] = want[i]
		}
	}
	return cmp.Diff(want, got)
}

// serversOwn are the rows that differ from the fixture, each with the reason.
func serversOwn() map[string]string {
	return map[string]string{
		"leases/kube-system/apiserver-wlv32tlttr4jl3gtroqexyxapa": "the lease of the server that was asked, made when it started",
	}
}

// TestZooTables compares every row that a kube-apiserver 1.36.3 made of the
// fixture with ours of the stored value.
func TestZooTables(t *testing.T) {
	live := zoo(t)
	reader := zooReader(t, live)
	tables := serverTables(t, "tables.json.zst")
	resources := map[string]*Resource{"events.events.k8s.io": {Group: "events.k8s.io", Plural: "events", Prefix: "events/"}}
	for _, r := range reader.Catalog.Resources() {
		resources[r.String()] = r
	}
	objects := zooObjects(t, reader, live)
	rows, unequal := 0, map[string]string{}
	for name, table := range tables {
		r := resources[name]
		if r == nil {
			t.Errorf("%s: no such resource", name)
			continue
		}
		if diff := cmp.Diff(table.header(), r.Columns()); diff != "" {
			t.Errorf("%s: columns (-server +got):\n%s", name, diff)
			continue
		}
		for _, row := range table.Rows {
			id := r.Prefix + row.Namespace + "/" + row.Name
			obj := objects[id]
			if obj == nil {
				unequal[id] = "no such key"
				continue
			}
			rows++
			if diff := sameRow(obj, r, table.Now, table.printed(row.Cells)); diff != "" {
				unequal[id] = "(-server +got):\n" + diff
			}
		}
	}
	known := serversOwn()
	for id, diff := range unequal {
		if known[id] == "" {
			t.Errorf("%s: %s", id, diff)
		}
	}
	for id := range known {
		if unequal[id] == "" {
			t.Errorf("%s: it is equal", id)
		}
	}
	t.Logf("%d rows of %d resources, %d of them unequal", rows, len(tables), len(known))
	if rows < 1000 || len(tables) < 60 {
		t.Errorf("only %d rows of %d resources", rows, len(tables))
	}
}

// zooObjects has the fixture's objects by their resource's prefix, namespace
// and name.
func zooObjects(t *testing.T, reader *Reader, live map[string]zooValue) map[string]runtime.Object {
	t.Helper()
	objects := map[string]runtime.Object{}
	for key, stored := range live {
		v := reader.Read(t.Context(), key, stored.value)
		if v.Key.Resource == nil || handWritten(key) {
			continue
		}
		obj, err := Decode(v.Plain, stored.mod)
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		objects[v.Key.Resource.Prefix+v.Key.Namespace+"/"+v.Key.Name] = obj
	}
	return objects
}

// TestZooTablesOfAll: the fixture's tables have a row of every object that
// kubectl listed.
func TestZooTablesOfAll(t *testing.T) {
	tables := serverTables(t, "tables.json.zst")
	// It had expired, so the server that was asked deleted it when it started.
	const expired = "kube-system/apiserver-4b2ufvnxx37ysfh3nqp2d5jthy"
	objects := 0
	for name, list := range expectedObjects(t) {
		rows := map[string]bool{}
		if table := tables[name]; table != nil {
			for _, row := range table.Rows {
				rows[row.Namespace+"/"+row.Name] = true
			}
		}
		for id := range list {
			objects++
			if !rows[id] && id != expired {
				t.Errorf("%s %s: no row", name, id)
			}
		}
	}
	if objects < 1000 {
		t.Errorf("only %d objects", objects)
	}
}

// TestMoreTables compares rows of objects that the fixture's snapshot lacks,
// made to reach what a table shows of rarer fields, with ours of the same JSON.
func TestMoreTables(t *testing.T) {
	tables := serverTables(t, "tables-more.json.zst")
	c := NewCatalog()
	for _, row := range tables["customresourcedefinitions.apiextensions.k8s.io"].Rows {
		data, err := MarshalJSON(row.Object, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.AddCRD(data); err != nil {
			t.Fatal(err)
		}
	}
	resources := map[string]*Resource{"events.events.k8s.io": {Group: "events.k8s.io", Plural: "events"}}
	for _, r := range c.Resources() {
		resources[r.String()] = r
	}
	rows := 0
	for name, table := range tables {
		r := resources[name]
		if diff := cmp.Diff(table.header(), r.Columns()); diff != "" {
			t.Errorf("%s: columns (-server +got):\n%s", name, diff)
			continue
		}
		for _, row := range table.Rows {
			rows++
			obj, err := newUnstructured(row.Object)
			if err != nil {
				t.Fatal(err)
			}
			if diff := sameRow(obj, r, table.Now, table.printed(row.Cells)); diff != "" {
				t.Errorf("%s %s: (-server +got):\n%s", name, row.Name, diff)
			}
		}
	}
	t.Logf("%d rows of %d resources", rows, len(tables))
	if rows < 100 {
		t.Errorf("only %d rows", rows)
	}
}
