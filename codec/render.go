package codec

import (
	"bytes"
	"encoding/base64"
	stdjson "encoding/json"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"
)

// RenderOptions says what Render leaves in. The zero value shows neither.
type RenderOptions struct {
	ManagedFields bool // keep metadata.managedFields
	ShowSecrets   bool // keep what a Secret holds
}

// Render returns an object as kubectl get -o json shows it: a JSON value of its
// own, sharing nothing with obj. Integers are int64 as far as they fit, so
// that none is rounded.
//
// Without ShowSecrets every value in data and stringData of a Secret, of any
// version of the core group, and its annotations that are known to repeat the
// whole object, are replaced by [Redacted]. Keys stay visible. Other
// annotations and labels stay as they are. The unknownFields of a Secret that
// [Show] knows by its metadata are replaced as a whole, by the size of their
// JSON. [SecretPath] tells the same of a single field.
func Render(obj runtime.Object, opt RenderOptions) (map[string]any, error) {
	var m map[string]any
	if u, ok := obj.(*unstructured.Unstructured); ok {
		m = runtime.DeepCopyJSON(u.Object)
	} else {
		var err error
		if m, err = toMap(obj); err != nil {
			return nil, fmt.Errorf("render %T: %w", obj, err)
		}
	}
	metadata, _ := m["metadata"].(map[string]any)
	if !opt.ManagedFields {
		delete(metadata, "managedFields")
	}
	if !opt.ShowSecrets && isSecret(m) {
		redactSecret(m, metadata)
	}
	return m, nil
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

// isSecret takes an apiVersion that cannot be read for one of the core group.
func isSecret(m map[string]any) bool {
	apiVersion, _ := m["apiVersion"].(string)
	return m["kind"] == "Secret" && groupOf(apiVersion) == ""
}

// Redacted returns what stands in place of a secret value of size bytes:
// "<redacted: 12 bytes>". It is no valid base64, so that applying an object
// that holds it to a cluster fails rather than destroying the Secret.
func Redacted(size int) string {
	return fmt.Sprintf("<redacted: %d bytes>", size)
}

// copyAnnotations returns the annotations in which a tool keeps a copy of the
// object it has applied, values included: kubectl, kapp, Rancher's wrangler,
// Banzai Cloud's object matcher.
func copyAnnotations() []string {
	return []string{
		"kubectl.kubernetes.io/last-applied-configuration",
		"kapp.k14s.io/original",
		"objectset.rio.cattle.io/applied",
		"banzaicloud.com/last-applied",
	}
}

// secretMembers returns the top-level members of a Secret that hold secrets.
func secretMembers() []string {
	return []string{"data", "stringData", memberUnknown}
}

// SecretPath reports whether [Render] redacts a field of a Secret, or the field
// that it is part of: path names it from the top of the object, as in "data",
// "password". It is false for metadata and for its annotations, of which Render
// redacts some.
func SecretPath(path []string) bool {
	switch {
	case len(path) == 0:
		return false
	case slices.Contains(secretMembers(), path[0]):
		return true
	}
	return len(path) > 2 && path[0] == "metadata" && path[1] == "annotations" &&
		slices.Contains(copyAnnotations(), path[2])
}

func redactSecret(m, metadata map[string]any) {
	for _, name := range secretMembers() {
		switch name {
		case "data":
			redactValues(m, name, base64Size)
		case memberUnknown:
			if value, ok := m[name]; ok {
				data, _ := json.Marshal(value)
				m[name] = Redacted(len(data))
			}
		default:
			redactValues(m, name, func(s string) int { return len(s) })
		}
	}
	annotations, ok := metadata["annotations"].(map[string]any)
	if !ok {
		return
	}
	for _, name := range copyAnnotations() {
		if value, ok := annotations[name]; ok {
			s, _ := value.(string)
			annotations[name] = Redacted(len(s))
		}
	}
}

// base64Size is the size of what s encodes, or of s if it is no base64.
func base64Size(s string) int {
	if data, err := base64.StdEncoding.DecodeString(s); err == nil {
		return len(data)
	}
	return len(s)
}

// redactValues replaces the values of one map of m. What has not the shape of
// a Secret, as in a damaged JSON value, is replaced as a whole.
func redactValues(m map[string]any, key string, size func(string) int) {
	value, ok := m[key]
	if !ok || value == nil {
		return
	}
	values, ok := value.(map[string]any)
	if !ok {
		m[key] = Redacted(0)
		return
	}
	for name, v := range values {
		s, _ := v.(string)
		values[name] = Redacted(size(s))
	}
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
// separator, ending in a newline.
func MarshalYAML(m map[string]any) ([]byte, error) {
	data, err := yaml.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	return data, nil
}
