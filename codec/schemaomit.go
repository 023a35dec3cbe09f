package codec

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/runtime"
)

const (
	maxOmitDepth = 64  // the deepest type of k8s.io/api has less than 20
	maxPathKey   = 128 // bytes shown of a map key: a label's is at most 317
)

// omittedFields returns the paths of the protobuf fields in raw that the type
// of obj does not have, such as "spec.containers[0].field 999", in the order in
// which they are stored. They are missing in the decoded object, because the
// generated decoders skip them. At most 20 paths are returned, and then one
// more entry, "and 3 more".
//
// raw is the message inside the envelope. Of types that cannot be described
// nothing is claimed. Damaged bytes end the walk of their message.
func omittedFields(obj runtime.Object, raw []byte) []string {
	t := reflect.TypeOf(obj)
	if t == nil || t.Kind() != reflect.Pointer {
		return nil
	}
	w := omissions{}
	w.message(describe(t.Elem()), raw, &merged{})
	if w.more > 0 {
		w.found = append(w.found, fmt.Sprintf("and %d more", w.more))
	}
	return w.found
}

// omissions walks a message. Its path is written out only when there is
// something to report.
type omissions struct {
	path  []pathPart
	found []string
	more  int
	wild  bool // a quantity must not be parsed
}

// pathPart is one field on the way: of a list with its index, of a map with
// its key.
type pathPart struct {
	field *fieldType
	index int
	key   []byte
}

// merged is what several occurrences of one message share: protobuf merges
// them, so that list elements are counted through all of them.
type merged struct{ seen []mergedField }

type mergedField struct {
	num   protowire.Number
	count int
	sub   *merged
}

// field returns the state of one field; there are as many as the type has.
func (m *merged) field(num protowire.Number) *mergedField {
	for i := range m.seen {
		if m.seen[i].num == num {
			return &m.seen[i]
		}
	}
	m.seen = append(m.seen, mergedField{num: num})
	return &m.seen[len(m.seen)-1]
}

func (w *omissions) message(t *messageType, b []byte, state *merged) {
	if t == nil || len(w.path) > maxOmitDepth {
		return
	}
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return
		}
		pos = f.to
		ft := t.byNumber[f.num]
		switch {
		case ft == nil:
			w.report(f.num)
		case ft.kind == kindQuantity && f.typ == protowire.BytesType && !ft.isMap:
			w.quantity(b[f.from:f.to])
			w.into(ft, b[f.from:f.to], state.field(f.num))
		case f.typ == protowire.BytesType && (ft.isMap || ft.kind >= kindMessage):
			w.into(ft, b[f.from:f.to], state.field(f.num))
		}
	}
}

// into walks one occurrence of a field.
func (w *omissions) into(ft *fieldType, b []byte, state *mergedField) {
	part := pathPart{field: ft, index: state.count}
	state.count++
	switch {
	case ft.isMap:
		part.key, _ = lastString(b, entryKey)
		w.path = append(w.path, part)
		w.entry(ft, b)
	case ft.repeated:
		w.path = append(w.path, part)
		w.message(describe(ft.goType), b, &merged{})
	default:
		if state.sub == nil {
			state.sub = &merged{}
		}
		w.path = append(w.path, part)
		w.message(describe(ft.goType), b, state.sub)
	}
	w.path = w.path[:len(w.path)-1]
}

// entry walks one entry of a map.
func (w *omissions) entry(ft *fieldType, b []byte) {
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return
		}
		pos = f.to
		switch {
		case f.num == entryValue && ft.kind >= kindMessage && f.typ == protowire.BytesType:
			if ft.kind == kindQuantity {
				w.quantity(b[f.from:f.to])
			}
			w.message(describe(ft.goType), b[f.from:f.to], &merged{})
		case f.num != entryKey && f.num != entryValue:
			w.report(f.num)
		}
	}
}

func (w *omissions) report(num protowire.Number) {
	if len(w.found) == maxOmitted {
		w.more++
		return
	}
	var s strings.Builder
	for _, p := range w.path {
		if p.field.name == "" {
			continue // inlined: no part of the path in JSON
		}
		if s.Len() > 0 {
			s.WriteByte('.')
		}
		s.WriteString(p.field.name)
		switch {
		case p.field.isMap:
			s.WriteString(keyInPath(string(p.key)))
		case p.field.repeated:
			s.WriteString("[" + strconv.Itoa(p.index) + "]")
		}
	}
	if s.Len() > 0 {
		s.WriteByte('.')
	}
	s.WriteString("field " + strconv.Itoa(int(num)))
	w.found = append(w.found, s.String())
}

// keyInPath writes a map key as paths show it: [app], and quoted where it
// would be taken for something else.
func keyInPath(key string) string {
	if len(key) > maxPathKey {
		return "[" + strconv.Quote(key[:maxPathKey]) + "...]"
	}
	if quoted := strconv.Quote(key); key == "" || len(quoted) != len(key)+2 || strings.ContainsAny(key, "[]'=") || isIndex(key) {
		if strings.Contains(key, "'") || len(quoted) != len(key)+2 {
			return "[" + quoted + "]"
		}
		return "['" + key + "']"
	}
	return "[" + key + "]"
}

// isIndex reports whether s is a list index as paths have it.
func isIndex(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}

// lastString returns the last occurrence of a length-delimited field, and
// whether there is any.
func lastString(b []byte, num protowire.Number) (last []byte, found bool) {
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return last, found
		}
		pos = f.to
		if f.num == num && f.typ == protowire.BytesType {
			last, found = b[f.from:f.to], true
		}
	}
	return last, found
}
