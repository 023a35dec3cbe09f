package rehearse

import (
	"context"

	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

const (
	// mostWarnings is how many different warnings are told apart.
	mostWarnings = 100
	// mostKeys is how many keys are named of those that are something.
	mostKeys = 20
	// mostTouched is how many namespaces are counted one by one.
	mostTouched = 1000
)

// Warning is what steps of the plan warn of.
type Warning struct {
	Text  string `json:"text"`
	Count int64  `json:"count"` // of steps
	First string `json:"first"` // one of them
}

// Drift is how the snapshot differs from what the plan saw.
type Drift struct {
	Same int64 // steps whose keys are as the plan saw them
	// Changed are keys with another revision: what is to be deleted is judged
	// again, what is to be put is skipped.
	Changed int64
	Missing int64 // keys that are not there any more
	There   int64 // keys that were absent, and are not
	// Keys are the first of those that are not the same.
	Keys []string
}

// survey reads the plan and compares it with the snapshot.
func (r *rehearsal) survey(ctx context.Context) error {
	rep := r.report
	rep.Summary = &plan.Summary{Bytes: rep.Bytes}
	last := -1
	return r.Plan.Steps(ctx, func(stage int, what string, s plan.Step) error {
		if stage != last {
			rep.Summary.Stages = append(rep.Summary.Stages, plan.StageInfo{What: what})
			last = stage
		}
		rep.Summary.Add(s)
		rep.warn(s)
		if s.Action == plan.Delete || s.ModRevision != 0 {
			r.changing++
		}
		return r.drift(ctx, s)
	})
}

func (rep *Report) warn(s plan.Step) {
	for _, text := range s.Warnings {
		i := 0
		for i < len(rep.Warnings) && rep.Warnings[i].Text != text {
			i++
		}
		if i == mostWarnings {
			i-- // the last takes all that are too many
		} else if i == len(rep.Warnings) {
			if i == mostWarnings-1 {
				text = "other warnings"
			}
			rep.Warnings = append(rep.Warnings, Warning{Text: text, First: s.String()})
		}
		rep.Warnings[i].Count++
	}
}

// drift compares the key of one step with the snapshot.
func (r *rehearsal) drift(ctx context.Context, s plan.Step) error {
	at, ok, err := r.File.Find(ctx, []byte(s.Key))
	if err != nil {
		return err
	}
	d := &r.report.Drift
	absent := s.Action == plan.Put && s.ModRevision == 0
	switch {
	case ok && !absent && at.Main == s.ModRevision, !ok && absent:
		d.Same++
		return nil
	case !ok:
		d.Missing++
	case absent:
		d.There++
	default:
		d.Changed++
	}
	if len(d.Keys) < mostKeys {
		d.Keys = append(d.Keys, s.Key)
	}
	return nil
}
