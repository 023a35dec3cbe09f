package app

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
)

const (
	docsFolder      = "../../../docs"
	commandsFile    = "commands.md"
	manFolder       = "man"
	howToRegenerate = "go test ./cmd/internal/app -run Reference -update"
)

// TestReferenceIsGenerated: docs/commands.md and the pages of docs/man are what
// the command tree says, no more and no less. With -update it writes them.
func TestReferenceIsGenerated(t *testing.T) {
	t.Parallel()
	want := manPages(commandTree())
	want[commandsFile] = commandsPage(commandTree())
	got := map[string]string{}
	for name := range want {
		got[name] = "" // one that is not there
	}
	pages, err := filepath.Glob(filepath.Join(docsFolder, manFolder, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(pages, filepath.Join(docsFolder, commandsFile)) {
		name, err := filepath.Rel(docsFolder, path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		got[name] = string(b)
	}
	if diff := cmp.Diff(got, want); diff != "" && !*update {
		t.Errorf("docs differ from the command tree (-docs +tree); %s writes them anew:\n%s", howToRegenerate, diff)
	}
	if *update {
		writeReference(t, got, want)
	}
}

func writeReference(t *testing.T, got, want map[string]string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(docsFolder, manFolder), 0o755); err != nil {
		t.Fatal(err)
	}
	for name := range got {
		path := filepath.Join(docsFolder, name)
		text, ok := want[name]
		if !ok { // of a command that is no more
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReferenceNamesEverything: each command that help lists has a section of
// its own that names its flags, and every link within the page leads somewhere.
func TestReferenceNamesEverything(t *testing.T) {
	t.Parallel()
	page := commandsPage(commandTree())
	anchors := map[string]bool{}
	for _, heading := range regexp.MustCompile(`(?m)^##+ (.*)$`).FindAllStringSubmatch(page, -1) {
		anchors[anchor(heading[1])] = true
	}
	for _, link := range regexp.MustCompile(`\]\(#([^)]*)\)`).FindAllStringSubmatch(page, -1) {
		if !anchors[link[1]] {
			t.Errorf("a link leads to #%s, which is not there", link[1])
		}
	}
	_, connection, _ := strings.Cut(page, "## "+connectionHeading)
	connection, _, _ = strings.Cut(connection, "\n## ")
	for _, c := range shownCommands(commandTree()) {
		_, section, ok := strings.Cut(page, "\n## "+c.name+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		if !ok {
			t.Errorf("%s has no section", c.name)
		}
		for _, f := range c.flags {
			name := dashed(f.Names()[0])
			if !namesFlag(section, name) && !(strings.Contains(section, "#"+anchor(connectionHeading)) && namesFlag(connection, name)) {
				t.Errorf("the section of %s does not name %s", c.name, name)
			}
		}
	}
}

// namesFlag reports whether a table's first column has the flag.
func namesFlag(text, flag string) bool {
	return regexp.MustCompile("(?m)^\\| `(-[a-zA-Z], )?" + regexp.QuoteMeta(flag) + "[` ]").MatchString(text)
}

// shownCommands are those that help lists.
func shownCommands(commands []*command) []*command {
	return slices.DeleteFunc(slices.Clone(commands), func(c *command) bool { return c.hidden })
}

// categories are those of flags, in the order of help.
func categories() []string {
	return []string{catApproval, catPace, catSelection, catOutput, catOther, catConnection}
}

// documented are the visible flags of one category.
func documented(flags []cli.Flag, category string) []cli.DocGenerationFlag {
	var found []cli.DocGenerationFlag
	for _, f := range flags {
		d, ok := f.(cli.DocGenerationFlag)
		c, has := f.(cli.CategorizableFlag)
		v, can := f.(cli.VisibleFlag)
		if ok && has && c.GetCategory() == category && (!can || v.IsVisible()) {
			found = append(found, d)
		}
	}
	return found
}

const (
	connectionHeading = "Flags of the connection"
	codesHeading      = "Exit codes"
)

// commandsPage is docs/commands.md.
func commandsPage(commands []*command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Commands\n\nMade from the command tree by `%s`; each section is what `etcd-rescue COMMAND --help` says. The same as [man pages](man).\n\n%s\n\n",
		howToRegenerate, markdown(intro))
	fmt.Fprintf(&b, "Flags may stand anywhere on the line, also before the command.\n\n| command | |\n|---|---|\n")
	for _, c := range shownCommands(commands) {
		fmt.Fprintf(&b, "| [%s](#%s) | %s |\n", c.name, anchor(c.name), markdown(c.summary))
	}
	for _, c := range shownCommands(commands) {
		writeCommand(&b, c)
	}
	fmt.Fprintf(&b, "\n## %s\n\n", connectionHeading)
	fmt.Fprintf(&b, "What is not given is taken from etcdctl's variables `ETCDCTL_*`, and else from what is found on the node.\n")
	writeFlags(&b, documented(commonConnection(commands), catConnection))
	fmt.Fprintf(&b, "\n## %s\n\n| code | meaning |\n|---|---|\n", codesHeading)
	for _, e := range exitCodes() {
		fmt.Fprintf(&b, "| %d | %s |\n", e.code, markdown(e.meaning))
	}
	return b.String()
}

func writeCommand(b *strings.Builder, c *command) {
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n```\n%s\n```\n\n%s\n", c.name, markdown(sentence(c.summary)), synopsis(c), markdown(c.about))
	if len(c.examples) > 0 {
		fmt.Fprintf(b, "\nExamples:\n\n```sh\n%s\n```\n", strings.Join(c.examples, "\n"))
	}
	for _, category := range categories() {
		flags := documented(c.flags, category)
		if category == catConnection && len(flags) > 0 {
			writeConnection(b, flags)
			continue
		}
		if len(flags) > 0 {
			fmt.Fprintf(b, "\n**%s**\n", category)
			writeFlags(b, flags)
		}
	}
}

// writeConnection refers to the one table of flags that nearly every command
// has, and lists what this command has besides or lacks.
func writeConnection(b *strings.Builder, flags []cli.DocGenerationFlag) {
	text := func(d cli.DocGenerationFlag) string { return flagNames(d.(cli.Flag), d) + flagText(d) }
	has := func(list []cli.DocGenerationFlag, d cli.DocGenerationFlag) bool {
		return slices.ContainsFunc(list, func(e cli.DocGenerationFlag) bool { return text(d) == text(e) })
	}
	common := documented(commonConnection(commandTree()), catConnection)
	var own []cli.DocGenerationFlag
	var lacks []string
	for _, d := range flags {
		if !has(common, d) {
			own = append(own, d)
		}
	}
	for _, d := range common {
		if !has(flags, d) {
			lacks = append(lacks, "`"+dashed(d.(cli.Flag).Names()[0])+"`")
		}
	}
	fmt.Fprintf(b, "\n**Connection**: the [flags of the connection](#%s)", anchor(connectionHeading))
	if len(lacks) > 0 {
		fmt.Fprintf(b, ", without %s", strings.Join(lacks, ", "))
	}
	if len(own) == 0 {
		fmt.Fprintf(b, ".\n")
		return
	}
	fmt.Fprintf(b, ", and\n")
	writeFlags(b, own)
}

// commonConnection are the connection flags of the command that has most.
func commonConnection(commands []*command) []cli.Flag {
	most := slices.MaxFunc(commands, func(a, b *command) int {
		return len(documented(a.flags, catConnection)) - len(documented(b.flags, catConnection))
	})
	return most.flags
}

func writeFlags(b *strings.Builder, flags []cli.DocGenerationFlag) {
	fmt.Fprintf(b, "\n| flag | |\n|---|---|\n")
	for _, d := range flags {
		names := strings.ReplaceAll(flagNames(d.(cli.Flag), d), "|", `\|`)
		fmt.Fprintf(b, "| `%s` | %s |\n", names, strings.ReplaceAll(markdown(flagText(d)), "|", `\|`))
	}
}

func synopsis(c *command) string {
	text := "etcd-rescue " + c.name
	if c.args != "" {
		text += " " + c.args
	}
	if len(c.flags) > 0 {
		text += " [flags]"
	}
	return text
}

// sentence begins with a capital and ends in a full stop.
func sentence(text string) string {
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// markdown keeps plain text from being taken for anything else.
func markdown(text string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "_", `\_`, "<", `\<`, "[", `\[`, "`", "\\`").Replace(text)
}

// anchor is what a heading of lower-case words can be linked by.
func anchor(heading string) string {
	return strings.ReplaceAll(strings.ToLower(heading), " ", "-")
}

// manPages are the pages of docs/man: one for the program, for each group of
// commands and for each command.
func manPages(commands []*command) map[string]string {
	pages := map[string]string{manFile(""): mainPage(commands)}
	for _, c := range shownCommands(commands) {
		pages[manFile(c.name)] = manPage(c)
	}
	for _, group := range slices.Sorted(maps.Keys(groupSummaries())) {
		pages[manFile(group)] = groupPage(group, membersOf(shownCommands(commands), group))
	}
	return pages
}

func manFile(name string) string { return filepath.Join(manFolder, manName(name)+".1") }

func manName(name string) string {
	return strings.TrimSuffix("etcd-rescue-"+strings.ReplaceAll(name, " ", "-"), "-")
}
