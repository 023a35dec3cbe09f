package codec

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// jsonValue is what an inverse puts back into JSON: a value as it was spelled
// and, if its member was removed, where that was.
type jsonValue struct {
	text  []byte
	place *jsonPlace
}

// jsonPlace is the place of a removed member.
type jsonPlace struct {
	text  []byte // the member, with all between it and its neighbour
	after string // the key of the member before it
	first bool   // there was none before it
	alone bool   // nor any behind it; text is all between the braces
}

// editJSON does one op on a JSON value.
func editJSON(doc []byte, o op) (editResult, error) {
	e := jsonEdit{doc: doc, op: o}
	e.done = o
	e.inverse = op{path: o.path, exact: true}
	if err := e.value(jsonRoot(doc), 0); err != nil {
		return editResult{}, err
	}
	e.inverse.steps = e.done.steps
	return editResult{plain: e.doc, done: e.done, inverse: e.inverse}, nil
}

// jsonEdit follows the path of an op down into a document.
type jsonEdit struct {
	doc     []byte
	op      op
	done    op
	inverse op
}

func (e *jsonEdit) at(s span) []byte { return e.doc[s.from:s.to] }

// value goes on with step i in the value at s.
func (e *jsonEdit) value(s span, i int) error {
	switch e.doc[s.from] {
	case '{':
		return e.object(s, i)
	case '[':
		return e.array(s, i)
	case 'n':
		// null and absent are the same to Kubernetes.
		if e.op.value == nil {
			return nil
		}
		text, err := e.nested(i)
		if err != nil {
			return err
		}
		e.doc = splice(e.doc, s, text)
		e.inverse.prune, e.inverse.pruneNull = len(e.op.steps)-i, true
		return nil
	}
	return fmt.Errorf("%q is inside of what is no object", e.op.steps[i].name)
}

func (e *jsonEdit) object(s span, i int) error {
	members, err := jsonMembers(e.doc, s)
	if err != nil {
		return err
	}
	key := e.op.steps[i].name
	found, err := jsonFind(members, key)
	if err != nil {
		return err
	}
	last := i == len(e.op.steps)-1
	switch {
	case found >= 0 && !last:
		return e.inside(s, members, found, i)
	case found < 0 && e.op.value == nil:
		return nil
	case found < 0:
		return e.add(s, members, i)
	case e.op.value == nil:
		return e.remove(s, members, found)
	}
	return e.replace(members[found].span)
}

// inside goes on in a member, and removes it afterwards if an inverse has left
// nothing in it.
func (e *jsonEdit) inside(s span, members []jsonMember, found, i int) error {
	before := len(e.doc)
	if err := e.value(members[found].span, i+1); err != nil {
		return err
	}
	m := members[found]
	grown := len(e.doc) - before
	m.to += grown
	s.to += grown
	if above := len(e.op.steps) - 1 - i; e.op.value != nil || above > e.op.prune || grown >= 0 || !e.isEmpty(m.span) {
		return nil
	}
	if e.op.pruneNull && len(e.op.steps)-1-i == e.op.prune {
		e.doc = splice(e.doc, m.span, []byte("null"))
		return nil
	}
	for j := range members[found+1:] {
		members[found+1+j].start += grown
		members[found+1+j].from += grown
		members[found+1+j].to += grown
	}
	members[found] = m
	e.doc = splice(e.doc, memberSpan(e.doc, s, members, found), nil)
	return nil
}

func (e *jsonEdit) isEmpty(s span) bool {
	if e.doc[s.from] != '{' {
		return false
	}
	members, err := jsonMembers(e.doc, s)
	return err == nil && len(members) == 0
}

func (e *jsonEdit) array(s span, i int) error {
	elements, err := jsonElements(e.doc, s)
	if err != nil {
		return err
	}
	index, err := jsonPick(e.doc, elements, e.op.steps[i])
	if err != nil {
		return err
	}
	e.done.steps = resolved(e.done.steps, i, index)
	if i < len(e.op.steps)-1 {
		if e.doc[elements[index].from] == 'n' {
			return errors.New("there is no such list element")
		}
		return e.value(elements[index], i+1)
	}
	if e.op.value == nil {
		return errors.New("an element of a list cannot be removed; set the whole list")
	}
	return e.replace(elements[index])
}

// replace sets a value that is there.
func (e *jsonEdit) replace(s span) error {
	old := e.at(s)
	if err := e.sameShape(s); err != nil {
		return err
	}
	text, err := encodeJSON(e.op.value)
	if err != nil {
		return err
	}
	e.inverse.value = jsonValue{text: bytes.Clone(old)}
	if !readsAs(old, e.op.value) {
		e.doc = splice(e.doc, s, text)
	}
	return nil
}

// sameShape refuses to lose an object or a list for a single value, and the
// other way round. An inverse puts back what was there.
func (e *jsonEdit) sameShape(s span) error {
	if _, ok := e.op.value.(jsonValue); ok {
		return nil
	}
	_, wantList := e.op.value.([]string)
	switch e.doc[s.from] {
	case '{':
		return errors.New("it is no single value")
	case '[':
		if !wantList && e.op.value != nil || !e.allText(s) {
			return errors.New("it is a list, and not set by a list of strings or holds others")
		}
	case 'n':
	default:
		if wantList {
			return errors.New("it is a single value, not a list of strings")
		}
	}
	return nil
}

// allText reports whether an array holds strings only.
func (e *jsonEdit) allText(s span) bool {
	elements, err := jsonElements(e.doc, s)
	return err == nil && !slices.ContainsFunc(elements, func(el span) bool { return e.doc[el.from] != '"' })
}

// remove drops a member.
func (e *jsonEdit) remove(s span, members []jsonMember, i int) error {
	if err := e.sameShape(members[i].span); err != nil {
		return err
	}
	gone := memberSpan(e.doc, s, members, i)
	place := &jsonPlace{first: i == 0, alone: len(members) == 1}
	if place.alone {
		place.text = bytes.Clone(e.doc[s.from+1 : s.to-1])
	} else {
		place.text = bytes.Clone(e.at(gone))
	}
	if i > 0 {
		place.after = members[i-1].key
	}
	e.inverse.value = jsonValue{text: bytes.Clone(e.at(members[i].span)), place: place}
	e.doc = splice(e.doc, gone, nil)
	return nil
}

// memberSpan is what goes with member i of the object at s: the comma before
// it, or behind the first one.
func memberSpan(doc []byte, s span, members []jsonMember, i int) span {
	switch {
	case i > 0:
		return span{members[i-1].to, members[i].to}
	case len(members) == 1:
		return span{members[0].start, members[0].to}
	}
	comma := bytes.IndexByte(doc[members[0].to:], ',') // only space before it
	return span{s.from + 1, members[0].to + comma + 1}
}

// add sets a member that is not there.
func (e *jsonEdit) add(s span, members []jsonMember, i int) error {
	if !e.op.steps[i].isKey() {
		return errors.New("there is no such list element")
	}
	text, err := e.nested(i + 1)
	if err != nil {
		return err
	}
	e.inverse.prune = len(e.op.steps) - 1 - i
	if e.putBack(s, members, i) {
		return nil
	}
	key, err := encodeJSON(e.op.steps[i].name)
	if err != nil {
		return err
	}
	text = slices.Concat(key, []byte(":"), text)
	after := len(members) - 1
	if slices.IsSortedFunc(members, func(a, b jsonMember) int { return compareText(a.key, b.key) }) {
		for after >= 0 && members[after].key > e.op.steps[i].name {
			after--
		}
	}
	at := s.from + 1
	switch {
	case after >= 0:
		at = members[after].to
		text = append([]byte(","), text...)
	case len(members) > 0:
		text = append(text, ',')
	}
	e.doc = splice(e.doc, span{at, at}, text)
	return nil
}

func compareText(a, b string) int { return bytes.Compare([]byte(a), []byte(b)) }

// putBack restores a removed member where it was, if its neighbour is there.
func (e *jsonEdit) putBack(s span, members []jsonMember, i int) bool {
	v, ok := e.op.value.(jsonValue)
	if !ok || v.place == nil || i != len(e.op.steps)-1 {
		return false
	}
	switch {
	case v.place.alone:
		if len(members) > 0 {
			return false
		}
		e.doc = splice(e.doc, span{s.from + 1, s.to - 1}, v.place.text)
	case v.place.first:
		if len(members) == 0 {
			return false
		}
		e.doc = splice(e.doc, span{s.from + 1, s.from + 1}, v.place.text)
	default:
		before, err := jsonFind(members, v.place.after)
		if err != nil || before < 0 {
			return false
		}
		to := members[before].to
		e.doc = splice(e.doc, span{to, to}, v.place.text)
	}
	return true
}

// nested returns the value of the op inside the objects that steps i and
// onward name.
func (e *jsonEdit) nested(i int) ([]byte, error) {
	text, err := encodeJSON(e.op.value)
	if err != nil {
		return nil, err
	}
	for j := len(e.op.steps) - 1; j >= i; j-- {
		if !e.op.steps[j].isKey() {
			return nil, errors.New("there is no such list element")
		}
		key, err := encodeJSON(e.op.steps[j].name)
		if err != nil {
			return nil, err
		}
		text = slices.Concat([]byte("{"), key, []byte(":"), text, []byte("}"))
	}
	return text, nil
}

// encodeJSON spells a value as kube-apiserver does, with encoding/json.
func encodeJSON(value any) ([]byte, error) {
	switch v := value.(type) {
	case jsonValue:
		return v.text, nil
	case time.Time:
		value = v.UTC().Format(time.RFC3339)
	case wireValue:
		return nil, errors.New("the inverse of a change in protobuf")
	}
	return stdjson.Marshal(value)
}

// readsAs reports whether a JSON value reads as value already.
func readsAs(text []byte, value any) bool {
	switch v := value.(type) {
	case jsonValue:
		return bytes.Equal(text, v.text)
	case string:
		s, ok := jsonText(text)
		return ok && s == v
	case time.Time:
		s, ok := jsonText(text)
		at, err := time.Parse(time.RFC3339, s)
		return ok && err == nil && at.Equal(v)
	case bool:
		return string(text) == strconv.FormatBool(v)
	case int64:
		n, err := strconv.ParseInt(string(text), 10, 64)
		return err == nil && n == v
	case float64:
		f, err := strconv.ParseFloat(string(text), 64)
		return err == nil && f == v
	case []string:
		var list []string
		return text[0] == '[' && stdjson.Unmarshal(text, &list) == nil && slices.Equal(list, v)
	}
	return false
}
