package app

import (
	"cmp"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/util/jsonpath"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// maxSorted bounds how much may be sorted, in bytes as stored: all of it is
// held in memory.
const maxSorted = 128 << 20

// sorter holds objects back and hands them to another sink in the order of a
// field, objects without it first, as kubectl does.
type sorter struct {
	p     *printer
	to    sink
	text  string
	path  *jsonpath.JSONPath
	items []sorted
	bytes int64
	found bool
}

type sorted struct {
	o     filter.Object
	class int // what cannot be compared with one another is kept apart
	num   resource.Quantity
	text  string
}

// The classes of sort keys, in order.
const (
	classMissing = iota
	classNumber
	classText
)

func newSorter(p *printer, by string) (sink, error) {
	path, err := relaxedPath(by)
	if err != nil {
		return nil, usage("such as --sort-by .metadata.creationTimestamp", "--%s: %w", flagSortBy, err)
	}
	return &sorter{p: p, to: p.sink, text: by, path: path}, nil
}

func (s *sorter) print(o filter.Object) error {
	if s.bytes += o.Size; s.bytes > maxSorted {
		return refuse("narrow the selection, or sort the output of -o custom-columns", "sorting would hold more than %s of objects in memory", term.Bytes(maxSorted))
	}
	item := sorted{o: o}
	if m, err := s.object(o); err == nil {
		item.class, item.num, item.text = sortKey(found(s.path, m))
	}
	s.found = s.found || item.class != classMissing
	s.items = append(s.items, item)
	return nil
}

// object is the object whole: one may sort by what is not printed.
func (s *sorter) object(o filter.Object) (map[string]any, error) {
	if o.Head.Err != nil {
		return nil, o.Head.Err
	}
	shown, err := codec.Show(o.Plain, o.KV.ModRevision, s.p.resourceOf(o))
	if err != nil {
		return nil, err
	}
	return codec.Render(shown.Object, codec.RenderOptions{ManagedFields: true, ShowSecrets: s.p.render.ShowSecrets, Secret: isSecrets(o.Key.Resource)})
}

// sortKey compares numbers and quantities by value, anything else as text.
func sortKey(values []any) (class int, num resource.Quantity, text string) {
	if len(values) == 0 || values[0] == nil {
		return classMissing, num, ""
	}
	text = fmt.Sprint(values[0])
	if codec.QuantityFits(text) {
		if num, err := resource.ParseQuantity(text); err == nil {
			return classNumber, num, text
		}
	}
	return classText, resource.Quantity{}, text
}

func (s *sorter) finish() error {
	if len(s.items) > 0 && !s.found {
		return usage("such as --sort-by .metadata.creationTimestamp", "--%s %s: no object listed has this field", flagSortBy, s.text)
	}
	slices.SortStableFunc(s.items, func(a, b sorted) int {
		return cmp.Or(cmp.Compare(a.class, b.class), a.num.Cmp(b.num), cmp.Compare(a.text, b.text))
	})
	for _, item := range s.items {
		if err := s.to.print(item.o); err != nil {
			return err
		}
	}
	return s.to.finish()
}
