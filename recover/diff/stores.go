package diff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// Class is what kind of difference two values make.
type Class string

const (
	// Configured: the objects differ in something beside their status.
	Configured Class = "configured"
	// StatusOnly: the objects differ in their status, and in nothing else.
	StatusOnly Class = "status"
	// Rewritten: the values differ, but nothing that Objects compares does:
	// managedFields, the stored version's form, or how they are encrypted.
	Rewritten Class = "rewritten"
	// Routine: the values differ, and are of a kind that changes all the time.
	Routine Class = "routine"
	// Unreadable: the values differ, and in what cannot be told.
	Unreadable Class = "unreadable"
)

// Difference is an object that two stores do not hold alike. What it refers to
// is the receiver's.
type Difference struct {
	// Op is Added, Removed or Changed.
	Op Op
	// Old and New are the object in each store; nil where it is not. Their
	// values were looked into.
	Old, New *filter.Object
	// Class is set of a changed object, and of one of a kind that changes all
	// the time, which is Routine.
	Class Class
	// Recreated: the objects have different UIDs, so the old one was deleted.
	Recreated bool
	// Changes are what differs, as Objects gives it.
	Changes []Change
	// By are the entries of managedFields that tell of a write since the old
	// object, the newest last. Of a write that changed more than the status
	// entries for the status are left out.
	By []codec.ManagedEntry
	// Err says why the objects are Unreadable.
	Err error
}

// Object is the newer object, or the only one.
func (d *Difference) Object() *filter.Object {
	if d.New != nil {
		return d.New
	}
	return d.Old
}

// Decoded is an object for comparing.
type Decoded struct {
	Fields map[string]any
	// Omitted names what Fields lacks because this build does not know it.
	Omitted []string
}

// Request says what to compare, and how.
type Request struct {
	Old, New Side
	// Decode returns the fields of an object. It decides on what may be seen:
	// changes hold parts of what it returns. Its errors make a difference
	// Unreadable.
	Decode func(*filter.Object) (Decoded, error)
	// Routine tells kinds that change all the time: they are counted apart,
	// and their values are not decoded. nil: none. It is asked with nil for a
	// key that no resource is known for.
	Routine func(*codec.Resource) bool
}

// ErrUnknownFields says that two values differ, but in nothing that this build
// knows.
var ErrUnknownFields = errors.New("they differ in fields that this build does not know")

// Sources compares two stores object by object. each is called for every
// difference, in key order; its errors end the comparing and are returned. An
// object counts if it is selected in either store, so that one which was
// changed out of a selection, or into it, is a changed one. Values are equal
// if their bytes are, whatever their revisions: stores of different clusters
// may be compared, and keys are compared below their prefixes.
//
// It holds one page of each store and one difference at a time, and of the
// Summary one group for each resource and namespace in which something differs,
// up to a bound. Both sources must yield keys in order; an error says so if one
// does not.
func Sources(ctx context.Context, req Request, each func(*Difference) error) (*Summary, error) {
	if req.Routine == nil {
		req.Routine = func(*codec.Resource) bool { return false }
	}
	c := &comparison{Request: req, each: each, sum: newSummary()}
	if err := merge(ctx, &c.Old, &c.New, func(old, new *item) error { return c.pair(ctx, old, new) }); err != nil {
		return nil, err
	}
	c.sum.finish()
	return c.sum, nil
}

type comparison struct {
	Request
	each func(*Difference) error
	sum  *Summary
}

// pair takes what the stores hold under one key.
func (c *comparison) pair(ctx context.Context, old, new *item) error {
	keep := func(i *item) bool { return i != nil && i.decision == filter.Keep }
	undecided := func(i *item) bool { return i != nil && i.decision == filter.Undecided }
	switch {
	case keep(old) || keep(new):
	case undecided(old) || undecided(new):
		c.sum.Undecided++
		return nil
	default:
		return nil
	}
	if old == nil && c.Old.partial() || new == nil && c.New.partial() {
		c.sum.Unmatched++
		return nil
	}
	d, err := c.difference(ctx, old, new)
	if err != nil {
		return err
	}
	c.count(old, new, d)
	if d == nil {
		return nil
	}
	return c.each(d)
}

func (s *Side) partial() bool { return s.Partial != nil && s.Partial() }

// count adds a pair to the sums; d is nil for one that is equal.
func (c *comparison) count(old, new *item, d *Difference) {
	o := new
	if new == nil || new.Key.Resource == nil && old != nil {
		o = old
	}
	counts := c.sum.group(o.Key, c.Routine(o.Key.Resource))
	if old != nil {
		counts.Before++
		counts.BytesBefore += old.Size
	}
	if new != nil {
		counts.After++
		counts.BytesAfter += new.Size
	}
	if d != nil {
		counts.add(d)
	}
}

// difference returns nil for objects that are equal.
func (c *comparison) difference(ctx context.Context, old, new *item) (*Difference, error) {
	if old != nil && new != nil && bytes.Equal(old.KV.Value, new.KV.Value) {
		return nil, nil
	}
	if err := errors.Join(c.Old.read(ctx, old), c.New.read(ctx, new)); err != nil {
		return nil, err
	}
	d := &Difference{Op: Changed}
	if old != nil {
		d.Old = &old.Object
	} else {
		d.Op = Added
	}
	if new != nil {
		d.New = &new.Object
	} else {
		d.Op = Removed
	}
	switch {
	case c.Routine(d.Object().Key.Resource):
		d.Class = Routine
	case d.Op == Changed:
		c.changed(d)
	}
	if d.Class != Routine {
		d.By = Writers(d.Old, d.New, d.Class == Configured)
	}
	return d, nil
}

// changed tells two different values of an object apart.
func (c *comparison) changed(d *Difference) {
	d.Class = Unreadable
	if d.Err = errors.Join(unread("old", d.Old), unread("new", d.New)); d.Err != nil {
		return
	}
	was, is := d.Old.Head.Meta.UID, d.New.Head.Meta.UID
	d.Recreated = was != is && was != "" && is != ""
	if bytes.Equal(d.Old.Plain, d.New.Plain) {
		d.Class = Rewritten
		return
	}
	old, err1 := c.Decode(d.Old)
	new, err2 := c.Decode(d.New)
	if d.Err = errors.Join(err1, err2); d.Err != nil {
		return
	}
	d.Changes = Objects(old.Fields, new.Fields, d.skip)
	switch {
	case d.Recreated || slices.ContainsFunc(d.Changes, func(c Change) bool { return !OfStatus(c.Path) }):
		d.Class = Configured
	case len(d.Changes) > 0:
		d.Class = StatusOnly
	case len(old.Omitted)+len(new.Omitted) > 0:
		d.Err = ErrUnknownFields
	default:
		d.Class = Rewritten
	}
}

func unread(which string, o *filter.Object) error {
	if o.Head.Err == nil {
		return nil
	}
	return fmt.Errorf("the %s one: %w", which, o.Head.Err)
}

// skip leaves out what changes with every write, and in a recreated object
// what says no more than that.
func (d *Difference) skip(p Path) bool {
	if Bookkeeping(p) || of(p, "metadata", "generation") {
		return true
	}
	return d.Recreated && (of(p, "metadata", "uid") || of(p, "metadata", "creationTimestamp"))
}

// leaderAnnotation is where a leader renews its claim, in objects of older
// components (k8s.io/client-go tools/leaderelection/resourcelock).
const leaderAnnotation = "control-plane.alpha.kubernetes.io/leader"

// OfStatus tells whether a place says how an object fares, as against what was
// asked of it.
func OfStatus(p Path) bool {
	return len(p) > 0 && p[0] == field("status") || of(p, "metadata", "annotations", leaderAnnotation)
}

// of tells whether p is exactly the place that names lead to.
func of(p Path, names ...string) bool {
	if len(p) != len(names) {
		return false
	}
	for i, name := range names {
		if p[i] != field(name) {
			return false
		}
	}
	return true
}

// Writers returns the entries of managedFields in new that old does not have:
// of each manager that wrote meanwhile the newest write, as far as it changed a
// field. They are as stored, the newest last. old may be nil; without new, or
// if either cannot be read, there are none. With configured, entries for the
// status are left out unless there is nothing else.
func Writers(old, new *filter.Object, configured bool) []codec.ManagedEntry {
	if new == nil || new.Head.Err != nil {
		return nil
	}
	now, err := codec.Managed(new.Plain)
	if err != nil {
		return nil
	}
	var was codec.ManagedInfo
	if old != nil && old.Head.Err == nil && old.Head.Meta.UID == new.Head.Meta.UID {
		if was, err = codec.Managed(old.Plain); err != nil {
			return nil
		}
	}
	since := slices.DeleteFunc(now.Entries, func(e codec.ManagedEntry) bool { return slices.Contains(was.Entries, e) })
	slices.SortStableFunc(since, func(a, b codec.ManagedEntry) int { return a.Time.Compare(b.Time) })
	ofStatus := func(e codec.ManagedEntry) bool { return e.Subresource == "status" }
	if configured && slices.ContainsFunc(since, func(e codec.ManagedEntry) bool { return !ofStatus(e) }) {
		since = slices.DeleteFunc(since, ofStatus)
	}
	return since
}
