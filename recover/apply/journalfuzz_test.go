package apply

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

// FuzzReadJournal: no panic; no bit beyond the plan's steps; and a line that
// can be read is written again with the same meaning, by both writers.
func FuzzReadJournal(f *testing.F) {
	const run = `{"type":"run","version":1,"planSHA256":"x","steps":3}` + "\n"
	f.Add([]byte(run + `{"type":"step","n":2,"stage":1,"action":"put","key":"/a","outcome":"created","why":"\u2028<","archived":4,"revision":5}` + "\n"))
	f.Add([]byte(run + `{"type":"step","n":0,"action":"put","key":"/b","outcome":"replaced","archived":4,"revision":5}` + "\n"))
	f.Add([]byte(run + `{"type":"step","n":-1,"outcome":"created"}` + "\n" + `{"type":"end","counts":{"deleted":1,"failed":2},"retries":3}`))
	f.Add([]byte(`{"type":"run"` + "\n" + `{"type":"step","n":9223372036854775807,"outcome":"raced"}` + "\n\n\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var counts Counts
		done := newBitmap(3)
		if _, err := readJournal(bytes.NewReader(text), earlierOf("x", 3, &counts, done)); err != nil {
			t.Fatal(err)
		}
		if len(*done.words) > 1 || done.has(3) || done.has(-1) {
			t.Errorf("bits %v", *done.words)
		}
		_, _ = readJournal(bytes.NewReader(text), func(line any) {
			js, err := json.Marshal(line)
			if err != nil {
				t.Fatal(err)
			}
			if again := parseJournal(js); !reflect.DeepEqual(again, line) {
				t.Errorf("%s was read as %+v, and then as %+v", js, line, again)
			}
			l, ok := line.(stepLine)
			if !ok {
				return
			}
			quick := appendStep(nil, Decision{
				N: l.N, Stage: l.Stage, Step: plan.Step{Action: l.Action, Key: l.Key}, Outcome: l.Outcome, Why: l.Why,
				Archived: l.Archived, Revision: l.Revision,
			})
			if again := parseJournal(quick); !reflect.DeepEqual(again, line) {
				t.Errorf("%s was read as %+v, and then as %+v", quick, line, again)
			}
		})
	})
}
