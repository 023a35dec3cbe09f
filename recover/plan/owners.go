package plan

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// addOwners finds which owners of the selected objects still exist, and the
// owners above those; with WithOwners it plans to delete them first.
func (b *builder) addOwners(ctx context.Context) error {
	found := b.newSpill()
	defer found.close()
	if err := b.climbAll(ctx, found); err != nil {
		return err
	}
	b.refs.close()
	if b.WithOwners {
		return b.planOwners(ctx, found)
	}
	var most largest
	err := found.drain(func(key []byte, f figures) error {
		most.offer(makerOf(key, f))
		return nil
	})
	if err != nil {
		return err
	}
	b.sum.MakersTotal = most.seen
	b.sum.Makers, err = b.liveOwners(ctx, most.makers)
	return err
}

// ownerAt is a live owner, without the object itself: there may be millions.
type ownerAt struct {
	name, key string
	level     int // see order
	makes     int64
	planned   bool
}

// makerOf reads an entry of the spill that climb fills.
func makerOf(key []byte, f figures) ownerAt {
	texts := split(key, 2)
	return ownerAt{name: texts[0], key: texts[1], level: f.level, makes: f.n}
}

// climbBatch owners are climbed from together, so that what is above them is
// read together.
const climbBatch = 256

// climbAll climbs from every owner that a selected object names.
func (b *builder) climbAll(ctx context.Context, found *spill) error {
	var refs []filter.Ref
	var makes []int64
	flush := func() error {
		if err := b.Owners.Ahead(ctx, refs); err != nil {
			return err
		}
		for i, ref := range refs {
			a := &ascent{builder: b, makes: makes[i], found: found, levels: map[string]int{}}
			if _, err := a.climb(ctx, ref.Owner, ref.Namespace, 0); err != nil {
				return err
			}
		}
		refs, makes = refs[:0], makes[:0]
		return nil
	}
	err := b.refs.drain(func(key []byte, f figures) error {
		t := split(key, 5)
		refs = append(refs, filter.Ref{Owner: codec.Owner{APIVersion: t[0], Kind: t[1], Name: t[3], UID: t[4], Controller: true}, Namespace: t[2]})
		if makes = append(makes, f.n); len(refs) == climbBatch {
			return flush()
		}
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// maxOwnerDepth bounds a chain of owners. Real ones have two or three links.
const maxOwnerDepth = 16

// ascent follows owner references upwards from one owner.
type ascent struct {
	*builder
	makes int64  // selected objects below
	found *spill // by name and key
	// levels holds the owners met on this ascent, -1 while their own owners
	// are looked for. Each is climbed to once: there may be circles.
	levels map[string]int
}

// climb notes the owner that ref names, and its owners, if they exist and are
// not planned otherwise. It returns the owner's level, see order; -1 means that
// none was found.
func (a *ascent) climb(ctx context.Context, ref codec.Owner, namespace string, depth int) (int, error) {
	o, err := a.Owners.Find(ctx, ref, namespace)
	if err != nil || o == nil || depth > maxOwnerDepth {
		return -1, err
	}
	key := string(o.KV.Key)
	if level, met := a.levels[key]; met {
		return level, nil
	}
	a.levels[key] = -1
	level := level(o.Key.Resource)
	for _, up := range o.Head.Meta.Owners {
		if !up.Controller {
			continue
		}
		above, err := a.climb(ctx, up, o.Key.Namespace, depth+1)
		if err != nil {
			return -1, err
		}
		level = max(level, min(above+1, maxLevel))
	}
	a.levels[key] = level
	if a.goesAnyway(o) {
		return level, nil
	}
	return level, a.found.add(join(nil, o.Name(), key), figures{a.makes, level})
}

// goesAnyway reports whether an owner is planned as a dependent, or as part of
// a namespace.
func (b *builder) goesAnyway(o *filter.Object) bool {
	return b.contents.Holds(o.Key.Namespace) || b.planned != nil && b.planned.uids.Has(o.Key.Namespace, o.Head.Meta.UID)
}

// planOwners puts the owners before what they make, the highest first and of
// one level those first that make most. Owners that the selection holds
// already keep their place in it.
func (b *builder) planOwners(ctx context.Context, found *spill) error {
	ranked := b.newSpill()
	defer ranked.close()
	err := found.drain(func(key []byte, f figures) error {
		rank := binary.BigEndian.AppendUint64([]byte{byte(f.level)}, uint64(math.MaxInt64-f.n))
		return ranked.add(append(rank, key...), f)
	})
	if err != nil {
		return err
	}
	found.close()
	p := &ownerPlan{builder: b}
	err = ranked.drain(func(key []byte, f figures) error {
		if p.batch = append(p.batch, makerOf(key[9:], f)); len(p.batch) == climbBatch {
			return p.flush(ctx)
		}
		return nil
	})
	if err == nil {
		err = p.flush(ctx)
	}
	if err != nil {
		return err
	}
	return p.finish(ctx)
}

// ownerPlan adds the steps of owners.
type ownerPlan struct {
	*builder
	batch         []ownerAt
	planned, left largest
}

// judged is an owner without its value, and what selection and guard say of it.
type judged struct {
	filter.Object
	filter.Decision
	verdict *filter.Verdict
}

// flush reads the owners of the batch, with their values because judging may
// need them, and plans them in order.
func (p *ownerPlan) flush(ctx context.Context) error {
	keys := make([]string, 0, len(p.batch))
	for _, m := range p.batch {
		keys = append(keys, m.key)
	}
	slices.Sort(keys)
	owners := map[string]judged{}
	err := p.Owners.Each(ctx, keys, func(chunk []*filter.Object) error {
		if err := p.Filter.Ahead(ctx, chunk); err != nil {
			return err
		}
		for _, o := range chunk {
			d, err := p.Filter.Judge(ctx, *o)
			if err != nil {
				return err
			}
			v, err := p.Guard.Check(ctx, *o)
			if err != nil {
				return err
			}
			if isNamespace(*o) && p.contents != nil && (p.contents.Only || !p.contents.Holds(o.Key.Name)) {
				d = filter.Drop
			}
			o.KV.Value, o.Plain = nil, nil
			owners[string(o.KV.Key)] = judged{*o, d, v}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, m := range p.batch {
		if err := p.plan(m, owners[m.key]); err != nil {
			return err
		}
	}
	p.batch = p.batch[:0]
	return nil
}

func (p *ownerPlan) plan(m ownerAt, o judged) error {
	switch {
	case o.KV == nil:
		return fmt.Errorf("%s: it was there a moment ago, at the same revision", m.name)
	case kubelet(o.Object), o.Decision != filter.Keep && (isNamespace(o.Object) || o.Head.Err != nil):
		p.left.offer(m)
		return nil
	}
	blocked := o.verdict != nil && o.verdict.Blocks
	if o.Decision != filter.Keep { // else it was counted as one of the selected
		blocked = p.sum.blocks(o.verdict)
	}
	if blocked {
		p.left.offer(m)
		return nil
	}
	m.planned = true
	p.planned.offer(m)
	if o.Decision == filter.Keep {
		return nil
	}
	return p.addStep(m, o)
}

func (p *ownerPlan) addStep(m ownerAt, o judged) error {
	p.sum.observe(o.Object)
	s := step(o.Object, Owner, fmt.Sprintf("owns %d of the selected objects and would make them again", m.makes)).warned(o.verdict)
	return p.add(ownersOrder+m.level, o.Key.Resource.Word(), s)
}

func (p *ownerPlan) finish(ctx context.Context) (err error) {
	p.sum.MakersTotal, p.sum.MakersPlanned = p.planned.seen+p.left.seen, p.planned.seen
	p.sum.Makers, err = p.liveOwners(ctx, append(p.planned.makers, p.left.makers...))
	return err
}

// liveOwners reads the owners that a Summary names, the highest first.
func (b *builder) liveOwners(ctx context.Context, makers []ownerAt) ([]LiveOwner, error) {
	byKey := map[string]ownerAt{}
	for _, m := range makers {
		byKey[m.key] = m
	}
	live := make([]LiveOwner, 0, len(makers))
	err := b.Owners.Each(ctx, slices.Sorted(maps.Keys(byKey)), func(chunk []*filter.Object) error {
		for _, o := range chunk {
			m := byKey[string(o.KV.Key)]
			o.KV.Value, o.Plain = nil, nil
			live = append(live, LiveOwner{
				Resource: o.Key.Resource.Word(), Namespace: o.Key.Namespace, Name: o.Key.Name, Makes: m.makes,
				Planned: m.planned, Kubelet: kubelet(*o), Unreadable: o.Head.Err != nil, object: *o, level: m.level,
			})
		}
		return nil
	})
	slices.SortFunc(live, func(x, y LiveOwner) int {
		return cmp.Or(cmp.Compare(x.level, y.level), cmp.Compare(y.Makes, x.Makes), cmp.Compare(x.object.Name(), y.object.Name()))
	})
	return live, err
}

// kubelet reports whether an owner is a Node: its kubelet makes static pods
// again, and it is never deleted for them.
func kubelet(o filter.Object) bool { return o.Key.Resource.String() == "nodes" }

// isNamespace reports whether an object is a Namespace. Its own key alone is
// never deleted for what else it owns, or is owned by: what is in it would stay
// behind, where its delete by an API server takes all of that along.
func isNamespace(o filter.Object) bool {
	return o.Key.Resource != nil && o.Key.Resource.String() == "namespaces"
}

// largest keeps the MostMakers owners that make most.
type largest struct {
	makers []ownerAt // a heap, the least first
	seen   int64
}

func (l *largest) offer(m ownerAt) {
	l.seen++
	if len(l.makers) < MostMakers {
		heap.Push(l, m)
		return
	}
	if l.before(m, l.makers[0]) {
		l.makers[0] = m
		heap.Fix(l, 0)
	}
}

// before orders by what they make, equal ones from the highest downwards.
func (l *largest) before(x, y ownerAt) bool {
	return cmp.Or(cmp.Compare(y.makes, x.makes), cmp.Compare(x.level, y.level), cmp.Compare(x.name, y.name), bytes.Compare([]byte(x.key), []byte(y.key))) < 0
}

func (l *largest) Len() int           { return len(l.makers) }
func (l *largest) Less(i, j int) bool { return l.before(l.makers[j], l.makers[i]) }
func (l *largest) Swap(i, j int)      { l.makers[i], l.makers[j] = l.makers[j], l.makers[i] }
func (l *largest) Push(m any)         { l.makers = append(l.makers, m.(ownerAt)) }
func (l *largest) Pop() any           { return nil } // they are only replaced
