package codec

import (
	"errors"
	"reflect"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/runtime"
)

// maxQuantity bounds a quantity: bytes of its text, and its exponent.
const maxQuantity = 64

// QuantityFits reports whether a text may be parsed as a resource.Quantity.
// The parser works out 10 to the power of the exponent, so that
// "1e-1000000000" would take hours and all memory (k8s.io/apimachinery
// pkg/api/resource, ParseQuantity). No apiserver stores such a text; damage
// and malice can.
func QuantityFits(text string) bool {
	n := exponent(text)
	return len(text) <= maxQuantity && n <= maxQuantity && n >= -maxQuantity
}

// exponent is 0 for a text without one.
func exponent(text string) int64 {
	i := strings.IndexAny(text, "eE")
	if i < 0 {
		return 0
	}
	n, err := strconv.ParseInt(text[i+1:], 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0
	}
	return n
}

// wildQuantity tells whether a message of obj's type holds a quantity that
// must not be parsed. Only a value with something like an exponent in it, which
// few have, is walked for that.
func wildQuantity(obj runtime.Object, raw []byte) bool {
	if !mayHoldExponent(raw) {
		return false
	}
	t := reflect.TypeOf(obj)
	w := omissions{}
	w.message(describe(t.Elem()), raw, &merged{})
	return w.wild
}

// mayHoldExponent looks for an e with at least three digits after it.
func mayHoldExponent(b []byte) bool {
	for i := 0; i+3 < len(b); i++ {
		if b[i] != 'e' && b[i] != 'E' {
			continue
		}
		rest := b[i+1:]
		if rest[0] == '-' || rest[0] == '+' {
			rest = rest[1:]
		}
		if len(rest) >= 3 && isDigit(rest[0]) && isDigit(rest[1]) && isDigit(rest[2]) {
			return true
		}
	}
	return false
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// quantity looks at the message of a quantity, whose text is field 1.
func (w *omissions) quantity(b []byte) {
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return
		}
		pos = f.to
		if f.num == 1 && f.typ == protowire.BytesType && !QuantityFits(string(b[f.from:f.to])) {
			w.wild = true
		}
	}
}

// wildText is wildQuantity for JSON, where nothing tells quantities from names
// and hashes: only texts that cost much to parse count.
func wildText(value any) bool {
	const costly = 100_000
	switch v := value.(type) {
	case string:
		n := exponent(v)
		return v != "" && strings.ContainsRune("0123456789+-.", rune(v[0])) && (n > costly || n < -costly)
	case []any:
		for _, item := range v {
			if wildText(item) {
				return true
			}
		}
	case map[string]any:
		for _, item := range v {
			if wildText(item) {
				return true
			}
		}
	}
	return false
}
