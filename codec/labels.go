package codec

import (
	"slices"
	"strings"
)

// Label is one entry of metadata.labels.
type Label struct{ Key, Value string }

// Labels are the labels of one object, sorted by key, each key once. They can
// be matched by a selector of k8s.io/apimachinery pkg/labels.
type Labels []Label

// Has reports whether there is a label of that key.
func (l Labels) Has(key string) bool {
	_, ok := l.Lookup(key)
	return ok
}

// Get returns the value of a label, "" if there is none of that key.
func (l Labels) Get(key string) string {
	value, _ := l.Lookup(key)
	return value
}

// Lookup returns the value of a label, and whether there is one of that key.
func (l Labels) Lookup(key string) (value string, exists bool) {
	i, ok := slices.BinarySearchFunc(l, key, func(l Label, key string) int { return strings.Compare(l.Key, key) })
	if !ok {
		return "", false
	}
	return l[i].Value, true
}

// labelsOf returns the labels of a map, nil if it is empty.
func labelsOf(m map[string]string) Labels {
	if len(m) == 0 {
		return nil
	}
	l := make(Labels, 0, len(m))
	for key, value := range m {
		l = append(l, Label{key, value})
	}
	return l.normal()
}

// normal sorts labels by key, in place; of several with one key the last is
// kept, as in a protobuf map. Values that an apiserver wrote are in this order
// already, and so are labels that heads share: they are left alone.
func (l Labels) normal() Labels {
	for i := 1; i < len(l); i++ {
		if l[i-1].Key >= l[i].Key {
			return l.sorted()
		}
	}
	return l
}

func (l Labels) sorted() Labels {
	slices.SortStableFunc(l, func(a, b Label) int { return strings.Compare(a.Key, b.Key) })
	var kept Labels
	for i, label := range l {
		if i+1 == len(l) || l[i+1].Key != label.Key {
			kept = append(kept, label)
		}
	}
	return kept
}
