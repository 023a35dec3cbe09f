package codec

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
)

// What kube-apiserver prints in place of a value that is not there. Which of
// them stands in which column has no rule.
const (
	noValue      = "<none>"
	unknownValue = "<unknown>"
	unsetValue   = "<unset>"
)

// Column is one column of a table. Wide ones are shown with -o wide only.
type Column struct {
	Name string
	Wide bool
}

// Columns returns the columns of the resource's table as kubectl prints them of
// a kube-apiserver 1.36, in upper case (k8s.io/kubernetes
// pkg/printers/internalversion/printers.go); for a custom resource those of its
// CRD; NAME and AGE for anything else. NAME is not always the first, nor always
// shown: it is a wide column of events. NAMESPACE is left to the caller, who
// knows whether more than one is listed. The caller owns the list.
func (r *Resource) Columns() []Column {
	if r.Custom {
		return customColumns(r)
	}
	return slices.Clone(tableOf(r).columns)
}

// Cells returns the text of one row, a cell for each of r.Columns() in the same
// order, wide ones included. Times are relative to now. A cell that would take
// more than one line is cut at the first as kubectl does, ending in "...".
//
// An object that is not what the columns describe, because it is damaged or
// stored in an older version of another shape, has its name and its age, and
// <unknown> in the others.
func Cells(obj runtime.Object, r *Resource, now time.Time) []string {
	var cells []string
	if r.Custom {
		cells = customCells(obj, r, now)
	} else {
		t := tableOf(r)
		cells = t.cells(obj, now)
		if len(cells) != len(t.columns) {
			cells = plainCells(obj, t.columns, now)
		}
	}
	for i := range cells {
		cells[i] = firstLine(cells[i])
	}
	return cells
}

// firstLine cuts where kubectl does (k8s.io/cli-runtime
// pkg/printers/tableprinter.go, printTable).
func firstLine(s string) string {
	if end := strings.IndexAny(s, "\f\n\r"); end >= 0 {
		return s[:end] + "..."
	}
	return s
}

// table is how the objects of one built-in resource are shown. cells returns
// nil for an object that it is not made for.
type table struct {
	columns []Column
	cells   func(obj runtime.Object, now time.Time) []string
}

// tableOf is NAME and AGE for what has no columns of its own: kinds that
// kube-apiserver 1.36 does not serve.
func tableOf(r *Resource) table {
	if t, ok := builtinTables()[r.String()]; ok {
		return t
	}
	return builtinTables()[""]
}

// builtinTables is built at the first use and never changed.
var builtinTables = sync.OnceValue(func() map[string]table {
	all := map[string]table{"": plain("NAME,AGE")}
	for _, group := range []map[string]table{workloadTables(), clusterTables(), networkTables(),
		storageTables(), policyTables(), deviceTables(), flowTables()} {
		maps.Copy(all, group)
	}
	return all
})

// columns reads a list of column names separated by commas; a plus marks the
// wide ones.
func columns(header string) []Column {
	var list []Column
	for name := range strings.SplitSeq(header, ",") {
		name, wide := strings.CutPrefix(name, "+")
		list = append(list, Column{Name: name, Wide: wide})
	}
	return list
}

func plain(header string) table {
	return table{columns(header), func(runtime.Object, time.Time) []string { return nil }}
}

// show makes a table from a function over one Go type. Objects of the same kind
// that are stored as JSON or in another version are converted to it first.
func show[T any, P interface {
	*T
	runtime.Object
}](header string, cells func(P, time.Time) []string) table {
	kind := reflect.TypeFor[T]().Name()
	return table{columns(header), func(obj runtime.Object, now time.Time) []string {
		o, ok := obj.(P)
		if !ok {
			o = new(T)
			if !reshape(obj, kind, o) {
				return nil
			}
		}
		return cells(o, now)
	}}
}

// reshape fills an object of a Go type from one that has the same kind and
// largely the same JSON.
func reshape(obj runtime.Object, kind string, to runtime.Object) bool {
	if obj == nil {
		return false
	}
	gvk := obj.GetObjectKind().GroupVersionKind()
	if gvk.Kind != kind || otherShape(gvk.GroupVersion().String(), kind) {
		return false
	}
	var content map[string]any
	if u, ok := obj.(*unstructured.Unstructured); ok {
		if content = u.Object; wildText(content) {
			return false
		}
	} else {
		var err error
		if content, err = runtime.DefaultUnstructuredConverter.ToUnstructured(obj); err != nil {
			return false
		}
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, to); err != nil {
		return false
	}
	fillAsRead(to)
	return true
}

// otherShape tells the versions whose fields for some column are elsewhere than
// in the current one, so that reading them as that would show a wrong value.
func otherShape(apiVersion, kind string) bool {
	switch apiVersion {
	case "autoscaling/v2beta1", "node.k8s.io/v1alpha1":
		return true
	case "flowcontrol.apiserver.k8s.io/v1alpha1", "flowcontrol.apiserver.k8s.io/v1beta1", "flowcontrol.apiserver.k8s.io/v1beta2":
		return kind == "PriorityLevelConfiguration"
	case "scheduling.k8s.io/v1alpha1", "scheduling.k8s.io/v1alpha2":
		return kind == "PodGroup"
	}
	return false
}

func plainCells(obj runtime.Object, header []Column, now time.Time) []string {
	name, created := unknownValue, metav1.Time{}
	if accessor, err := meta.Accessor(obj); err == nil {
		name, created = accessor.GetName(), accessor.GetCreationTimestamp()
	}
	cells := make([]string, len(header))
	for i, column := range header {
		switch {
		case column.Name == "NAME":
			cells[i] = name
		case column.Name == "AGE":
			cells[i] = age(created, now)
		case column.Name == "CREATED AT" && !created.IsZero():
			cells[i] = created.UTC().Format(time.RFC3339)
		default:
			cells[i] = unknownValue
		}
	}
	return cells
}

func age(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return unknownValue
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

func or(s, missing string) string {
	if s == "" {
		return missing
	}
	return s
}

func orNone(s string) string { return or(s, noValue) }

// deref returns what p points to, as text, or missing.
func deref[S ~string](p *S, missing string) string {
	if p == nil {
		return missing
	}
	return string(*p)
}

func count[N ~int | ~int32 | ~int64](n N) string { return strconv.FormatInt(int64(n), 10) }

// isTrue is for a field with a default: kube-apiserver fills it in on read.
func isTrue(p *bool, missing bool) string {
	if p != nil {
		missing = *p
	}
	return strconv.FormatBool(missing)
}

// containerCells are the columns CONTAINERS and IMAGES.
func containerCells(spec *corev1.PodSpec) []string {
	var names, images []string
	for i := range spec.Containers {
		names = append(names, spec.Containers[i].Name)
		images = append(images, spec.Containers[i].Image)
	}
	return []string{strings.Join(names, ","), strings.Join(images, ",")}
}

// firstFew joins a list of which kube-apiserver shows a few only.
func firstFew(list []string, few int, separator, missing string) string {
	switch {
	case len(list) == 0:
		return missing
	case len(list) <= few:
		return strings.Join(list, separator)
	}
	return strings.Join(list[:few], separator) + " + " + strconv.Itoa(len(list)-few) + " more..."
}
