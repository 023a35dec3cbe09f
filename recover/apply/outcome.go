package apply

import (
	"encoding/json"
	"fmt"

	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

// Outcome is how a step ended.
type Outcome int

// The outcomes. Gone, Present and Before are done as well as Deleted, Created
// and Replaced: the store is as the plan wants it.
const (
	Deleted Outcome = iota
	Gone            // it was not there any more
	Created
	Replaced // other bytes, which are archived, made room for it
	Present  // it was there already with identical bytes
	Before   // Gone or Present, and an earlier run of this plan had done it
	Raced    // deleted without the guard just after it had changed; its last bytes are archived
	Skipped  // it changed and is not meant any more, or other bytes are there
	Failed
)

func outcomeNames() [Failed + 1]string {
	return [...]string{"deleted", "gone", "created", "replaced", "present", "before", "raced", "skipped", "failed"}
}

// String is the outcome's name in journals: "deleted".
func (o Outcome) String() string {
	if o < 0 || o > Failed {
		return fmt.Sprintf("outcome(%d)", int(o))
	}
	return outcomeNames()[o]
}

// MarshalText implements encoding.TextMarshaler.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *Outcome) UnmarshalText(text []byte) error {
	for i, name := range outcomeNames() {
		if name == string(text) {
			*o = Outcome(i)
			return nil
		}
	}
	return fmt.Errorf("unknown outcome %q", text)
}

// troubled tells whether people want to know which step it was.
func (o Outcome) troubled() bool { return o == Raced || o == Skipped || o == Failed }

// Counts is how many steps ended how, by Outcome. In JSON it is an object with
// the outcomes' names.
type Counts [Failed + 1]int64

// MarshalJSON implements json.Marshaler. Outcomes that did not occur are left
// out.
func (c Counts) MarshalJSON() ([]byte, error) {
	named := map[Outcome]int64{}
	for o, n := range c {
		if n != 0 {
			named[Outcome(o)] = n
		}
	}
	return json.Marshal(named)
}

// UnmarshalJSON implements json.Unmarshaler.
func (c *Counts) UnmarshalJSON(js []byte) error {
	var named map[Outcome]int64
	if err := json.Unmarshal(js, &named); err != nil {
		return err
	}
	*c = Counts{}
	for o, n := range named {
		c[o] = n
	}
	return nil
}

// Problem is a step that did not end as the plan wanted.
type Problem struct {
	Step    plan.Step
	Outcome Outcome
	Why     string
}

// maxProblems is how many problems a Result names; it counts all of them.
const maxProblems = 1000

// Result counts how the steps ended.
type Result struct {
	Steps    int64 // in the plan
	Counts   Counts
	Problems []Problem
	Retries  int64 // changes that were sent once more
	Resolved int64 // steps that had an answer which left open whether they were done, and ended well
	// Stopped says why the run ended before the plan did; nil if it went
	// through. Steps that were not begun are in no count.
	Stopped error
}

// Remaining is the number of steps that were not begun. The steps that failed
// are not among them; the same plan tries both again.
func (r *Result) Remaining() int64 {
	left := r.Steps
	for _, n := range r.Counts {
		left -= n
	}
	return left
}
