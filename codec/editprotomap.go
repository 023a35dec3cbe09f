package codec

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// mapEntry goes on with the entry of a map that step i names.
func (e *protoEdit) mapEntry(in wireMessages, f *fieldType, i int) error {
	s := e.op.steps[i]
	if !s.bracket {
		return fmt.Errorf("%q is a map: give a key in brackets", f.name)
	}
	e.done.steps = slices.Clone(e.done.steps)
	e.done.steps[i] = keyStep(s.name)
	var entries []*wirePart
	for _, p := range in.fields(f.num) {
		if key, _ := lastString(p.payload, entryKey); string(key) == s.name {
			entries = append(entries, p)
		}
	}
	switch last := i == len(e.op.steps)-1; {
	case !last && f.kind == kindMessage:
		return e.insideEntry(lastOf(entries), f, i)
	case !last:
		return fmt.Errorf("nothing is inside the entries of %q", f.name)
	case f.kind.takes() == "":
		return errors.New("it is no single value")
	case e.removes():
		return e.removeEntry(in, f, s.name, entries)
	}
	return e.setEntry(in, f, s.name, lastOf(entries))
}

// insideEntry goes on in the message that an entry holds.
func (e *protoEdit) insideEntry(p *wirePart, f *fieldType, i int) error {
	if p == nil {
		return fmt.Errorf("%q has no such entry", f.name)
	}
	entry, err := p.open()
	if err != nil {
		return err
	}
	value := lastOf(wireMessages{entry}.fields(entryValue))
	if value == nil {
		return fmt.Errorf("%q has nothing in that entry", f.name)
	}
	sub, err := value.open()
	if err != nil {
		return err
	}
	e.above = nil // as around a list's element
	return e.message(wireMessages{sub}, describe(f.goType), i+1)
}

func (e *protoEdit) removeEntry(in wireMessages, f *fieldType, key string, entries []*wirePart) error {
	if p := lastOf(entries); p != nil {
		e.inverse.value = wireValue{payloads: [][]byte{p.payload}, entry: true}
	}
	in.remove(func(p *wirePart) bool {
		if p.num != f.num {
			return false
		}
		is, _ := lastString(p.payload, entryKey)
		return string(is) == key
	})
	return e.pruneEmpty()
}

// setEntry sets the value of a map's entry, of the last one if there are
// several, or adds one in the order of keys, which is that of generated code.
func (e *protoEdit) setEntry(in wireMessages, f *fieldType, key string, last *wirePart) error {
	if v, ok := e.op.value.(wireValue); ok && v.entry {
		return e.putBackEntry(in, f, key, last, v)
	}
	if last == nil {
		e.inverted()
		value, err := e.payload(f.kind, nil)
		if err != nil {
			return err
		}
		entry := &wireMessage{parts: []wirePart{
			newPart(entryKey, protowire.BytesType, []byte(key)),
			newPart(entryValue, f.kind.wireType(), value),
		}}
		in.insertEntry(newPart(f.num, protowire.BytesType, entry.bytes()), key)
		return nil
	}
	e.inverse.value = wireValue{payloads: [][]byte{last.payload}, entry: true}
	entry, err := last.open()
	if err != nil {
		return err
	}
	old := lastOf(wireMessages{entry}.fields(entryValue))
	if old == nil {
		value, err := e.payload(f.kind, nil)
		if err == nil && (e.op.exact || !f.kind.decodesToZero(value)) {
			entry.insert(newPart(entryValue, f.kind.wireType(), value))
		}
		return err
	}
	value, err := e.payload(f.kind, [][]byte{old.payload})
	if err != nil {
		return err
	}
	old.set(value)
	return nil
}

// putBackEntry restores a whole entry.
func (e *protoEdit) putBackEntry(in wireMessages, f *fieldType, key string, last *wirePart, v wireValue) error {
	if last != nil {
		e.inverse.value = wireValue{payloads: [][]byte{last.payload}, entry: true}
		last.set(v.payloads[0])
		return nil
	}
	e.inverted()
	in.insertEntry(newPart(f.num, protowire.BytesType, v.payloads[0]), key)
	return nil
}

// insertEntry adds an entry of a map before the first one with a larger key,
// or else behind the last one.
func (ms wireMessages) insertEntry(p wirePart, key string) {
	var after *wireMessage
	behind := 0
	for _, m := range ms {
		for i, q := range m.parts {
			if q.num != p.num {
				continue
			}
			if is, _ := lastString(q.payload, entryKey); bytes.Compare(is, []byte(key)) > 0 {
				m.parts = slices.Insert(m.parts, i, p)
				return
			}
			after, behind = m, i+1
		}
	}
	if after == nil {
		ms.insert(p)
		return
	}
	after.parts = slices.Insert(after.parts, behind, p)
}
