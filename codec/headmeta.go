package codec

import (
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// metaNames tells where the name, namespace and uid of an object are.
type metaNames struct {
	at       [metaUID + 1]field // by field number; from is 0 if absent
	from, to int                // of all; 0 if there are none
}

func (n *metaNames) add(f field) {
	if n.to == 0 {
		n.from = f.from
	}
	n.to = f.to
	n.at[f.num] = f
}

// copyTo sets the strings in m, which are parts of one copy, and empties n.
func (n *metaNames) copyTo(m *Meta, b []byte) {
	if n.to == 0 {
		return
	}
	s := string(b[n.from:n.to])
	for num, to := range [...]*string{
		metaName: &m.Name, metaGenerateName: &m.GenerateName, metaNamespace: &m.Namespace, metaUID: &m.UID,
	} {
		if f := n.at[num]; f.from > 0 {
			*to = s[f.from-n.from : f.to-n.from]
		}
	}
	*n = metaNames{}
}

// metaLists are the labels, owners and finalizers in a run of fields of an
// ObjectMeta without annotations and managedFields.
type metaLists struct {
	wire       string // the fields; all strings are parts of it
	labels     Labels
	owners     []Owner
	finalizers []string
}

// listCount tells where the lists of a run are, and how long, so that memory
// for them is taken once. All is 0 if there are none.
type listCount struct{ from, to, labels, owners, finalizers int }

func (c *listCount) add(f field, pos int) {
	if c.to == 0 {
		c.from = pos
	}
	c.to = f.to
	switch f.num {
	case metaLabels:
		c.labels++
	case metaOwners:
		c.owners++
	case metaFinalizers:
		c.finalizers++
	}
}

// readMeta adds one occurrence of ObjectMeta. Annotations and managedFields are
// most of its bytes; nothing of them is looked at or copied.
func (d *HeadDecoder) readMeta(b []byte, m *Meta) error {
	var names metaNames
	var lists listCount
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return err
		}
		if err := f.want(metaWireType(f)); err != nil {
			return err
		}
		switch f.num {
		case metaName, metaGenerateName, metaNamespace, metaUID:
			names.add(f)
		case metaLabels, metaOwners, metaFinalizers:
			lists.add(f, pos)
		case metaCreated:
			err = readTime(b[f.from:f.to], &m.Created)
		case metaDeleted:
			err = readTime(b[f.from:f.to], &m.Deleted)
		case metaAnnotations, metaManagedFields:
			names.copyTo(m, b)
			err = d.addLists(m, b, &lists)
		}
		if err != nil {
			return err
		}
		pos = f.to
	}
	names.copyTo(m, b)
	return d.addLists(m, b, &lists)
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

// addLists adds the lists of a run to m, and empties c. If the value before had
// the same bytes there, its lists are shared.
func (d *HeadDecoder) addLists(m *Meta, b []byte, c *listCount) error {
	if c.to == 0 {
		return nil
	}
	l := &d.lists[d.runs%len(d.lists)]
	if wire := b[c.from:c.to]; string(wire) != l.wire {
		fresh, err := readLists(wire, c)
		if err != nil {
			return err
		}
		*l = fresh
	}
	m.Labels = join(m.Labels, l.labels)
	m.Owners = join(m.Owners, l.owners)
	m.Finalizers = join(m.Finalizers, l.finalizers)
	*c = listCount{}
	d.runs++
	return nil
}

// join appends; what is appended to nothing is shared, without the capacity to
// append to it in place.
func join[T any](to, more []T) []T {
	if len(to) == 0 {
		return more[:len(more):len(more)]
	}
	return append(to, more...)
}

// room returns a slice to append n to, nil if that is none.
func room[T any](n int) []T {
	if n == 0 {
		return nil
	}
	return make([]T, 0, n)
}

// readLists copies and reads a run.
func readLists(b []byte, c *listCount) (metaLists, error) {
	l := metaLists{
		wire:       string(b),
		labels:     room[Label](c.labels),
		owners:     room[Owner](c.owners),
		finalizers: room[string](c.finalizers),
	}
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return metaLists{}, err
		}
		pos = f.to
		s := l.wire[f.from:f.to]
		switch f.num {
		case metaLabels:
			var label Label
			label, err = readLabel(b[f.from:f.to], s)
			l.labels = append(l.labels, label)
		case metaOwners:
			var o Owner
			o, err = readOwner(b[f.from:f.to], s)
			l.owners = append(l.owners, o)
		case metaFinalizers:
			l.finalizers = append(l.finalizers, s)
		}
		if err != nil {
			return metaLists{}, err
		}
	}
	l.labels = l.labels.normal()
	return l, nil
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

// readLabel reads one map entry; s is b as a string.
func readLabel(b []byte, s string) (Label, error) {
	var l Label
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return Label{}, err
		}
		pos = f.to
		if f.num != entryKey && f.num != entryValue {
			continue
		}
		if err := f.want(protowire.BytesType); err != nil {
			return Label{}, err
		}
		if f.num == entryKey {
			l.Key = s[f.from:f.to]
		} else {
			l.Value = s[f.from:f.to]
		}
	}
	return l, nil
}

// readOwner reads one owner reference; s is b as a string.
func readOwner(b []byte, s string) (Owner, error) {
	var o Owner
	for pos := 0; pos < len(b); {
		f, err := nextField(b, pos)
		if err != nil {
			return Owner{}, err
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
			return Owner{}, err
		}
	}
	return o, nil
}
