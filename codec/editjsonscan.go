package codec

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"fmt"
)

// span is a part of a JSON document, a value unless said otherwise.
type span struct{ from, to int }

// jsonMember is one member of an object: its key begins at start, its value
// is from to to.
type jsonMember struct {
	key   string
	start int
	span
}

const jsonSpace = " \t\r\n"

// jsonNext returns where the next token begins, at or after pos.
func jsonNext(doc []byte, pos int) int {
	return len(doc) - len(bytes.TrimLeft(doc[pos:], jsonSpace+",:"))
}

func jsonRoot(doc []byte) span {
	return span{jsonNext(doc, 0), len(bytes.TrimRight(doc, jsonSpace))}
}

// jsonMembers returns the members of the object at s in their order.
func jsonMembers(doc []byte, s span) ([]jsonMember, error) {
	dec := stdjson.NewDecoder(bytes.NewReader(doc[s.from:s.to]))
	if _, err := dec.Token(); err != nil {
		return nil, jsonError(err)
	}
	var members []jsonMember
	for dec.More() {
		m := jsonMember{start: jsonNext(doc, s.from+int(dec.InputOffset()))}
		token, err := dec.Token()
		if err != nil {
			return nil, jsonError(err)
		}
		key, ok := token.(string)
		if !ok {
			return nil, errors.New("it is no object")
		}
		m.key = key
		if m.span, err = jsonSkip(doc, dec, s.from); err != nil {
			return nil, err
		}
		members = append(members, m)
	}
	return members, nil
}

// jsonElements returns the elements of the array at s.
func jsonElements(doc []byte, s span) ([]span, error) {
	dec := stdjson.NewDecoder(bytes.NewReader(doc[s.from:s.to]))
	if _, err := dec.Token(); err != nil {
		return nil, jsonError(err)
	}
	var elements []span
	for dec.More() {
		e, err := jsonSkip(doc, dec, s.from)
		if err != nil {
			return nil, err
		}
		elements = append(elements, e)
	}
	return elements, nil
}

// jsonSkip passes one value; the decoder reads doc from base on.
func jsonSkip(doc []byte, dec *stdjson.Decoder, base int) (span, error) {
	var value stdjson.RawMessage
	if err := dec.Decode(&value); err != nil {
		return span{}, jsonError(err)
	}
	to := base + int(dec.InputOffset())
	return span{to - len(value), to}, nil
}

// jsonFind returns the index of the member with a key, -1 if there is none.
func jsonFind(members []jsonMember, key string) (int, error) {
	found := -1
	for i, m := range members {
		if m.key != key {
			continue
		}
		if found >= 0 {
			return -1, fmt.Errorf("the key %s is twice in its object", keyInPath(key))
		}
		found = i
	}
	return found, nil
}

// jsonPick returns the index of the element that a step picks.
func jsonPick(doc []byte, elements []span, s step) (int, error) {
	if i, ok := s.index(); ok {
		if i >= len(elements) {
			return 0, fmt.Errorf("the list has %d elements, none with index %d", len(elements), i)
		}
		return i, nil
	}
	name, value, ok := s.selector()
	if !ok {
		return 0, errors.New("there is a list: give an index or name=value")
	}
	found := -1
	for i, e := range elements {
		if is, err := jsonHas(doc, e, name, value); err != nil {
			return 0, err
		} else if !is {
			continue
		}
		if found >= 0 {
			return 0, errors.New("several elements of the list match")
		}
		found = i
	}
	if found < 0 {
		return 0, errors.New("no element of the list matches")
	}
	return found, nil
}

// jsonHas reports whether the value at s is an object in which name is the
// text value.
func jsonHas(doc []byte, s span, name, value string) (bool, error) {
	if doc[s.from] != '{' {
		return false, nil
	}
	members, err := jsonMembers(doc, s)
	if err != nil {
		return false, err
	}
	i, err := jsonFind(members, name)
	if err != nil || i < 0 {
		return false, err
	}
	text, ok := jsonText(doc[members[i].from:members[i].to])
	return ok && text == value, nil
}

// jsonText returns what a JSON string holds.
func jsonText(value []byte) (s string, ok bool) {
	if len(value) == 0 || value[0] != '"' {
		return "", false
	}
	return s, stdjson.Unmarshal(value, &s) == nil
}

// splice returns doc with s replaced.
func splice(doc []byte, s span, text []byte) []byte {
	out := make([]byte, 0, len(doc)-(s.to-s.from)+len(text))
	out = append(out, doc[:s.from]...)
	out = append(out, text...)
	return append(out, doc[s.to:]...)
}
