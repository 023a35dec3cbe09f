package codec

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// wireValue is what an inverse puts back into protobuf: payloads as they were,
// several of a list; of a map either a whole entry or its value.
type wireValue struct {
	payloads [][]byte
	entry    bool
}

// editProtobuf does one op on a value with its magic bytes and envelope.
func editProtobuf(plain []byte, t *messageType, o op) (editResult, error) {
	envelope, err := takeApart(plain[len(magicProtobuf):])
	if err != nil {
		return editResult{}, err
	}
	raw := lastOf(wireMessages{envelope}.fields(envelopeRaw))
	if raw == nil {
		raw = envelope.insert(newPart(envelopeRaw, protowire.BytesType, nil))
	}
	object, err := raw.open()
	if err != nil {
		return editResult{}, err
	}
	e := protoEdit{op: o, root: wireMessages{object}}
	e.done = o
	e.inverse = op{path: o.path, exact: true}
	if err := e.message(e.root, t, 0); err != nil {
		return editResult{}, err
	}
	e.inverse.steps = e.done.steps
	out := append([]byte(magicProtobuf), envelope.bytes()...)
	return editResult{plain: out, done: e.done, inverse: e.inverse}, nil
}

// protoEdit follows the path of an op down into a message.
type protoEdit struct {
	op      op
	root    wireMessages
	above   []pruned // the messages passed, outermost first
	created int      // how many of them were made
	done    op
	inverse op
}

// pruned is a message that may go if nothing is left in it.
type pruned struct {
	in  wireMessages
	num protowire.Number
}

// removes reports whether the op is a removal.
func (e *protoEdit) removes() bool { return e.op.value == nil }

// message goes on with step i inside a message of type t.
func (e *protoEdit) message(in wireMessages, t *messageType, i int) error {
	steps := e.op.steps
	if t == nil {
		return errors.New("this build cannot tell what is inside")
	}
	chain := t.byName[steps[i].name]
	if steps[i].bracket || len(chain) == 0 {
		return fmt.Errorf("this build knows no field %q there", steps[i].name)
	}
	for _, inlined := range chain[:len(chain)-1] {
		var err error
		if in, err = e.descend(in, inlined.num); err != nil || in == nil {
			return err
		}
	}
	f := chain[len(chain)-1]
	last := i == len(steps)-1
	switch {
	case f.isMap && !last:
		return e.mapEntry(in, f, i+1)
	case f.repeated && !last:
		return e.element(in, f, i+1)
	case f.repeated && f.kind == kindString:
		return e.list(in, f)
	case f.isMap || f.repeated:
		return errors.New("it is no single value")
	case last:
		return e.single(in, f)
	case f.kind != kindMessage:
		return fmt.Errorf("nothing is inside %q", f.name)
	}
	sub, err := e.descend(in, f.num)
	if err != nil || sub == nil {
		return err
	}
	return e.message(sub, describe(f.goType), i+1)
}

// descend opens a message, and makes it if something is to be set in it. It
// returns nil if there is nothing to remove.
func (e *protoEdit) descend(in wireMessages, num protowire.Number) (wireMessages, error) {
	sub, err := in.open(num)
	if err != nil {
		return nil, err
	}
	if len(sub) == 0 {
		if e.removes() {
			return nil, nil
		}
		made, err := in.insert(newPart(num, protowire.BytesType, nil)).open()
		if err != nil {
			return nil, err
		}
		sub = wireMessages{made}
		e.created++
	}
	e.above = append(e.above, pruned{in, num})
	return sub, nil
}

// inverted completes the inverse of setting a field that was not there.
func (e *protoEdit) inverted() { e.inverse.prune = e.created }

// pruneEmpty removes messages that an edit had made, once they are empty.
func (e *protoEdit) pruneEmpty() error {
	for n := 0; n < e.op.prune && len(e.above) > n; n++ {
		p := e.above[len(e.above)-1-n]
		sub, err := p.in.open(p.num)
		if err != nil || !sub.empty() {
			return err
		}
		p.in.removeField(p.num)
	}
	return nil
}

// single sets or removes a field that is a single value.
func (e *protoEdit) single(in wireMessages, f *fieldType) error {
	if f.kind.takes() == "" {
		return errors.New("it is no single value")
	}
	parts := in.fields(f.num)
	payloads := payloadsOf(parts)
	if len(parts) > 0 {
		e.inverse.value = wireValue{payloads: [][]byte{wholeOf(f.kind, payloads)}}
	} else {
		e.inverted()
	}
	if e.removes() {
		in.removeField(f.num)
		return e.pruneEmpty()
	}
	old := lastOf(parts)
	payload, err := e.payload(f.kind, payloads)
	if err != nil {
		return err
	}
	switch {
	case old != nil:
		e.inverse.value = wireValue{payloads: [][]byte{old.payload}}
		old.set(payload)
	case e.op.exact || f.pointer || !f.kind.decodesToZero(payload):
		in.insert(newPart(f.num, f.kind.wireType(), payload))
	default:
		e.undoCreated()
	}
	return nil
}

// undoCreated: a zero that is read where nothing is stored needs no message
// made for it.
func (e *protoEdit) undoCreated() {
	if e.created > 0 {
		first := e.above[len(e.above)-e.created]
		first.in.removeField(first.num)
	}
	e.inverse.prune = 0
}

// payload returns what is to be stored for the value of the op.
func (e *protoEdit) payload(kind valueKind, occurrences [][]byte) ([]byte, error) {
	if v, ok := e.op.value.(wireValue); ok {
		if len(v.payloads) != 1 {
			return nil, errors.New("it is a single value")
		}
		return v.payloads[0], nil
	}
	if len(occurrences) == 0 {
		return kind.encode(e.op.value, nil, nil)
	}
	return kind.encode(e.op.value, occurrences[len(occurrences)-1], bytes.Join(occurrences, nil))
}

// wholeOf is one payload that reads as several occurrences do: messages merge,
// of all others, and of times, the last one counts.
func wholeOf(kind valueKind, payloads [][]byte) []byte {
	if kind == kindQuantity || kind == kindIntOrString {
		return bytes.Join(payloads, nil)
	}
	return payloads[len(payloads)-1]
}

func payloadsOf(parts []*wirePart) [][]byte {
	var payloads [][]byte
	for _, p := range parts {
		payloads = append(payloads, p.payload)
	}
	return payloads
}

// list replaces or removes a list of strings.
func (e *protoEdit) list(in wireMessages, f *fieldType) error {
	var want [][]byte
	switch v := e.op.value.(type) {
	case nil:
	case wireValue:
		want = v.payloads
	case []string:
		for _, s := range v {
			want = append(want, []byte(s))
		}
	default:
		return errors.New("it takes a list of strings")
	}
	have := payloadsOf(in.fields(f.num))
	if len(have) > 0 {
		e.inverse.value = wireValue{payloads: have}
	} else {
		e.inverted()
	}
	if len(want) == 0 {
		in.removeField(f.num)
		if !e.removes() {
			e.undoCreated()
		}
		return e.pruneEmpty()
	}
	if !slices.EqualFunc(have, want, bytes.Equal) {
		in.replaceField(f.num, want)
	}
	return nil
}

// replaceField puts the payloads in the place of the first occurrence.
func (ms wireMessages) replaceField(num protowire.Number, payloads [][]byte) {
	var parts []wirePart
	for _, payload := range payloads {
		parts = append(parts, newPart(num, protowire.BytesType, payload))
	}
	is := func(p wirePart) bool { return p.num == num }
	m := ms[len(ms)-1]
	if i := slices.IndexFunc(ms, func(m *wireMessage) bool { return slices.ContainsFunc(m.parts, is) }); i >= 0 {
		m = ms[i]
	}
	at := slices.IndexFunc(m.parts, func(p wirePart) bool { return p.num >= num })
	if i := slices.IndexFunc(m.parts, is); i >= 0 {
		at = i
	}
	if at < 0 {
		at = len(m.parts)
	}
	ms.removeField(num) // all of them stand at or behind that place
	m.parts = slices.Insert(m.parts, at, parts...)
}

// element goes on in one element of a list, which step i picks.
func (e *protoEdit) element(in wireMessages, f *fieldType, i int) error {
	parts := in.fields(f.num)
	index, err := e.pick(parts, f, e.op.steps[i])
	if err != nil {
		return err
	}
	e.done.steps = resolved(e.done.steps, i, index)
	part := parts[index]
	switch last := i == len(e.op.steps)-1; {
	case !last && f.kind == kindMessage:
		sub, err := part.open()
		if err != nil {
			return err
		}
		// What is around an element stays, so nothing above is pruned.
		e.above = nil
		return e.message(wireMessages{sub}, describe(f.goType), i+1)
	case !last:
		return errors.New("nothing is inside the list's elements")
	case e.removes():
		return errors.New("an element of a list cannot be removed; set the whole list")
	case f.kind != kindString:
		return errors.New("it is no single value")
	}
	payload, err := e.payload(f.kind, [][]byte{part.payload})
	if err != nil {
		return err
	}
	e.inverse.value = wireValue{payloads: [][]byte{part.payload}}
	part.set(payload)
	return nil
}

// pick returns the index of the element that a step picks.
func (e *protoEdit) pick(parts []*wirePart, f *fieldType, s step) (int, error) {
	if i, ok := s.index(); ok {
		if i >= len(parts) {
			return 0, fmt.Errorf("%q has %d elements, none with index %d", f.name, len(parts), i)
		}
		return i, nil
	}
	name, value, ok := s.selector()
	if !ok {
		return 0, fmt.Errorf("%q is a list: give an index or name=value", f.name)
	}
	var by []*fieldType
	if t := describe(f.goType); f.kind == kindMessage && t != nil {
		by = t.byName[name]
	}
	if len(by) != 1 || by[0].kind != kindString || by[0].repeated || by[0].isMap {
		return 0, fmt.Errorf("elements of %q have no text %q", f.name, name)
	}
	found := -1
	for i, p := range parts {
		if text, _ := lastString(p.payload, by[0].num); string(text) != value {
			continue
		}
		if found >= 0 {
			return 0, fmt.Errorf("several elements of %q match", f.name)
		}
		found = i
	}
	if found < 0 {
		return 0, fmt.Errorf("no element of %q matches", f.name)
	}
	return found, nil
}
