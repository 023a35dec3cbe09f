package codec

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// document is a value and all that an edit is held against.
type document struct {
	plain []byte
	head  Head

	// Of protobuf. typ knows metadata alone if unknown is set.
	typ     *messageType
	unknown *UnknownKindError
	meta    *metav1.ObjectMeta
	omitted []string

	content map[string]any // of JSON
}

// examine reads a value that is to be edited.
func examine(plain []byte) (*document, error) {
	d := &document{plain: plain, head: DecodeHead(plain)}
	if d.head.Err != nil {
		return nil, fmt.Errorf("edit: %w: %w", ErrNotEditable, d.head.Err)
	}
	if d.head.Status == StatusCBOR {
		return nil, fmt.Errorf("edit: %w: it is CBOR", ErrNotEditable)
	}
	obj, err := Decode(plain, 0)
	switch u := (*UnknownKindError)(nil); {
	case errors.As(err, &u):
		d.unknown = u
		d.typ = metadataOnly()
	case err != nil:
		return nil, fmt.Errorf("edit: %w: %w", ErrNotEditable, err)
	case d.head.Status == StatusJSON:
		d.content = obj.(*unstructured.Unstructured).Object
		return d, nil
	default:
		d.typ = describe(reflect.TypeOf(obj).Elem())
	}
	if !d.hasMetadata() {
		return nil, fmt.Errorf("edit: %w: a %s has no metadata of an object", ErrNotEditable, d.head.Meta.Kind)
	}
	e, err := openEnvelope(plain[len(magicProtobuf):])
	if err != nil {
		return nil, fmt.Errorf("edit: %w: %w", ErrNotEditable, err)
	}
	if d.unknown == nil {
		d.omitted = omittedFields(obj, e.raw)
	}
	if d.meta, err = objectMeta(e.raw); err != nil {
		return nil, fmt.Errorf("edit: %w: %w", ErrNotEditable, err)
	}
	return d, nil
}

// metadataOnly describes what every top-level object has in common.
func metadataOnly() *messageType {
	m := &messageType{byNumber: map[protowire.Number]*fieldType{}, byName: map[string][]*fieldType{}}
	m.add(&fieldType{num: objectMetadata, name: "metadata", kind: kindMessage, goType: reflect.TypeFor[metav1.ObjectMeta]()})
	return m
}

func (d *document) hasMetadata() bool {
	if d.typ == nil {
		return false
	}
	f := d.typ.byNumber[objectMetadata]
	return f != nil && f.name == "metadata" && f.goType == reflect.TypeFor[metav1.ObjectMeta]()
}

// objectMeta reads all of metadata, as the generated decoders do.
func objectMeta(raw []byte) (*metav1.ObjectMeta, error) {
	m := &metav1.ObjectMeta{}
	for pos := 0; pos < len(raw); {
		f, err := nextField(raw, pos)
		if err != nil {
			return nil, err
		}
		pos = f.to
		if f.num != objectMetadata {
			continue
		}
		if err := m.Unmarshal(raw[f.from:f.to]); err != nil {
			return nil, fmt.Errorf("%w: protobuf metadata", ErrUndecodable)
		}
	}
	return m, nil
}

// editResult is the outcome of one op.
type editResult struct {
	plain   []byte
	done    op // with list indexes in place of selectors
	inverse op
}

func (d *document) edit(o op) (*document, op, error) {
	e, err := d.apply(o)
	if err != nil {
		return nil, op{}, err
	}
	if bytes.Equal(e.plain, d.plain) {
		return d, e.inverse, nil
	}
	next, err := examine(e.plain)
	if err != nil {
		return nil, op{}, fmt.Errorf("verify: %w", err)
	}
	if err := next.sameBut(d, e.done); err != nil {
		return nil, op{}, fmt.Errorf("verify: %w", err)
	}
	// A field that has the wanted value is not touched, so doing it again
	// tells whether it has.
	if again, err := next.apply(e.done); err != nil {
		return nil, op{}, fmt.Errorf("verify: %w", err)
	} else if !bytes.Equal(again.plain, next.plain) {
		return nil, op{}, errors.New("verify: the field does not read as it was set")
	}
	return next, e.inverse, nil
}

func (d *document) apply(o op) (editResult, error) {
	if d.head.Status == StatusJSON {
		return editJSON(d.plain, o)
	}
	if d.unknown != nil && o.steps[0].name != "metadata" {
		return editResult{}, fmt.Errorf("%w: %w", ErrNotEditable, d.unknown)
	}
	return editProtobuf(d.plain, d.typ, o)
}

// sameBut fails if anything but the field of o differs from before.
func (d *document) sameBut(before *document, o op) error {
	if !reflect.DeepEqual(headWithout(d.head, o), headWithout(before.head, o)) {
		return errors.New("other metadata would read differently")
	}
	if d.head.Status == StatusJSON {
		a, b := contentWithout(d.content, o.steps), contentWithout(before.content, o.steps)
		if !reflect.DeepEqual(a, b) {
			return errors.New("other fields would read differently")
		}
		return nil
	}
	if !reflect.DeepEqual(metaWithout(d.meta, o), metaWithout(before.meta, o)) {
		return errors.New("other metadata would read differently")
	}
	if !slices.Equal(d.omitted, before.omitted) {
		return errors.New("fields that this build does not know would not stay the same")
	}
	return nil
}

// headWithout returns a head without what o changes.
func headWithout(h Head, o op) Head {
	switch {
	case o.steps[0].name != "metadata":
		switch pathOf(o.steps) {
		case "spec.nodeName":
			h.Node = ""
		case "status.phase":
			h.Phase = ""
		}
	case o.steps[1].name == "labels":
		h.Meta.Labels = nil // the others are compared by metaWithout or contentWithout
	case o.steps[1].name == "finalizers":
		h.Meta.Finalizers = nil
	case o.steps[1].name == "deletionTimestamp":
		h.Meta.Deleted = time.Time{}
	}
	return h
}

func metaWithout(m *metav1.ObjectMeta, o op) *metav1.ObjectMeta {
	if o.steps[0].name != "metadata" {
		return m
	}
	m = m.DeepCopy()
	switch o.steps[1].name {
	case "labels":
		m.Labels = mapWithout(m.Labels, o.steps[2].name)
	case "annotations":
		m.Annotations = mapWithout(m.Annotations, o.steps[2].name)
	case "finalizers":
		m.Finalizers = nil
	case "deletionTimestamp":
		m.DeletionTimestamp = nil
	case "deletionGracePeriodSeconds":
		m.DeletionGracePeriodSeconds = nil
	case "generation":
		m.Generation = 0
	}
	return m
}

func mapWithout(m map[string]string, key string) map[string]string {
	delete(m, key)
	if len(m) == 0 {
		return nil
	}
	return m
}

// contentWithout returns JSON content without the value at a path, and without
// the objects around it that hold nothing else. It changes none of v.
func contentWithout(v any, steps []step) any {
	if len(steps) == 0 {
		return nil
	}
	switch v := v.(type) {
	case map[string]any:
		child := contentWithout(v[steps[0].name], steps[1:])
		out := make(map[string]any, len(v))
		for key, value := range v {
			if key != steps[0].name {
				out[key] = value
			}
		}
		if child != nil {
			out[steps[0].name] = child
		}
		if len(out) == 0 {
			return nil
		}
		return out
	case []any:
		i, ok := steps[0].index()
		if !ok || i >= len(v) {
			return v
		}
		out := slices.Clone(v)
		out[i] = contentWithout(v[i], steps[1:])
		return out
	}
	return v
}
