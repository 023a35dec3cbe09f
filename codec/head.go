package codec

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Status tells in which form a value is stored.
type Status string

// The forms of a stored value.
const (
	StatusProtobuf Status = "protobuf" // "k8s\x00" and a runtime.Unknown: built-in kinds
	StatusJSON     Status = "json"     // CRDs, APIServices, custom resources
	StatusCBOR     Status = "cbor"     // custom resources under the CBORServingAndStorage feature

	// StatusEncrypted is a value that an encryption provider has written.
	// What it holds is known only after decryption.
	StatusEncrypted Status = "encrypted"

	// StatusUndecodable is a value of no known form, or a damaged one.
	StatusUndecodable Status = "undecodable"

	// StatusForeign is well-formed JSON or CBOR without an apiVersion and a
	// kind: something that no kube-apiserver has written.
	StatusForeign Status = "foreign"
)

var (
	// ErrEncrypted is wrapped by errors about values that must be decrypted
	// first. Its text then names the provider and the key's name.
	ErrEncrypted = errors.New("value is encrypted")

	// ErrUndecodable is wrapped by errors about values that are damaged, of no
	// known form, or foreign. No such error quotes any of the value.
	ErrUndecodable = errors.New("value cannot be decoded")
)

// The prefixes that kube-apiserver recognises values by.
const (
	magicProtobuf  = "k8s\x00"      // k8s.io/apimachinery pkg/runtime/serializer/protobuf
	magicEncrypted = "k8s:enc:"     // k8s.io/apiserver pkg/server/options/encryptionconfig
	magicCBOR      = "\xd9\xd9\xf7" // k8s.io/apimachinery pkg/runtime/serializer/cbor
	magicJSON      = "{"
)

// Owner is one entry of metadata.ownerReferences.
type Owner struct {
	APIVersion string
	Kind       string
	Name       string
	UID        string
	Controller bool
}

// Group returns the API group of the owner, "" for the core group.
func (o Owner) Group() string { return groupOf(o.APIVersion) }

// Meta is the part of an object's type and metadata that selecting needs.
// Times are in UTC, to the second, zero if unset. Slices are nil if empty.
type Meta struct {
	APIVersion   string
	Kind         string
	Name         string
	Namespace    string
	GenerateName string
	UID          string
	Created      time.Time
	Deleted      time.Time
	Labels       Labels
	Finalizers   []string
	Owners       []Owner
}

// Group returns the API group that the value is stored under, "" for the core
// group.
func (m *Meta) Group() string { return groupOf(m.APIVersion) }

// Head is what DecodeHead finds in a value. It holds no reference to the
// value's memory. It may share slices with other heads, see [HeadDecoder]: they
// must not be changed.
type Head struct {
	Status Status
	Meta   Meta // empty if Err is set

	// Node is the spec.nodeName of a pod. Phase is the status.phase of a pod,
	// namespace, persistent volume or claim, and of any JSON or CBOR object
	// where it is a string. Where kube-apiserver fills in a missing phase on
	// read, as Pending for a claim, so does DecodeHead.
	Node, Phase string

	// Err tells why there is no Meta. It wraps ErrEncrypted or
	// ErrUndecodable, and is nil exactly if Status is protobuf, json or cbor.
	Err error
}

// DecodeHead reads the type, the metadata and a few other fields of a stored
// value, without decoding the rest. The form is recognised by its first bytes,
// never by trial. It never panics, takes time and memory proportional to the
// value, and never changes it. Of a value whose fields it cannot all trust it
// returns none.
//
// Protobuf is read by the rules of the format, as the generated decoders do:
// unknown fields are skipped, the last scalar wins, a repeated message merges.
// Only what is read is checked: a value with a sound head may still fail in
// [Decode].
func DecodeHead(value []byte) Head {
	var d HeadDecoder
	return d.Decode(value)
}

// HeadDecoder decodes one value after the other, at less than half the cost of
// [DecodeHead] where they are alike: what is equal in a value and the one
// before, of labels, owners, finalizers, node and phase, is not copied again but
// shared by their heads. Such values, the pods of one Job for example, stand
// next to each other in a store. The zero value is ready for use. It is not
// safe for concurrent use; its heads are.
type HeadDecoder struct {
	// What the last value had. There are two runs of lists, because
	// annotations come between labels and owners.
	lists       [2]metaLists
	node, phase string

	runs int // of lists so far in this value
}

// Decode returns what [DecodeHead] does.
func (d *HeadDecoder) Decode(value []byte) (h Head) {
	var err error
	switch statusOf(value) {
	case StatusProtobuf:
		err = d.readProtobuf(value[len(magicProtobuf):], &h)
	case StatusJSON:
		err = readJSON(value, &h)
	case StatusCBOR:
		err = readCBOR(value, &h)
	case StatusEncrypted:
		return Head{Status: StatusEncrypted, Err: encryptedError(value)}
	default:
		err = unknownFormError(value)
	}
	switch {
	case err == nil:
		return h
	case errors.Is(err, errForeign):
		return Head{Status: StatusForeign, Err: err}
	}
	return Head{Status: StatusUndecodable, Err: err}
}

// MetaMatchesKey reports whether the name and the namespace in a value are
// those of its key. An object where they differ was not written by an
// apiserver, and apiserver serves it under a name that cannot delete it. A head
// without metadata and a key of the apiserver's own cannot disagree and give
// true.
func MetaMatchesKey(h Head, k Key) bool {
	if h.Err != nil || k.Resource.Internal {
		return true
	}
	return h.Meta.Name == k.Name && h.Meta.Namespace == k.Namespace
}

// statusOf tells the form by the first bytes alone.
func statusOf(value []byte) Status {
	switch {
	case bytes.HasPrefix(value, []byte(magicProtobuf)):
		return StatusProtobuf
	case bytes.HasPrefix(value, []byte(magicEncrypted)):
		return StatusEncrypted
	case bytes.HasPrefix(value, []byte(magicCBOR)):
		return StatusCBOR
	case bytes.HasPrefix(value, []byte(magicJSON)):
		return StatusJSON
	}
	return StatusUndecodable
}

// errForeign is wrapped, beside ErrUndecodable, for StatusForeign.
var errForeign = fmt.Errorf("%w: no apiVersion and kind", ErrUndecodable)

func unknownFormError(value []byte) error {
	return fmt.Errorf("%w: %d bytes of no known form", ErrUndecodable, len(value))
}

// encryptedError names the provider and the key of "k8s:enc:aescbc:v1:key1:".
func encryptedError(value []byte) error {
	return fmt.Errorf("%w by provider %s", ErrEncrypted, ProviderOf(value))
}

func groupOf(apiVersion string) string {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return ""
	}
	return gv.Group
}
