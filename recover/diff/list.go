package diff

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// keys are the members by which elements of a list are known, in the order in
// which they are tried: by most of them Kubernetes itself merges some list, see
// the patchMergeKey tags in k8s.io/api.
func keys() [][]string {
	return [][]string{
		{"name"}, {"key"}, {"uid"}, {"type"}, {"ip"}, {"containerPort", "protocol"}, {"containerPort"}, {"port", "protocol"}, {"port"},
		{"mountPath"}, {"devicePath"}, {"topologyKey"},
	}
}

// match names the elements of two lists if there is a way that tells all of
// them apart, in both lists.
func match(old, new []any) (was, is []Step, ok bool) {
	if was, is, ok = both(old, new, element); ok {
		return was, is, true
	}
	for _, members := range keys() {
		if was, is, ok = both(old, new, func(v any) (Step, bool) { return keyed(v, members) }); ok {
			return was, is, true
		}
	}
	return nil, nil, false
}

func both(old, new []any, name func(any) (Step, bool)) (was, is []Step, ok bool) {
	if was, ok = distinct(old, name); ok {
		is, ok = distinct(new, name)
	}
	return was, is, ok
}

func distinct(list []any, name func(any) (Step, bool)) ([]Step, bool) {
	steps, seen := make([]Step, 0, len(list)), make(map[string]bool, len(list))
	for _, v := range list {
		s, ok := name(v)
		if !ok || seen[s.id()] {
			return nil, false
		}
		seen[s.id()] = true
		steps = append(steps, s)
	}
	return steps, true
}

func element(v any) (Step, bool) {
	_, ok := scalar(v)
	return Step{Kind: Element, Value: v}, ok
}

func keyed(v any, members []string) (Step, bool) {
	m, ok := v.(map[string]any)
	if !ok {
		return Step{}, false
	}
	parts := make([]string, len(members))
	for i, name := range members {
		text, ok := scalar(m[name])
		if !ok || m[name] == nil {
			return Step{}, false
		}
		if s, isString := m[name].(string); isString && plain(s) {
			text = s
		}
		parts[i] = name + "=" + text
	}
	return Step{Kind: Key, Name: strings.Join(parts, ",")}, true
}

// matched compares lists whose elements are known by the steps was and is.
func (c *comparer) matched(p Path, old, new []any, was, is []Step) {
	mark := len(c.changes)
	added := make(map[string]int, len(new)) // or not yet found in old
	for i, s := range is {
		added[s.id()] = i
	}
	var stayed []int // where the elements that stayed stand in new, in the old order
	for i, s := range was {
		at := append(p, s)
		j, ok := added[s.id()]
		if ok {
			delete(added, s.id())
			stayed = append(stayed, j)
			c.values(at, old[i], new[j])
		} else if !c.skip(at) {
			c.add(at, Removed, old[i], nil)
		}
		if c.enough(mark, p) {
			return
		}
	}
	for _, j := range slices.Sorted(maps.Values(added)) {
		if at := append(p, is[j]); !c.skip(at) {
			c.add(at, Added, nil, new[j])
		}
		if c.enough(mark, p) {
			return
		}
	}
	if !slices.IsSorted(stayed) {
		before := known(is, stayed)
		slices.Sort(stayed)
		c.add(p, Reordered, before, known(is, stayed))
	}
}

// known is what some elements of a list are known by.
func known(steps []Step, which []int) []any {
	list := make([]any, len(which))
	for i, j := range which {
		if list[i] = steps[j].Value; steps[j].Kind == Key {
			list[i] = steps[j].Name
		}
	}
	return list
}

// equal compares two values as a whole.
func equal(a, b any) bool {
	x, ok1 := scalar(a)
	y, ok2 := scalar(b)
	if ok1 && ok2 {
		return x == y
	}
	return ok1 == ok2 && reflect.DeepEqual(a, b)
}

// scalar is a text that is the same for equal scalars and for no others; ok is
// false for what is no scalar. 2 and 2.0 are equal: formats differ in which of
// them they have.
func scalar(v any) (text string, ok bool) {
	switch v := v.(type) {
	case nil:
		return "null", true
	case string:
		return strconv.Quote(v), true
	case bool:
		return strconv.FormatBool(v), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case float64:
		// Outside of int64 the conversion gives what the machine likes.
		if n := int64(v); v >= -1<<63 && v < 1<<63 && float64(n) == v {
			return strconv.FormatInt(n, 10), true
		}
		return strconv.FormatFloat(v, 'g', -1, 64), true
	}
	return "", false
}
