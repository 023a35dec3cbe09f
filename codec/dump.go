package codec

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// The member that holds the raw dump of an object, and those of its own.
const (
	memberUnknown = "unknownFields"
	memberBase64  = "base64"
	memberRest    = "rest"
)

// Limits of a dump, far beyond any kind of Kubernetes, so that a hostile value
// cannot make a tree much larger than itself. A field number above the limit
// makes it unlikely that the bytes are a message.
const (
	dumpDepth  = 32
	dumpFields = 10_000
	dumpNumber = 1_000
)

// dumpObject returns the fields of a top-level object without its metadata, in
// the form that [Show] documents. b is well-formed at its top level.
func dumpObject(b []byte) map[string]any {
	d := dumper{left: dumpFields}
	return d.message(b, objectMetadata, 1)
}

// dumper counts down the fields that may still be dumped.
type dumper struct{ left int }

func (d *dumper) message(b []byte, skip protowire.Number, depth int) map[string]any {
	fields := map[string]any{}
	repeated := map[string]bool{}
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil || d.left == 0 {
			fields[memberRest] = encoded(b[pos:])
			return fields
		}
		pos = f.to
		if f.num == skip {
			continue
		}
		d.left--
		key, value := strconv.Itoa(int(f.num)), d.field(f, b, depth)
		switch old, ok := fields[key]; {
		case !ok:
			fields[key] = value
		case repeated[key]:
			fields[key] = append(old.([]any), value)
		default:
			fields[key], repeated[key] = []any{old, value}, true
		}
	}
	return fields
}

// field returns the value of one field of b.
func (d *dumper) field(f field, b []byte, depth int) any {
	payload := b[f.from:f.to]
	switch f.typ {
	case protowire.VarintType:
		return int64(f.uvarint(b))
	case protowire.Fixed32Type:
		return map[string]any{"fixed32": fmt.Sprintf("0x%08x", binary.LittleEndian.Uint32(payload))}
	case protowire.Fixed64Type:
		return map[string]any{"fixed64": fmt.Sprintf("0x%016x", binary.LittleEndian.Uint64(payload))}
	case protowire.BytesType:
		return d.bytes(payload, depth)
	}
	return map[string]any{"group": base64.StdEncoding.EncodeToString(payload)}
}

// bytes tells text, messages and other bytes apart. Most messages begin with a
// field number of one to three, whose tag is a control character, and are often
// printable otherwise: so the first character decides where both are possible.
func (d *dumper) bytes(b []byte, depth int) any {
	text := isText(b)
	switch {
	case len(b) == 0, text && b[0] >= ' ':
		return string(b)
	case depth < dumpDepth && looksLikeMessage(b):
		return d.message(b, 0, depth+1)
	case text:
		return string(b)
	}
	return encoded(b)
}

func encoded(b []byte) map[string]any {
	return map[string]any{memberBase64: base64.StdEncoding.EncodeToString(b)}
}

func isText(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	for _, r := range string(b) {
		if !unicode.IsPrint(r) && r != '\n' && r != '\r' && r != '\t' {
			return false
		}
	}
	return true
}

// looksLikeMessage tells whether all of b is fields with numbers that people give.
func looksLikeMessage(b []byte) bool {
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil || f.num > dumpNumber {
			return false
		}
		pos = f.to
	}
	return true
}
