package codec

import (
	"reflect"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// valueKind is what one protobuf field holds.
type valueKind uint8

const (
	kindOpaque valueKind = iota // nothing is claimed about it
	kindBool
	kindInt32
	kindInt64
	kindString
	kindBytes
	kindMessage

	// Messages that JSON shows as a single value.
	kindTime
	kindMicroTime
	kindQuantity
	kindIntOrString
)

// fieldType describes one field of a message. The types of k8s.io/api carry no
// descriptor, but their struct tags name number and JSON name. The wire type in
// those tags is wrong now and then ("varint" for an IntOrString, "bytes" for a
// bool); the generated code goes by the Go type, and so does this.
type fieldType struct {
	num      protowire.Number
	name     string // in JSON; empty for an inlined message
	kind     valueKind
	isMap    bool // from string to kind
	repeated bool
	pointer  bool         // absent and zero differ
	goType   reflect.Type // of the message, if the kind is one
}

// messageType describes a message.
type messageType struct {
	byNumber map[protowire.Number]*fieldType

	// byName leads to a field by its name in JSON: through the inlined
	// messages that it stands in, which JSON does not show, to itself.
	byName map[string][]*fieldType
}

func (m *messageType) add(f *fieldType) {
	m.byNumber[f.num] = f
	if f.name != "" {
		m.byName[f.name] = []*fieldType{f}
		return
	}
	inner := describe(f.goType)
	if inner == nil {
		return
	}
	for name, chain := range inner.byName {
		if m.byName[name] == nil {
			m.byName[name] = append([]*fieldType{f}, chain...)
		}
	}
}

// typeCache keeps what was found out about Go types, which never change.
type typeCache struct{ byType sync.Map }

// Describing all the types of a Pod takes a millisecond, walking a Pod a few
// microseconds.
var described typeCache

// describe returns what is known of the message that a Go type stands for, nil
// if nothing is.
func describe(t reflect.Type) *messageType {
	if found, ok := described.byType.Load(t); ok {
		return found.(*messageType)
	}
	m := newMessageType(t)
	described.byType.Store(t, m)
	return m
}

func newMessageType(t reflect.Type) *messageType {
	m := &messageType{byNumber: map[protowire.Number]*fieldType{}, byName: map[string][]*fieldType{}}
	if addSpecial(m, t) {
		return m
	}
	switch {
	case t.Kind() == reflect.Slice && isMessage(t):
		// Verbs and ExtraValue: {repeated string items = 1}, a bare list in JSON.
		f := &fieldType{num: 1, name: "items", repeated: true}
		f.setElement(t.Elem())
		m.add(f)
	case t.Kind() == reflect.Struct:
		for i := range t.NumField() {
			if f := newFieldType(t.Field(i)); f != nil {
				m.add(f)
			}
		}
	}
	if len(m.byNumber) == 0 && !isEmptyMessage(t) {
		return nil
	}
	return m
}

// addSpecial describes the types that encode themselves, and FieldsV1, whose
// Go fields depend on a build tag.
func addSpecial(m *messageType, t reflect.Type) bool {
	switch t {
	case reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime]():
		m.add(&fieldType{num: timeSeconds, name: "seconds", kind: kindInt64})
		m.add(&fieldType{num: timeNanos, name: "nanos", kind: kindInt32})
	case reflect.TypeFor[resource.Quantity]():
		m.add(&fieldType{num: quantityString, name: "string", kind: kindString})
	case reflect.TypeFor[intstr.IntOrString]():
		m.add(&fieldType{num: intOrStringType, name: "type", kind: kindInt64})
		m.add(&fieldType{num: intOrStringInt, name: "intVal", kind: kindInt32})
		m.add(&fieldType{num: intOrStringString, name: "strVal", kind: kindString})
	case reflect.TypeFor[metav1.FieldsV1]():
		m.add(&fieldType{num: 1, name: "raw", kind: kindBytes})
	default:
		return false
	}
	return true
}

// Field numbers of the messages that JSON shows as a single value:
// k8s.io/apimachinery pkg/apis/meta/v1, pkg/api/resource and pkg/util/intstr,
// generated.proto.
const (
	timeNanos = 2

	quantityString = 1

	intOrStringType   = 1
	intOrStringInt    = 2
	intOrStringString = 3
)

// newFieldType returns nil for a Go field that protobuf has no room for.
func newFieldType(sf reflect.StructField) *fieldType {
	parts := strings.Split(sf.Tag.Get("protobuf"), ",")
	if len(parts) < 2 {
		return nil
	}
	num, err := strconv.ParseInt(parts[1], 10, 32)
	if err != nil || num < 1 {
		return nil
	}
	f := &fieldType{num: protowire.Number(num)}
	f.setType(sf.Type)
	f.name, _, _ = strings.Cut(sf.Tag.Get("json"), ",")
	if inlined := sf.Anonymous && f.kind == kindMessage; f.name == "-" || f.name == "" && !inlined {
		f.name = sf.Name
	}
	return f
}

func (f *fieldType) setType(t reflect.Type) {
	if t.Kind() == reflect.Pointer {
		f.pointer = true
		t = t.Elem()
	}
	switch {
	case t.Kind() == reflect.Map && t.Key().Kind() == reflect.String:
		f.isMap = true
		t = t.Elem()
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8 && !isMessage(t):
		f.repeated = true
		t = t.Elem()
	}
	f.setElement(t)
}

func (f *fieldType) setElement(t reflect.Type) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case reflect.TypeFor[metav1.Time]():
		f.kind = kindTime
	case reflect.TypeFor[metav1.MicroTime]():
		f.kind = kindMicroTime
	case reflect.TypeFor[resource.Quantity]():
		f.kind = kindQuantity
	case reflect.TypeFor[intstr.IntOrString]():
		f.kind = kindIntOrString
	default:
		f.kind = kindOf(t)
	}
	if f.kind >= kindMessage {
		f.goType = t
	}
}

func kindOf(t reflect.Type) valueKind {
	if isMessage(t) {
		return kindMessage
	}
	switch t.Kind() {
	case reflect.Bool:
		return kindBool
	case reflect.Int32:
		return kindInt32
	case reflect.Int64:
		return kindInt64
	case reflect.String:
		return kindString
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return kindBytes
		}
	}
	return kindOpaque
}

// isMessage reports whether the generated code encodes a type as a message.
func isMessage(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[interface{ Unmarshal([]byte) error }]())
}

// isEmptyMessage tells a message that has no fields, where every field is an
// omitted one, from a type whose fields cannot be seen.
func isEmptyMessage(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t.NumField() == 0 && isMessage(t)
}
