package plan

import (
	"time"

	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// Aged is an object with its creation time.
type Aged struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
}

// LiveOwner is a controller that still exists above selected objects and
// would make them again.
type LiveOwner struct {
	Resource  string `json:"resource"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// Makes counts the selected objects below it, directly or not.
	Makes int64 `json:"makes"`
	// Planned says that the plan deletes it first.
	Planned bool `json:"planned"`
	// Kubelet says that it is a Node: its kubelet makes static pods again,
	// and it is never deleted as an owner.
	Kubelet bool `json:"kubelet,omitempty"`
	// Unreadable says that its value cannot be decoded: it may be another
	// object of that name, and is never deleted as an owner.
	Unreadable bool `json:"unreadable,omitempty"`

	object filter.Object
	level  int
}

// Object returns the owner as it was read.
func (o LiveOwner) Object() filter.Object { return o.object }

// Blocked counts objects that a guard does not let pass.
type Blocked struct {
	Reason string `json:"reason"`
	Allow  string `json:"allow,omitempty"` // the flag that would allow it
	Count  int64  `json:"count"`
}

// Warned counts objects whose delete does more than it seems.
type Warned struct {
	Reason string `json:"reason"`
	Count  int64  `json:"count"`
}

// StageInfo describes one stage of the order of execution.
type StageInfo struct {
	What  string `json:"what"` // the resource in the singular, or "owner" or "key"
	Steps int64  `json:"steps"`
}

const (
	// FirstSteps is how many steps a Summary shows by name.
	FirstSteps = 10
	// MostMakers is how many owners a Summary holds that the plan deletes, and
	// how many that it does not; it counts all of them.
	MostMakers = 1000
)

// Summary describes a plan for people and for JSON.
type Summary struct {
	Steps      int64 // objects to change
	Bytes      int64 // of their values
	Undecided  int64 // objects that a filter could not decide on
	Resources  Tally
	Namespaces Tally
	Owners     Tally
	Phases     Tally
	Nodes      Tally
	Finalizers Tally
	Statuses   Tally // decode status of values that are not readable
	Oldest     Aged
	Newest     Aged
	Makers     []LiveOwner // the highest first; of very many those that make most, see MostMakers
	Blocked    []Blocked
	Warned     []Warned
	Stages     []StageInfo
	First      []Step

	// Held is which finalizers the objects have that lie in the namespaces
	// selected with their contents, as "FINALIZER on RESOURCE".
	Held       Tally
	Kept       int64 // in those namespaces, but made in every one that there is
	Dependents int64 // steps of what selected objects own
	Shared     int64 // owned by selected objects and by others, which stay: left alone
	// Spaces are Namespaces that selected objects own, which are left: they
	// go with what is in them, or not at all. LeftSpaces are the first of them.
	Spaces     int64
	LeftSpaces []string

	MakersTotal   int64 // owners that still exist
	MakersPlanned int64 // of them those that the plan deletes

	// The rest is for puts.

	Present    int64 // already there with identical bytes
	Differing  int64 // there with other bytes; left alone
	Leased     int64 // left out because they had a lease
	Superseded int64 // a later entry of the same archive replaces them
	Owned      int64 // steps whose objects have owners
	// DifferingKeys names the first of Differing.
	DifferingKeys []string
	// Replacing is how many steps put other bytes in the place of what is there,
	// and ReplacedBytes what that is, which is archived first.
	Replacing, ReplacedBytes int64
	// PutWarnings is what steps of a put-back do beyond what they say, the worst
	// first.
	PutWarnings []PutWarning
}

// maxLeftSpaces is how many Namespaces a Summary names.
const maxLeftSpaces = 20

// leave counts a Namespace that stays.
func (s *Summary) leave(namespace string) {
	if s.Spaces++; len(s.LeftSpaces) < maxLeftSpaces {
		s.LeftSpaces = append(s.LeftSpaces, namespace)
	}
}

func newSummary() *Summary {
	return &Summary{}
}

// observe adds the properties of one object.
func (s *Summary) observe(o filter.Object) {
	s.Steps++
	s.Bytes += o.Size
	if r := o.Key.Resource; r != nil {
		s.Resources.Add(r.String())
	}
	if ns := o.Key.Namespace; ns != "" {
		s.Namespaces.Add(ns)
	}
	if o.Head.Err != nil {
		s.Statuses.Add(string(o.Head.Status))
		return
	}
	for _, ref := range o.Head.Meta.Owners {
		if ref.Controller {
			s.Owners.Add(filter.OwnerRef{Group: ref.Group(), Kind: ref.Kind, Name: ref.Name}.String())
		}
	}
	if o.Head.Phase != "" {
		s.Phases.Add(o.Head.Phase)
	}
	if o.Head.Node != "" {
		s.Nodes.Add(o.Head.Node)
	}
	for _, f := range o.Head.Meta.Finalizers {
		s.Finalizers.Add(f)
	}
	s.age(o)
}

// hold counts the finalizers of an object in a namespace that goes.
func (s *Summary) hold(o filter.Object) {
	what := "key"
	if o.Key.Resource != nil {
		what = o.Key.Resource.String()
	}
	for _, f := range o.Head.Meta.Finalizers {
		s.Held.Add(f + " on " + what)
	}
}

func (s *Summary) age(o filter.Object) {
	created := o.Head.Meta.Created
	if created.IsZero() {
		return
	}
	if s.Oldest.Created.IsZero() || created.Before(s.Oldest.Created) {
		s.Oldest = Aged{o.Name(), created}
	}
	if created.After(s.Newest.Created) {
		s.Newest = Aged{o.Name(), created}
	}
}

// blocks counts what a guard says of one object, and reports whether it blocks.
func (s *Summary) blocks(v *filter.Verdict) bool {
	if v == nil {
		return false
	}
	if !v.Blocks {
		s.warn(v.Reason)
		return false
	}
	for i := range s.Blocked {
		if s.Blocked[i].Reason == v.Reason {
			s.Blocked[i].Count++
			return true
		}
	}
	s.Blocked = append(s.Blocked, Blocked{Reason: v.Reason, Allow: v.Allow, Count: 1})
	return true
}

func (s *Summary) warn(reason string) {
	for i := range s.Warned {
		if s.Warned[i].Reason == reason {
			s.Warned[i].Count++
			return
		}
	}
	s.Warned = append(s.Warned, Warned{Reason: reason, Count: 1})
}

// Add counts one step of a saved plan.
func (s *Summary) Add(st Step) {
	s.Steps++
	if st.Resource != "" {
		s.Resources.Add(st.Resource)
	}
	if st.Namespace != "" {
		s.Namespaces.Add(st.Namespace)
	}
	if st.Owned {
		s.Owned++
	}
	if st.Action == Put && st.ModRevision != 0 {
		s.Replacing++
	}
	if n := len(s.Stages); n > 0 {
		s.Stages[n-1].Steps++
	}
	if len(s.First) < FirstSteps {
		s.First = append(s.First, st)
	}
}
