package app

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// TestGetPrintsWhatKubectlPrints compares with kubectl's own output for the
// incident's Job, byte for byte.
func TestGetPrintsWhatKubectlPrints(t *testing.T) {
	t.Parallel()
	want, err := os.ReadFile("../../../testdata/runaway-30k/job-error-ret.kubectl.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file, err := sandbox.FixtureFile(t.Context(), sandbox.Runaway30k, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	code := Run(t.Context(), Process{
		Args:    []string{"get", "job", "error-ret", "-n", "ops-tools", "-o", "yaml", "--from", file},
		Streams: term.Streams{In: strings.NewReader(""), Out: &out, Err: &errs},
		Getenv:  func(string) string { return "" },
		Root:    t.TempDir(),
		Now:     time.Now,
	})
	if code != exitDone {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("-kubectl +ours:\n%s", diff)
	}
}
