package codec

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// field is one field of a message; its payload, without the length of a
// length-delimited one, is b[from:to], and the next field starts at to.
type field struct {
	num      protowire.Number
	typ      protowire.Type
	from, to int
}

// nextField reads the field at pos. Nearly all tags, lengths and numbers take
// one or two bytes; the others, and what is damaged, are left to protowire,
// which takes three times as long.
func nextField(b []byte, pos int) (field, error) {
	tag, from := shortVarint(b, pos)
	if tag < 1<<3 { // none, or of a field 0
		return otherField(b, pos)
	}
	f := field{num: protowire.Number(tag >> 3), typ: protowire.Type(tag & 7), from: from}
	switch value, next := shortVarint(b, from); {
	case next == 0:
	case f.typ == protowire.BytesType && value <= len(b)-next:
		f.from, f.to = next, next+value
		return f, nil
	case f.typ == protowire.VarintType:
		f.to = next
		return f, nil
	}
	return otherField(b, pos)
}

// shortVarint reads a varint of one or two bytes. If there is none, both
// results are 0.
func shortVarint(b []byte, pos int) (value, next int) {
	if pos < len(b) && b[pos] < 0x80 {
		return int(b[pos]), pos + 1
	}
	if pos+1 < len(b) && b[pos+1] < 0x80 {
		return int(b[pos]&0x7f) | int(b[pos+1])<<7, pos + 2
	}
	return 0, 0
}

// findField returns the next field of that number, from pos on. The others are
// skipped without a call for each, as they are most fields of a pod. If there is
// none, to is 0.
func findField(b []byte, pos int, num protowire.Number) (field, error) {
	for pos < len(b) {
		tag, from := shortVarint(b, pos)
		value, next := shortVarint(b, from)
		if tag >= 1<<3 && tag>>3 != int(num) && next > 0 {
			switch typ := protowire.Type(tag & 7); {
			case typ == protowire.BytesType && value <= len(b)-next:
				pos = next + value
				continue
			case typ == protowire.VarintType:
				pos = next
				continue
			}
		}
		f, err := nextField(b, pos)
		if err != nil || f.num == num {
			return f, err
		}
		pos = f.to
	}
	return field{}, nil
}

// otherField reads any field at pos.
func otherField(b []byte, pos int) (field, error) {
	num, typ, n := protowire.ConsumeTag(b[pos:])
	if n < 0 {
		return field{}, wireError(n)
	}
	f := field{num: num, typ: typ, from: pos + n}
	if typ == protowire.BytesType {
		payload, size := protowire.ConsumeBytes(b[f.from:])
		if size < 0 {
			return field{}, wireError(size)
		}
		f.to = f.from + size
		f.from = f.to - len(payload)
		return f, nil
	}
	size := protowire.ConsumeFieldValue(num, typ, b[f.from:])
	if size < 0 {
		return field{}, wireError(size)
	}
	f.to = f.from + size
	return f, nil
}

// want fails if a known field has another wire type than its definition says;
// the generated decoders refuse it too.
func (f field) want(typ protowire.Type) error {
	if f.typ != typ {
		return f.mistyped()
	}
	return nil
}

func (f field) mistyped() error {
	return fmt.Errorf("%w: protobuf field %d has wire type %d", ErrUndecodable, f.num, f.typ)
}

func (f field) uvarint(b []byte) uint64 {
	v, _ := protowire.ConsumeVarint(b[f.from:f.to])
	return v
}

func wireError(n int) error {
	return fmt.Errorf("%w: protobuf: %w", ErrUndecodable, protowire.ParseError(n))
}
