package app

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
)

// texts are the candidates without what they mean.
func (c completion) texts() string {
	var words []string
	for _, w := range c.words {
		words = append(words, w.text)
	}
	return strings.Join(words, " ")
}

func TestComplete(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ line, want string }{ // the last word is being typed, "_" is an empty one
		{"del", "delete"},
		{"snapshot _", "save verify diff restore"},
		{"snapshot ver", "verify"},
		{"help snapshot ver", "verify"},
		{"snapshot help ver", ""},
		{"he", "help"},
		{"help he", ""},
		{"help delete po", ""},
		{"delete --help po", ""},
		{"sandb", ""}, // hidden
		{"__", ""},
		{"bogus _", ""},

		{"delete statefuls", "statefulsets"},
		{"delete statefulsets.", "statefulsets.apps"},
		{"delete pods _", ""}, // names are in etcd
		{"-n x delete statefuls", "statefulsets"},
		{"-nx delete statefuls", "statefulsets"},
		{"delete -n x statefuls", "statefulsets"},
		{"delete --namespace=x statefuls", "statefulsets"},
		{"delete --execute statefuls", "statefulsets"},
		{"delete --no-such-flag statefuls", "statefulsets"},
		{"--endpoints snapshot delete statefuls", "statefulsets"}, // a value, not a command
		{"delete -- statefuls", "statefulsets"},
		{"delete -- --exec", ""},
		{"count pods statefuls", "statefulsets"},
		{"top _", "sizes keys writers"},
		{"top sizes statefuls", "statefulsets"},
		{"top sizes pods statefuls", "statefulsets"},
		{"drill _", scenarioRunawayJob},
		{"drill " + scenarioRunawayJob + " _", ""},
		{"completion _", "bash zsh fish"},
		{"version _", ""},

		{"snapshot verify _", "files"},
		{"snapshot verify a.db _", ""},
		{"snapshot save x", "files"},
		{"snapshot diff a.db _", "files"},
		{"snapshot diff a.db b.db statefuls", "statefulsets"},
		{"apply pl", "files"},
		{"undo a.db _", "files"},
		{"put-back statefuls", "statefulsets"},
		{"put-back pods x y _", ""},

		{"delete --exe", "--execute"},
		{"delete pods --execute --exe", ""},
		{"--exe", "--execute"},
		{"version --exe", ""},
		{"delete --unsafe-kind x --unsafe-k", "--unsafe-kind"}, // may be repeated
		{"delete --hel", "--help"},
		{"delete -n", ""},

		{"count --output _", "table json yaml"},
		{"count -o j", "json"},
		{"count -oj", ""},
		{"count --output=j", "--output=json"},
		{"count -o=j", "-o=json"},
		{"list -o custom", "custom-columns= custom-columns-file="},
		{"list -o jsonpath-file=x", "files"},
		{"list -o jsonpath=x", ""},
		{"count --by na", "namespace"},
		{"count --by namespace,o", "namespace,owner"},
		{"count --by=namespace,n", "--by=namespace,node"},
		{"snapshot diff --show _", "status routine all"},
		{"delete --rate _", "adaptive max"},
		{"delete --phase P", "Pending"},
		{"delete --phase Pending,F", ""}, // takes one
		{"delete --owner jo", "job/"},
		{"delete --owner job/", ""},
		{"delete --unsafe-kind persistentvolumec", "persistentvolumeclaims"},
		{"count --log-level w", "warn"},
		{"count --consistency _", "l s"},
		{"count --from _", "files"},
		{"count --from=x", "files"},
		{"delete --archive-dir _", "directories"},
		{"snapshot restore --mark-compacted=f", "--mark-compacted=false"},
		{"count --namespace _", ""},
		{"count --no-such-flag=x", ""},
		{"count --output=\x1b", ""},
		{"count --by kind\n,ow", ""},
	} {
		t.Run(tc.line, func(t *testing.T) {
			t.Parallel()
			words := strings.Split(tc.line, " ")
			if last := len(words) - 1; words[last] == "_" {
				words[last] = ""
			}
			found := complete(commandTree(), words)
			got := found.texts()
			if found.kind != completeWords {
				got = strings.TrimSpace(found.kind + " " + got)
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestCompleteOffersTheTree: every command, and of each every flag, as help
// lists them.
func TestCompleteOffersTheTree(t *testing.T) {
	t.Parallel()
	commands := commandTree()
	if got, want := complete(commands, nil).texts(), strings.Join(append(firstWords(commands, ""), "help"), " "); got != want {
		t.Errorf("commands: got %s, want %s", got, want)
	}
	for _, c := range shownCommands(commands) {
		var want []string
		for _, category := range categories() {
			for _, d := range documented(c.flags, category) {
				want = append(want, dashed(d.(cli.Flag).Names()[0]))
			}
		}
		want = append(want, "--help")
		slices.Sort(want)
		found := complete(commands, append(strings.Fields(c.name), "-"))
		if diff := cmp.Diff(want, strings.Fields(found.texts())); diff != "" {
			t.Errorf("flags of %s (-want +got):\n%s", c.name, diff)
		}
		for _, w := range found.words {
			if w.about == "" || strings.ContainsAny(w.text+w.about, "\t\n") {
				t.Errorf("%s %s is explained as %q", c.name, w.text, w.about)
			}
		}
	}
}

// TestCompleteFormats: the formats that are offered are those that the command
// itself says it has.
func TestCompleteFormats(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range shownCommands(commandTree()) {
		own := flagTable{}
		own.add(c.flags)
		if own[flagOutput] == nil {
			continue
		}
		args := append(strings.Fields(c.name), "--"+flagOutput, "bogus")
		if c.source {
			args = append(args, "--"+flagFrom, file)
		}
		least := c.minArgs
		if argumentAt(c, 0) == "RESOURCE" {
			least = max(least, 1)
		}
		for i := range least {
			switch _, words := argumentValues(argumentAt(c, i), ""); {
			case len(words) > 0:
				args = append(args, words[0].text)
			default:
				args = append(args, file)
			}
		}
		code, _, stderr := runHere(t, args...)
		_, hint, _ := strings.Cut(strings.Join(strings.Fields(stderr), " "), "hint: it can be any of: ")
		var want []string
		for _, format := range strings.Split(hint, ", ") {
			if slices.Contains([]string{formatJSONPath, formatGoTemplate, formatColumns}, format) {
				want = append(want, format+"=", format+fileSuffix+"=")
				continue
			}
			want = append(want, format)
		}
		got := complete(commandTree(), append(strings.Fields(c.name), "--"+flagOutput, "")).texts()
		if code != exitUsage || got != strings.Join(want, " ") {
			t.Errorf("%s: offered are %s; of another it says, exit code %d: %s", c.name, got, code, stderr)
		}
	}
}

// TestCompleteKnowsValues: of each flag that takes a value it is known what may
// follow. A new name for a value belongs here, or the flag into flagValues.
func TestCompleteKnowsValues(t *testing.T) {
	t.Parallel()
	paths := []string{"FILE", "DIR"}
	free := strings.Fields("AGE BYTES COUNT DOMAIN DURATION EXPRESSION MEMBER N NAME NAME=URL,… PATH PERCENT PREFIX REVISION RULE SELECTOR SHARE TIME TOKEN UID URLS KEY")
	used := map[string]bool{}
	for _, c := range shownCommands(commandTree()) {
		for _, f := range c.flags {
			name := f.Names()[0]
			used[name] = true
			known := name == flagOutput || name == flagOwner || flagValues()[name] != nil
			if takesValue(f) && !known && !slices.Contains(append(paths, free...), valueName(f)) {
				t.Errorf("%s --%s %q: say in flagValues what may follow, or here that it is anything", c.name, name, valueName(f))
			}
		}
	}
	for name := range flagValues() {
		if !used[name] {
			t.Errorf("no command has --%s", name)
		}
	}
}

// TestCompleteResources: what is offered finds the resource, and each has its
// line.
func TestCompleteResources(t *testing.T) {
	t.Parallel()
	catalog := codec.NewCatalog()
	for _, withGroup := range []bool{false, true} {
		offered := map[*codec.Resource]bool{}
		for _, w := range resourceNames(withGroup) {
			r, _, ok := catalog.Lookup(w.text)
			if !ok || offered[r] {
				t.Errorf("%q finds nothing, or what another name finds", w.text)
			}
			offered[r] = true
		}
		for _, r := range catalog.Resources() {
			if !offered[r] && !r.Internal {
				t.Errorf("%s is not offered", r)
			}
		}
	}
	for _, w := range ownerKinds() {
		if _, _, ok := catalog.Lookup(strings.TrimSuffix(w.text, "/")); !ok {
			t.Errorf("%q finds nothing", w.text)
		}
	}
}

// TestCompleteAsksNobody: the answer comes without a look at the environment,
// which names etcd, or at the node, and holds no line but those of the answer.
func TestCompleteAsksNobody(t *testing.T) {
	t.Parallel()
	for _, words := range [][]string{nil, {""}, {"delete", "statefuls"}, {"delete", "pods", "-n", ""}, {"count", "--from", ""}, {"-h"}, {"--", "--"}} {
		var out, errs bytes.Buffer
		code := Run(t.Context(), Process{
			Args:    append([]string{completeCommand, "--"}, words...),
			Streams: term.Streams{In: strings.NewReader(""), Out: &out, Err: &errs},
			Getenv: func(name string) string {
				t.Errorf("%q: it looked at $%s", words, name)
				return ""
			},
			Root: filepath.Join(t.TempDir(), "not there"),
			Now:  time.Now,
		})
		kind, _, _ := strings.Cut(out.String(), "\n")
		if code != exitDone || errs.Len() > 0 || !slices.Contains([]string{completeWords, completeFiles, completeDirectories}, kind) {
			t.Errorf("%q: exit code %d, stderr %q, stdout %q", words, code, &errs, &out)
		}
	}
}

// TestCompletionScriptsAreValid: each installed shell parses its script.
func TestCompletionScriptsAreValid(t *testing.T) {
	t.Parallel()
	parsed := 0
	for _, shell := range shells() {
		path, err := exec.LookPath(shell)
		if err != nil {
			continue
		}
		file := filepath.Join(t.TempDir(), "script")
		if err := os.WriteFile(file, []byte(completionScript(shell)), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(path, "-n", file).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s -n: %v, %s", shell, err, out)
		}
		parsed++
	}
	if parsed == 0 {
		t.Error("no shell is installed, not even bash")
	}
}
