package codec

import (
	"fmt"

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

// readProtobuf fills h, which is not to be used after an error.
func (d *HeadDecoder) readProtobuf(b []byte, h *Head) error {
	e, err := openEnvelope(b)
	if err != nil {
		return err
	}
	d.runs = 0
	h.Status = StatusProtobuf
	h.Meta.APIVersion = intern(e.apiVersion)
	h.Meta.Kind = intern(e.kind)
	if err := d.readObject(e.raw, h); err != nil {
		return err
	}
	if d.runs > 1 {
		h.Meta.Labels = h.Meta.Labels.normal()
	}
	if h.Phase == "" {
		h.Phase = defaultPhase(h.Meta.APIVersion, h.Meta.Kind)
	}
	return nil
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
func (d *HeadDecoder) readObject(b []byte, h *Head) error {
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
			err = d.readMeta(message, &h.Meta)
		case objectSpec:
			err = readString(message, podSpecNode, &d.node, &h.Node)
		case objectStatus:
			err = readString(message, statusPhase, &d.phase, &h.Phase)
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

// readString stores the last occurrence of a string field. Only what differs
// from last, which the value before had, is copied.
func readString(b []byte, num protowire.Number, last, to *string) error {
	for pos := 0; ; {
		f, err := findField(b, pos, num)
		if err != nil || f.to == 0 {
			return err
		}
		pos = f.to
		if err := f.want(protowire.BytesType); err != nil {
			return err
		}
		if text := b[f.from:f.to]; string(text) != *last {
			*last = intern(text)
		}
		*to = *last
	}
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
