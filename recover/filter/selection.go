// Package filter decides which objects a command means: it keeps, drops or
// cannot decide on each of them, and guards those that must not be touched by
// accident. It reads owners through an interface and cannot write.
//
// The key invariant: an object that a filter cannot decide on is never
// selected.
package filter

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// OwnerRef names an owner by group, kind and name, as owner references do.
type OwnerRef struct {
	Group string `json:"group,omitempty"`
	Kind  string `json:"kind"`
	Name  string `json:"name"`
}

func (o OwnerRef) String() string {
	kind := strings.ToLower(o.Kind)
	switch o.Group {
	case "", "apps", "batch", "extensions":
		// The groups that people leave out when they name a workload.
	default:
		kind += "." + o.Group
	}
	return kind + "/" + o.Name
}

// Selection is what the flags of a command ask for. It is written into a
// plan's header, so that an object that changed meanwhile can be judged again
// by exactly the same words. Its zero value selects nothing.
type Selection struct {
	// Resource is the resource's full name (pods, jobs.batch), empty for
	// all of them.
	Resource string `json:"resource,omitempty"`
	// Keys are exact etcd keys, for what no resource name reaches.
	Keys        []string  `json:"keys,omitempty"`
	Names       []string  `json:"names,omitempty"`
	Namespace   string    `json:"namespace,omitempty"`
	Labels      string    `json:"labels,omitempty"`
	Fields      string    `json:"fields,omitempty"`
	Owner       *OwnerRef `json:"owner,omitempty"`
	Node        string    `json:"node,omitempty"`
	Phase       string    `json:"phase,omitempty"`
	OlderThan   string    `json:"olderThan,omitempty"`
	NewerThan   string    `json:"newerThan,omitempty"`
	Terminating bool      `json:"terminating,omitempty"`
	Finalizer   string    `json:"finalizer,omitempty"`
	Orphaned    bool      `json:"orphaned,omitempty"`
	// Where is a CEL expression. It reads the data of Secrets too, also where
	// output hides it, so that what it selects tells something of them: whoever
	// runs it reads the store, and the keys that decrypt it, anyway.
	Where         string    `json:"where,omitempty"`
	Now           time.Time `json:"now"`
	AllNamespaces bool      `json:"allNamespaces,omitempty"`
	// Contents asks for everything in the selected namespaces too. It is for
	// who makes a plan: judging a single object does not look at it.
	Contents *Contents `json:"contents,omitempty"`
}

// Narrow reports whether the selection says anything beyond a resource. A
// namespace alone does, all namespaces alone does not. Writes need it.
func (s Selection) Narrow() bool {
	return len(s.Keys) > 0 || len(s.Names) > 0 || s.Namespace != "" || s.needsValue()
}

// needsValue reports whether judging needs more than the key. An expression
// always does: it may ask for the size.
func (s Selection) needsValue() bool {
	return s.needsHead() || s.Orphaned || s.Where != ""
}

// needsHead reports whether judging needs what every readable value has.
func (s Selection) needsHead() bool {
	return s.Labels != "" || s.Fields != "" || s.Owner != nil || s.Node != "" || s.Phase != "" ||
		s.OlderThan != "" || s.NewerThan != "" || s.Terminating || s.Finalizer != ""
}

// String describes the selection in the words of the command line.
func (s Selection) String() string {
	var parts []string
	add := func(flag, value string) {
		if value != "" {
			parts = append(parts, flag+" "+value)
		}
	}
	if s.Resource != "" {
		parts = append(parts, s.Resource)
	}
	parts = append(parts, s.Names...)
	for _, key := range s.Keys {
		add("--etcd-key", key)
	}
	add("-n", s.Namespace)
	if s.AllNamespaces {
		parts = append(parts, "-A")
	}
	add("-l", s.Labels)
	add("--field-selector", s.Fields)
	if s.Owner != nil {
		add("--owner", s.Owner.String())
	}
	add("--node", s.Node)
	add("--phase", s.Phase)
	add("--older-than", s.OlderThan)
	add("--newer-than", s.NewerThan)
	if s.Terminating {
		parts = append(parts, "--terminating")
	}
	add("--finalizer", s.Finalizer)
	if s.Orphaned {
		parts = append(parts, "--orphaned")
	}
	if s.Where != "" {
		add("--where", quote(s.Where))
	}
	if s.Contents != nil && s.Contents.Only {
		parts = append(parts, "--contents-only")
	}
	return strings.Join(parts, " ")
}

// quote returns s as one word of a shell, on one line: as $'...' of bash, zsh
// and ksh where there is something that does not print.
func quote(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	inner := strconv.Quote(s)
	return "$" + "'" + strings.NewReplacer(`\"`, `"`, `\\`, `\\`, "'", `\'`).Replace(inner[1:len(inner)-1]) + "'"
}

// ParseAge reads a duration as Go does, with d for days and w for weeks in
// front: 90m, 1d12h, 2w. It is never negative.
func ParseAge(s string) (time.Duration, error) {
	var total time.Duration
	rest := s
	for _, unit := range []struct {
		letter string
		length time.Duration
	}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}} {
		number, after, found := strings.Cut(rest, unit.letter)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			return 0, badAge(s)
		}
		if time.Duration(n) > (math.MaxInt64-total)/unit.length {
			return 0, badAge(s)
		}
		total += time.Duration(n) * unit.length
		rest = after
	}
	if rest == "" && s != "" {
		return total, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || d > math.MaxInt64-total {
		return 0, badAge(s)
	}
	return total + d, nil
}

func badAge(s string) error { return fmt.Errorf("%q is no age: write it like 90m, 36h, 2d or 1w", s) }

// ErrUsage marks an error in what was asked for, as against one in the data.
var ErrUsage = errors.New("bad selection")
