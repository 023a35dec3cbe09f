package codec

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers. Envelope: k8s.io/apimachinery pkg/runtime/generated.proto.
// ObjectMeta, OwnerReference and Time: pkg/apis/meta/v1/generated.proto.
// Metadata is field 1 of every top-level object in k8s.io/api.
const (
	envelopeType = 1
	envelopeRaw  = 2

	typeAPIVersion = 1
	typeKind       = 2

	objectMetadata = 1
	objectSpec     = 2
	objectStatus   = 3
	podSpecNode    = 10
	statusPhase    = 1

	metaName          = 1
	metaGenerateName  = 2
	metaNamespace     = 3
	metaUID           = 5
	metaGeneration    = 7
	metaCreated       = 8
	metaDeleted       = 9
	metaGracePeriod   = 10
	metaLabels        = 11
	metaAnnotations   = 12
	metaOwners        = 13
	metaFinalizers    = 14
	metaManagedFields = 17

	ownerKind       = 1
	ownerName       = 3
	ownerUID        = 4
	ownerAPIVersion = 5
	ownerController = 6

	timeSeconds = 1

	entryKey   = 1
	entryValue = 2
)

// field is one field of a message; its payload, without the length of a
// length-delimited one, is b[from:to], and the next field starts at to.
type field struct {
	num      protowire.Number
	typ      protowire.Type
	from, to int
}

// nextField reads the field at pos.
func nextField(b []byte, pos int) (field, error) {
	num, typ, n := protowire.ConsumeTag(b[pos:])
	if n < 0 {
		return field{}, wireError(n)
	}
	f := field{num: num, typ: typ, from: pos + n}
	if typ == protowire.BytesType {
		payload, size := protowire.ConsumeBytes(b[f.from:])
		if size < 0 {
			return field{}, wireError(size)
		}
		f.to = f.from + size
		f.from = f.to - len(payload)
		return f, nil
	}
	size := protowire.ConsumeFieldValue(num, typ, b[f.from:])
	if size < 0 {
		return field{}, wireError(size)
	}
	f.to = f.from + size
	return f, nil
}

// want fails if a known field has another wire type than its definition says;
// the generated decoders refuse it too.
func (f field) want(typ protowire.Type) error {
	if f.typ != typ {
		return fmt.Errorf("%w: protobuf field %d has wire type %d", ErrUndecodable, f.num, f.typ)
	}
	return nil
}

func (f field) uvarint(b []byte) uint64 {
	v, _ := protowire.ConsumeVarint(b[f.from:f.to])
	return v
}

func wireError(n int) error {
	return fmt.Errorf("%w: protobuf: %w", ErrUndecodable, protowire.ParseError(n))
}

// envelope is the runtime.Unknown around every protobuf value.
type envelope struct {
	apiVersion, kind []byte
	raw              []byte
}

// openEnvelope reads what follows the magic bytes. Like apimachinery's
// decoder it ignores the content type and encoding.
func openEnvelope(b []byte) (envelope, error) {
	var e envelope
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return envelope{}, err
		}
		pos = f.to
		if f.num != envelopeType && f.num != envelopeRaw {
			continue
		}
		if err := f.want(protowire.BytesType); err != nil {
			return envelope{}, err
		}
		if f.num == envelopeRaw {
			e.raw = b[f.from:f.to]
		} else if err := e.readType(b[f.from:f.to]); err != nil {
			return envelope{}, err
		}
	}
	if len(e.apiVersion) == 0 || len(e.kind) == 0 {
		return envelope{}, fmt.Errorf("%w: envelope names no apiVersion and kind", ErrUndecodable)
	}
	return e, nil
}

func (e *envelope) readType(b []byte) error {
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return err
		}
		pos = f.to
		if f.num != typeAPIVersion && f.num != typeKind {
			continue
		}
		if err := f.want(protowire.BytesType); err != nil {
			return err
		}
		if f.num == typeAPIVersion {
			e.apiVersion = b[f.from:f.to]
		} else {
			e.kind = b[f.from:f.to]
		}
	}
	return nil
}

func protobufHead(b []byte) (Head, error) {
	e, err := openEnvelope(b)
	if err != nil {
		return Head{}, err
	}
	h := Head{Status: StatusProtobuf}
	h.Meta.APIVersion = intern(e.apiVersion)
	h.Meta.Kind = intern(e.kind)
	if err := h.readObject(e.raw); err != nil {
		return Head{}, err
	}
	if h.Phase == "" {
		h.Phase = defaultPhase(h.Meta.APIVersion, h.Meta.Kind)
	}
	return h, nil
}

// defaultPhase is the phase that kube-apiserver fills in on every read of an
// object that was stored without one (pkg/apis/core/v1/defaults.go).
func defaultPhase(apiVersion, kind string) string {
	if apiVersion != "v1" {
		return ""
	}
	switch kind {
	case "Namespace":
		return "Active"
	case "PersistentVolume", "PersistentVolumeClaim":
		return "Pending"
	}
	return ""
}

// readObject walks the top level of an object.
func (h *Head) readObject(b []byte) error {
	wantNode, wantPhase := fieldsOfKind(h.Meta.APIVersion, h.Meta.Kind)
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return err
		}
		pos = f.to
		switch {
		case f.num == objectMetadata:
		case f.num == objectSpec && wantNode:
		case f.num == objectStatus && wantPhase:
		default:
			continue
		}
		if err := f.want(protowire.BytesType); err != nil {
			return err
		}
		switch message := b[f.from:f.to]; f.num {
		case objectMetadata:
			err = h.Meta.read(message)
		case objectSpec:
			err = readString(message, podSpecNode, &h.Node)
		case objectStatus:
			err = readString(message, statusPhase, &h.Phase)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fieldsOfKind tells what to read outside metadata: field numbers mean
// something only in a kind that is known.
func fieldsOfKind(apiVersion, kind string) (node, phase bool) {
	if apiVersion != "v1" {
		return false, false
	}
	switch kind {
	case "Pod":
		return true, true
	case "Namespace", "PersistentVolume", "PersistentVolumeClaim":
		return false, true
	}
	return false, false
}

// readString stores the last occurrence of a string field.
func readString(b []byte, num protowire.Number, to *string) error {
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return err
		}
		pos = f.to
		if f.num != num {
			continue
		}
		if err := f.want(protowire.BytesType); err != nil {
			return err
		}
		*to = intern(b[f.from:f.to])
	}
	return nil
}

// read adds one occurrence of ObjectMeta. Annotations and managedFields are
// most of its bytes; the fields between them are copied in one string each
// time, of which all the strings in m are parts.
func (m *Meta) read(b []byte) error {
	start, labels := 0, 0
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return err
		}
		if err := f.want(metaWireType(f)); err != nil {
			return err
		}
		switch f.num {
		case metaLabels:
			labels++
		case metaAnnotations, metaManagedFields:
			if err := m.readRun(b[start:pos], labels); err != nil {
				return err
			}
			start, labels = f.to, 0
		}
		pos = f.to
	}
	return m.readRun(b[start:], labels)
}

func metaWireType(f field) protowire.Type {
	switch f.num {
	case metaGeneration, metaGracePeriod:
		return protowire.VarintType
	case 15, 16:
		return f.typ
	}
	if f.num > metaManagedFields {
		return f.typ
	}
	return protowire.BytesType
}

// readRun reads consecutive fields; labels is how many of them are labels.
func (m *Meta) readRun(b []byte, labels int) error {
	if len(b) == 0 {
		return nil
	}
	s := string(b)
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return err
		}
		pos = f.to
		switch f.num {
		case metaName:
			m.Name = s[f.from:f.to]
		case metaGenerateName:
			m.GenerateName = s[f.from:f.to]
		case metaNamespace:
			m.Namespace = s[f.from:f.to]
		case metaUID:
			m.UID = s[f.from:f.to]
		case metaCreated:
			err = readTime(b[f.from:f.to], &m.Created)
		case metaDeleted:
			err = readTime(b[f.from:f.to], &m.Deleted)
		case metaLabels:
			if m.Labels == nil {
				// Bounded, because the count comes from the value.
				m.Labels = make(map[string]string, min(labels, 32))
			}
			err = readEntry(b[f.from:f.to], s[f.from:f.to], m.Labels)
		case metaOwners:
			err = m.readOwner(b[f.from:f.to], s[f.from:f.to])
		case metaFinalizers:
			m.Finalizers = append(m.Finalizers, s[f.from:f.to])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readTime replaces the time, as metav1.Time does: an empty message unsets it,
// and fractions of a second are dropped (pkg/apis/meta/v1/time_proto.go).
func readTime(b []byte, to *time.Time) error {
	*to = time.Time{}
	var seconds int64
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return err
		}
		pos = f.to
		if f.num != timeSeconds {
			continue
		}
		if err := f.want(protowire.VarintType); err != nil {
			return err
		}
		seconds = int64(f.uvarint(b))
	}
	if len(b) > 0 {
		*to = time.Unix(seconds, 0).UTC()
	}
	return nil
}

// readEntry adds one map entry; s is b as a string.
func readEntry(b []byte, s string, to map[string]string) error {
	var key, value string
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return err
		}
		pos = f.to
		if f.num != entryKey && f.num != entryValue {
			continue
		}
		if err := f.want(protowire.BytesType); err != nil {
			return err
		}
		if f.num == entryKey {
			key = s[f.from:f.to]
		} else {
			value = s[f.from:f.to]
		}
	}
	to[key] = value
	return nil
}

// readOwner appends one owner reference; s is b as a string.
func (m *Meta) readOwner(b []byte, s string) error {
	var o Owner
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return err
		}
		pos = f.to
		typ := protowire.BytesType
		switch f.num {
		case ownerKind:
			o.Kind = s[f.from:f.to]
		case ownerName:
			o.Name = s[f.from:f.to]
		case ownerUID:
			o.UID = s[f.from:f.to]
		case ownerAPIVersion:
			o.APIVersion = s[f.from:f.to]
		case ownerController:
			typ = protowire.VarintType
			o.Controller = f.uvarint(b) != 0
		default:
			continue
		}
		if err := f.want(typ); err != nil {
			return err
		}
	}
	m.Owners = append(m.Owners, o)
	return nil
}

// intern copies a string, without an allocation for those that most values
// hold.
func intern(b []byte) string {
	switch string(b) {
	case "v1":
		return "v1"
	case "apps/v1":
		return "apps/v1"
	case "batch/v1":
		return "batch/v1"
	case "coordination.k8s.io/v1":
		return "coordination.k8s.io/v1"
	case "Pod":
		return "Pod"
	case "Event":
		return "Event"
	case "Job":
		return "Job"
	case "ReplicaSet":
		return "ReplicaSet"
	case "Pending":
		return "Pending"
	case "Running":
		return "Running"
	case "Succeeded":
		return "Succeeded"
	case "Failed":
		return "Failed"
	}
	return string(b)
}
