package app

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// completeCommand is what the shells' scripts run for each press of the key.
const completeCommand = "__complete"

func completionCommand() *command {
	return &command{
		name: "completion", args: "bash|zsh|fish", minArgs: 1, maxArgs: 1,
		summary: "print a script for a shell to complete commands, flags and values",
		about: "Prints a script for the shell to load. The script asks this program for the words, so they are always those of the version that is installed; " +
			"etcd is not asked, so names of objects are not completed.\n\n" +
			"bash: source <(etcd-rescue completion bash), or keep it as /etc/bash_completion.d/etcd-rescue. " +
			"zsh: source <(etcd-rescue completion zsh) after compinit, or keep it as _etcd-rescue in a directory of $fpath. " +
			"fish: etcd-rescue completion fish | source, or keep it as ~/.config/fish/completions/etcd-rescue.fish.",
		examples: []string{
			"source <(etcd-rescue completion bash)",
			"etcd-rescue completion zsh > /usr/local/share/zsh/site-functions/_etcd-rescue",
			"etcd-rescue completion fish > ~/.config/fish/completions/etcd-rescue.fish",
		},
		run: runCompletion,
	}
}

// shells are those that there is a script for, in the order of the help.
func shells() []string { return []string{"bash", "zsh", "fish"} }

func completionScript(shell string) string {
	switch shell {
	case "bash":
		return bashCompletion
	case "zsh":
		return zshCompletion
	case "fish":
		return fishCompletion
	}
	return ""
}

func runCompletion(_ context.Context, inv *invocation) error {
	shell := inv.args[0]
	if !slices.Contains(shells(), shell) {
		return usage("there is one for: "+joinWords(shells()), "no completion for the shell %q", shell)
	}
	_, err := fmt.Fprint(inv.Streams.Out, completionScript(shell))
	return err
}

// candidatesCommand answers a script: its arguments are the words of the line
// behind the program's name up to the cursor, the last of them perhaps empty.
// The first line of the answer says what may stand there, words, files or
// directories; each other line is a word, a tab, and what it means. It reads
// neither the environment nor the node.
func candidatesCommand() *command {
	return &command{
		name: completeCommand, args: "[WORD…]", maxArgs: -1, hidden: true,
		summary: "print what may stand at the end of a command line",
		run: func(_ context.Context, inv *invocation) error {
			found := complete(commandTree(), inv.args)
			var b strings.Builder
			fmt.Fprintln(&b, found.kind)
			for _, w := range found.words {
				fmt.Fprintf(&b, "%s\t%s\n", w.text, w.about)
			}
			_, err := fmt.Fprint(inv.Streams.Out, b.String())
			return err
		},
	}
}
