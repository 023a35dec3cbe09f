package app

import (
	"cmp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// parsed is a command line taken apart: cli itself stops looking for flags at
// the first argument, and would drop what stands after it.
type parsed struct {
	command *command
	group   string   // the first word of commands of two, if that is all there is
	flags   []string // as cli wants them, before the arguments
	args    []string
	help    bool
}

// flagTable knows every flag of every command. The same flag means the same
// everywhere, so flags may stand before the command's name as well.
type flagTable map[string]cli.Flag

func (t flagTable) add(flags []cli.Flag) {
	for _, f := range flags {
		for _, name := range f.Names() {
			t[name] = f
		}
	}
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}

func isSlice(f cli.Flag) bool {
	_, ok := f.(*cli.StringSliceFlag)
	return ok
}

// parseArgs finds the command and sorts flags from arguments. A flag that the
// command does not have is an error wherever it stands; so is one that is
// given twice and can hold one value only.
func parseArgs(commands []*command, args []string) (*parsed, error) {
	all := flagTable{}
	for _, c := range commands {
		all.add(c.flags)
	}
	p := &parsed{}
	var given []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--":
			p.args = append(p.args, args[i+1:]...)
			i = len(args)
		case arg == "-h" || arg == "--help":
			p.help = true
		case len(arg) > 1 && arg[0] == '-':
			used, name, err := p.takeFlag(all, args[i:])
			if err != nil {
				return p, p.unknownOr(commands, err)
			}
			given = append(given, name)
			i += used - 1
		default:
			p.args = append(p.args, arg)
		}
	}
	return p, p.settle(commands, given)
}

// takeFlag reads one flag and its value from the front of args.
func (p *parsed) takeFlag(all flagTable, args []string) (used int, name string, err error) {
	text := strings.TrimLeft(args[0], "-")
	name, value, hasValue := strings.Cut(text, "=")
	f, ok := all[name]
	if !ok && !strings.HasPrefix(args[0], "--") && len(text) > 1 {
		// -ojson and -nkube-system, as kubectl allows.
		if short, known := all[text[:1]]; known && takesValue(short) {
			f, ok, name, value, hasValue = short, true, text[:1], text[1:], true
		}
	}
	if !ok {
		return 0, "", usage(suggestFlag(all, name), "unknown flag %s", args[0])
	}
	used = 1
	if takesValue(f) && !hasValue {
		if len(args) < 2 {
			return 0, "", usage("", "flag %s needs a value", args[0])
		}
		if _, isFlag := all[strings.TrimLeft(args[1], "-")]; isFlag && strings.HasPrefix(args[1], "-") {
			return 0, "", usage("to pass such a value, write "+args[0]+"="+args[1], "flag %s needs a value, and %s is a flag", args[0], args[1])
		}
		value, hasValue, used = args[1], true, 2
	}
	if hasValue {
		p.flags = append(p.flags, "--"+name+"="+value)
	} else {
		p.flags = append(p.flags, "--"+name)
	}
	return used, name, nil
}

// unknownOr prefers to complain of an unknown command.
func (p *parsed) unknownOr(commands []*command, err error) error {
	if p.command = findCommand(commands, p.args); p.command == nil && len(p.args) > 0 && !(len(p.args) == 1 && isGroup(commands, p.args[0])) {
		return unknownCommand(commands, p.args)
	}
	return err
}

// findCommand returns the command that args begin with. A name may be of two words,
// such as "snapshot save"; what stands between them was sorted out before.
func findCommand(commands []*command, args []string) *command {
	for _, c := range commands {
		group, leaf, two := strings.Cut(c.name, " ")
		switch {
		case len(args) == 0 || args[0] != group:
		case !two, len(args) > 1 && args[1] == leaf:
			return c
		}
	}
	return nil
}

// words is how many words the command's name has.
func (c *command) words() int { return 1 + strings.Count(c.name, " ") }

// membersOf returns the commands whose first word of two is that one.
func membersOf(commands []*command, group string) []*command {
	var members []*command
	for _, c := range commands {
		if first, _, two := strings.Cut(c.name, " "); two && first == group {
			members = append(members, c)
		}
	}
	return members
}

func isGroup(commands []*command, word string) bool { return len(membersOf(commands, word)) > 0 }

func (p *parsed) settle(commands []*command, given []string) error {
	if len(p.args) > 0 && p.args[0] == "help" {
		p.help, p.args = true, p.args[1:]
	} else if len(p.args) > 1 && p.args[1] == "help" && isGroup(commands, p.args[0]) {
		p.help, p.args = true, slices.Delete(p.args, 1, 2)
	}
	if len(p.args) == 0 {
		return nil
	}
	if p.command = findCommand(commands, p.args); p.command == nil {
		if len(p.args) > 1 || !isGroup(commands, p.args[0]) {
			return unknownCommand(commands, p.args)
		}
		if len(given) > 0 && !p.help {
			return usage("the commands are: "+joinWords(firstWords(membersOf(commands, p.args[0]), p.args[0]+" ")), "%s needs a command", p.args[0])
		}
		p.group, p.args = p.args[0], nil
		return nil
	}
	p.args = p.args[p.command.words():]
	own := flagTable{}
	own.add(p.command.flags)
	seen := map[cli.Flag]bool{}
	for _, name := range given {
		f, ok := own[name]
		if !ok {
			return usage("see: etcd-rescue "+p.command.name+" --help", "%s has no flag %s", p.command.name, dashed(name))
		}
		if seen[f] && !isSlice(f) {
			return usage("", "flag %s is given twice", dashed(name))
		}
		seen[f] = true
	}
	return p.checkCount()
}

func (p *parsed) checkCount() error {
	c := p.command
	if p.help {
		return nil
	}
	if len(p.args) < c.minArgs || (c.maxArgs >= 0 && len(p.args) > c.maxArgs) {
		return usage(strings.TrimSpace("usage: etcd-rescue "+c.name+" "+c.args), "%s takes %s, got %q", c.name, cmp.Or(c.args, "no arguments"), p.args)
	}
	return nil
}

// unknownCommand explains words that begin no command: the second of them if
// the first is that of a group.
func unknownCommand(commands []*command, args []string) error {
	group := ""
	if len(args) > 1 && isGroup(commands, args[0]) {
		group, commands, args = args[0]+" ", membersOf(commands, args[0]), args[1:]
	}
	names := firstWords(commands, group)
	hint := "the commands are: " + joinWords(names)
	if near := nearest(args[0], names); near != "" {
		hint = "did you mean: etcd-rescue " + group + near
	}
	return usage(hint, "unknown command %q", group+args[0])
}

// firstWords lists what may stand after the words of prefix, each once.
func firstWords(commands []*command, prefix string) []string {
	var names []string
	for _, c := range commands {
		name, _, _ := strings.Cut(strings.TrimPrefix(c.name, prefix), " ")
		if !c.hidden && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func suggestFlag(all flagTable, name string) string {
	var names []string
	for n := range all {
		names = append(names, n)
	}
	slices.Sort(names)
	if near := nearest(name, names); near != "" {
		return "did you mean --" + near
	}
	return ""
}

// nearest returns the candidate that name is the beginning of, or that is
// within two edits of it, "" if none is. Of a name of three letters two edits
// leave nothing, so one must do.
func nearest(name string, candidates []string) string {
	best, distance := "", 3
	if len(name) < 4 {
		distance = 2
	}
	for _, c := range candidates {
		d := edits(name, c)
		if len(name) > 2 && strings.HasPrefix(c, name) {
			d = min(d, 1)
		}
		if len(c) > 2 && d < distance {
			best, distance = c, d
		}
	}
	return best
}

func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// dashed writes a flag as it is typed.
func dashed(name string) string { return strings.Repeat("-", min(len(name), 2)) + name }
