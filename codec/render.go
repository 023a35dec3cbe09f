package codec

import (
	"bytes"
	stdjson "encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"
)

// renderDepth is how many objects and lists may lie within each other, far
// beyond any kind of Kubernetes. Indentation grows with the square of the
// depth: 50 kB of brackets would become hundreds of megabytes.
const renderDepth = 200

// RenderOptions says what Render leaves in. The zero value shows no field
// managers, and nothing of what calls itself a Secret.
type RenderOptions struct {
	ManagedFields bool // keep metadata.managedFields
	ShowSecrets   bool // keep what a Secret holds

	// Secret is set for an object that lies under a key of Secrets. It is a
	// Secret then, whatever it says of itself.
	Secret bool
}

// Render returns an object as kubectl get -o json shows it: a JSON value of its
// own, sharing nothing with obj. Integers are int64 as far as they fit, so
// that none is rounded.
//
// Without ShowSecrets an object under a key of Secrets, or one that calls
// itself a Secret of any version of the core group, shows only what is known to
// be no secret: apiVersion, kind, type, immutable and metadata. Every value in
// data and stringData, and the annotations that are known to repeat the whole
// object, are replaced by [Redacted]; keys stay visible, and so do labels and
// other annotations. All other members, and what has not the shape that a
// Secret gives it, are replaced as a whole, by the size of their JSON or 0.
// [SecretPath] tells the same of a single field.
//
// Errors: one that wraps [ErrUndecodable], for an object that is nested deeper
// than 200 levels, itself being the first, or that has no JSON form.
func Render(obj runtime.Object, opt RenderOptions) (map[string]any, error) {
	u, stored := obj.(*unstructured.Unstructured)
	var m map[string]any
	if stored {
		m = u.Object
	} else {
		var err error
		if m, err = toMap(obj); err != nil {
			// The cause may quote the value.
			return nil, fmt.Errorf("%w: %T has no JSON form", ErrUndecodable, obj)
		}
	}
	if deeperThan(renderDepth, m) {
		return nil, fmt.Errorf("%w: nested deeper than %d levels", ErrUndecodable, renderDepth)
	}
	if stored {
		m = runtime.DeepCopyJSON(m)
	}
	if metadata, ok := m["metadata"].(map[string]any); ok && !opt.ManagedFields {
		delete(metadata, "managedFields")
	}
	_, typed := obj.(*corev1.Secret)
	if !opt.ShowSecrets && (opt.Secret || typed || isSecret(m)) {
		redactSecret(m)
	}
	return m, nil
}

// deeperThan reports whether more objects and lists than levels lie within each
// other. It looks no deeper than that.
func deeperThan(levels int, value any) bool {
	switch value := value.(type) {
	case map[string]any:
		if levels == 0 {
			return true
		}
		for _, v := range value {
			if deeperThan(levels-1, v) {
				return true
			}
		}
	case []any:
		if levels == 0 {
			return true
		}
		for _, v := range value {
			if deeperThan(levels-1, v) {
				return true
			}
		}
	}
	return false
}

// toMap returns the JSON form of a typed object.
func toMap(obj runtime.Object) (map[string]any, error) {
	data, err := stdjson.Marshal(obj)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, err
	}
	return m, nil
}

// MarshalJSON returns m as JSON the way kubectl writes it, ending in a newline:
// keys sorted, and <, > and & escaped. kubectl indents by four spaces; an empty
// indent gives a single line.
func MarshalJSON(m map[string]any, indent string) ([]byte, error) {
	var buf bytes.Buffer
	enc := stdjson.NewEncoder(&buf)
	enc.SetIndent("", indent)
	if err := enc.Encode(m); err != nil {
		return nil, fmt.Errorf("write JSON: %w", err)
	}
	return buf.Bytes(), nil
}

// MarshalYAML returns m as YAML the way kubectl writes it, without a document
// separator, ending in a newline. Control characters, of which kubectl makes an
// error, are escaped.
func MarshalYAML(m map[string]any) ([]byte, error) {
	data, err := stdjson.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	if data, err = yaml.JSONToYAML(escapeControls(data)); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	return data, nil
}

// escapeControls escapes what YAML refuses to read in JSON that encoding/json
// wrote, where it can only be part of a string.
func escapeControls(data []byte) []byte {
	if !bytes.ContainsFunc(data, refusedByYAML) {
		return data
	}
	var buf bytes.Buffer
	for _, r := range string(data) {
		if refusedByYAML(r) {
			fmt.Fprintf(&buf, `\u%04x`, r)
		} else {
			buf.WriteRune(r)
		}
	}
	return buf.Bytes()
}

// refusedByYAML tells the characters that JSON leaves raw and YAML does not
// allow so (go.yaml.in/yaml/v2 readerc.go, yaml_parser_update_buffer).
func refusedByYAML(r rune) bool {
	return r >= 0x7f && r <= 0x9f && r != 0x85 || r == 0xfffe || r == 0xffff
}
