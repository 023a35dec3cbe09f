package app

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
)

// taken is a parsed command line in plain values.
type taken struct {
	Command string
	Group   string
	Flags   []string
	Args    []string
	Help    bool
}

func TestParseArgs(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		line string // words by blanks, "_" is an empty word
		want taken
	}{
		{"", taken{}},
		{"--help", taken{Help: true}},
		{"help", taken{Help: true}},
		{"help delete", taken{Command: "delete", Help: true}},
		{"delete -h", taken{Command: "delete", Help: true}},
		{"get --help too many words here", taken{Command: "get", Args: []string{"too", "many", "words", "here"}, Help: true}},
		{"count", taken{Command: "count"}},
		{"delete pods -n x --execute", taken{Command: "delete", Flags: []string{"--n=x", "--execute"}, Args: []string{"pods"}}},
		{"delete pods a --execute b -n x c", taken{Command: "delete", Flags: []string{"--execute", "--n=x"}, Args: []string{"pods", "a", "b", "c"}}},
		{"--endpoints http://a -n x delete pods", taken{Command: "delete", Flags: []string{"--endpoints=http://a", "--n=x"}, Args: []string{"pods"}}},
		{"list pods -ojson -nteam", taken{Command: "list", Flags: []string{"--o=json", "--n=team"}, Args: []string{"pods"}}},
		{"list pods -o=json -n=team", taken{Command: "list", Flags: []string{"--o=json", "--n=team"}, Args: []string{"pods"}}},
		{"list pods -output wide", taken{Command: "list", Flags: []string{"--output=wide"}, Args: []string{"pods"}}},
		{"list pods -l a=b", taken{Command: "list", Flags: []string{"--l=a=b"}, Args: []string{"pods"}}},
		{"list pods --selector=a=b,c!=d", taken{Command: "list", Flags: []string{"--selector=a=b,c!=d"}, Args: []string{"pods"}}},
		{"list pods -l _", taken{Command: "list", Flags: []string{"--l="}, Args: []string{"pods"}}},
		{"list pods -A", taken{Command: "list", Flags: []string{"--A"}, Args: []string{"pods"}}},
		{"list --etcd-key a --etcd-key b,c", taken{Command: "list", Flags: []string{"--etcd-key=a", "--etcd-key=b,c"}}},
		{"delete pods --max-deletes -1", taken{Command: "delete", Flags: []string{"--max-deletes=-1"}, Args: []string{"pods"}}},
		{"list -- pods -n x", taken{Command: "list", Args: []string{"pods", "-n", "x"}}},
		{"-- count", taken{Command: "count"}},
		{"list pods -", taken{Command: "list", Args: []string{"pods", "-"}}},
		{"snapshot", taken{Group: "snapshot"}},
		{"snapshot --help", taken{Group: "snapshot", Help: true}},
		{"help snapshot", taken{Group: "snapshot", Help: true}},
		{"snapshot help", taken{Group: "snapshot", Help: true}},
		{"-o json snapshot --help", taken{Group: "snapshot", Flags: []string{"--o=json"}, Help: true}},
		{"snapshot help save", taken{Command: "snapshot save", Help: true}},
		{"snapshot save", taken{Command: "snapshot save"}},
		{"snapshot save a.db", taken{Command: "snapshot save", Args: []string{"a.db"}}},
		{"snapshot save -", taken{Command: "snapshot save", Args: []string{"-"}}},
		{"snapshot -o json save --endpoints http://a f.db", taken{Command: "snapshot save", Flags: []string{"--o=json", "--endpoints=http://a"}, Args: []string{"f.db"}}},
		{"--endpoints http://a snapshot save", taken{Command: "snapshot save", Flags: []string{"--endpoints=http://a"}}},
		{"snapshot -- save -x", taken{Command: "snapshot save", Args: []string{"-x"}}},
		{"snapshot save --help", taken{Command: "snapshot save", Help: true}},
		{"help snapshot save", taken{Command: "snapshot save", Help: true}},
		{"delete pods h help", taken{Command: "delete", Args: []string{"pods", "h", "help"}}},
	} {
		t.Run(tc.line, func(t *testing.T) {
			t.Parallel()
			p, err := parseArgs(commandTree(), words(tc.line))
			if err != nil {
				t.Fatal(err)
			}
			got := taken{Group: p.group, Flags: p.flags, Args: p.args, Help: p.help}
			if p.command != nil {
				got.Command = p.command.name
			}
			if len(got.Args) == 0 {
				got.Args = nil
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func words(line string) []string {
	fields := strings.Fields(line)
	for i, f := range fields {
		if f == "_" {
			fields[i] = ""
		}
	}
	return fields
}

func TestParseArgsRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ line, message, hint string }{
		{"lst", `unknown command "lst"`, "did you mean: etcd-rescue list"},
		{"bogus --nonsense", `unknown command "bogus"`, "the commands are: " + joinWords(firstWords(commandTree(), ""))},
		{"sandbox", `unknown command "sandbox"`, "the commands are: " + joinWords(firstWords(commandTree(), ""))},
		{"--nonsense", "unknown flag --nonsense", ""},
		{"delete pods --execut", "unknown flag --execut", "did you mean --execute"},
		{"delete pods --Execute", "unknown flag --Execute", "did you mean --execute"},
		{"delete pods -x", "unknown flag -x", ""},
		{"delete pods ---", "unknown flag ---", ""},
		{"delete pods -An x", "unknown flag -An", ""},
		{"count --execute", "count has no flag --execute", "see: etcd-rescue count --help"},
		{"version --endpoints x", "version has no flag --endpoints", "see: etcd-rescue version --help"},
		{"get pod -A x", "get has no flag -A", "see: etcd-rescue get --help"},
		{"delete pods --owner", "flag --owner needs a value", ""},
		{"delete pods --owner --yes", "flag --owner needs a value, and --yes is a flag", "to pass such a value, write --owner=--yes"},
		{"delete pods -n -A", "flag -n needs a value, and -A is a flag", "to pass such a value, write -n=-A"},
		{"list pods -n a -n b", "flag -n is given twice", ""},
		{"list pods -n a --namespace b", "flag --namespace is given twice", ""},
		{"delete pods --execute --execute", "flag --execute is given twice", ""},
		{"apply", "apply takes PLAN, got []", "usage: etcd-rescue apply PLAN"},
		{"apply a b", `apply takes PLAN, got ["a" "b"]`, "usage: etcd-rescue apply PLAN"},
		{"undo", "undo takes ARCHIVE…, got []", "usage: etcd-rescue undo ARCHIVE…"},
		{"snapshto save", `unknown command "snapshto"`, "did you mean: etcd-rescue snapshot"},
		{"snapshot sve", `unknown command "snapshot sve"`, "did you mean: etcd-rescue snapshot save"},
		{"snapshot bogus f", `unknown command "snapshot bogus"`, snapshotWords()},
		{"snapshot sve --nonsense", `unknown command "snapshot sve"`, "did you mean: etcd-rescue snapshot save"},
		{"snapshot --nonsense", "unknown flag --nonsense", ""},
		{"snapshot --compress zstd", "snapshot needs a command", snapshotWords()},
		{"-o json snapshot", "snapshot needs a command", snapshotWords()},
		{"help snapshot sve", `unknown command "snapshot sve"`, "did you mean: etcd-rescue snapshot save"},
		{"save", `unknown command "save"`, "the commands are: " + joinWords(firstWords(commandTree(), ""))},
		{"snapshot save a b", `snapshot save takes [FILE|-], got ["a" "b"]`, "usage: etcd-rescue snapshot save [FILE|-]"},
		{"status x", `status takes no arguments, got ["x"]`, "usage: etcd-rescue status"},
		{"snapshot save --execute", "snapshot save has no flag --execute", "see: etcd-rescue snapshot save --help"},
		{"help dleete", `unknown command "dleete"`, "did you mean: etcd-rescue delete"},
	} {
		t.Run(tc.line, func(t *testing.T) {
			t.Parallel()
			_, err := parseArgs(commandTree(), words(tc.line))
			if err == nil {
				t.Fatal("it was accepted")
			}
			code, hint := explain(err)
			if err.Error() != tc.message || hint != tc.hint || code != exitUsage {
				t.Errorf("got %q, %q, %d, want %q, %q, %d", err, hint, code, tc.message, tc.hint, exitUsage)
			}
		})
	}
}

// snapshotWords is the hint that lists the commands of group snapshot.
func snapshotWords() string {
	return "the commands are: " + strings.Join(firstWords(membersOf(commandTree(), "snapshot"), "snapshot "), ", ")
}

// TestGroups: a word is a command or a group, never both, and a group says
// what it is.
func TestGroups(t *testing.T) {
	t.Parallel()
	for _, c := range commandTree() {
		group, _, two := strings.Cut(c.name, " ")
		if c.words() > 2 {
			t.Errorf("%q has more than two words", c.name)
		}
		if two && groupSummaries()[group] == "" {
			t.Errorf("group %q has no summary", group)
		}
		if !two && isGroup(commandTree(), c.name) {
			t.Errorf("%q is both a command and a group", c.name)
		}
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	names := []string{"count", "list", "get", "delete", "o"}
	for name, want := range map[string]string{
		"lst": "list", "lisst": "list", "conut": "count", "delete": "delete", "del": "delete", "dlt": "", "bogus": "", "": "", "o": "", "gt": "get",
	} {
		if got := nearest(name, names); got != want {
			t.Errorf("nearest(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestEdits(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"abc", "abc", 0}, {"kitten", "sitting", 3}, {"pods", "podz", 1}, {"ab", "ba", 2}} {
		if got := edits(tc.a, tc.b); got != tc.want {
			t.Errorf("edits(%q, %q) = %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}

func TestQuoteWord(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{
		"pods": "pods", "/a/b-c_d.e:f,g=h@i": "/a/b-c_d.e:f,g=h@i", "": "''", "a b": "'a b'", "it's": `'it'\''s'`,
		"$HOME": "'$HOME'", "a;b": "'a;b'", "*": "'*'", "~/x": "'~/x'", "a\nb": "'a\nb'", "größe": "'größe'", "a!=b": "'a!=b'",
	} {
		if got := quoteWord(word); got != want {
			t.Errorf("quoteWord(%q) = %s, want %s", word, got, want)
		}
	}
}

// TestCommandLineHoldsNoPassword: the audit trail, plans and reports show what
// was typed, and a password is none of it.
func TestCommandLineHoldsNoPassword(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"delete", "pods", "-n", "a b"}, "etcd-rescue delete pods -n 'a b'"},
		{[]string{"count", "--user", "root:hunter2"}, "etcd-rescue count --user root"},
		{[]string{"count", "--user=root:hunter2", "pods"}, "etcd-rescue count --user=root pods"},
		{[]string{"count", "-user", "root:hunter2"}, "etcd-rescue count -user root"},
		{[]string{"--user", "root:hunt:er2", "count"}, "etcd-rescue --user root count"},
		{[]string{"count", "--user", "root", "--password-file", "secret"}, "etcd-rescue count --user root --password-file secret"},
		{[]string{"count", "--", "--user", "x"}, "etcd-rescue count -- --user x"},
	} {
		inv := &invocation{Process: Process{Args: tc.args}}
		if got := inv.commandLine(); got != tc.want {
			t.Errorf("%q: got %s, want %s", tc.args, got, tc.want)
		}
	}
}

func TestConnectionWordsHoldNoPassword(t *testing.T) {
	t.Parallel()
	got := ""
	c := countCommand()
	c.run = func(_ context.Context, inv *invocation) error { got = inv.connectionWords(); return nil }
	line, err := parseArgs([]*command{c}, words("count --user root:hunter2 --endpoints http://a,http://b --cacert ca --insecure-skip-tls-verify --etcd-prefix /x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := runCommand(t.Context(), Process{}, line); err != nil {
		t.Fatal(err)
	}
	want := " --endpoints http://a,http://b --cacert ca --etcd-prefix /x --user root --insecure-skip-tls-verify"
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestHeadWriter(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		lines  int
		all    bool
		writes []string
		want   string
	}{
		{"fewer lines", 3, false, []string{"a\nb\n"}, "a\nb\n"},
		{"as many", 2, false, []string{"a\nb\n"}, "a\nb\n"},
		{"one more", 2, false, []string{"a\nb\nc\n"}, "a\nb\n… and 1 more line\n"},
		{"in pieces", 1, false, []string{"a", "a\nb", "b\n", "c\n"}, "aa\n… and 2 more lines\n"},
		{"a last line without its end", 1, false, []string{"a\nb"}, "a\n"},
		{"everything", 0, true, []string{"a\n", "b\n"}, "a\nb\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			h := &headWriter{out: &out, left: tc.lines, all: tc.all}
			for _, w := range tc.writes {
				if n, err := h.Write([]byte(w)); n != len(w) || err != nil {
					t.Fatalf("Write(%q) = %d, %v", w, n, err)
				}
			}
			if h.finish(); out.String() != tc.want {
				t.Errorf("got %q, want %q", out.String(), tc.want)
			}
		})
	}
}

// TestFlags: every flag of every command is described, stands in a category
// that help shows, and the same name means the same everywhere.
func TestFlags(t *testing.T) {
	t.Parallel()
	shown := []string{catApproval, catPace, catSelection, catOutput, catOther, catConnection}
	kinds := map[string]string{}
	for _, c := range commandTree() {
		for _, f := range c.flags {
			name := f.Names()[0]
			d, ok := f.(cli.DocGenerationFlag)
			if !ok || d.GetUsage() == "" || len(d.GetEnvVars()) > 0 {
				t.Errorf("%s --%s: no description, or a variable that sets it", c.name, name)
				continue
			}
			category := f.(cli.CategorizableFlag).GetCategory()
			if !slices.Contains(shown, category) {
				t.Errorf("%s --%s stands in category %q, which help does not show", c.name, name, category)
			}
			if d.TakesValue() && strings.Count(d.GetUsage(), "`") != 2 {
				t.Errorf("%s --%s: its value has no name", c.name, name)
			}
			kind := fmt.Sprintf("%s (%T)", strings.Join(f.Names(), " "), f)
			kind = strings.Replace(kind, "Slice", "", 1) // one may be repeated here and not there
			if before, known := kinds[name]; known && before != kind {
				t.Errorf("%s --%s is %s here and %s elsewhere", c.name, name, kind, before)
			}
			kinds[name] = kind
		}
	}
}

// shellWords are those of a command as a shell would give them to a program.
func shellWords(line string) (words []string) {
	line = strings.TrimSuffix(strings.TrimPrefix(strings.ReplaceAll(line, "\\\n", " "), "source <("), ")")
	for _, word := range regexp.MustCompile(`(?:'[^']*'|[^\s'])+`).FindAllString(line, -1) {
		if word == ">" {
			break
		}
		words = append(words, strings.ReplaceAll(word, "'", ""))
	}
	return words
}

// TestExamplesParse: what help shows can be typed.
func TestExamplesParse(t *testing.T) {
	t.Parallel()
	for _, c := range commandTree() {
		if c.hidden {
			continue
		}
		if len(c.examples) == 0 || c.about == "" || c.summary == "" {
			t.Errorf("%s has no examples or no text", c.name)
		}
		for _, example := range c.examples {
			line := shellWords(example)
			p, err := parseArgs(commandTree(), line[1:])
			if err != nil || line[0] != "etcd-rescue" || p.command.name != c.name {
				t.Errorf("%s: %v", example, err)
				continue
			}
			p.command.run = func(context.Context, *invocation) error { return nil }
			if err := runCommand(t.Context(), Process{}, p); err != nil {
				t.Errorf("%s: %v", example, err)
			}
		}
	}
}
