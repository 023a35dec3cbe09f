package plan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

func testHeader() Header {
	return Header{
		Tool: "etcd-rescue test", Run: "20261122T000000Z-00000000", Pass: 1, Operation: "delete",
		Created: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC), Command: "etcd-rescue delete pods -n a",
		ClusterUID: "uid-1", Etcd: "main", Prefix: "/registry/", Revision: 7,
		Selection: &filter.Selection{Resource: "pods", Namespace: "a"},
	}
}

func testStep(i int) Step {
	return Step{
		Type: "step", Action: Delete, Key: fmt.Sprintf("/registry/pods/a/p-%04d", i), ModRevision: int64(i + 1),
		CreateRevision: int64(i + 1), UID: fmt.Sprintf("u-%d", i), Resource: "pod", Namespace: "a",
		Name: fmt.Sprintf("p-%04d", i), Size: 10, Role: Selected, Reason: "selected by <a&b>",
	}
}

// writePlan writes n selected steps and one owner, the owner added last.
func writePlan(t testing.TB, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "p.jsonl")
	w, err := Create(path, testHeader())
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := w.Add(0, "pods", testStep(i)); err != nil {
			t.Fatal(err)
		}
	}
	owner := testStep(n)
	owner.Role = Owner
	if err := w.Add(-5, "owners", owner); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPlanComesBackInOrderOfStages(t *testing.T) {
	t.Parallel()
	const n = 700
	path := writePlan(t, n)
	p, err := Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	want := testHeader()
	want.Type, want.Version = "header", Version
	if diff := cmp.Diff(want, p.Header()); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	owner := testStep(n)
	owner.Role = Owner
	wantSteps := []Step{owner}
	wantStages := []int{0}
	for i := range n {
		wantSteps, wantStages = append(wantSteps, testStep(i)), append(wantStages, 1)
	}
	var steps []Step
	var stages []int
	err = p.Steps(context.Background(), func(stage int, _ string, s Step) error {
		steps, stages = append(steps, s), append(stages, stage)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantSteps, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(wantStages, stages); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
	if got := p.Trailer(); got.Steps != n+1 || got.Bytes != 10*(n+1) {
		t.Errorf("trailer counts %d steps and %d bytes, want %d and %d", got.Steps, got.Bytes, n+1, 10*(n+1))
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("plan file mode %v, %v; want 0600", info.Mode(), err)
	}
	left, _ := os.ReadDir(filepath.Dir(path))
	if len(left) != 1 {
		t.Errorf("files left beside the plan: %v", left)
	}
}

func TestExistingPlanIsNotReplaced(t *testing.T) {
	t.Parallel()
	path := writePlan(t, 1)
	if _, err := Create(path, testHeader()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over an existing file: %v, want fs.ErrExist", err)
	}
}

func TestAbortLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w, err := Create(filepath.Join(dir, "p.jsonl"), testHeader())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Add(0, "pods", testStep(1)); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("files left: %v", left)
	}
}

func TestKeyThatIsNoTextIsRefused(t *testing.T) {
	t.Parallel()
	w, err := Create(filepath.Join(t.TempDir(), "p.jsonl"), testHeader())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	s := testStep(1)
	s.Key = "/registry/pods/a/\xff"
	if err := w.Add(0, "pods", s); err == nil {
		t.Error("a key that JSON would change was accepted")
	}
}

func TestDamagedPlanIsRefused(t *testing.T) {
	t.Parallel()
	whole, err := os.ReadFile(writePlan(t, 5))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(whole), "\n")
	replace := func(from, to string) string { return strings.Replace(string(whole), from, to, 1) }
	tests := []struct{ name, content string }{
		{"empty", ""},
		{"no plan", "hello\n"},
		{"JSON of another kind", `{"type":"something"}` + "\n"},
		{"edited key", replace("p-0003", "p-0009")},
		{"edited revision", replace(`"modRevision":4`, `"modRevision":5`)},
		{"edited cluster", replace("uid-1", "uid-2")},
		{"step left out", strings.Join(slicesWithout(lines, 4), "")},
		{"stage left out", strings.Join(slicesWithout(lines, 1), "")},
		{"trailer left out", strings.Join(lines[:len(lines)-2], "")},
		{"cut in the middle of a line", string(whole[:len(whole)/2])},
		{"last newline missing", strings.TrimSuffix(string(whole), "\n")},
		{"something after the trailer", string(whole) + lines[3]},
		{"two plans", string(whole) + string(whole)},
		{"newer format", replace(`"version":1`, `"version":2`)},
		{"unknown action", replace(`"action":"delete"`, `"action":"drop"`)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "p.jsonl")
			if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(context.Background(), path); !errors.Is(err, ErrDamaged) {
				t.Errorf("Open: %v, want ErrDamaged", err)
			}
		})
	}
}

func slicesWithout(lines []string, i int) []string {
	return append(append([]string{}, lines[:i]...), lines[i+1:]...)
}

// TestFlippedByteIsNoticed flips a bit of each byte of a small plan.
func TestFlippedByteIsNoticed(t *testing.T) {
	t.Parallel()
	path := writePlan(t, 1)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		// Not the bit that changes the case of a letter: encoding/json takes
		// a field's name in either case, and in the trailer that changes
		// nothing.
		flip := byte(1) << [7]int{0, 1, 2, 3, 4, 6, 7}[i%7]
		whole[i] ^= flip
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		if p, err := Open(context.Background(), path); err == nil {
			p.Close()
			t.Errorf("byte %d flipped and not noticed: %q", i, whole[max(0, i-20):min(len(whole), i+20)])
		}
		whole[i] ^= flip
	}
}

func TestCheckRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	made := testHeader().Created
	tests := []struct {
		name, uid, prefix string
		now               time.Time
		want              error
	}{
		{"fits", "uid-1", "/registry/", made.Add(time.Hour), nil},
		{"other cluster", "uid-2", "/registry/", made.Add(time.Hour), ErrForeign},
		{"other prefix", "uid-1", "/kubernetes.io/", made.Add(time.Hour), ErrForeign},
		{"too old", "uid-1", "/registry/", made.Add(25 * time.Hour), ErrExpired},
		{"from the future", "uid-1", "/registry/", made.Add(-time.Hour), ErrExpired},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if err := testHeader().Check(tt.uid, tt.prefix, tt.now, 24*time.Hour); !errors.Is(err, tt.want) {
				t.Errorf("Check: %v, want %v", err, tt.want)
			}
		})
	}
}

func FuzzOpen(f *testing.F) {
	whole, err := os.ReadFile(writePlan(f, 3))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(`{"type":"header","version":1}` + "\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "p.jsonl")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := Open(context.Background(), path)
		if err != nil {
			return
		}
		defer p.Close()
		var n int64
		if err := p.Steps(context.Background(), func(int, string, Step) error { n++; return nil }); err != nil || n != p.Trailer().Steps {
			t.Errorf("read again: %d steps, %v; the trailer says %d", n, err, p.Trailer().Steps)
		}
	})
}
