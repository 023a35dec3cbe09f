package codec

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// tableCRD is a CRD with the given fields of its spec.
func tableCRD(apiVersion, spec string) string {
	return `{"apiVersion":"apiextensions.k8s.io/` + apiVersion + `","kind":"CustomResourceDefinition","metadata":{"name":"things.example.com"},
		"spec":{"group":"example.com","scope":"Cluster","names":{"plural":"things","kind":"Thing"},` + spec + `}}`
}

// TestPrinterColumns: which of a CRD's lists of columns is taken.
func TestPrinterColumns(t *testing.T) {
	t.Parallel()
	const (
		one   = `"additionalPrinterColumns":[{"name":"One","type":"string","JSONPath":".a"},{"name":"Rest","type":"date","JSONPath":".b","priority":1}]`
		two   = `"additionalPrinterColumns":[{"name":"Two","type":"string","jsonPath":".a"}]`
		three = `"additionalPrinterColumns":[{"name":"three words","type":"string","jsonPath":".a"}]`
	)
	tests := []struct{ name, apiVersion, spec, want string }{
		{"v1beta1, one version", "v1beta1", `"version":"v1",` + one, "NAME ONE +REST"},
		{"v1beta1, for all versions", "v1beta1", one + `,"versions":[{"name":"v1","served":true,"storage":true}]`, "NAME ONE +REST"},
		{"v1beta1, by version", "v1beta1", `"versions":[{"name":"v1","served":true,"storage":true,` + one + `}]`, "NAME ONE +REST"},
		{"v1, the stored version", "v1", `"versions":[{"name":"v2","served":true,` + two + `},{"name":"v1","storage":true,` + three + `}]`, "NAME THREE WORDS"},
		{"v1, none is stored", "v1", `"versions":[{"name":"v3",` + three + `},{"name":"v2","served":true,` + two + `}]`, "NAME TWO"},
		{"v1, the stored version has none", "v1", `"versions":[{"name":"v2","served":true,` + two + `},{"name":"v1","storage":true}]`, "NAME AGE"},
		{"no versions", "v1", `"versions":[]`, "NAME AGE"},
		{"nothing of it can be read", "v1", `"versions":[{"storage":true,"additionalPrinterColumns":[{"name":"A","jsonPath":".a[?("},{"name":"B","jsonPath":".b"}]}]`, "NAME"},
		{"too many", "v1", `"versions":[{"storage":true,"additionalPrinterColumns":[` + strings.Repeat(`{"name":"A","jsonPath":".a"},`, 100) + `{"name":"B"}]}]`,
			"NAME" + strings.Repeat(" A", maxPrinterColumns)},
	}
	for _, test := range tests {
		r, err := NewCatalog().AddCRD([]byte(tableCRD(test.apiVersion, test.spec)))
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		var got []string
		for _, c := range r.Columns() {
			if c.Wide {
				c.Name = "+" + c.Name
			}
			got = append(got, c.Name)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: got %s, want %s", test.name, strings.Join(got, " "), test.want)
		}
	}
}

// TestPrinterColumnsBounded: a path that would visit an object's values many
// times over gives an empty cell at once, and others are not refused.
func TestPrinterColumnsBounded(t *testing.T) {
	t.Parallel()
	nested := strings.Repeat(`{"a":`, 60) + `"end"` + strings.Repeat(`}`, 60)
	obj := mustDecode(t, `{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"x"},"spec":`+nested+`,"list":[{"a":1,"b":"one"},{"a":2,"b":"two"}]}`)
	tests := []struct{ path, want string }{
		{strings.Repeat("['a','a']", 60), ""},
		{"..a..a", ""},
		{"..[*]..[*]..[*]", ""},
		{"}{range .list[*]}{.a}{end}{.b", ""},
		{".list[?(@..a)]", `{"a":1,"b":"one"}`},
		{`.list[?(@.a==2)].b`, "two"},
		{`.list[?(@['a','b'])]..a`, ""},
		{"..b", "one"},
		{".spec" + strings.Repeat(".a", 60), "end"},
		{".spec" + strings.Repeat(".a", 600), ""},
	}
	for _, test := range tests {
		column, err := newPrinterColumn(crdColumn{Name: "x", Type: "string", JSONPath: test.path})
		if err != nil {
			t.Fatal(err)
		}
		r := &Resource{Custom: true, PrinterColumns: []PrinterColumn{column}}
		if diff := cmp.Diff([]string{"x", test.want}, Cells(obj, r, viewed())); diff != "" {
			t.Errorf("%.40s: (-want +got):\n%s", test.path, diff)
		}
	}
}

// TestPrinterColumnsConcurrently is for the race detector: the compiled paths
// of a resource are shared.
func TestPrinterColumnsConcurrently(t *testing.T) {
	t.Parallel()
	column, err := newPrinterColumn(crdColumn{Name: "x", Type: "string", JSONPath: `..list[?(@.a==2)].b`})
	if err != nil {
		t.Fatal(err)
	}
	r := &Resource{Custom: true, PrinterColumns: []PrinterColumn{column}}
	obj := mustDecode(t, `{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"x"},"spec":{"list":[{"a":1},{"a":2,"b":"two"}]}}`)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 50 {
				if got := Cells(obj, r, viewed()); got[1] != "two" {
					t.Errorf("got %q", got)
				}
			}
		})
	}
	all.Wait()
}

// TestOrphanedCustomResource: without a CRD there are the name and the age.
func TestOrphanedCustomResource(t *testing.T) {
	t.Parallel()
	k, _ := NewCatalog().ParseKey(prefix, prefix+"example.com/things/x")
	obj := mustDecode(t, `{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"x","creationTimestamp":"2026-11-22T17:22:00Z"}}`)
	if diff := cmp.Diff([]string{"x", "2m"}, Cells(obj, k.Resource, viewed())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	pod := mustDecode(t, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"}}`)
	if diff := cmp.Diff([]string{"p", "<unknown>"}, Cells(pod, k.Resource, viewed())); diff != "" {
		t.Errorf("object without a time (-want +got):\n%s", diff)
	}
}

// FuzzPrinterColumn: whatever a CRD asks for of whatever object, there is one
// cell of one line.
func FuzzPrinterColumn(f *testing.F) {
	for _, path := range []string{".spec.a", ".spec['a','b']", "..a", ".a[0:2:1]", ".a[-1]", `.a[?(@.b=="c")].d`, ".a[*]", `.metadata.labels.a\.b/c`, "}{range .a}{end}{", ".a[?(@.b<3)]"} {
		f.Add(path, "string", `{"spec":{"a":[1,{"b":"c","d":null}],"b":2.5},"a":[{"b":"c","d":1},{"b":2}]}`)
	}
	f.Fuzz(func(t *testing.T, path, kind, object string) {
		crd := crdHead{}
		crd.Spec.AdditionalPrinterColumns = []crdColumn{{Name: "x", Type: kind, JSONPath: path}}
		r := &Resource{Custom: true, PrinterColumns: crd.printerColumns()}
		obj, err := decodeJSON([]byte(`{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"n"},"x":` + object + `}`))
		if err != nil {
			return
		}
		cells := Cells(obj, r, time.Unix(0, 0))
		if len(cells) != len(r.Columns()) || strings.ContainsAny(strings.Join(cells, ""), "\n\r\f") {
			t.Errorf("%q of %q: %q", path, object, cells)
		}
	})
}
