package codec

import (
	stdjson "encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/util/jsonpath"
)

// PrinterColumn is a column that a CRD declares for its objects, as its
// additionalPrinterColumns have it. Only [Catalog.AddCRD] makes one with cells
// that are not empty.
type PrinterColumn struct {
	Name string
	Type string // integer, number, string, boolean or date
	Path string // JSONPath without braces, ".spec.replicas"
	Wide bool   // its priority is above 0

	// compiled is Path, nil if following it would cost too much. It has no
	// range, the only thing that changes a JSONPath while it is followed, so
	// that it may be used concurrently.
	compiled *jsonpath.JSONPath
}

// What a CRD may ask for, which anybody who can write a CRD decides. Real ones
// have up to some twenty columns.
const (
	maxPrinterColumns = 64
	maxPrinterPath    = 1024
)

func customColumns(r *Resource) []Column {
	if r.PrinterColumns == nil {
		return columns("NAME,AGE")
	}
	list := []Column{{Name: "NAME"}}
	for _, c := range r.PrinterColumns {
		list = append(list, Column{Name: strings.ToUpper(c.Name), Wide: c.Wide})
	}
	return list
}

// customCells finds the values as kube-apiserver does (k8s.io/apiextensions-apiserver
// pkg/registry/customresource/tableconvertor): what is missing, or of another
// type than the column, is an empty cell.
func customCells(obj runtime.Object, r *Resource, now time.Time) []string {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok || r.PrinterColumns == nil {
		return plainCells(obj, customColumns(r), now)
	}
	cells := []string{u.GetName()}
	for i := range r.PrinterColumns {
		cells = append(cells, r.PrinterColumns[i].cell(u.Object, now))
	}
	return cells
}

func (c *PrinterColumn) cell(object map[string]any, now time.Time) string {
	if c.compiled == nil {
		return ""
	}
	results, err := c.compiled.FindResults(object)
	if err != nil || len(results) == 0 || len(results[0]) == 0 || !results[0][0].IsValid() {
		return ""
	}
	value := results[0][0].Interface()
	switch c.Type {
	case "string":
		var text strings.Builder
		if err := c.compiled.PrintResults(&text, []reflect.Value{reflect.ValueOf(value)}); err != nil {
			return ""
		}
		return text.String()
	case "integer":
		return integerCell(value)
	case "number":
		return numberCell(value)
	case "boolean":
		if b, ok := value.(bool); ok {
			return fmt.Sprint(b)
		}
	case "date":
		return dateCell(value, now)
	}
	return ""
}

// newPrinterColumn is an error for a path that cannot be read. One is not
// followed if its cost is more than the size of the object: it is very long, or
// has a range, or more than one of ".." and unions, which multiply.
func newPrinterColumn(c crdColumn) (PrinterColumn, error) {
	column := PrinterColumn{Name: c.Name, Type: c.Type, Path: c.JSONPath + c.JSONPATH, Wide: c.Priority > 0}
	if len(column.Path) > maxPrinterPath {
		return column, nil
	}
	template := "{" + column.Path + "}"
	parsed, err := jsonpath.Parse("", template)
	if err != nil {
		return column, err
	}
	if multiplying(parsed.Root) > 1 {
		return column, nil
	}
	column.compiled = jsonpath.New("").AllowMissingKeys(true)
	return column, column.compiled.Parse(template)
}

// multiplying counts the parts of a path that can visit a value more than once.
// A range is always too many.
func multiplying(node jsonpath.Node) int {
	switch n := node.(type) {
	case *jsonpath.ListNode:
		sum := 0
		for _, child := range n.Nodes {
			sum += multiplying(child)
		}
		return sum
	case *jsonpath.UnionNode:
		sum := 1
		for _, child := range n.Nodes {
			sum += multiplying(child)
		}
		return sum
	case *jsonpath.FilterNode:
		// Either side alone is as cheap as any path.
		return multiplying(n.Left) + multiplying(n.Right)
	case *jsonpath.RecursiveNode:
		return 1
	case *jsonpath.IdentifierNode:
		return 2
	}
	return 0
}

func integerCell(value any) string {
	switch v := value.(type) {
	case int64:
		return count(v)
	case float64:
		return count(int64(v))
	}
	return ""
}

// numberCell shows a number as it is after its way through the JSON of a table.
func numberCell(value any) string {
	if n, ok := value.(int64); ok {
		value = float64(n)
	}
	if _, ok := value.(float64); !ok {
		return ""
	}
	data, err := stdjson.Marshal(value)
	if err != nil {
		return ""
	}
	var back any
	if err := json.Unmarshal(data, &back); err != nil {
		return ""
	}
	return fmt.Sprint(back)
}

func dateCell(value any, now time.Time) string {
	s, ok := value.(string)
	if !ok {
		return ""
	}
	var t metav1.Time
	if err := t.UnmarshalQueryParameter(s); err != nil {
		return "<invalid>"
	}
	return age(t, now)
}

// crdColumn is an additionalPrinterColumn; v1beta1 spells the path in capitals.
type crdColumn struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	Priority int32  `json:"priority"`
	JSONPath string `json:"jsonPath"`
	JSONPATH string `json:"JSONPath"`
}

// printerColumns returns the columns of the version that is stored, else of the
// first that is served. In v1beta1 one list may hold for all versions.
func (crd *crdHead) printerColumns() []PrinterColumn {
	chosen := crd.Spec.AdditionalPrinterColumns
	version := -1
	for i, v := range crd.Spec.Versions {
		if v.Storage || version < 0 && v.Served {
			version = i
		}
		if v.Storage {
			break
		}
	}
	if version >= 0 && len(crd.Spec.Versions[version].AdditionalPrinterColumns) > 0 {
		chosen = crd.Spec.Versions[version].AdditionalPrinterColumns
	}
	if len(chosen) == 0 {
		return nil
	}
	list := []PrinterColumn{}
	for _, c := range chosen[:min(len(chosen), maxPrinterColumns)] {
		column, err := newPrinterColumn(c)
		if err != nil {
			// kube-apiserver leaves out a path that it cannot read, and all
			// that comes after it.
			break
		}
		list = append(list, column)
	}
	return list
}
