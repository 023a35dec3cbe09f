package app

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/diff"
)

const (
	// maxChangeBytes bounds what a history keeps of its changes in all.
	maxChangeBytes = 16 << 20
	// maxValueBytes bounds one value of a change, as JSON.
	maxValueBytes = 4 << 10
)

// shownChange is a change as it may be shown: with nothing that a Secret
// holds, and without large values.
type shownChange struct {
	path     string
	op       diff.Op
	old, new shownValue
	text     string // for people
}

// shownValue is a value as JSON, or only its size if it is large.
type shownValue struct {
	json  json.RawMessage
	bytes int
}

// hidden stands in place of a value that must not be shown. Two of them are
// equal if what they hide is.
type hidden struct {
	marker string
	sum    [sha256.Size]byte
}

// MarshalJSON shows the marker.
func (h hidden) MarshalJSON() ([]byte, error) { return json.Marshal(h.marker) }

// renderForDiff renders an object that lies under a resource's key for comparing:
// whole, but unless showSecrets is set with a value that only tells whether it
// changed where something has to stay hidden.
func renderForDiff(shown codec.Shown, r *codec.Resource, showSecrets bool) (map[string]any, error) {
	whole, err := codec.Render(shown.Object, codec.RenderOptions{ManagedFields: true, ShowSecrets: true})
	if err != nil || showSecrets {
		return whole, err
	}
	safe, err := codec.Render(shown.Object, codec.RenderOptions{ManagedFields: true, Secret: isSecrets(r)})
	if err != nil {
		return nil, err
	}
	m, ok := hide(safe, whole).(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%w: it is no object", codec.ErrUndecodable)
	}
	return m, nil
}

// isSecrets tells whether all that lies under the resource's keys is secret,
// whatever it says of itself.
func isSecrets(r *codec.Resource) bool { return r != nil && r.Prefix == "secrets/" }

// hide returns safe with every value that differs from the whole one replaced.
func hide(safe, whole any) any {
	s, ok := safe.(map[string]any)
	if !ok {
		if reflect.DeepEqual(safe, whole) {
			return safe
		}
		b, _ := json.Marshal(whole) // what cannot be written is hidden all the same
		return hidden{marker: fmt.Sprint(safe), sum: sha256.Sum256(b)}
	}
	w, _ := whole.(map[string]any)
	m := make(map[string]any, len(s))
	for name, value := range s {
		m[name] = hide(value, w[name])
	}
	return m
}

// keep adds a change to a version as far as there is room.
func (h *history) keep(p *pastVersion, c diff.Change) {
	shown := shownChange{path: c.Path.String(), op: c.Op, text: changeText(c)}
	if c.Op != diff.Added {
		shown.old = valueOf(c.Old)
	}
	if c.Op != diff.Removed {
		shown.new = valueOf(c.New)
	}
	size := len(shown.path) + len(shown.text) + len(shown.old.json) + len(shown.new.json)
	if size > h.room {
		p.more++
		return
	}
	h.room -= size
	p.changes = append(p.changes, shown)
}

func valueOf(v any) shownValue {
	b, err := json.Marshal(v)
	if err != nil || len(b) > maxValueBytes {
		return shownValue{bytes: max(len(b), 1)}
	}
	return shownValue{json: b}
}

// changeText is a change in a line. Of an annotation that repeats the whole
// object only the fact is told: the other changes say the rest.
func changeText(c diff.Change) string {
	path, plain := members(c.Path)
	if plain && len(path) > 0 && path[0] == "metadata" && codec.SecretPath(path) {
		return fmt.Sprintf("%s: %s", c.Path, c.Op)
	}
	old, wasHidden := c.Old.(hidden)
	now, isHidden := c.New.(hidden)
	if wasHidden && isHidden && old.marker == now.marker {
		return fmt.Sprintf("%s: changed, still %s", c.Path, now.marker)
	}
	return strings.TrimRight(c.String(), " ")
}

// members returns the names on a path that leads through no list.
func members(p diff.Path) (names []string, ok bool) {
	for _, step := range p {
		if step.Kind != diff.Field {
			return nil, false
		}
		names = append(names, step.Name)
	}
	return names, true
}

// document is the change as docs/json.md has it.
func (c *shownChange) document() map[string]any {
	doc := map[string]any{"path": c.path, "op": string(c.op)}
	for name, v := range map[string]shownValue{"old": c.old, "new": c.new} {
		switch {
		case v.json != nil:
			doc[name] = v.json
		case v.bytes > 0:
			doc[name+"Bytes"] = v.bytes
		}
	}
	return doc
}
