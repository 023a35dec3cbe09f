package app

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/etcd-rescue/etcd-rescue/"

// layers are the packages from the bottom to the top. A package may import
// those named before it and nothing else of the project.
func layers() map[string][]string {
	return map[string][]string{
		"codec":                     nil,
		"snapshots":                 {"codec"},
		"snapshots/members":         {"snapshots"},
		"snapshots/restore":         {"snapshots"},
		"snapshots/sandbox":         {"codec", "snapshots", "snapshots/restore"},
		"snapshots/sandbox/lab":     {"snapshots/sandbox"},
		"recover/keyspace":          {"codec", "snapshots"},
		"recover/keyspace/fakekine": nil,
		"recover/census":            {"codec", "recover/keyspace"},
		"recover/alive":             {"codec", "recover/keyspace"},
		"recover/tally":             nil,
		"recover/heat":              nil,
		"recover/filter":            {"codec", "snapshots", "recover/keyspace"},
		"recover/diff":              {"codec", "recover/keyspace", "recover/filter"},
		"recover/plan":              {"codec", "snapshots", "recover/keyspace", "recover/filter", "recover/tally"},
		"recover/apply":             {"codec", "snapshots", "recover/keyspace", "recover/filter", "recover/plan"},
		"recover/rehearse":          {"codec", "snapshots", "snapshots/sandbox", "recover/keyspace", "recover/plan", "recover/apply"},
		"cmd/internal/connect":      nil,
		"cmd/internal/encryption":   {"codec"},
		"cmd/internal/term":         nil,
		"cmd/internal/app": {
			"codec", "snapshots", "snapshots/members", "snapshots/restore", "snapshots/sandbox", "recover/keyspace", "recover/filter", "recover/plan", "recover/apply", "recover/diff", "recover/rehearse", "recover/census", "recover/tally", "recover/heat", "recover/alive",
			"cmd/internal/connect", "cmd/internal/encryption", "cmd/internal/term",
		},
		"cmd/etcd-rescue": {"cmd/internal/app", "cmd/internal/term"},
	}
}

// owners are outside packages that one of ours alone may import.
func owners() map[string]string {
	return map[string]string{
		"github.com/urfave/cli/v2":             "cmd/internal/app",
		"github.com/schollz/progressbar/v3":    "cmd/internal/term",
		"go.etcd.io/etcd/server/v3/embed":      "snapshots/sandbox",
		"go.etcd.io/etcd/etcdutl/v3/snapshot":  "snapshots/restore",
		"go.etcd.io/bbolt":                     "snapshots",
		"k8s.io/client-go/kubernetes/scheme":   "codec",
		"k8s.io/apiserver/pkg/storage/value":   "cmd/internal/encryption",
		"go.etcd.io/etcd/client/v3/kubernetes": "nobody",
	}
}

// TestImportsRunOneWay holds the direction of design: main, app, the engines,
// codec; never back.
func TestImportsRunOneWay(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Name,Doc", module+"...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	allowed, seen := layers(), 0
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath, Name, Doc string
			Imports               []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		seen++
		name := strings.TrimPrefix(p.ImportPath, module)
		may, known := allowed[name]
		if !known {
			t.Errorf("package %s has no place in the layout", name)
		}
		if p.Doc == "" {
			t.Errorf("package %s has no package comment", name)
		}
		for _, imported := range p.Imports {
			if only, ok := owners()[imported]; ok && only != name && !excused(name, imported) {
				t.Errorf("%s imports %s, which is for %s alone", name, imported, only)
			}
			if rest, ours := strings.CutPrefix(imported, module); ours && !slices.Contains(may, rest) {
				t.Errorf("%s must not import %s", name, rest)
			}
		}
	}
	if seen != len(allowed) {
		t.Errorf("%d packages listed, %d in the layout", seen, len(allowed))
	}
}

// excused are exceptions with a reason.
func excused(name, imported string) bool {
	// The sandbox leaves entries of a fixture out of its db file, and its lab
	// makes db files, below what the reader of db files can do.
	return (name == "snapshots/sandbox" || name == "snapshots/sandbox/lab") && imported == "go.etcd.io/bbolt"
}
