package codec

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	eventsv1beta1 "k8s.io/api/events/v1beta1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/json"
	kjson "sigs.k8s.io/json"
)

// crdDepth is the deepest JSON that is decoded as a CustomResourceDefinition:
// the decoder of a schema reads its bytes again for every level of schemas
// inside, so that time grows with depth times size.
const crdDepth = 100

func isCRD(u *unstructured.Unstructured) bool {
	return u.GetKind() == "CustomResourceDefinition" && groupOf(u.GetAPIVersion()) == apiextensions.GroupName
}

// showCRD converts a CustomResourceDefinition to v1 as kube-apiserver does on
// read: defaults in the stored version, then to v1 by way of the internal one.
// One in a version or of a shape that cannot be converted is shown as it is.
func showCRD(u *unstructured.Unstructured) (Shown, error) {
	asStored := Shown{Object: u}
	if deeper(u.Object, crdDepth) {
		return asStored, nil
	}
	s := crdScheme()
	stored, err := s.New(u.GroupVersionKind())
	if err != nil {
		return asStored, nil
	}
	omitted, err := strictInto(u, stored)
	if err != nil {
		return asStored, nil
	}
	s.Default(stored)
	var internal apiextensions.CustomResourceDefinition
	if err := s.Convert(stored, &internal, nil); err != nil {
		return asStored, nil
	}
	crd := new(apiextensionsv1.CustomResourceDefinition)
	if err := s.Convert(&internal, crd, nil); err != nil {
		return asStored, nil
	}
	crd.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
	return Shown{Object: crd, Omitted: omitted}, nil
}

// deeper reports whether v has more than n levels of objects and arrays.
func deeper(v any, n int) bool {
	switch v := v.(type) {
	case map[string]any:
		for _, member := range v {
			if n == 0 || deeper(member, n-1) {
				return true
			}
		}
	case []any:
		for _, element := range v {
			if n == 0 || deeper(element, n-1) {
				return true
			}
		}
	}
	return false
}

// strictInto decodes u into a typed object and returns what of u has no place
// there.
func strictInto(u *unstructured.Unstructured, to runtime.Object) ([]string, error) {
	data, err := json.Marshal(u.Object)
	if err != nil {
		return nil, err
	}
	strict, err := kjson.UnmarshalStrict(data, to, kjson.DisallowUnknownFields)
	if err != nil {
		return nil, err
	}
	known, err := toMap(to)
	if err != nil {
		return nil, err
	}
	// Strict decoding does not look into types with decoders of their own,
	// and comparing cannot tell an unknown empty member from a known one.
	d := dropped{}
	for _, err := range strict {
		if field, ok := err.(kjson.FieldError); ok {
			d.add(field.FieldPath())
		}
	}
	d.compare(nil, u.Object, known)
	return d.list(), nil
}

// Limits of a list of paths, whose names come from a value and may be as long
// and as many as fit.
const (
	maxOmitted = 20
	maxDropped = 1_000
	maxPath    = 256
)

// dropped collects the paths of members that a typed object lost, about
// maxDropped of them.
type dropped map[string]bool

// add takes a path of names as they are in the value and keeps it printable.
func (d dropped) add(path string) {
	path = strconv.Quote(path)
	path = path[1 : len(path)-1]
	if len(path) > maxPath {
		path = strings.ToValidUTF8(path[:maxPath], "") + "…"
	}
	d[path] = true
}

// list returns the first paths, sorted, and how many more there are.
func (d dropped) list() []string {
	paths := slices.Sorted(maps.Keys(d))
	if n := len(paths) - maxOmitted; n > 0 {
		return append(paths[:maxOmitted], fmt.Sprintf("and %d more", n))
	}
	return paths
}

// compare adds what stored has and known lacks, in the order of names. at is
// the path so far.
func (d dropped) compare(at []string, stored, known any) {
	switch s := stored.(type) {
	case map[string]any:
		k, _ := known.(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(s)) {
			member, ok := k[name]
			at := append(at, "."+name[:min(len(name), maxPath)])
			switch {
			case len(d) >= maxDropped:
				return
			case ok:
				d.compare(at, s[name], member)
			case !isEmpty(s[name]):
				d.add(strings.TrimPrefix(strings.Join(at, ""), "."))
			}
		}
	case []any:
		k, _ := known.([]any)
		for i := range min(len(s), len(k)) {
			d.compare(append(at, "["+strconv.Itoa(i)+"]"), s[i], k[i])
		}
	}
}

// isEmpty reports whether Go's JSON leaves such a value out, or may.
func isEmpty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case int64:
		return v == 0
	case float64:
		return v == 0
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// showEvent shows an event in the group of r. The two groups have the same
// objects under different names (k8s.io/kubernetes
// pkg/apis/events/v1/conversion.go).
func showEvent(s Shown, r *Resource) (Shown, error) {
	if r == nil || r.Prefix != eventsPrefix {
		return s, nil
	}
	if u, ok := s.Object.(*unstructured.Unstructured); ok {
		gv := schema.GroupVersion{Group: r.Group, Version: "v1"}
		if u.GetKind() != "Event" || u.GetAPIVersion() == gv.String() {
			return s, nil
		}
		to, err := apiScheme().New(u.GroupVersionKind())
		if err != nil {
			return s, nil
		}
		if s.Omitted, err = strictInto(u, to); err != nil {
			return Shown{}, fmt.Errorf("%w: it does not have the shape of an Event", ErrUndecodable)
		}
		s.Object = to
	}
	core, ok := asCoreEvent(s.Object)
	switch {
	case !ok:
	case r.Group == eventsGroup:
		s.Object = groupEvent(core)
	default:
		s.Object = core
	}
	return s, nil
}

// asCoreEvent returns an event of any group and version in v1.
func asCoreEvent(obj runtime.Object) (*corev1.Event, bool) {
	switch e := obj.(type) {
	case *corev1.Event:
		return e, true
	case *eventsv1.Event:
		return coreEvent(e), true
	case *eventsv1beta1.Event:
		// The two versions have the same fields, and differ in their tags.
		return coreEvent(&eventsv1.Event{
			ObjectMeta: e.ObjectMeta, EventTime: e.EventTime, Series: (*eventsv1.EventSeries)(e.Series),
			ReportingController: e.ReportingController, ReportingInstance: e.ReportingInstance,
			Action: e.Action, Reason: e.Reason, Regarding: e.Regarding, Related: e.Related, Note: e.Note, Type: e.Type,
			DeprecatedSource: e.DeprecatedSource, DeprecatedFirstTimestamp: e.DeprecatedFirstTimestamp,
			DeprecatedLastTimestamp: e.DeprecatedLastTimestamp, DeprecatedCount: e.DeprecatedCount,
		}), true
	}
	return nil, false
}

// groupEvent converts to events.k8s.io/v1.
func groupEvent(e *corev1.Event) *eventsv1.Event {
	return &eventsv1.Event{
		TypeMeta:                 metav1.TypeMeta{APIVersion: eventsv1.SchemeGroupVersion.String(), Kind: "Event"},
		ObjectMeta:               e.ObjectMeta,
		EventTime:                e.EventTime,
		Series:                   (*eventsv1.EventSeries)(e.Series),
		ReportingController:      e.ReportingController,
		ReportingInstance:        e.ReportingInstance,
		Action:                   e.Action,
		Reason:                   e.Reason,
		Regarding:                e.InvolvedObject,
		Related:                  e.Related,
		Note:                     e.Message,
		Type:                     e.Type,
		DeprecatedSource:         e.Source,
		DeprecatedFirstTimestamp: e.FirstTimestamp,
		DeprecatedLastTimestamp:  e.LastTimestamp,
		DeprecatedCount:          e.Count,
	}
}

// coreEvent converts to v1.
func coreEvent(e *eventsv1.Event) *corev1.Event {
	return &corev1.Event{
		TypeMeta:            metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta:          e.ObjectMeta,
		InvolvedObject:      e.Regarding,
		Reason:              e.Reason,
		Message:             e.Note,
		Source:              e.DeprecatedSource,
		FirstTimestamp:      e.DeprecatedFirstTimestamp,
		LastTimestamp:       e.DeprecatedLastTimestamp,
		Count:               e.DeprecatedCount,
		Type:                e.Type,
		EventTime:           e.EventTime,
		Series:              (*corev1.EventSeries)(e.Series),
		Action:              e.Action,
		Related:             e.Related,
		ReportingController: e.ReportingController,
		ReportingInstance:   e.ReportingInstance,
	}
}
