// Package app is the command tree: it turns flags into options, calls the
// packages that do the work, shows what they found, and maps errors to exit
// codes and hints. Every change of a key goes through recover/apply; every
// command without approval changes nothing.
package app

import (
	"context"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// Process is what a command may know of the process that it runs in.
type Process struct {
	Args    []string // without the program's name
	Streams term.Streams
	Getenv  func(string) string
	Root    string // of the file system that the node is looked at through
	Now     func() time.Time
}

// command is one leaf of the command tree.
type command struct {
	name     string // of one word, or of two whose first is that of a group
	args     string // for the usage line
	summary  string
	about    string
	examples []string
	minArgs  int
	maxArgs  int // -1: any number
	hidden   bool
	// source says that --from names where data comes from, and the connection
	// what is changed. Elsewhere the file is read instead of etcd.
	source bool
	flags  []cli.Flag
	run    func(ctx context.Context, inv *invocation) error
}

// invocation is one call of a command.
type invocation struct {
	*cli.Context
	Process
	command *command
	args    []string
	files   []*snapshots.File // that were read, and may be damaged
	damage  map[string]bool   // what was said of them
}

// Run carries out one command line and returns the exit code. A cancelled ctx
// is an interrupt: what is in flight is finished and reported.
func Run(ctx context.Context, p Process) int {
	commands := commandTree()
	line, err := parseArgs(commands, p.Args)
	asJSON := wantsJSON(line.flags)
	switch {
	case err != nil:
	case line.group != "":
		printGroupHelp(p.Streams, commands, line.group)
	case line.command == nil:
		printHelp(p.Streams, commands)
	case line.help:
		printCommandHelp(p.Streams, line.command)
	default:
		err = runCommand(ctx, p, line)
	}
	return report(err, p.Streams, asJSON)
}

func commandTree() []*command {
	return []*command{
		statusCommand(), connectCommand(),
		countCommand(), listCommand(), getCommand(), historyCommand(), resourcesCommand(), topCommand(),
		deleteCommand(), applyCommand(), undoCommand(), putBackCommand(),
		snapshotSaveCommand(), snapshotVerifyCommand(), snapshotDiffCommand(), snapshotRestoreCommand(),
		reclaimCommand(), compactCommand(), defragCommand(), disarmCommand(),
		rehearseCommand(), drillCommand(), completionCommand(), versionCommand(),
		sandboxCommand(), candidatesCommand(),
	}
}

// runCommand hands one leaf to cli. The tree is made anew for every run,
// because cli changes it; everything that would make cli print or exit by
// itself is switched off.
func runCommand(ctx context.Context, p Process, line *parsed) error {
	quiet := func(_ *cli.Context, err error, _ bool) error { return usage("", "%w", err) }
	leaf := &cli.Command{
		Name: line.command.name, Flags: line.command.flags,
		HideHelp: true, HideHelpCommand: true, OnUsageError: quiet,
		Action: func(c *cli.Context) error {
			inv := &invocation{Context: c, Process: p, command: line.command, args: line.args, damage: map[string]bool{}}
			return inv.afterFiles(line.command.run(ctx, inv))
		},
	}
	app := &cli.App{
		Name: "etcd-rescue", Commands: []*cli.Command{leaf},
		HideHelp: true, HideHelpCommand: true, HideVersion: true,
		Writer: io.Discard, ErrWriter: io.Discard,
		ExitErrHandler: func(*cli.Context, error) {}, OnUsageError: quiet,
		DisableSliceFlagSeparator: true,
		InvalidFlagAccessHandler:  undefinedFlag,
	}
	args := append([]string{app.Name, leaf.Name}, line.flags...)
	return app.RunContext(ctx, append(args, "--"))
}

// undefinedFlag ends the process when our own code reads a flag that the
// command does not have: cli would answer with a zero value, and an unread
// safety flag is worse than a crash before anything is done.
func undefinedFlag(_ *cli.Context, name string) {
	if name != "help" && name != "h" { // cli itself looks for these
		panic("undefined flag " + name)
	}
}
