package codec

import (
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/api/resource"
)

// takes says what a field can be set to, empty if to nothing.
func (k valueKind) takes() string {
	switch k {
	case kindBool:
		return "true or false"
	case kindInt32:
		return "a 32-bit integer"
	case kindInt64:
		return "an integer"
	case kindString:
		return "a string"
	case kindTime:
		return "a time in RFC 3339, of whole seconds"
	case kindMicroTime:
		return "a time in RFC 3339, of whole microseconds"
	case kindQuantity:
		return "a quantity such as 500m"
	case kindIntOrString:
		return "a 32-bit integer or a string"
	}
	return ""
}

func (k valueKind) wireType() protowire.Type {
	switch k {
	case kindBool, kindInt32, kindInt64:
		return protowire.VarintType
	}
	return protowire.BytesType
}

// encode returns the payload that makes a field of the kind read as value. old
// is the payload it has; if that reads so already, it is returned itself, and
// in a message that stands for a single value unknown fields are kept. all is
// what is read together with old: of a message all occurrences, one after the
// other, which is how protobuf merges them.
func (k valueKind) encode(value any, old, all []byte) ([]byte, error) {
	switch v := value.(type) {
	case bool:
		if k == kindBool {
			return encodeVarint(protowire.EncodeBool(v), old, func(u uint64) uint64 { return protowire.EncodeBool(u != 0) }), nil
		}
	case int64:
		switch {
		case (k == kindInt32 || k == kindIntOrString) && int64(int32(v)) != v:
			return nil, fmt.Errorf("it takes %s, %d to %d", k.takes(), math.MinInt32, math.MaxInt32)
		case k == kindInt32:
			return encodeVarint(uint64(v), old, func(u uint64) uint64 { return uint64(int32(u)) }), nil
		case k == kindInt64:
			return encodeVarint(uint64(v), old, func(u uint64) uint64 { return u }), nil
		case k == kindIntOrString:
			return encodeIntOrString(0, v, "", old, all)
		}
	case string:
		switch k {
		case kindString:
			return []byte(v), nil
		case kindIntOrString:
			return encodeIntOrString(1, 0, v, old, all)
		case kindQuantity:
			return encodeQuantity(v, old, all)
		case kindTime, kindMicroTime:
			return k.encodeTimeText(v, old)
		}
	case time.Time:
		if k == kindTime {
			return encodeTime(v, k, old)
		}
	}
	if k.takes() == "" {
		return nil, errors.New("it is no single value")
	}
	return nil, fmt.Errorf("it takes %s", k.takes())
}

// encodeVarint keeps old if it reads as v.
func encodeVarint(v uint64, old []byte, read func(uint64) uint64) []byte {
	if u, n := protowire.ConsumeVarint(old); n > 0 && read(u) == v {
		return old
	}
	return protowire.AppendVarint(nil, v)
}

// inner is one field of a message that stands for a single value.
type inner struct {
	num     protowire.Number
	typ     protowire.Type
	payload []byte
}

func innerInt(num protowire.Number, v int64) inner {
	return inner{num, protowire.VarintType, protowire.AppendVarint(nil, uint64(v))}
}

func innerString(num protowire.Number, s string) inner {
	return inner{num, protowire.BytesType, []byte(s)}
}

// setInner returns message with some of its fields set.
func setInner(message []byte, fields ...inner) ([]byte, error) {
	m, err := takeApart(message)
	if err != nil {
		return nil, err
	}
	for _, f := range fields {
		if p := lastOf(wireMessages{m}.fields(f.num)); p == nil {
			m.insert(newPart(f.num, f.typ, f.payload))
		} else if err := (field{num: p.num, typ: p.typ}).want(f.typ); err != nil {
			return nil, err
		} else {
			p.set(f.payload)
		}
	}
	return m.bytes(), nil
}

// lastInt returns the last occurrence of an integer, 0 if there is none.
func lastInt(b []byte, num protowire.Number) (v int64) {
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return v
		}
		pos = f.to
		if f.num == num && f.typ == protowire.VarintType {
			v = int64(f.uvarint(b))
		}
	}
	return v
}

func encodeIntOrString(typ, number int64, text string, old, all []byte) ([]byte, error) {
	if all != nil && lastInt(all, intOrStringType) == typ {
		s, _ := lastString(all, intOrStringString)
		if typ == 0 && int64(int32(lastInt(all, intOrStringInt))) == number || typ == 1 && string(s) == text {
			return old, nil
		}
	}
	return setInner(old, innerInt(intOrStringType, typ), innerInt(intOrStringInt, number), innerString(intOrStringString, text))
}

// encodeQuantity writes a quantity as kube-apiserver spells it: 1000m as 1.
func encodeQuantity(text string, old, all []byte) ([]byte, error) {
	if !QuantityFits(text) {
		return nil, fmt.Errorf("it takes %s of no more than %d bytes and decimal places", kindQuantity.takes(), maxQuantity)
	}
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return nil, fmt.Errorf("it takes %s", kindQuantity.takes())
	}
	text = q.String()
	if s, ok := lastString(all, quantityString); ok && QuantityFits(string(s)) {
		if is, err := resource.ParseQuantity(string(s)); err == nil && is.String() == text {
			return old, nil
		}
	}
	return setInner(old, innerString(quantityString, text))
}

func (k valueKind) encodeTimeText(text string, old []byte) ([]byte, error) {
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return nil, fmt.Errorf("it takes %s", k.takes())
	}
	return encodeTime(at, k, old)
}

// encodeTime: an empty message is no time at all, whatever the zero of its
// fields means, and of a Time the nanoseconds are ignored.
func encodeTime(at time.Time, k valueKind, old []byte) ([]byte, error) {
	seconds, nanos := at.Unix(), int64(at.Nanosecond())
	unit := int64(time.Second)
	if k == kindMicroTime {
		unit = int64(time.Microsecond)
	}
	if nanos%unit != 0 || at.IsZero() {
		return nil, fmt.Errorf("it takes %s", k.takes())
	}
	if len(old) > 0 && lastInt(old, timeSeconds) == seconds {
		is := int64(int32(lastInt(old, timeNanos)))
		if k == kindTime || is-is%unit == nanos {
			return old, nil
		}
	}
	return setInner(old, innerInt(timeSeconds, seconds), innerInt(timeNanos, nanos))
}

// decodesToZero reports whether a payload of the kind reads as an absent field
// does, if that field is no pointer.
func (k valueKind) decodesToZero(payload []byte) bool {
	switch k {
	case kindString:
		return len(payload) == 0
	case kindBool, kindInt32, kindInt64:
		v, n := protowire.ConsumeVarint(payload)
		return n > 0 && v == 0
	}
	return false
}
