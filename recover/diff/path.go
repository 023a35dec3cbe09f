package diff

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Kind is what a step goes by.
type Kind int

const (
	// Field is a member of a map: Name.
	Field Kind = iota
	// Key is the element of a list that has the members and values in Name,
	// written "name=web" or "port=53,protocol=UDP".
	Key
	// Index is the element of a list at Index, from 0: where it stands in the
	// new list, or of a removed one where it stood in the old list.
	Index
	// Element is the scalar Value in a list that is compared as a set.
	Element
)

// Step goes from a map or a list to one of its members.
type Step struct {
	Kind  Kind
	Name  string
	Index int
	Value any
}

func field(name string) Step { return Step{Kind: Field, Name: name} }

// id tells steps of the same kind apart that are not Index.
func (s Step) id() string {
	if s.Kind == Element {
		text, _ := scalar(s.Value)
		return text
	}
	return s.Name
}

// String is the step as a path shows it: ".spec", "[a/b]", "[name=web]", "[2]".
// An element of a set is "[]"; its value stands beside the path in a change.
func (s Step) String() string {
	switch s.Kind {
	case Index:
		return "[" + strconv.Itoa(s.Index) + "]"
	case Element:
		return "[]"
	case Key:
		return "[" + s.Name + "]"
	}
	if identifier(s.Name) {
		return "." + s.Name
	}
	if plain(s.Name) {
		return "[" + s.Name + "]"
	}
	return "[" + strconv.Quote(s.Name) + "]"
}

// identifier is for names that can follow a dot.
func identifier(s string) bool {
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_'
		if !letter && (i == 0 || r != '-' && (r < '0' || r > '9')) {
			return false
		}
	}
	return s != ""
}

// plain is for strings that cannot be taken for anything else between brackets.
func plain(s string) bool {
	odd := func(r rune) bool {
		return strings.ContainsRune(`[]"=, `, r) || !unicode.IsPrint(r) || r == unicode.ReplacementChar
	}
	_, err := strconv.ParseFloat(s, 64)
	return s != "" && err != nil && s != "true" && s != "false" && s != "null" && !strings.ContainsFunc(s, odd)
}

// Path leads from an object to a part of it.
type Path []Step

// String is such as "spec.template.spec.containers[name=web].image" or
// "metadata.labels[app.kubernetes.io/name]". Names with unusual characters are
// quoted, so that the path is safe on a terminal and tells places apart, but
// for the elements of a set.
func (p Path) String() string {
	var b strings.Builder
	for _, s := range p {
		b.WriteString(s.String())
	}
	return strings.TrimPrefix(b.String(), ".")
}

// Compare orders paths step by step, numbers by their size.
func (p Path) Compare(other Path) int {
	return slices.CompareFunc(p, other, func(a, b Step) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Index, b.Index), cmp.Compare(a.id(), b.id()))
	})
}

// maxRunes is how much of a value String shows.
const maxRunes = 80

// String says the change in one line, such as "spec.replicas: 2 → 5". Values
// are compact JSON, cut after 80 characters.
func (c Change) String() string {
	switch c.Op {
	case Added:
		return fmt.Sprintf("%s: added %s", c.Path, short(c.New))
	case Removed:
		return fmt.Sprintf("%s: removed %s", c.Path, short(c.Old))
	case Reordered:
		return fmt.Sprintf("%s: reordered %s → %s", c.Path, short(c.Old), short(c.New))
	}
	return fmt.Sprintf("%s: %s → %s", c.Path, short(c.Old), short(c.New))
}

func short(v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		b.Reset()
		if text, ok := scalar(v); ok { // NaN and the infinities
			b.WriteString(text)
		} else {
			fmt.Fprintf(&b, "(%T)", v)
		}
	}
	var out strings.Builder
	n := 0
	for _, r := range strings.TrimSuffix(b.String(), "\n") {
		if n++; n > maxRunes {
			return out.String() + "…"
		}
		if unicode.IsPrint(r) {
			out.WriteRune(r)
		} else if r < 0x10000 {
			fmt.Fprintf(&out, `\u%04x`, r) // what JSON leaves as it is: DEL, C1, direction marks
		} else {
			fmt.Fprintf(&out, `\U%08x`, r)
		}
	}
	return out.String()
}
