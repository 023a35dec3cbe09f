package codec

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/util/json"
)

// ManagedEntry is one entry of metadata.managedFields, without the fields that
// it lists: who wrote, how, and when for the last time. Time is in UTC, to the
// second, zero if unset.
type ManagedEntry struct {
	Manager     string
	Operation   string // Apply or Update
	Subresource string // such as status, "" for the object itself
	APIVersion  string
	Time        time.Time
}

// ManagedInfo is what Managed finds.
type ManagedInfo struct {
	// Bytes is how much shorter the value would be without managedFields, but
	// for the lengths around them: their own tags and lengths are counted in,
	// in JSON the key and one comma.
	Bytes int64

	// Entries are at most the first 1,000; More is how many follow.
	Entries []ManagedEntry
	More    int
}

// maxManaged is how many entries are kept. kube-apiserver merges Update
// entries into ten (k8s.io/apimachinery pkg/util/managedfields,
// DefaultMaxUpdateManagers), each applier adds one.
const maxManaged = 1000

// Managed reads metadata.managedFields of a stored value in plain, without
// decoding the lists of fields, which are most of it. It never panics, takes
// time and memory proportional to the value, and keeps no reference to it. An
// error wraps ErrEncrypted or ErrUndecodable and quotes none of the value.
func Managed(plain []byte) (ManagedInfo, error) {
	var info ManagedInfo
	var err error
	switch statusOf(plain) {
	case StatusProtobuf:
		err = info.readProtobuf(plain[len(magicProtobuf):])
	case StatusJSON:
		err = info.readJSON(plain)
	case StatusCBOR:
		err = info.readCBOR(plain)
	case StatusEncrypted:
		err = encryptedError(plain)
	default:
		err = unknownFormError(plain)
	}
	if err != nil {
		return ManagedInfo{}, err
	}
	return info, nil
}

// Newest returns the entry that was written last; of several in the same
// second the last one, because kube-apiserver sorts them by time
// (sigs.k8s.io/structured-merge-diff via pkg/util/managedfields). ok is false
// if there are none, or none has a time.
func (i *ManagedInfo) Newest() (e ManagedEntry, ok bool) {
	for _, entry := range i.Entries {
		if !entry.Time.IsZero() && !entry.Time.Before(e.Time) {
			e, ok = entry, true
		}
	}
	return e, ok
}

func (i *ManagedInfo) add(e ManagedEntry) {
	if len(i.Entries) == maxManaged {
		i.More++
		return
	}
	i.Entries = append(i.Entries, e)
}

// Field numbers of ManagedFieldsEntry: k8s.io/apimachinery
// pkg/apis/meta/v1/generated.proto.
const (
	managedManager     = 1
	managedOperation   = 2
	managedAPIVersion  = 3
	managedTime        = 4
	managedSubresource = 8
)

func (i *ManagedInfo) readProtobuf(b []byte) error {
	e, err := openEnvelope(b)
	if err != nil {
		return err
	}
	for pos := 0; ; {
		f, err := findField(e.raw, pos, objectMetadata)
		if err != nil || f.to == 0 {
			return err
		}
		pos = f.to
		if err := f.want(protowire.BytesType); err != nil {
			return err
		}
		if err := i.readMeta(e.raw[f.from:f.to]); err != nil {
			return err
		}
	}
}

// readMeta adds one occurrence of ObjectMeta.
func (i *ManagedInfo) readMeta(b []byte) error {
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return err
		}
		if f.num == metaManagedFields {
			if err := f.want(protowire.BytesType); err != nil {
				return err
			}
			i.Bytes += int64(f.to - pos)
			e, err := readManaged(b[f.from:f.to])
			if err != nil {
				return err
			}
			i.add(e)
		}
		pos = f.to
	}
	return nil
}

func readManaged(b []byte) (ManagedEntry, error) {
	var e ManagedEntry
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return e, err
		}
		pos = f.to
		var to *string
		switch f.num {
		case managedManager:
			to = &e.Manager
		case managedOperation:
			to = &e.Operation
		case managedAPIVersion:
			to = &e.APIVersion
		case managedSubresource:
			to = &e.Subresource
		case managedTime:
		default:
			continue
		}
		if err := f.want(protowire.BytesType); err != nil {
			return e, err
		}
		if to != nil {
			*to = internManaged(b[f.from:f.to])
		} else if err := readTime(b[f.from:f.to], &e.Time); err != nil {
			return e, err
		}
	}
	return e, nil
}

// internManaged copies a string, without an allocation for those that most
// entries hold.
func internManaged(b []byte) string {
	switch string(b) {
	case "Update":
		return "Update"
	case "Apply":
		return "Apply"
	case "status":
		return "status"
	case "kubelet":
		return "kubelet"
	case "kube-controller-manager":
		return "kube-controller-manager"
	case "kube-scheduler":
		return "kube-scheduler"
	}
	return intern(b)
}

// readCBOR decodes the whole value, as DecodeHead does: the format is an alpha
// feature. The size is that of the same list written again by the same encoder
// that kube-apiserver uses.
func (i *ManagedInfo) readCBOR(value []byte) error {
	m, err := cborMap(value)
	if err != nil {
		return err
	}
	metadata, _ := m["metadata"].(map[string]any)
	list, ok := metadata["managedFields"]
	if !ok {
		return nil
	}
	for _, part := range []any{"managedFields", list} {
		b, err := direct.Marshal(part)
		if err != nil {
			return fmt.Errorf("%w: cbor", ErrUndecodable)
		}
		i.Bytes += int64(len(b))
	}
	data, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("%w: cbor", ErrUndecodable)
	}
	return i.readList(data)
}

var errManagedShape = errors.New("managedFields do not have their shape")
