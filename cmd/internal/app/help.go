package app

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
)

const (
	intro = "etcd-rescue looks at, counts, deletes and puts back Kubernetes objects straight in etcd, " +
		"for the hour in which the API server cannot be used. Nothing is changed without --execute; " +
		"every delete is archived first and can be undone."
	helpIndent = "  "
)

func printHelp(s term.Streams, commands []*command) {
	w, columns := s.Out, width(s.OutWidth)
	fmt.Fprintf(w, "%s\n\nCommands:\n", term.Wrap(intro, columns))
	for _, word := range firstWords(commands, "") {
		fmt.Fprintf(w, "%s%-10s %s\n", helpIndent, word, summaryOf(commands, word))
	}
	fmt.Fprintf(w, "\nBegin with:\n")
	for _, e := range []string{"etcd-rescue drill runaway-job", "etcd-rescue status", "etcd-rescue count", "etcd-rescue delete pods -n NAMESPACE --owner job/NAME"} {
		fmt.Fprintf(w, "%s%s\n", helpIndent, e)
	}
	fmt.Fprintf(w, "\nHelp on one of them, with its flags: etcd-rescue COMMAND --help\n")
	printExitCodes(w)
}

// summaryOf is the line of a command, or of a group of them, in the list of all.
func summaryOf(commands []*command, word string) string {
	if isGroup(commands, word) {
		return joinWords(firstWords(membersOf(commands, word), word+" ")) + ": see etcd-rescue " + word + " --help"
	}
	return findCommand(commands, []string{word}).summary
}

// printGroupHelp lists the commands that begin with the same word.
func printGroupHelp(s term.Streams, commands []*command, group string) {
	members := membersOf(commands, group)
	widest := 0
	for _, c := range members {
		widest = max(widest, len(c.name))
	}
	fmt.Fprintf(s.Out, "%s: %s\n\nCommands:\n", group, groupSummaries()[group])
	for _, c := range members {
		fmt.Fprintf(s.Out, "%s%-*s  %s\n", helpIndent, widest, c.name, c.summary)
	}
	fmt.Fprintf(s.Out, "\nHelp on one of them, with its flags: etcd-rescue %s COMMAND --help\n", group)
	printExitCodes(s.Out)
}

// groupSummaries says what the commands of a group have in common.
func groupSummaries() map[string]string {
	return map[string]string{"snapshot": "take, check, compare and restore whole stores"}
}

func printCommandHelp(s term.Streams, c *command) {
	w, columns := s.Out, width(s.OutWidth)
	fmt.Fprintf(w, "%s: %s\n\nUsage: etcd-rescue %s\n", c.name, c.summary, strings.TrimSpace(c.name+" "+c.args+" [flags]"))
	if c.about != "" {
		fmt.Fprintf(w, "\n%s\n", term.Wrap(c.about, columns))
	}
	if len(c.examples) > 0 {
		fmt.Fprintf(w, "\nExamples:\n")
		for _, e := range c.examples {
			fmt.Fprintf(w, "%s%s\n", helpIndent, e)
		}
	}
	for _, category := range []string{catApproval, catPace, catSelection, catOutput, catOther, catConnection} {
		printFlags(w, c.flags, category, columns)
	}
	printExitCodes(w)
}

func printFlags(w io.Writer, flags []cli.Flag, category string, columns int) {
	const left = 26
	first := true
	for _, f := range flags {
		d, ok := f.(cli.DocGenerationFlag)
		if c, has := f.(cli.CategorizableFlag); !ok || !has || c.GetCategory() != category {
			continue
		}
		if v, ok := f.(cli.VisibleFlag); ok && !v.IsVisible() {
			continue
		}
		if first {
			fmt.Fprintf(w, "\n%s:\n", category)
			first = false
		}
		name := flagNames(f, d)
		lines := strings.Split(term.Wrap(flagText(d), columns-left-2), "\n")
		if len(name) > left-3 {
			fmt.Fprintf(w, "%s%s\n", helpIndent, name)
			name = ""
		}
		for i, line := range lines {
			if i > 0 {
				name = ""
			}
			fmt.Fprintf(w, "%s%-*s%s\n", helpIndent, left-2, name, line)
		}
	}
}

// flagNames writes -n, --namespace NAME. The value's name stands in back
// quotes in the usage text, as the flag package has it.
func flagNames(f cli.Flag, d cli.DocGenerationFlag) string {
	names := slices.Clone(f.Names())
	slices.SortFunc(names, func(a, b string) int { return len(a) - len(b) })
	for i, n := range names {
		names[i] = dashed(n)
	}
	text := strings.Join(names, ", ")
	if d.TakesValue() {
		value := "VALUE"
		if parts := strings.Split(d.GetUsage(), "`"); len(parts) == 3 {
			value = parts[1]
		}
		text += " " + value
	}
	return text
}

func flagText(d cli.DocGenerationFlag) string {
	text := strings.ReplaceAll(d.GetUsage(), "`", "")
	if def := d.GetDefaultText(); def != "" && d.TakesValue() && def != `""` && def != "0" && def != "0s" {
		text += " (default " + strings.Trim(def, `"`) + ")"
	}
	return text
}

func printExitCodes(w io.Writer) {
	fmt.Fprintf(w, "\nExit codes:\n")
	for _, e := range exitCodes() {
		fmt.Fprintf(w, "%s%3d  %s\n", helpIndent, e.code, e.meaning)
	}
}
