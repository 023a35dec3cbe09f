package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/diff"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// diffSide is one of the two stores.
type diffSide struct {
	label   string // A or B
	name    string // as it was given
	rev     int64  // asked for, 0: the newest
	s       *session
	sel     filter.Selection
	asOf    time.Time // zero: nothing tells
	cluster string    // "" if it has no identity
	// borrowed says that s is a copy, whose connection is the other side's.
	borrowed bool
}

func (x *diffSide) live() bool { return x.name == liveStore }

func (x *diffSide) archive() bool { return x.s.file != nil && x.s.file.IsArchive() }

// damaged tells whether the file turned out so far to be.
func (x *diffSide) damaged() bool { return x.s.file != nil && len(x.s.file.Damage()) > 0 }

func (x *diffSide) revision() int64 { return x.s.mainSource.Revision() }

// open opens the file, or connects.
func (x *diffSide) open(ctx context.Context, inv *invocation) error {
	x.s = &session{inv: inv, alone: inv.serializable(), log: inv.logger(), reader: &codec.Reader{Catalog: codec.NewCatalog()}}
	if x.live() {
		return x.s.connect(ctx)
	}
	return x.s.openFile(ctx, x.name)
}

// borrow takes the connection of the other side, which closes it. What is known
// of kinds is of each side's own.
func (x *diffSide) borrow(other *diffSide) {
	s := *other.s
	s.reader = &codec.Reader{Catalog: codec.NewCatalog(), Prefix: other.s.reader.Prefix, Decrypter: other.s.reader.Decrypter}
	x.s, x.borrowed = &s, true
}

// pin goes to the revision that was asked for.
func (x *diffSide) pin(ctx context.Context) (err error) {
	if x.rev == 0 {
		return nil
	}
	var src keyspace.Historian
	switch {
	case x.archive():
		return usage("leave it out", "%s is an archive: it has no revisions to choose from", term.Clean(x.name))
	case x.live():
		src, err = keyspace.PinAt(ctx, x.s.main.Client, x.s.reader.Prefix, x.rev, x.s.optionsOf(x.s.main))
	default:
		src, err = keyspace.FromFileAt(x.s.file, x.rev)
	}
	var compacted *keyspace.CompactedError
	if errors.As(err, &compacted) {
		return &failure{exitFailed, fmt.Errorf("%s: %w", x.label, err), "a snapshot that was taken before tells what was then"}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", x.label, err)
	}
	x.s.mainSource = src
	return nil
}

// what says what kind of store it is.
func (x *diffSide) what() string {
	switch {
	case x.live():
		return "live"
	case x.archive():
		return "archive"
	case x.s.file.HasHash():
		return "snapshot"
	}
	return "db file"
}

// learnFrom makes a custom kind known that only the other store defines.
func (x *diffSide) learnFrom(other *diffSide) bool {
	r, _, ok := other.s.reader.Catalog.Lookup(other.sel.Resource)
	if !ok || !r.Custom {
		return false
	}
	key := codec.Key{Resource: r, Namespace: "any", Name: "any"}.Path(x.s.reader.Prefix)
	_, err := x.s.reader.Catalog.AddOrphan(x.s.reader.Prefix, key)
	return err == nil
}

// side prepares the store for comparing. Events come from where they are kept,
// or are left out.
func (x *diffSide) side(withoutEvents bool) (diff.Side, error) {
	f, _, err := x.s.filter(x.sel, x.s.mainSource)
	if err != nil {
		return diff.Side{}, err
	}
	side := diff.Side{Reader: x.s.reader, Inspect: x.s.inspect, Partial: func() bool { return x.archive() || x.damaged() }}
	events := diff.Part{Source: x.s.eventsSource, Range: keyspace.Prefix(x.s.reader.Prefix + "events/")}
	if withoutEvents {
		events.Source = nil
	} else if x.s.eventsSource != nil {
		if events.Filter, _, err = x.s.filter(x.sel, x.s.eventsSource); err != nil {
			return diff.Side{}, err
		}
	}
	for _, r := range f.Ranges() {
		main := diff.Part{Source: x.s.mainSource, Range: r, Filter: f}
		if !withoutEvents && x.s.eventsSource == nil {
			side.Parts = append(side.Parts, main)
		} else {
			side.Parts = append(side.Parts, splitPart(main, events)...)
		}
	}
	return side, nil
}

// splitPart reads what of a part lies in the other's range from there, or not at
// all if the other has no source.
func splitPart(p, other diff.Part) []diff.Part {
	in, r := other.Range, p.Range
	if r.End == "" {
		if r.Start >= in.Start && r.Start < in.End {
			p.Source, p.Filter = other.Source, other.Filter
		}
		if p.Source == nil {
			return nil
		}
		return []diff.Part{p}
	}
	var parts []diff.Part
	add := func(part diff.Part, start, end string) {
		if start < end && part.Source != nil {
			part.Range = keyspace.Range{Start: start, End: end}
			parts = append(parts, part)
		}
	}
	add(p, r.Start, min(r.End, in.Start))
	add(other, max(r.Start, in.Start), min(r.End, in.End))
	add(p, max(r.Start, in.End), r.End)
	return parts
}

// describe is the side in a line.
func (x *diffSide) describe() string {
	parts := []string{fmt.Sprintf("revision %d", x.revision())}
	if !x.asOf.IsZero() {
		parts = append(parts, "as of "+x.asOf.UTC().Format(time.RFC3339))
	}
	if x.cluster != "" {
		parts = append(parts, "cluster "+x.cluster)
	}
	name := "running etcd"
	if !x.live() {
		name = x.what() + " " + x.name
	}
	if !x.live() && x.damaged() {
		name = "damaged " + name
	}
	return name + ": " + joinWords(parts)
}

// identify finds out which cluster the store is of, and when it was as it is.
func (x *diffSide) identify(ctx context.Context) error {
	if info, ok := x.archiveInfo(); ok {
		x.cluster, x.asOf = info.cluster, info.made
		return nil
	}
	var err error
	x.cluster, err = x.s.identity(ctx)
	if err != nil && !errors.Is(err, keyspace.ErrNoIdentity) {
		return err
	}
	if x.live() && x.rev == 0 {
		x.asOf = x.s.inv.Now()
		return nil
	}
	x.asOf, err = x.newest(ctx)
	return err
}

type archived struct {
	cluster string
	made    time.Time
}

func (x *diffSide) archiveInfo() (archived, bool) {
	if x.s.file == nil {
		return archived{}, false
	}
	info, ok := x.s.file.Archive()
	return archived{info.ClusterUID, info.Time}, ok
}

// newest is the newest time that the store shows: that of a Lease, of which
// every node renews one each ten seconds, or where there are none the newest
// that any object was made or deleted.
func (x *diffSide) newest(ctx context.Context) (time.Time, error) {
	var newest time.Time
	later := func(t time.Time) {
		if t.After(newest) {
			newest = t
		}
	}
	reader := x.s.reader
	err := scanAny(ctx, x.s.mainSource, keyspace.Prefix(reader.Prefix+"leases/"), false, func(kv *mvccpb.KeyValue) error {
		later(renewed(reader.Read(ctx, string(kv.Key), kv.Value)))
		return nil
	})
	if err != nil || !newest.IsZero() {
		return newest, err
	}
	err = scanAny(ctx, x.s.mainSource, keyspace.Prefix(reader.Prefix), false, func(kv *mvccpb.KeyValue) error {
		m := reader.Read(ctx, string(kv.Key), kv.Value).Head.Meta
		later(m.Created)
		later(m.Deleted)
		return nil
	})
	return newest, err
}

// renewed is when a Lease was, zero if it does not say.
func renewed(v codec.Value) time.Time {
	if v.Head.Err != nil || v.Head.Meta.Kind != "Lease" {
		return time.Time{}
	}
	obj, err := codec.Decode(v.Plain, 0)
	if err != nil {
		return time.Time{}
	}
	m, err := codec.Render(obj, codec.RenderOptions{})
	if err != nil {
		return time.Time{}
	}
	spec, _ := m["spec"].(map[string]any)
	text, _ := spec["renewTime"].(string)
	t, _ := time.Parse(time.RFC3339Nano, text)
	return t.Truncate(time.Second)
}
