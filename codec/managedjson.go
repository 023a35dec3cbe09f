package codec

import (
	"bytes"
	stdjson "encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/json"
)

// storedManaged is an entry of managedFields in JSON.
type storedManaged struct {
	Manager     string      `json:"manager"`
	Operation   string      `json:"operation"`
	APIVersion  string      `json:"apiVersion"`
	Subresource string      `json:"subresource"`
	Time        metav1.Time `json:"time"`
}

// readJSON finds managedFields by their place in the text. Of a key that
// stands twice in its object all bytes count, and the last one's entries.
func (i *ManagedInfo) readJSON(value []byte) error {
	if !stdjson.Valid(value) {
		return fmt.Errorf("%w: json breaks", ErrUndecodable)
	}
	s := jsonWalk{doc: value}
	s.members(func(key []byte) error {
		if string(key) != "metadata" || s.peek() != '{' {
			s.skip()
			return nil
		}
		return s.members(i.member(&s))
	})
	return s.err
}

// member handles one member of metadata.
func (i *ManagedInfo) member(s *jsonWalk) func(key []byte) error {
	return func(key []byte) error {
		if string(key) != "managedFields" {
			s.skip()
			return nil
		}
		start := s.pos
		s.skip()
		list := s.doc[start:s.pos]
		i.Bytes += int64(s.pos - s.key + s.comma())
		i.Entries, i.More = nil, 0
		return i.readList(list)
	}
}

// readList reads the entries of a JSON list, of which null is an empty one.
func (i *ManagedInfo) readList(list []byte) error {
	if string(list) == "null" {
		return nil
	}
	s := jsonWalk{doc: list}
	if s.peek() != '[' {
		return fmt.Errorf("%w: json: %w", ErrUndecodable, errManagedShape)
	}
	s.elements(func() error {
		start := s.pos
		s.skip()
		if len(i.Entries) == maxManaged {
			i.More++
			return nil
		}
		var e storedManaged
		if err := json.Unmarshal(list[start:s.pos], &e); err != nil {
			return jsonError(err)
		}
		i.add(ManagedEntry{e.Manager, e.Operation, e.Subresource, e.APIVersion, utc(e.Time)})
		return nil
	})
	return s.err
}

// jsonWalk walks over a document that is known to be valid JSON, without
// decoding what it passes.
type jsonWalk struct {
	doc []byte
	pos int
	key int // where the key of the present member begins
	err error
}

// peek passes white space and returns the byte that follows, 0 at the end.
func (s *jsonWalk) peek() byte {
	s.pos = len(s.doc) - len(bytes.TrimLeft(s.doc[s.pos:], jsonSpace))
	if s.pos == len(s.doc) {
		return 0
	}
	return s.doc[s.pos]
}

// members calls fn with each key of the object at pos; fn passes the value.
func (s *jsonWalk) members(fn func(key []byte) error) error {
	for s.pos++; s.err == nil && s.peek() == '"'; {
		s.key = s.pos
		s.text()
		key := plainKey(s.doc[s.key:s.pos])
		s.peek()
		s.pos++ // the colon
		s.peek()
		if s.err = fn(key); s.err != nil {
			return s.err
		}
		if s.peek() == ',' {
			s.pos++
		}
	}
	s.pos++
	return s.err
}

// elements calls fn at each element of the array at pos; fn passes it.
func (s *jsonWalk) elements(fn func() error) {
	for s.pos++; s.peek() != ']' && s.peek() != 0; {
		if s.err = fn(); s.err != nil {
			return
		}
		if s.peek() == ',' {
			s.pos++
		}
	}
	s.pos++
}

// plainKey is what a key in quotes says.
func plainKey(quoted []byte) []byte {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1]
	}
	text, _ := jsonText(quoted)
	return []byte(text)
}

// text passes the string at pos.
func (s *jsonWalk) text() {
	for s.pos++; s.pos < len(s.doc) && s.doc[s.pos] != '"'; s.pos++ {
		if s.doc[s.pos] == '\\' {
			s.pos++
		}
	}
	s.pos = min(s.pos+1, len(s.doc))
}

// skip passes the value at pos, of any depth.
func (s *jsonWalk) skip() {
	s.peek()
	for depth := 0; s.pos < len(s.doc); {
		switch s.doc[s.pos] {
		case '"':
			s.text()
		case '{', '[':
			depth++
			s.pos++
			continue
		case '}', ']':
			depth--
			s.pos++
		case ',', ':', ' ', '\t', '\r', '\n':
			s.pos++
			continue
		default:
			s.scalar()
		}
		if depth == 0 {
			return
		}
	}
}

// scalar passes a number or a word.
func (s *jsonWalk) scalar() {
	n := bytes.IndexAny(s.doc[s.pos:], ",:]}"+jsonSpace)
	if n < 0 {
		n = len(s.doc) - s.pos
	}
	s.pos += n
}

// comma is 1 if the member that ends at pos has a neighbour: one of the two
// commas around it would go with it.
func (s *jsonWalk) comma() int {
	after := bytes.TrimLeft(s.doc[s.pos:], jsonSpace)
	before := bytes.TrimRight(s.doc[:s.key], jsonSpace)
	if after[0] == ',' || before[len(before)-1] == ',' {
		return 1
	}
	return 0
}
