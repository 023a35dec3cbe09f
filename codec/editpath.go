package codec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxPathSize  = 4096
	maxPathSteps = 64
)

// step is one step of a path: a named field, or what stands in brackets after
// it: a list index, "name=web" for the list element whose name is web, or the
// key of a map. Which one it is depends on what is found there; quoted, it is
// always a key.
type step struct {
	name    string
	bracket bool
	quoted  bool
}

func (s step) index() (int, bool) {
	if !s.bracket || s.quoted || !isIndex(s.name) {
		return 0, false
	}
	i, err := strconv.Atoi(s.name)
	return i, err == nil
}

func (s step) selector() (field, value string, ok bool) {
	if !s.bracket || s.quoted {
		return "", "", false
	}
	return strings.Cut(s.name, "=")
}

// isKey reports whether the step can name a member of an object that is to be
// created: an index or a selector would be one of a list.
func (s step) isKey() bool {
	if !s.bracket || s.quoted {
		return true
	}
	return !isIndex(s.name) && !strings.Contains(s.name, "=")
}

func indexStep(i int) step { return step{name: strconv.Itoa(i), bracket: true} }

// resolved returns path with step i replaced by a list index: a selector may
// find nothing any more after the edit.
func resolved(path []step, i, index int) []step {
	if at, ok := path[i].index(); ok && at == index {
		return path
	}
	path = slices.Clone(path)
	path[i] = indexStep(index)
	return path
}

// parsePath reads a path in the way kubectl writes them.
func parsePath(path string) ([]step, error) {
	if len(path) > maxPathSize || !utf8.ValidString(path) {
		return nil, fmt.Errorf("field path of %d bytes is too long or no text", len(path))
	}
	var steps []step
	for rest := path; rest != "" || len(steps) == 0; {
		s, tail, err := nextStep(rest, len(steps) == 0)
		if err != nil {
			return nil, fmt.Errorf("field path %q: %w", path, err)
		}
		if steps = append(steps, s); len(steps) > maxPathSteps {
			return nil, fmt.Errorf("field path %q: more than %d steps", path, maxPathSteps)
		}
		rest = tail
	}
	return steps, nil
}

func nextStep(rest string, first bool) (step, string, error) {
	if !first {
		if inside, ok := strings.CutPrefix(rest, "["); ok {
			return bracketStep(inside)
		}
		var dot bool
		if rest, dot = strings.CutPrefix(rest, "."); !dot {
			return step{}, "", fmt.Errorf("a bracket is followed by %q", rest[:1])
		}
	}
	end := strings.IndexAny(rest, ".[")
	if end < 0 {
		end = len(rest)
	}
	name := rest[:end]
	if name == "" || strings.ContainsAny(name, "]'\" ") {
		return step{}, "", fmt.Errorf("%q is no field name", name)
	}
	return step{name: name}, rest[end:], nil
}

func bracketStep(inside string) (step, string, error) {
	if quoted, ok := strings.CutPrefix(inside, "'"); ok {
		key, tail, ok := strings.Cut(quoted, "']")
		if !ok {
			return step{}, "", fmt.Errorf("a bracket or quote is not closed")
		}
		return step{name: key, bracket: true, quoted: true}, tail, nil
	}
	key, tail, ok := strings.Cut(inside, "]")
	if !ok || key == "" {
		return step{}, "", fmt.Errorf("a bracket is empty or not closed")
	}
	return step{name: key, bracket: true}, tail, nil
}

// fieldStep and keyStep are steps of paths that this package makes itself.
func fieldStep(name string) step { return step{name: name} }
func keyStep(key string) step    { return step{name: key, bracket: true, quoted: true} }
