package codec

import (
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// Shown is an object as kubectl would show it.
type Shown struct {
	// Object is of a k8s.io/api type, a *apiextensionsv1.CustomResourceDefinition
	// or a *unstructured.Unstructured. It shares no memory with the value.
	Object runtime.Object

	// Omitted names stored fields that Object lacks because this build does
	// not know them, or that there are more of them: "spec.newField",
	// "spec.versions[0].other", "and 7 more".
	Omitted []string

	// ByMetadata is set for a protobuf value of a kind that this build does
	// not know. Object then has apiVersion, kind, metadata, and all other
	// fields by their numbers in a member unknownFields, which no apiserver
	// accepts.
	ByMetadata bool
}

// Show returns a stored object, plain being its value after decryption, as
// kubectl shows it when it is asked for r. r may be nil.
//
// It is what [Decode] returns, with these differences. A
// CustomResourceDefinition, stored as v1beta1, is shown in v1; one that this
// build cannot convert is shown as stored. An event is shown in the API group
// of r, whatever group it was stored in. A protobuf kind without a Go type in
// this build is shown by its metadata.
//
// Errors: as of Decode, but never *[UnknownKindError]; an unknown kind without
// readable metadata is an [ErrUndecodable].
//
// The members of unknownFields are field numbers, in the notation of [Render]:
//
//   - integers and booleans are numbers, as Kubernetes has no unsigned ones;
//   - fixed32, fixed64 and groups are {"fixed32": "0x…"}, {"fixed64": "0x…"}
//     and {"group": "<base64>"};
//   - text that does not begin with a control character is a string;
//   - other bytes that are a message, all of them, are an object of the same
//     form; or else a string, if they are text; or else {"base64": "…"};
//   - a field that occurs several times is a list, in stored order;
//   - messages below 32 levels are not taken apart, and after 10,000 fields in
//     all what is left of each is its member "rest", {"base64": "…"}.
//
// So nothing is lost, but which of text and message was meant is a guess.
func Show(plain []byte, modRevision int64, r *Resource) (Shown, error) {
	obj, err := Decode(plain, modRevision)
	var unknown *UnknownKindError
	if errors.As(err, &unknown) {
		return showByMetadata(plain, modRevision)
	}
	if err != nil {
		return Shown{}, err
	}
	s := Shown{Object: obj}
	if statusOf(plain) == StatusProtobuf {
		e, err := openEnvelope(plain[len(magicProtobuf):])
		if err != nil {
			return Shown{}, err
		}
		s.Omitted = omittedFields(obj, e.raw)
	}
	if u, ok := obj.(*unstructured.Unstructured); ok && isCRD(u) {
		return showCRD(u)
	}
	return showEvent(s, r)
}

// showByMetadata takes a protobuf value whose kind has no Go type.
func showByMetadata(plain []byte, modRevision int64) (Shown, error) {
	e, err := openEnvelope(plain[len(magicProtobuf):])
	if err != nil {
		return Shown{}, err
	}
	metadata, err := wireMetadata(e.raw)
	if err != nil {
		return Shown{}, err
	}
	metadata.ResourceVersion = resourceVersion(modRevision)
	content, err := toMap(&metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: string(e.apiVersion), Kind: string(e.kind)},
		ObjectMeta: *metadata,
	})
	if err != nil {
		return Shown{}, fmt.Errorf("%w: its metadata has no JSON form", ErrUndecodable)
	}
	if fields := dumpObject(e.raw); len(fields) > 0 {
		content[memberUnknown] = fields
	}
	return Shown{Object: &unstructured.Unstructured{Object: content}, ByMetadata: true}, nil
}

// wireMetadata merges all occurrences of an object's metadata, as a generated
// decoder does.
func wireMetadata(b []byte) (*metav1.ObjectMeta, error) {
	metadata, found := new(metav1.ObjectMeta), false
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return nil, err
		}
		pos = f.to
		if f.num != objectMetadata {
			continue
		}
		if err := f.want(protowire.BytesType); err != nil {
			return nil, err
		}
		if err := metadata.Unmarshal(b[f.from:f.to]); err != nil {
			return nil, fmt.Errorf("%w: protobuf metadata", ErrUndecodable)
		}
		found = true
	}
	if !found {
		return nil, errNoMetadata
	}
	return metadata, nil
}

// resourceVersion is what kube-apiserver makes of a mod revision.
func resourceVersion(modRevision int64) string {
	if modRevision == 0 {
		return ""
	}
	return strconv.FormatInt(modRevision, 10)
}
