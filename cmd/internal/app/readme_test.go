package app

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

var updateReadme = flag.Bool("update-readme", false, "write what the commands in README.md print into it")

// TestReadmeShowsTrueOutput runs every command of README.md's console blocks,
// one after another on the incident, and compares what they print.
func TestReadmeShowsTrueOutput(t *testing.T) {
	long(t)
	path, err := filepath.Abs("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := replayReadme(t, string(readme))
	if *updateReadme {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(steady(string(readme)), steady(got)); diff != "" {
		t.Errorf("README.md shows other output (-README +now); go test ./cmd/internal/app -run Readme -update-readme writes it anew:\n%s", diff)
	}
}

// TestReadmeSetUpIsWhatCIRuns: the two set-up commands are the ones that CI
// runs, and the install line names this module.
func TestReadmeSetUpIsWhatCIRuns(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	ci, err := os.ReadFile("../../../.ci/run")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"go run ./cmd/etcd-rescue drill runaway-job", "go test ./..."} {
		if !strings.Contains(string(readme), "\n"+command+"\n") || !strings.Contains(string(ci), command) {
			t.Errorf("%q is not both in README.md and in .ci/run", command)
		}
	}
	if !strings.Contains(string(readme), "go install "+module+"cmd/etcd-rescue@latest\n") {
		t.Error("README.md does not install this module")
	}
}

// replayReadme returns README.md with the present output in its console
// blocks.
func replayReadme(t *testing.T, readme string) string {
	t.Helper()
	box, err := sandbox.Start(t.Context(), sandbox.Options{
		Fixture: sandbox.Runaway30k, Mode: sandbox.InProcess, NoFsync: true, Keep: (&drill{size: drillPods}).keep(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	dir, err := os.MkdirTemp("", "er") // short, as where an operator would be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Chdir(dir)
	file, err := sandbox.FixtureFile(t.Context(), sandbox.Runaway30k, ".")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file, "snapshot.db"); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	inside := false
	for line := range strings.Lines(readme) {
		switch {
		case line == "```console\n":
			inside = true
			out.WriteString(line)
		case line == "```\n":
			inside = false
			out.WriteString(line)
		case !inside:
			out.WriteString(line)
		case strings.HasPrefix(line, "$ "):
			out.WriteString(line)
			out.WriteString(runReadmeLine(t, box.Endpoints()[0], strings.TrimPrefix(strings.TrimSpace(line), "$ ")))
		}
	}
	return out.String()
}

func runName() *regexp.Regexp { return regexp.MustCompile(`\d{8}T\d{6}Z-[0-9a-f]{8}`) }

const shownRun = "20261122T142030Z-1f0c2a9b"

func runReadmeLine(t *testing.T, endpoint, line string) string {
	t.Helper()
	args := strings.Fields(line)[1:]
	for i, arg := range args {
		if strings.Contains(arg, shownRun) {
			archives, err := filepath.Glob("etcd-rescue-*.db")
			if err != nil || len(archives) == 0 {
				t.Fatalf("%s: no archive, %v", line, err)
			}
			slices.Sort(archives)
			args[i] = archives[0]
		}
	}
	begun := time.Now()
	var out bytes.Buffer
	code := Run(t.Context(), Process{
		Args:    args,
		Streams: term.Streams{In: strings.NewReader(""), Out: &out, Err: &out, OutTTY: true, OutWidth: 80, ErrWidth: 80},
		Getenv: func(name string) string {
			if name == "ETCDCTL_ENDPOINTS" {
				return endpoint
			}
			return ""
		},
		Root: t.TempDir(),
		// Ages count from shortly after the incident.
		Now: func() time.Time { return time.Date(2026, 11, 22, 14, 20, 30, 0, time.UTC).Add(time.Since(begun)) },
	})
	if code != exitDone {
		t.Errorf("%s: exit code %d\n%s", line, code, out.String())
	}
	text := runName().ReplaceAllString(out.String(), shownRun)
	if cwd, err := os.Getwd(); err == nil {
		text = strings.ReplaceAll(text, cwd, "/root")
	}
	for _, p := range []struct{ from, to string }{
		{`(?m)^etcd http.*\n`, ""},
		{`etcd-rescue-sandbox-\d+|(?m:^etcd-\S*…\d+)`, "cp-0"},
		{`, cp-0 leads,\n`, ", cp-0 leads, "}, // where the line ends depends on the name
		{`http://127\.0\.0\.1:\d+`, "http://127.0.0.1:2379"},
	} {
		text = regexp.MustCompile(p.from).ReplaceAllString(text, p.to)
	}
	return overMembers(text, func(cells []string) []string { return cells })
}

// overMembers changes the rows of the tables of members, which are aligned
// anew: names and ports are not as long as those of the sandbox.
func overMembers(text string, change func(cells []string) []string) string {
	var out strings.Builder
	var table [][]string
	for line := range strings.Lines(text) {
		if regexp.MustCompile(`^(MEMBER|cp-0) {2,}`).MatchString(line) {
			table = append(table, change(regexp.MustCompile(` {2,}`).Split(strings.TrimSpace(line), -1)))
			continue
		}
		align(&out, table)
		table = nil
		out.WriteString(line)
	}
	align(&out, table)
	return out.String()
}

// steadyRow takes out of a row what no two runs have in common: the id, which
// follows from the name, what was measured, and what etcd counts.
func steadyRow(cells []string) []string {
	if regexp.MustCompile(`^[0-9a-f]{8,16}$`).MatchString(cells[1]) {
		cells[1] = "ID"
	}
	return maskRow(strings.Join(cells, "   "))
}

// steady takes out what differs from run to run: rates, times, free space.
func steady(text string) string {
	for _, p := range []struct{ from, to string }{
		{`(?m)^deleted .* about .*\n|^put back .* about .*\n`, ""}, // progress, if it takes longer
		{`\d+m\d+s|\b\d+s ago`, "AGE"},                             // a slow machine is a second later
		{`  \d+s  `, "  AGE  "},
		{`[0-9.,]+/s`, "N/s"},
		{`(?m)^(received|rehearsed|undone) .* about .*\n`, ""},
		{`\b[0-9.]+ MiB/s`, "N/s"},
		{`received [0-9.]+ MiB of [0-9.]+ MiB`, "received N of N"}, // of a file that etcd makes longer as it likes
		{`[0-9.]+ MiB(, took|\) into)`, "N$1"},
		{`\([0-9a-f]{16}, http`, "(ID, http"},
		{`hash \d+`, "hash N"}, // which delete came first is chance
		{`read back in [0-9.]+m?s`, "read back in N"},
		{`took [0-9.]+m?s`, "took N"},
		{`\bin [0-9.]+m?s`, "in N"},
		{`(identical bytes, in N;)\s+([0-9,]+)\s+objects`, "$1 $2 objects"}, // where the line ends depends on N
		{`ago: made|made [0-9.]+(m?s|m) ago`, "made N ago"},
		{`,\s+where [0-9.]+ [KMGT]iB are free`, ", where N are free"},
		{`; [0-9.]+ [KMGT]iB are free in`, "; N are free in"},
	} {
		text = regexp.MustCompile(p.from).ReplaceAllString(text, p.to)
	}
	return overMembers(text, steadyRow)
}
