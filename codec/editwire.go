package codec

import (
	"bytes"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// wireMessage is a protobuf message taken apart into its fields, so that some
// can be changed while the bytes of all others stay.
type wireMessage struct{ parts []wirePart }

// wirePart is one field. What it was read from is shared, never written to.
type wirePart struct {
	num     protowire.Number
	typ     protowire.Type
	raw     []byte // tag, length if there is one, and payload
	payload []byte
	sub     *wireMessage // of the payload, once an edit goes through it
}

func takeApart(b []byte) (*wireMessage, error) {
	m := &wireMessage{}
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return nil, err
		}
		m.parts = append(m.parts, wirePart{num: f.num, typ: f.typ, raw: b[pos:f.to], payload: b[f.from:f.to]})
		pos = f.to
	}
	return m, nil
}

func newPart(num protowire.Number, typ protowire.Type, payload []byte) wirePart {
	p := wirePart{num: num, typ: typ}
	p.set(payload)
	return p
}

// set replaces the payload; the tag keeps its spelling.
func (p *wirePart) set(payload []byte) {
	if p.raw != nil && bytes.Equal(payload, p.payload) {
		return
	}
	var raw []byte
	if _, _, n := protowire.ConsumeTag(p.raw); n > 0 {
		raw = slices.Clip(p.raw[:n])
	} else {
		raw = protowire.AppendTag(nil, p.num, p.typ)
	}
	if p.typ == protowire.BytesType {
		raw = protowire.AppendVarint(raw, uint64(len(payload)))
	}
	p.raw = append(raw, payload...)
	p.payload = p.raw[len(p.raw)-len(payload):]
}

// open takes the payload apart, once.
func (p *wirePart) open() (*wireMessage, error) {
	if err := (field{num: p.num, typ: p.typ}).want(protowire.BytesType); err != nil {
		return nil, err
	}
	if p.sub == nil {
		sub, err := takeApart(p.payload)
		if err != nil {
			return nil, err
		}
		p.sub = sub
	}
	return p.sub, nil
}

// bytes puts the message together again.
func (m *wireMessage) bytes() []byte {
	var out []byte
	for i := range m.parts {
		p := &m.parts[i]
		if p.sub != nil {
			p.set(p.sub.bytes())
		}
		out = append(out, p.raw...)
	}
	return out
}

// insert adds a field before the first one with a larger number, where
// generated code would have written it.
func (m *wireMessage) insert(p wirePart) *wirePart {
	i := slices.IndexFunc(m.parts, func(q wirePart) bool { return q.num > p.num })
	if i < 0 {
		i = len(m.parts)
	}
	m.parts = slices.Insert(m.parts, i, p)
	return &m.parts[i]
}

// wireMessages are the occurrences of one message, which protobuf merges into
// one, in the order in which it does so. There is at least one.
type wireMessages []*wireMessage

// fields returns the occurrences of one field. They are valid until a field is
// inserted or removed.
func (ms wireMessages) fields(num protowire.Number) []*wirePart {
	var found []*wirePart
	for _, m := range ms {
		for i := range m.parts {
			if m.parts[i].num == num {
				found = append(found, &m.parts[i])
			}
		}
	}
	return found
}

// open returns the occurrences of a message that is one field of this one,
// none if there is no such field.
func (ms wireMessages) open(num protowire.Number) (wireMessages, error) {
	var subs wireMessages
	for _, p := range ms.fields(num) {
		sub, err := p.open()
		if err != nil {
			return nil, err
		}
		subs = append(subs, sub)
	}
	return subs, nil
}

// insert adds a field to the last occurrence, so that it is read last.
func (ms wireMessages) insert(p wirePart) *wirePart { return ms[len(ms)-1].insert(p) }

// remove drops the fields that are picked.
func (ms wireMessages) remove(pick func(*wirePart) bool) {
	for _, m := range ms {
		m.parts = slices.DeleteFunc(m.parts, func(p wirePart) bool { return pick(&p) })
	}
}

func (ms wireMessages) removeField(num protowire.Number) {
	ms.remove(func(p *wirePart) bool { return p.num == num })
}

func (ms wireMessages) empty() bool {
	for _, m := range ms {
		if len(m.parts) > 0 {
			return false
		}
	}
	return true
}

// lastOf returns the field that is read, as the last of its occurrences.
func lastOf(parts []*wirePart) *wirePart {
	if len(parts) == 0 {
		return nil
	}
	return parts[len(parts)-1]
}
