// Package diff tells how two objects differ, field by field (Objects), and how
// two stores do, object by object (Sources). It only reads.
//
// An object is what JSON knows: map[string]any, []any, string, bool, int64,
// float64 and nil. The package only looks at objects; it never changes or keeps
// one. Its invariant: the changes that Objects tells, made to the old object,
// give the new one (but for where a new element of a list known by keys stands).
package diff

import (
	"cmp"
	"slices"
)

// Op is what happened to one place of an object.
type Op string

const (
	// Added: only the new object has it.
	Added Op = "added"
	// Removed: only the old object has it.
	Removed Op = "removed"
	// Changed: both have it, with different values.
	Changed Op = "changed"
	// Reordered: a list whose elements are known by a key or by their value
	// has those that stayed in another order.
	Reordered Op = "reordered"
)

// Change is one difference. Old and New are parts of the objects that were
// compared, not copies. What an object does not have is nil there. Of a
// reordered list they are lists of what its elements are known by.
type Change struct {
	Path     Path
	Op       Op
	Old, New any
}

const (
	// maxDepth is how deep members are told apart. What lies deeper is one
	// value, equal or not.
	maxDepth = 200
	// maxChanges is how many differences below one member are told one by
	// one; if there are more, the member has changed as a whole, and so have
	// the rest of an object's top-level members that changed. It bounds the
	// memory for paths.
	maxChanges = 4096
)

// Objects returns the differences, sorted by path. A part that only one of the
// objects has is one change with the whole part as its value. nil is an object
// without members. Where skip, which may be nil, says true, nothing is
// compared; it must not keep the path, and is not asked about what lies inside
// a part that only one object has.
//
// Lists of maps are matched by a member that tells their elements apart, such
// as name. Lists of different scalars are compared as sets. Other lists are
// compared by index.
func Objects(old, new map[string]any, skip func(Path) bool) []Change {
	if skip == nil {
		skip = func(Path) bool { return false }
	}
	c := &comparer{skip: skip, effort: maxEffort}
	c.maps(nil, old, new)
	// What was removed comes before what stands at the same index now.
	slices.SortFunc(c.changes, func(a, b Change) int { return cmp.Or(a.Path.Compare(b.Path), cmp.Compare(b.Op, a.Op)) })
	return c.changes
}

// Bookkeeping is a skip function for Objects. It leaves out the two fields that
// change with every write and say nothing about the object:
// metadata.resourceVersion and metadata.managedFields.
func Bookkeeping(p Path) bool {
	return len(p) == 2 && p[0] == field("metadata") && (p[1] == field("resourceVersion") || p[1] == field("managedFields"))
}

type comparer struct {
	skip    func(Path) bool
	changes []Change
	effort  int // left for align
}

func (c *comparer) add(p Path, op Op, old, new any) {
	c.changes = append(c.changes, Change{Path: slices.Clone(p), Op: op, Old: old, New: new})
}

// values compares two values that stand at the same place. p is only lent.
func (c *comparer) values(p Path, old, new any) {
	if c.skip(p) {
		return
	}
	if len(p) < maxDepth {
		mark := len(c.changes)
		if c.descend(p, old, new) {
			if len(c.changes)-mark > maxChanges {
				c.changes = c.changes[:mark]
				c.add(p, Changed, old, new)
			}
			return
		}
	}
	if !equal(old, new) {
		c.add(p, Changed, old, new)
	}
}

// descend compares the members of two maps or two lists, and is false for all
// else.
func (c *comparer) descend(p Path, old, new any) bool {
	switch old := old.(type) {
	case map[string]any:
		if new, ok := new.(map[string]any); ok {
			c.maps(p, old, new)
			return true
		}
	case []any:
		if new, ok := new.([]any); ok {
			c.lists(p, old, new)
			return true
		}
	}
	return false
}

func (c *comparer) maps(p Path, old, new map[string]any) {
	first := len(c.changes)
	for _, name := range names(old, new) {
		mark := len(c.changes)
		at := append(p, field(name))
		was, had := old[name]
		is, has := new[name]
		switch {
		case had && has:
			c.values(at, was, is)
		case c.skip(at):
		case had:
			c.add(at, Removed, was, nil)
		default:
			c.add(at, Added, nil, is)
		}
		if len(p) == 0 && len(c.changes) > maxChanges && len(c.changes) > mark+1 {
			c.changes = c.changes[:mark]
			c.add(at, Changed, was, is)
		}
		if c.enough(first, p) {
			return
		}
	}
}

// names are the members of both maps, sorted, so that the result is the same
// each time.
func names(old, new map[string]any) []string {
	all := make([]string, 0, max(len(old), len(new)))
	for name := range old {
		all = append(all, name)
	}
	for name := range new {
		if _, ok := old[name]; !ok {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// enough says that the caller will throw the changes away and tell one instead.
func (c *comparer) enough(mark int, p Path) bool {
	return len(p) > 0 && len(c.changes)-mark > maxChanges
}

func (c *comparer) lists(p Path, old, new []any) {
	if was, is, ok := match(old, new); ok {
		c.matched(p, old, new, was, is)
		return
	}
	mark := len(c.changes)
	for _, x := range c.align(old, new) {
		at := append(p, Step{Kind: Index, Index: x.new})
		if x.new < 0 {
			at[len(p)].Index = x.old
		}
		switch {
		case x.old >= 0 && x.new >= 0:
			c.values(at, old[x.old], new[x.new])
		case c.skip(at):
		case x.old >= 0:
			c.add(at, Removed, old[x.old], nil)
		default:
			c.add(at, Added, nil, new[x.new])
		}
		if c.enough(mark, p) {
			return
		}
	}
}
