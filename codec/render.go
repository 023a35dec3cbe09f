package codec

import (
	"bytes"
	"encoding/base64"
	stdjson "encoding/json"
	"fmt"

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
// Without ShowSecrets every value in data and stringData of a Secret, and its
// annotations that are known to repeat the whole object, are replaced by
// [Redacted]. Keys stay visible. Other annotations and labels stay as they are.
func Render(obj runtime.Object, opt RenderOptions) (map[string]any, error) {
	var m map[string]any
	if u, ok := obj.(*unstructured.Unstructured); ok {
		m = runtime.DeepCopyJSON(u.Object)
	} else {
		data, err := stdjson.Marshal(obj)
		if err != nil {
			return nil, fmt.Errorf("render %T: %w", obj, err)
		}
		if err := json.Unmarshal(data, &m); err != nil {
			return nil, fmt.Errorf("render %T: %w", obj, err)
		}
	}
	metadata, _ := m["metadata"].(map[string]any)
	if !opt.ManagedFields {
		delete(metadata, "managedFields")
	}
	if !opt.ShowSecrets && m["kind"] == "Secret" && m["apiVersion"] == "v1" {
		redactSecret(m, metadata)
	}
	return m, nil
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

func redactSecret(m, metadata map[string]any) {
	redactValues(m, "data", func(s string) int {
		if data, err := base64.StdEncoding.DecodeString(s); err == nil {
			return len(data)
		}
		return len(s)
	})
	redactValues(m, "stringData", func(s string) int { return len(s) })
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
