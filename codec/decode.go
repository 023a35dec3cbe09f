package codec

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/json"
)

// errNoMetadata is about a well-formed value that is no object of an API.
var errNoMetadata = fmt.Errorf("%w: it has no metadata", ErrUndecodable)

// UnknownKindError says that a protobuf value is of a kind that this build has
// no Go type for: newer than its k8s.io/api, or removed before it. The head of
// such a value is still readable.
type UnknownKindError struct {
	APIVersion, Kind string
}

// Error names the kind.
func (e *UnknownKindError) Error() string {
	return fmt.Sprintf("this build does not know kind %q in %q", e.Kind, e.APIVersion)
}

// Decode reads a whole stored object: into its k8s.io/api type if it is
// protobuf, into *unstructured.Unstructured if it is JSON or CBOR. It is in the
// version it was stored in, with apiVersion and kind set, and
// metadata.resourceVersion set from the key's mod revision as kube-apiserver
// does on every read (k8s.io/apiserver pkg/storage/api_object_versioner.go,
// UpdateObject). The object shares no memory with value.
//
// Errors: *[UnknownKindError]; [ErrEncrypted] and [ErrUndecodable] to be tested
// with errors.Is. None quotes any of the value. A protobuf field that this
// build's type does not have is silently missing from the result, so it must
// never be written back.
//
// Of the defaults that kube-apiserver fills in on every read, only these are
// set in a protobuf object: the phase of namespaces, persistent volumes and
// claims, and the type of a StatefulSet's claim templates.
func Decode(value []byte, modRevision int64) (runtime.Object, error) {
	var obj runtime.Object
	var err error
	switch statusOf(value) {
	case StatusProtobuf:
		obj, err = decodeProtobuf(value[len(magicProtobuf):])
	case StatusJSON:
		obj, err = decodeJSON(value)
	case StatusCBOR:
		obj, err = decodeCBOR(value)
	case StatusEncrypted:
		err = encryptedError(value)
	default:
		err = unknownFormError(value)
	}
	if err != nil {
		return nil, err
	}
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return nil, errNoMetadata
	}
	accessor.SetResourceVersion(resourceVersion(modRevision))
	return obj, nil
}

func decodeProtobuf(b []byte) (runtime.Object, error) {
	e, err := openEnvelope(b)
	if err != nil {
		return nil, err
	}
	apiVersion, kind := string(e.apiVersion), string(e.kind)
	gvk := schema.FromAPIVersionAndKind(apiVersion, kind)
	obj, err := apiScheme().New(gvk)
	message, ok := obj.(interface{ Unmarshal([]byte) error })
	if err != nil || !ok {
		return nil, &UnknownKindError{APIVersion: apiVersion, Kind: kind}
	}
	if wildQuantity(obj, e.raw) {
		return nil, fmt.Errorf("%w: protobuf %s: a quantity is out of all bounds", ErrUndecodable, kind)
	}
	if err := message.Unmarshal(e.raw); err != nil {
		return nil, fmt.Errorf("%w: protobuf %s: %w", ErrUndecodable, kind, err)
	}
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	fillAsRead(obj)
	return obj, nil
}

// fillAsRead sets what kube-apiserver sets on every read in place of what it
// does not store: a missing phase (pkg/apis/core/v1/defaults.go) and the type
// of a claim template, which protobuf has no room for
// (pkg/apis/apps/v1/conversion.go, Convert_apps_StatefulSetSpec_To_v1_StatefulSetSpec).
func fillAsRead(obj runtime.Object) {
	switch o := obj.(type) {
	case *corev1.Namespace:
		if o.Status.Phase == "" {
			o.Status.Phase = corev1.NamespaceActive
		}
	case *corev1.PersistentVolume:
		if o.Status.Phase == "" {
			o.Status.Phase = corev1.VolumePending
		}
	case *corev1.PersistentVolumeClaim:
		if o.Status.Phase == "" {
			o.Status.Phase = corev1.ClaimPending
		}
	case *appsv1.StatefulSet:
		for i := range o.Spec.VolumeClaimTemplates {
			claim := &o.Spec.VolumeClaimTemplates[i]
			claim.APIVersion, claim.Kind = "v1", "PersistentVolumeClaim"
		}
	}
}

func decodeJSON(value []byte) (runtime.Object, error) {
	// apimachinery's decoder keeps integers as int64, where encoding/json
	// would round them to float64.
	var m map[string]any
	if err := json.Unmarshal(value, &m); err != nil {
		return nil, jsonError(err)
	}
	return newUnstructured(m)
}

func decodeCBOR(value []byte) (runtime.Object, error) {
	m, err := cborMap(value)
	if err != nil {
		return nil, err
	}
	return newUnstructured(m)
}

func newUnstructured(m map[string]any) (runtime.Object, error) {
	u := &unstructured.Unstructured{Object: m}
	if u.GetAPIVersion() == "" || u.GetKind() == "" {
		return nil, errForeign
	}
	if _, ok := m["metadata"].(map[string]any); !ok {
		return nil, errNoMetadata
	}
	return u, nil
}
