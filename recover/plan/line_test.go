package plan

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// encoded is the line by encoding/json.
func encoded(t testing.TB, s Step) string {
	t.Helper()
	s.Type = "step"
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestLinesAreThoseOfEncodingJSON: the plan's format is JSON, whatever names
// and reasons hold.
func TestLinesAreThoseOfEncodingJSON(t *testing.T) {
	t.Parallel()
	full := Step{
		Action: Put, Key: "/registry/pods/a/p", ModRevision: 1, CreateRevision: 2, UID: "u", Resource: "pod", Namespace: "a", Name: "p",
		Size: 3, Role: Restored, Reason: "r", Warnings: []string{"w", "x"}, Source: 4, Position: "5_6", SourceModRevision: 7, Owned: true, Lease: 8, LeaseTTL: 9,
	}
	negative := full
	negative.ModRevision, negative.CreateRevision, negative.Source, negative.Lease, negative.Size = -1, math.MinInt64, -3, math.MaxInt64, -1
	steps := []Step{{}, full, negative, testStep(0)}
	for _, text := range []string{
		"", "plain", `a "quoted" \ one`, "<a&b>", "tab\tnewline\nnul\x00del\x7f", "ü…世界", "line\u2028separator", "bad \xff\xfe utf8", strings.Repeat("x", 1000),
	} {
		s := full
		s.Action, s.Key, s.UID, s.Resource, s.Namespace, s.Name = Action(text), text, text, text, text, text
		s.Role, s.Reason, s.Position, s.Warnings = Role(text), text, text, []string{text, text}
		steps = append(steps, s)
	}
	var w stepWriter
	for _, s := range steps {
		line := w.append(nil, &s)
		if diff := cmp.Diff(encoded(t, s), string(line)); diff != "" {
			t.Errorf("written (-want +got):\n%s", diff)
		}
		var want Step
		if err := json.Unmarshal(line, &want); err != nil {
			t.Fatal(err)
		}
		got, err := readStep(line)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("read: %v (-want +got):\n%s", err, diff)
		}
	}
}

// TestUsualStepsAreReadWithoutEncodingJSON: the fallback would hide that the
// fast way is never taken.
func TestUsualStepsAreReadWithoutEncodingJSON(t *testing.T) {
	step := testStep(3)
	step.Warnings = []string{"1 finalizers are not waited for"}
	put := step
	put.Action, put.Position, put.SourceModRevision, put.Owned, put.Lease, put.LeaseTTL = Put, "3_0", 5, true, 6, 7
	for _, s := range []Step{step, put} {
		r := &stepReader{rest: encoded(t, s)}
		got := r.step()
		if diff := cmp.Diff(s, got); diff != "" || r.strange {
			t.Errorf("strange: %v (-want +got):\n%s", r.strange, diff)
		}
	}
	var w stepWriter
	line := w.append(nil, &step)
	if n := testing.AllocsPerRun(100, func() { line = w.append(line[:0], &step) }); n != 0 {
		t.Errorf("writing allocates %v times", n)
	}
	step.Warnings = nil
	line = w.append(line[:0], &step)
	if n := testing.AllocsPerRun(100, func() { _, _ = readStep(line) }); n > 2 {
		t.Errorf("reading allocates %v times", n)
	}
}

// FuzzReadStep: what is read without encoding/json is what that reads.
func FuzzReadStep(f *testing.F) {
	for i := range 3 {
		f.Add([]byte(encoded(f, testStep(i))))
	}
	for _, line := range []string{
		`{"type":"step","action":"delete","key":"k","modRevision":01,"size":1,"role":"","reason":""}`,
		`{"type":"step","action":"delete","key":"k","modRevision":1.0,"size":1,"role":"","reason":"","key":"again"}`,
		`{"type":"step","Action":"delete","key":"k\u0041","modRevision":-0,"size":1,"role":"","reason":"","warnings":[],"owned":false}`,
		`{"type":"step","action":"put","key":"k","modRevision":1,"size":1,"role":"","reason":"","warnings":["a","b"],"source":99999999999,"lease":9223372036854775808}`,
	} {
		f.Add([]byte(line + "\n"))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r := &stepReader{rest: string(line)}
		got := r.step()
		if r.strange {
			return
		}
		var want Step
		if err := json.Unmarshal(line, &want); err != nil {
			t.Fatalf("%q is read, and is no JSON of a step: %v", line, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-encoding/json +got):\n%s", line, diff)
		}
	})
}

func BenchmarkLine(b *testing.B) {
	step := testStep(3)
	step.UID, step.Reason = "11111111-2222-3333-4444-555555555555", "selected by pods -A --owner job/error-ret"
	step.Warnings = []string{"1 finalizers are not waited for"}
	line := []byte(encoded(b, step))
	b.Run("write", func(b *testing.B) {
		var w stepWriter
		var buf []byte
		for b.Loop() {
			buf = w.append(buf[:0], &step)
		}
	})
	b.Run("write by encoding json", func(b *testing.B) {
		enc := json.NewEncoder(io.Discard)
		enc.SetEscapeHTML(false)
		for b.Loop() {
			_ = enc.Encode(step)
		}
	})
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			_, _ = readStep(line)
		}
	})
	b.Run("read by encoding json", func(b *testing.B) {
		for b.Loop() {
			var s Step
			_ = json.Unmarshal(line, &s)
		}
	})
}
