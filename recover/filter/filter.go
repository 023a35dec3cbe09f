package filter

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// Decision is what a filter says of one object.
type Decision int

// The decisions. Undecided means that the filter needed something of a value
// that could not be decoded; such an object is never selected.
const (
	Drop Decision = iota
	Keep
	Undecided
)

// Object is one stored object as a filter sees it.
type Object struct {
	KV *mvccpb.KeyValue // the value may be nil where only metadata is kept
	codec.Value
	Size int64 // bytes of the stored value
}

// Name is how messages name the object: "pod ops-tools/error-ret-xyz", or its
// key where no resource owns it.
func (o Object) Name() string {
	if o.Key.Resource == nil {
		return string(o.KV.Key)
	}
	name := o.Key.Name
	if o.Key.Namespace != "" {
		name = o.Key.Namespace + "/" + name
	}
	return o.Key.Resource.Word() + " " + name
}

// Namespace is the namespace of the object by its key.
func (o Object) Namespace() string { return o.Key.Namespace }

// Filter judges objects by a Selection. It is safe for concurrent use.
type Filter struct {
	sel       Selection
	reader    *codec.Reader
	owners    *Owners
	resource  *codec.Resource
	labels    labels.Selector
	fields    fields.Selector
	olderThan time.Time // zero = no bound
	newerThan time.Time
	where     *where // nil = none

	mu      sync.Mutex
	reasons []Reason // why objects were not decided on
	more    bool     // there were others
}

// New prepares a Selection for judging. Errors wrap ErrUsage: a selector that
// cannot be parsed, a field that the resource cannot be selected by, a filter
// that the resource has no such property for.
func New(sel Selection, reader *codec.Reader, owners *Owners) (*Filter, error) {
	f := &Filter{sel: sel, reader: reader, owners: owners}
	if sel.Resource != "" {
		r, _, ok := reader.Catalog.Lookup(sel.Resource)
		if !ok {
			return nil, fmt.Errorf("%w: unknown resource %q", ErrUsage, sel.Resource)
		}
		f.resource = r
	}
	if err := f.parseSelectors(); err != nil {
		return nil, err
	}
	if err := f.parseAges(); err != nil {
		return nil, err
	}
	if sel.Where != "" {
		var err error
		if f.where, err = newWhere(sel.Where, sel.Now); err != nil {
			return nil, err
		}
	}
	return f, f.checkProperties()
}

func (f *Filter) parseSelectors() error {
	var err error
	if f.labels, err = labels.Parse(f.sel.Labels); err != nil {
		return fmt.Errorf("%w: --selector %q: %w", ErrUsage, f.sel.Labels, err)
	}
	if f.fields, err = fields.ParseSelector(f.sel.Fields); err != nil {
		return fmt.Errorf("%w: --field-selector %q: %w", ErrUsage, f.sel.Fields, err)
	}
	if f.sel.Fields == "" {
		return nil
	}
	if f.resource == nil {
		return fmt.Errorf("%w: --field-selector needs a resource, because each has fields of its own", ErrUsage)
	}
	known := f.resource.SelectableFields()
	for _, r := range f.fields.Requirements() {
		if !slices.Contains(known, r.Field) {
			return fmt.Errorf("%w: %s cannot be selected by field %q; they can by %v", ErrUsage, f.resource, r.Field, known)
		}
	}
	return nil
}

func (f *Filter) parseAges() error {
	for _, age := range []struct {
		flag, text string
		bound      *time.Time
	}{{"--older-than", f.sel.OlderThan, &f.olderThan}, {"--newer-than", f.sel.NewerThan, &f.newerThan}} {
		if age.text == "" {
			continue
		}
		d, err := ParseAge(age.text)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrUsage, age.flag, err)
		}
		*age.bound = f.sel.Now.Add(-d)
	}
	return nil
}

// checkProperties refuses a filter that could never match, because an empty
// answer would look like "there are none".
func (f *Filter) checkProperties() error {
	if f.resource == nil {
		return nil
	}
	name := f.resource.String()
	if f.sel.Namespace != "" && !f.resource.Namespaced {
		return fmt.Errorf("%w: %s are not namespaced", ErrUsage, name)
	}
	if f.sel.Node != "" && name != "pods" {
		return fmt.Errorf("%w: --node selects pods, %s are not bound to a node", ErrUsage, name)
	}
	if f.resource.Custom {
		return nil
	}
	hasPhase := []string{"pods", "namespaces", "persistentvolumes", "persistentvolumeclaims"}
	if f.sel.Phase != "" && !slices.Contains(hasPhase, name) {
		return fmt.Errorf("%w: %s have no phase; these have: %v", ErrUsage, name, hasPhase)
	}
	return nil
}

// Selection returns what the filter was made from.
func (f *Filter) Selection() Selection { return f.sel }

// Resource returns the resource selected, nil for all.
func (f *Filter) Resource() *codec.Resource { return f.resource }

// NeedsValue reports whether judging needs values; without it a scan for keys
// only is enough.
func (f *Filter) NeedsValue() bool { return f.sel.needsValue() }

// Ranges returns where in the store the selected objects can be, in key
// order and without overlap.
func (f *Filter) Ranges() []keyspace.Range {
	s := f.sel
	var exact []string
	switch {
	case len(s.Keys) > 0:
		exact = slices.Clone(s.Keys)
	case f.resource == nil:
		return []keyspace.Range{keyspace.Prefix(f.reader.Prefix)}
	case len(s.Names) > 0 && (s.Namespace != "" || !f.resource.Namespaced):
		for _, name := range s.Names {
			exact = append(exact, codec.Key{Resource: f.resource, Namespace: s.Namespace, Name: name}.Path(f.reader.Prefix))
		}
	default:
		start, end := f.resource.Range(f.reader.Prefix, s.Namespace)
		return []keyspace.Range{{Start: start, End: end}}
	}
	slices.Sort(exact)
	var ranges []keyspace.Range
	for _, key := range slices.Compact(exact) {
		ranges = append(ranges, keyspace.Range{Start: key})
	}
	return ranges
}

// Inspect decrypts and decodes what judging needs of one key and its value.
func (f *Filter) Inspect(ctx context.Context, kv *mvccpb.KeyValue) Object {
	return NewObject(ctx, f.reader, kv)
}

// NewObject reads one key and its value.
func NewObject(ctx context.Context, reader *codec.Reader, kv *mvccpb.KeyValue) Object {
	return Object{KV: kv, Value: reader.Read(ctx, string(kv.Key), kv.Value), Size: int64(len(kv.Value))}
}

// Judge decides on one object. An error means that an owner or a namespace
// could not be read, or that ctx has ended; nothing was decided then.
//
// Filters are asked from the cheapest to the dearest. One that drops the
// object outweighs those that cannot decide.
func (f *Filter) Judge(ctx context.Context, o Object) (Decision, error) {
	if !f.byKey(o) {
		return Drop, nil
	}
	result, why := Keep, ""
	for _, filter := range []func(context.Context, Object) (Decision, string, error){f.byValue, f.byOrphaned, f.byWhere} {
		d, reason, err := filter(ctx, o)
		if err != nil || d == Drop {
			return Drop, err
		}
		if d == Undecided && result == Keep {
			result, why = d, reason
		}
	}
	// A caller that judges without the value judges again with it.
	if result == Undecided && !(o.Head.Err == nil && o.withoutValue()) {
		f.undecided(o, why)
	}
	return result, nil
}

// byValue judges by what is read of every value.
func (f *Filter) byValue(ctx context.Context, o Object) (Decision, string, error) {
	if !f.sel.needsHead() {
		return Keep, "", nil
	}
	if o.Head.Err != nil {
		return Undecided, valueReason(o.Head.Err), nil
	}
	if !f.byHead(o.Head) {
		return Drop, "", nil
	}
	if d, reason := f.byFields(o); d != Keep {
		return d, reason, nil
	}
	return f.byOwner(ctx, o)
}

func (f *Filter) byKey(o Object) bool {
	if len(f.sel.Keys) > 0 && !slices.Contains(f.sel.Keys, string(o.KV.Key)) {
		return false
	}
	if f.resource != nil && (o.Key.Resource == nil || o.Key.Resource.Prefix != f.resource.Prefix) {
		return false
	}
	if f.sel.Namespace != "" && o.Key.Namespace != f.sel.Namespace {
		return false
	}
	return len(f.sel.Names) == 0 || slices.Contains(f.sel.Names, o.Key.Name)
}

func (f *Filter) byHead(h codec.Head) bool {
	m := h.Meta
	switch {
	case f.sel.Terminating && m.Deleted.IsZero():
	case f.sel.Finalizer != "" && !slices.Contains(m.Finalizers, f.sel.Finalizer):
	case f.sel.Node != "" && h.Node != f.sel.Node:
	case f.sel.Phase != "" && h.Phase != f.sel.Phase:
	case !f.olderThan.IsZero() && (m.Created.IsZero() || m.Created.After(f.olderThan)):
	case !f.newerThan.IsZero() && (m.Created.IsZero() || m.Created.Before(f.newerThan)):
	case !f.labels.Matches(m.Labels):
	default:
		return true
	}
	return false
}

// byFields evaluates the field selector. Only fields beyond the usual ones
// cost a full decoding.
func (f *Filter) byFields(o Object) (Decision, string) {
	if f.fields.Empty() {
		return Keep, ""
	}
	set := fields.Set{
		"metadata.name":      o.Key.Name,
		"metadata.namespace": o.Key.Namespace,
	}
	if f.resource.String() == "pods" {
		set["spec.nodeName"], set["status.phase"] = o.Head.Node, o.Head.Phase
	}
	for _, r := range f.fields.Requirements() {
		if _, ok := set[r.Field]; ok {
			continue
		}
		obj, err := codec.Decode(o.Plain, o.KV.ModRevision)
		if err != nil {
			return Undecided, valueReason(err)
		}
		if set, err = codec.FieldSet(obj, f.resource); err != nil {
			return Undecided, valueReason(err)
		}
		// The key decides, here as for the usual fields: the value may name
		// another object.
		set["metadata.name"], set["metadata.namespace"] = o.Key.Name, o.Key.Namespace
		break
	}
	if f.fields.Matches(set) {
		return Keep, ""
	}
	return Drop, ""
}

func (f *Filter) byOwner(ctx context.Context, o Object) (Decision, string, error) {
	if f.sel.Owner == nil {
		return Keep, "", nil
	}
	d, err := f.owners.OwnedBy(ctx, o, *f.sel.Owner)
	return d, "the value of one of its owners cannot be read", err
}

func (f *Filter) byOrphaned(ctx context.Context, o Object) (Decision, string, error) {
	if !f.sel.Orphaned {
		return Keep, "", nil
	}
	return f.owners.Orphaned(ctx, o)
}

func (f *Filter) byWhere(ctx context.Context, o Object) (Decision, string, error) {
	if f.where == nil {
		return Keep, "", nil
	}
	return f.where.judge(ctx, o, f.resource)
}
