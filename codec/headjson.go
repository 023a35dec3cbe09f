package codec

import (
	"bytes"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/util/json"
	kjson "sigs.k8s.io/json"
)

// storedHead is the part of a JSON or CBOR object that makes a Head.
type storedHead struct {
	APIVersion string      `json:"apiVersion"`
	Kind       string      `json:"kind"`
	Metadata   storedMeta  `json:"metadata"`
	Spec       looseString `json:"spec"`
	Status     looseString `json:"status"`
}

type storedMeta struct {
	Name              string            `json:"name"`
	GenerateName      string            `json:"generateName"`
	Namespace         string            `json:"namespace"`
	UID               string            `json:"uid"`
	CreationTimestamp metav1.Time       `json:"creationTimestamp"`
	DeletionTimestamp metav1.Time       `json:"deletionTimestamp"`
	Labels            map[string]string `json:"labels"`
	Finalizers        []string          `json:"finalizers"`
	OwnerReferences   []storedOwner     `json:"ownerReferences"`
}

type storedOwner struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
	Controller bool   `json:"controller"`
}

// looseString reads nodeName and phase from a spec or a status of any shape:
// what they are is up to the author of the CRD.
type looseString struct{ nodeName, phase string }

// UnmarshalJSON never fails on well-formed JSON.
func (l *looseString) UnmarshalJSON(b []byte) error {
	*l = looseString{}
	// Most hold neither, and a second parse is the larger part of the cost.
	if len(b) == 0 || b[0] != '{' || !(bytes.Contains(b, []byte(`"phase"`)) || bytes.Contains(b, []byte(`"nodeName"`))) {
		return nil
	}
	var fields struct {
		NodeName any `json:"nodeName"`
		Phase    any `json:"phase"`
	}
	if err := json.Unmarshal(b, &fields); err != nil {
		return err
	}
	l.nodeName, _ = fields.NodeName.(string)
	l.phase, _ = fields.Phase.(string)
	return nil
}

func readJSON(value []byte, h *Head) error {
	var s storedHead
	if err := json.Unmarshal(value, &s); err != nil {
		return jsonError(err)
	}
	return s.fill(h, StatusJSON)
}

// readCBOR decodes the whole value: the format is an alpha feature, so speed
// has not been asked of it.
func readCBOR(value []byte, h *Head) error {
	m, err := cborMap(value)
	if err != nil {
		return err
	}
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("%w: cbor", ErrUndecodable)
	}
	var s storedHead
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("%w: cbor", ErrUndecodable)
	}
	return s.fill(h, StatusCBOR)
}

func cborMap(value []byte) (map[string]any, error) {
	var m map[string]any
	if err := direct.Unmarshal(value, &m); err != nil {
		return nil, fmt.Errorf("%w: cbor", ErrUndecodable)
	}
	return m, nil
}

func (s *storedHead) fill(h *Head, status Status) error {
	if s.APIVersion == "" || s.Kind == "" {
		return errForeign
	}
	m := &s.Metadata
	*h = Head{
		Status: status,
		Phase:  s.Status.phase,
		Meta: Meta{
			APIVersion:   s.APIVersion,
			Kind:         s.Kind,
			Name:         m.Name,
			Namespace:    m.Namespace,
			GenerateName: m.GenerateName,
			UID:          m.UID,
			Created:      utc(m.CreationTimestamp),
			Deleted:      utc(m.DeletionTimestamp),
			Labels:       labelsOf(m.Labels),
		},
	}
	if len(m.Finalizers) > 0 {
		h.Meta.Finalizers = m.Finalizers
	}
	for _, o := range m.OwnerReferences {
		h.Meta.Owners = append(h.Meta.Owners, Owner(o))
	}
	if node, _ := fieldsOfKind(s.APIVersion, s.Kind); node {
		h.Node = s.Spec.nodeName
	}
	if h.Phase == "" {
		h.Phase = defaultPhase(s.APIVersion, s.Kind)
	}
	return nil
}

func utc(t metav1.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC()
}

// jsonError says where the JSON breaks, and nothing of what it holds: the
// decoder's own errors may quote a value.
func jsonError(err error) error {
	if syntax, offset := kjson.SyntaxErrorOffset(err); syntax {
		return fmt.Errorf("%w: json breaks at byte %d", ErrUndecodable, offset)
	}
	return fmt.Errorf("%w: json does not have the shape of an object", ErrUndecodable)
}
