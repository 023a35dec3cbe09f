package diff

import (
	"strings"

	"github.com/etcd-rescue/etcd-rescue/codec"
)

// Counts are objects and the bytes of their stored values.
type Counts struct {
	Before, After           int64
	BytesBefore, BytesAfter int64
	Added, Removed          int64
	// Configured, StatusOnly, Rewritten, Routine and Unreadable are objects
	// that both stores hold, by the class of their difference. Recreated are
	// those of them that were deleted and made again.
	Configured, StatusOnly, Rewritten, Routine, Unreadable int64
	Recreated                                              int64
}

// Different is how many objects differ in more than how they are written.
func (c Counts) Different() int64 {
	return c.Added + c.Removed + c.Configured + c.StatusOnly + c.Routine + c.Unreadable
}

// Growth is by how much the values grew.
func (c Counts) Growth() int64 { return c.BytesAfter - c.BytesBefore }

func (c *Counts) add(d *Difference) {
	switch d.Op {
	case Added:
		c.Added++
		return
	case Removed:
		c.Removed++
		return
	}
	switch d.Class {
	case Configured:
		c.Configured++
	case StatusOnly:
		c.StatusOnly++
	case Rewritten:
		c.Rewritten++
	case Routine:
		c.Routine++
	case Unreadable:
		c.Unreadable++
	}
	if d.Recreated {
		c.Recreated++
	}
}

// Plus returns the sum of both.
func (c Counts) Plus(o Counts) Counts {
	c.Before, c.After = c.Before+o.Before, c.After+o.After
	c.BytesBefore, c.BytesAfter = c.BytesBefore+o.BytesBefore, c.BytesAfter+o.BytesAfter
	c.Added, c.Removed = c.Added+o.Added, c.Removed+o.Removed
	c.Configured, c.StatusOnly = c.Configured+o.Configured, c.StatusOnly+o.StatusOnly
	c.Rewritten, c.Routine = c.Rewritten+o.Rewritten, c.Routine+o.Routine
	c.Unreadable, c.Recreated = c.Unreadable+o.Unreadable, c.Recreated+o.Recreated
	return c
}

// Group are the objects of a resource in a namespace.
type Group struct {
	// Resource is the resource's full name, "" for keys that none is known for.
	Resource string
	// Namespace is "" for objects that are in none.
	Namespace string
	// IsRoutine marks a kind that changes all the time.
	IsRoutine bool
	Counts
}

// Summary is what two stores differ in, in numbers.
type Summary struct {
	// Total is of all kinds but those that change all the time, which
	// are in Routine.
	Total, Routine Counts
	// Groups are those in which something differs, in the order of keys.
	Groups []Group
	// Others adds up the groups beyond the first MaxGroups; OtherGroups is how
	// many they are.
	Others      Counts
	OtherGroups int64
	// Undecided are objects that a filter could not decide on. They are in no
	// other number.
	Undecided int64
	// Unmatched are objects that are not compared, because a partial store
	// lacks them.
	Unmatched int64

	open     Group
	resource *codec.Resource // whose name the open group has
}

// MaxGroups bounds the groups of a Summary.
const MaxGroups = 100_000

func newSummary() *Summary { return &Summary{} }

// group returns the counts of the group that a key belongs to. Keys of a group
// follow one another, so that only the last one is open; should one come back,
// it is two groups.
func (s *Summary) group(k codec.Key, routine bool) *Counts {
	name, namespace := s.open.Resource, clip(k.Namespace)
	if s.resource != k.Resource {
		if name = ""; k.Resource != nil {
			name = clip(k.Resource.String())
		}
		s.resource = k.Resource
	}
	if s.open.Resource != name || s.open.Namespace != namespace {
		s.finish()
		s.open = Group{Resource: name, Namespace: strings.Clone(namespace)}
	}
	s.open.IsRoutine = routine
	return &s.open.Counts
}

// clip bounds a name: no namespace and no resource has a longer one, but etcd
// takes keys of a megabyte.
func clip(name string) string {
	const longest = 512
	if len(name) <= longest {
		return name
	}
	return strings.ToValidUTF8(name[:longest], "")
}

// finish puts the open group where it belongs.
func (s *Summary) finish() {
	g := s.open
	s.open = Group{}
	if g.IsRoutine {
		s.Routine = s.Routine.Plus(g.Counts)
	} else {
		s.Total = s.Total.Plus(g.Counts)
	}
	switch {
	case g.Different() == 0 && g.Rewritten == 0:
	case len(s.Groups) < MaxGroups:
		s.Groups = append(s.Groups, g)
	default:
		s.Others = s.Others.Plus(g.Counts)
		s.OtherGroups++
	}
}
