// Package plan makes and keeps the list of intended steps: what would be
// deleted or put back, guarded by which mod revision, in what order and why.
// A plan is a value that cannot write, and executing accepts nothing but a
// plan. Its file format is specified in docs/plan.md.
//
// The key invariant: a plan never holds values. A put names the file its bytes
// come from, that file's sha256 and where in it they stand.
package plan

import (
	"errors"
	"fmt"
	"time"

	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

// Version is the version of the file format that this build writes, and the
// newest that it reads.
const Version = 1

// Action is what a step does to its key.
type Action string

// The actions.
const (
	Delete Action = "delete"
	Put    Action = "put"
)

// Role says why a step is in the plan, which decides how a key that changed
// meanwhile is judged again.
type Role string

// The roles.
const (
	Selected Role = "selected" // the selection matched it
	Owner    Role = "owner"    // it would make selected objects again
	Restored Role = "restored" // an archive or another file holds it
	// Content lies in a namespace that goes with everything in it.
	Content Role = "content"
	// Dependent is owned by a selected object, directly or not.
	Dependent Role = "dependent"
)

// Step is one intended change of one key.
type Step struct {
	Type   string `json:"type"` // "step"
	Action Action `json:"action"`
	Key    string `json:"key"`
	// ModRevision is the revision that the key must still have; 0 means
	// that the key must be absent. A put with another one is a replacement.
	ModRevision int64 `json:"modRevision"`
	// CreateRevision tells one life of a key from the next where the UID
	// cannot be read.
	CreateRevision int64    `json:"createRevision,omitempty"`
	UID            string   `json:"uid,omitempty"`
	Resource       string   `json:"resource,omitempty"`
	Namespace      string   `json:"namespace,omitempty"`
	Name           string   `json:"name,omitempty"`
	Size           int64    `json:"size"` // bytes of the value
	Role           Role     `json:"role"`
	Reason         string   `json:"reason"`
	Warnings       []string `json:"warnings,omitempty"`
	// OwnerUID is the UID that one of the owner references of a Dependent
	// names, by which it is one.
	OwnerUID string `json:"ownerUID,omitempty"`

	// The rest is for puts.

	Source            int    `json:"source,omitempty"`   // index into Header.Sources
	Position          string `json:"position,omitempty"` // where in the source
	SourceModRevision int64  `json:"sourceModRevision,omitempty"`
	Owned             bool   `json:"owned,omitempty"`    // it has owners
	Lease             int64  `json:"lease,omitempty"`    // the lease it had
	LeaseTTL          int64  `json:"leaseTTL,omitempty"` // seconds, as granted then
}

// Replaces tells whether the step puts other bytes under a key that is there.
func (s Step) Replaces() bool { return s.Action == Put && s.ModRevision != 0 }

// Destroys tells whether the step takes bytes away from the store, which are to
// be archived before.
func (s Step) Destroys() bool { return s.Action != Put || s.ModRevision != 0 }

// String names the step as a person would: "delete pod ops-tools/error-ret-x".
func (s Step) String() string {
	if s.Name == "" {
		return fmt.Sprintf("%s %s", s.Action, s.Key)
	}
	name := s.Name
	if s.Namespace != "" {
		name = s.Namespace + "/" + name
	}
	return fmt.Sprintf("%s %s %s", s.Action, s.Resource, name)
}

// SourceFile is a file that puts take their bytes from.
type SourceFile struct {
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
}

// Header says what a plan is for.
type Header struct {
	Type    string `json:"type"` // "header"
	Version int    `json:"version"`
	Tool    string `json:"tool"` // name and version of the writer
	// Run names the run of the command, and with it the archive that all
	// its passes append to. Pass counts from 1.
	Run       string    `json:"run"`
	Pass      int       `json:"pass"`
	Operation string    `json:"operation"` // "delete", "undo" or "put-back"
	Created   time.Time `json:"created"`
	Command   string    `json:"command"`
	// ClusterUID is the UID of the kube-system Namespace. ClusterID is
	// etcd's own, for information only.
	ClusterUID string            `json:"clusterUID"`
	ClusterID  string            `json:"clusterID,omitempty"`
	Etcd       string            `json:"etcd"` // "main" or "events"
	Prefix     string            `json:"prefix"`
	Revision   int64             `json:"revision"`
	Selection  *filter.Selection `json:"selection,omitempty"`
	WithOwners bool              `json:"withOwners,omitempty"`
	// WithDependents says that what the selected objects own was planned too.
	WithDependents bool             `json:"withDependents,omitempty"`
	Overrides      filter.Overrides `json:"overrides,omitzero"`
	Sources        []SourceFile     `json:"sources,omitempty"`
}

// stageLine begins a stage: all steps of the stage before are finished first.
type stageLine struct {
	Type  string `json:"type"` // "stage"
	Stage int    `json:"stage"`
	What  string `json:"what"`
}

// Trailer ends a plan and proves that it is whole.
type Trailer struct {
	Type   string `json:"type"` // "trailer"
	Steps  int64  `json:"steps"`
	Bytes  int64  `json:"bytes"`  // of all values
	SHA256 string `json:"sha256"` // of every byte before this line
}

// The reasons to refuse a plan. Errors wrap them.
var (
	ErrDamaged = errors.New("plan is not whole")
	ErrForeign = errors.New("plan belongs to another cluster")
	ErrExpired = errors.New("plan is too old")
)

// Check refuses a plan for another cluster or prefix, and one older than
// maxAge. now and maxAge come from the caller; a plan from the future, which
// means that a clock is wrong, counts as expired.
func (h Header) Check(clusterUID, prefix string, now time.Time, maxAge time.Duration) error {
	if h.ClusterUID != clusterUID {
		return fmt.Errorf("%w: it was made for the cluster whose kube-system has UID %q, here it is %q",
			ErrForeign, h.ClusterUID, clusterUID)
	}
	if h.Prefix != prefix {
		return fmt.Errorf("%w: it was made for keys below %s, here they are below %s", ErrForeign, h.Prefix, prefix)
	}
	age := now.Sub(h.Created)
	if age > maxAge {
		return fmt.Errorf("%w: made %s ago, at most %s is allowed", ErrExpired, age.Round(time.Second), maxAge)
	}
	if age < -time.Minute {
		return fmt.Errorf("%w: it is dated %s, which has not come yet: one of the clocks is wrong",
			ErrExpired, h.Created.Format(time.RFC3339))
	}
	return nil
}
