package codec

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/json"
)

// isSecret takes an apiVersion that cannot be read for one of the core group.
func isSecret(m map[string]any) bool {
	apiVersion, _ := m["apiVersion"].(string)
	kind, _ := m["kind"].(string)
	return strings.EqualFold(kind, "Secret") && groupOf(apiVersion) == ""
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

// openMember tells the top-level members of a Secret that are shown as they
// are, if they are a single value of the right type.
func openMember(name string) bool {
	return slices.Contains([]string{"apiVersion", "kind", "type", "immutable"}, name)
}

// SecretPath reports whether [Render] redacts a field of a Secret, or the field
// that it is part of: path names it from the top of the object, as in "data",
// "password". It is false for metadata and for its annotations, of which Render
// redacts some.
//
// Names alone do not tell that a member has not the type that a Secret gives it,
// for which Render redacts metadata, apiVersion, kind, type, immutable and all
// annotations too. SecretPath is false for these, and true below all of them
// that are single values in a Secret.
func SecretPath(path []string) bool {
	switch {
	case len(path) == 0:
		return false
	case openMember(path[0]):
		return len(path) > 1
	case path[0] != "metadata":
		return true
	case len(path) < 3 || path[1] != "annotations":
		return false
	}
	return len(path) > 3 || slices.Contains(copyAnnotations(), path[2])
}

// redactSecret shows nothing that it does not know to be open. Null holds no
// secret: where a Secret may have it, it stays.
func redactSecret(m map[string]any) {
	for name, value := range m {
		switch {
		case name == "metadata":
			redactMetadata(m, value)
		case name == "data":
			redactValues(m, name, base64Size)
		case name == "stringData":
			redactValues(m, name, func(s string) int { return len(s) })
		case !openMember(name) || !openValue(name, value):
			m[name] = marker(value)
		}
	}
}

// openValue tells whether an open member has its type, and so no room for
// fields that are not known.
func openValue(name string, value any) bool {
	if name == "immutable" {
		_, ok := value.(bool)
		return ok || value == nil
	}
	_, ok := value.(string)
	return ok || value == nil
}

// redactMetadata replaces the annotations that repeat the object, and all of
// what has not the shape of annotations.
func redactMetadata(m map[string]any, value any) {
	metadata, ok := value.(map[string]any)
	if !ok {
		m["metadata"] = marker(value)
		return
	}
	value, ok = metadata["annotations"]
	if !ok || value == nil {
		return
	}
	annotations, ok := value.(map[string]any)
	for _, v := range annotations {
		_, text := v.(string)
		ok = ok && text
	}
	if !ok {
		metadata["annotations"] = marker(value)
		return
	}
	for _, name := range copyAnnotations() {
		if s, ok := annotations[name].(string); ok {
			annotations[name] = Redacted(len(s))
		}
	}
}

// marker stands in place of a whole JSON value.
func marker(value any) string {
	data, err := json.Marshal(value)
	if err != nil {
		return Redacted(0)
	}
	return Redacted(len(data))
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
