package codec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
	"unicode/utf8"
)

// ErrNotEditable is wrapped by errors about values that [Edit] does not touch:
// encrypted, damaged, foreign or CBOR ones, objects without metadata, and, for
// anything but metadata, kinds that this build does not know. Where that is
// the reason, the error also wraps [ErrEncrypted], [ErrUndecodable] or
// *[UnknownKindError].
var ErrNotEditable = errors.New("value cannot be edited")

// Change is a change of one named field of a stored object. It is made by the
// functions below and may be used for any number of objects. The zero value is
// no change: editing with it is an error.
//
// Names and values are taken as they are. Whether Kubernetes would allow them,
// as the characters of a label, is up to the caller; only text that is not
// UTF-8 is refused.
type Change struct {
	name string
	ops  []op
	err  error // of the constructor's arguments
}

// op sets or removes one field.
type op struct {
	path  string // as errors name it
	steps []step

	// value is a string, bool, int64, float64, []string or time.Time, or what
	// an inverse puts back, a wireValue or a jsonValue. nil removes the field.
	value any

	// exact is set in an inverse: there, a field that is absent and one that
	// holds a zero are two things, which otherwise read alike.
	exact bool

	// prune is how many of the messages or objects around a removed field go
	// with it if nothing else is in them: an inverse removes what was made.
	// With pruneNull the outermost of them becomes null, as it was.
	prune     int
	pruneNull bool
}

// String names the changed field as reports do, "spec.suspend" or
// "metadata.labels[app]". It never holds a value.
func (c Change) String() string { return c.name }

func metaChange(value any, steps ...step) Change {
	steps = append([]step{fieldStep("metadata")}, steps...)
	name := pathOf(steps)
	return Change{name: name, ops: []op{{path: name, steps: steps, value: value}}}
}

// pathOf writes steps that this package made.
func pathOf(steps []step) string {
	s := ""
	for i, step := range steps {
		switch {
		case step.bracket:
			s += keyInPath(step.name)
		case i > 0:
			s += "." + step.name
		default:
			s += step.name
		}
	}
	return s
}

// SetFinalizers sets metadata.finalizers. Without names it removes the field.
func SetFinalizers(names ...string) Change {
	if len(names) == 0 {
		return metaChange(nil, fieldStep("finalizers"))
	}
	return metaChange(slices.Clone(names), fieldStep("finalizers")).checked(names...)
}

// SetDeletion sets metadata.deletionTimestamp, of which Kubernetes stores whole
// seconds, and metadata.deletionGracePeriodSeconds.
func SetDeletion(at time.Time, graceSeconds int64) Change {
	c := deletion(at.UTC().Truncate(time.Second), graceSeconds)
	if year := at.UTC().Year(); at.IsZero() || year < 1 || year > 9999 || graceSeconds < 0 {
		c.err = fmt.Errorf("edit %s: the time is not set or out of range, or the grace period is negative", c.name)
	}
	return c
}

// ClearDeletion removes metadata.deletionTimestamp and
// metadata.deletionGracePeriodSeconds.
func ClearDeletion() Change { return deletion(nil, nil) }

func deletion(at, grace any) Change {
	c := metaChange(at, fieldStep("deletionTimestamp"))
	c.ops = append(c.ops, metaChange(grace, fieldStep("deletionGracePeriodSeconds")).ops...)
	return c
}

// SetLabel sets one label.
func SetLabel(key, value string) Change {
	return metaChange(value, fieldStep("labels"), keyStep(key)).checked(key, value)
}

// RemoveLabel removes one label. That an object does not have it is no error.
func RemoveLabel(key string) Change {
	return metaChange(nil, fieldStep("labels"), keyStep(key)).checked(key)
}

// SetAnnotation sets one annotation.
func SetAnnotation(key, value string) Change {
	return metaChange(value, fieldStep("annotations"), keyStep(key)).checked(key, value)
}

// RemoveAnnotation removes one annotation. That an object does not have it is
// no error.
func RemoveAnnotation(key string) Change {
	return metaChange(nil, fieldStep("annotations"), keyStep(key)).checked(key)
}

// SetGeneration sets metadata.generation, which kube-apiserver would raise with
// every change of a spec.
func SetGeneration(n int64) Change { return metaChange(n, fieldStep("generation")) }

// checked refuses an empty key and text that is not UTF-8.
func (c Change) checked(texts ...string) Change {
	for i, s := range texts {
		if i == 0 && s == "" || !utf8.ValidString(s) {
			c.err = fmt.Errorf("edit %s: empty name, or text that is not UTF-8", c.name)
		}
	}
	return c
}

// SetField sets a single value, or a list of strings, outside of metadata,
// apiVersion and kind. path is as kubectl writes it: spec.replicas,
// spec.template.spec.containers[0].image, …containers[name=web].image, and for
// an entry of a map spec.selector[app.kubernetes.io/name], or quoted where it
// would be taken for an index, spec.selector['0']. Objects that are missing on
// the way are created; a list element must exist.
//
// value is a string, bool, int64 (or int), float64, or a []string that replaces
// the whole list. In protobuf it must be what the field takes: a time takes an
// RFC 3339 string, a quantity its string, an IntOrString either. In JSON, which
// has no schema here, it is up to the caller, except that a single value is not
// put in place of an object or a list, nor the other way round.
func SetField(path string, value any) Change {
	c := fieldChange(path)
	switch v := value.(type) {
	case string:
		if !utf8.ValidString(v) {
			c.err = fmt.Errorf("edit %s: text that is not UTF-8", path)
		}
	case []string:
		value = slices.Clone(v)
		if !slices.ContainsFunc(v, func(s string) bool { return !utf8.ValidString(s) }) {
			break
		}
		c.err = fmt.Errorf("edit %s: text that is not UTF-8", path)
	case int:
		value = int64(v)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			c.err = fmt.Errorf("edit %s: not a finite number", path)
		}
	case bool, int64:
	default:
		c.err = fmt.Errorf("edit %s: a %T is no string, bool, int64, float64 or []string", path, value)
	}
	if c.err == nil {
		c.ops[0].value = value
	}
	return c
}

// RemoveField removes what [SetField] sets. That an object does not have the
// field is no error.
func RemoveField(path string) Change { return fieldChange(path) }

func fieldChange(path string) Change {
	c := Change{name: path}
	steps, err := parsePath(path)
	switch {
	case err != nil:
		c.err = err
	case slices.Contains([]string{"metadata", "apiVersion", "kind"}, steps[0].name):
		c.err = fmt.Errorf("edit %s: not a field that is changed by its path", path)
	default:
		c.ops = []op{{path: path, steps: steps}}
	}
	return c
}

// Edit makes the changes, in their order, in a stored value that is not
// encrypted, protobuf or JSON. inverse undoes them: applied to edited it gives
// an object that reads as before, and the same bytes if the protobuf was
// written as kube-apiserver does, or the JSON is any.
//
// Every byte stays that is not part of a changed field, of a length around it,
// or of an object created on the way to it; so do fields that this build does
// not know. A field that has the wanted value already is not touched. Protobuf
// is read by its rules: a removed field is removed in all of its occurrences,
// of several the last one is changed, and what is new goes where kube-apiserver
// would have written it. In JSON a new member goes behind the last key that
// sorts before it, if the keys are sorted as kube-apiserver writes them, and
// else to the end; text is escaped as kube-apiserver does, <, > and & included,
// so that its next write of the same object is none. A key that is twice in an
// object on the way is an error.
//
// The result of each change is verified before the next: it decodes, all other
// metadata reads as before, and, in JSON, everything else; in protobuf just the
// same unknown fields are in it. With an error nothing is returned. Errors name
// paths, never values. See [ErrNotEditable].
func Edit(plain []byte, changes ...Change) (edited []byte, inverse []Change, err error) {
	doc, err := examine(plain)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range changes {
		if c.err != nil {
			return nil, nil, c.err
		}
		if len(c.ops) == 0 {
			return nil, nil, errors.New("edit: no change is given")
		}
		undo := Change{name: c.name}
		for _, o := range c.ops {
			next, back, err := doc.edit(o)
			if err != nil {
				return nil, nil, fmt.Errorf("edit %s: %w", o.path, err)
			}
			doc = next
			undo.ops = append(undo.ops, back)
		}
		slices.Reverse(undo.ops)
		inverse = append(inverse, undo)
	}
	slices.Reverse(inverse)
	return bytes.Clone(doc.plain), inverse, nil
}

// EditStored is [Edit] for a value as etcd holds it: it decrypts, edits, and
// encrypts again as the first provider configured for the resource would. A
// value stored in the clear stays in the clear, and one that the changes leave
// as it is keeps its bytes. What was encrypted is read back before it is
// returned. enc is not needed for values in the clear.
func (r *Reader) EditStored(ctx context.Context, enc Encrypter, key string, stored []byte, changes ...Change) (edited []byte, inverse []Change, err error) {
	v := r.Read(ctx, key, stored)
	if v.Head.Err != nil {
		return nil, nil, fmt.Errorf("edit: %w: %w", ErrNotEditable, v.Head.Err)
	}
	plain, inverse, err := Edit(v.Plain, changes...)
	switch {
	case err != nil:
		return nil, nil, err
	case v.Provider == "":
		return plain, inverse, nil
	case bytes.Equal(plain, v.Plain):
		return bytes.Clone(stored), inverse, nil
	case enc == nil:
		return nil, nil, fmt.Errorf("edit: %w: %w, and nothing can encrypt it again", ErrNotEditable, encryptedError(stored))
	}
	if edited, err = enc.Encrypt(ctx, v.Key.Resource, key, plain); err != nil {
		return nil, nil, fmt.Errorf("edit: encrypt again: %w", err)
	}
	if back := r.Read(ctx, key, edited); back.Head.Err != nil {
		return nil, nil, fmt.Errorf("edit: read back what was encrypted: %w", back.Head.Err)
	} else if !bytes.Equal(back.Plain, plain) {
		return nil, nil, errors.New("edit: what was encrypted is not what comes back")
	}
	return edited, inverse, nil
}
