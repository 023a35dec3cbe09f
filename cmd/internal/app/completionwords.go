package app

import (
	"cmp"
	"slices"
	"strings"
	"unicode"

	"github.com/urfave/cli/v2"
)

// What the end of a command line may be.
const (
	completeWords       = "words" // none but those that are named
	completeFiles       = "files"
	completeDirectories = "directories"
)

// candidate is a word that may stand where the cursor is. One that ends in =
// or / is not finished: no blank belongs behind it.
type candidate struct{ text, about string }

// completion is what may stand at the end of a command line.
type completion struct {
	kind  string
	words []candidate
}

// typedLine is a command line up to the word that is being typed. Unlike
// parseArgs it lets pass whatever it does not understand: the line is not
// finished, and what is wrong with it is said when it is run.
type typedLine struct {
	command *command // nil as long as it is not clear which
	args    []string // without the words of the command's name
	given   map[string]bool
	waiting cli.Flag // takes the next word as its value
	ended   bool     // by "--": what follows are arguments
	help    bool
}

// complete says what the last of words may become. Each candidate stands for
// that whole word.
func complete(commands []*command, words []string) completion {
	shown := slices.DeleteFunc(slices.Clone(commands), func(c *command) bool { return c.hidden })
	last := ""
	if len(words) > 0 {
		words, last = words[:len(words)-1], words[len(words)-1]
	}
	none := completion{kind: completeWords}
	if strings.ContainsFunc(last, unicode.IsControl) {
		return none // it would be repeated in the answer, whose lines it could break
	}
	flags := allFlags(shown)
	line := readLine(shown, flags, words)
	flag, value, assigned := strings.Cut(last, "=")
	switch f, _ := flags.find(flag); {
	case line.waiting != nil:
		return line.value(line.waiting, "", last)
	case line.ended || !strings.HasPrefix(last, "-"):
		return line.argument(shown, last)
	case !assigned:
		return completion{completeWords, line.flags(flags, last)}
	case f != nil:
		return line.value(f, flag+"=", value)
	}
	return none
}

func allFlags(commands []*command) flagTable {
	all := flagTable{}
	for _, c := range commands {
		all.add(c.flags)
	}
	return all
}

// find returns the flag of a word as it is typed, and whether its value stands
// in the same word; nil if it is no flag.
func (t flagTable) find(word string) (f cli.Flag, assigned bool) {
	name, _, assigned := strings.Cut(strings.TrimLeft(word, "-"), "=")
	if f := t[name]; f != nil {
		return f, assigned
	}
	if short := t[name[:min(1, len(name))]]; short != nil && !strings.HasPrefix(word, "--") && takesValue(short) {
		return short, true // -nkube-system
	}
	return nil, assigned
}

func readLine(commands []*command, flags flagTable, words []string) *typedLine {
	l := &typedLine{given: map[string]bool{}}
	var plain []string
	for _, word := range words {
		switch {
		case l.waiting != nil:
			l.waiting = nil
		case l.ended || len(word) < 2 || word[0] != '-':
			plain = append(plain, word)
		case word == "--":
			l.ended = true
		case word == "-h" || word == "--help":
			l.help = true
		default:
			f, assigned := flags.find(word)
			if f == nil {
				continue
			}
			l.given[f.Names()[0]] = true
			if takesValue(f) && !assigned {
				l.waiting = f
			}
		}
	}
	if len(plain) > 0 && plain[0] == "help" {
		l.help, plain = true, plain[1:]
	}
	l.args = plain
	if l.command = findCommand(commands, plain); l.command != nil {
		l.args = plain[l.command.words():]
	}
	return l
}

// flags are those of the command, or of all while it is not known, as flags
// may stand before it. What is given already cannot be given again.
func (l *typedLine) flags(all flagTable, typed string) []candidate {
	own := all
	if l.command != nil {
		own = flagTable{}
		own.add(l.command.flags)
	}
	found := []candidate{{"--help", "explain the command and its flags"}}
	for name, f := range own {
		d, ok := f.(cli.DocGenerationFlag)
		if v, can := f.(cli.VisibleFlag); !ok || name != f.Names()[0] || (can && !v.IsVisible()) || (l.given[name] && !isSlice(f)) {
			continue
		}
		found = append(found, candidate{dashed(name), flagText(d)})
	}
	found = slices.DeleteFunc(found, func(c candidate) bool { return !strings.HasPrefix(c.text, typed) })
	slices.SortFunc(found, func(a, b candidate) int { return strings.Compare(a.text, b.text) })
	return found
}

// value completes the value of a flag, of which the shell keeps what stands
// before.
func (l *typedLine) value(f cli.Flag, before, typed string) completion {
	if l.command != nil { // the same flag may take other words there
		own := flagTable{}
		own.add(l.command.flags)
		f = cmp.Or(own[f.Names()[0]], f)
	}
	kind, words, list := valuesOf(f, typed)
	found := completion{kind: kind}
	used := map[string]bool{}
	if end := strings.LastIndexByte(typed, ','); list && end >= 0 {
		for _, word := range strings.Split(typed[:end], ",") {
			used[word] = true
		}
		before, typed = before+typed[:end+1], typed[end+1:]
	}
	for _, w := range words {
		if strings.HasPrefix(w.text, typed) && !used[w.text] {
			found.words = append(found.words, candidate{before + w.text, w.about})
		}
	}
	return found
}

// argument completes what is no flag: the words of the command's name, and
// then what its usage line names.
func (l *typedLine) argument(commands []*command, typed string) completion {
	found := completion{kind: completeWords}
	var words []candidate
	switch {
	case l.command == nil && len(l.args) == 0:
		words = commandWords(commands, "")
		if !l.help {
			words = append(words, candidate{"help", "explain a command and its flags"})
		}
	case l.command == nil && len(l.args) == 1 && isGroup(commands, l.args[0]):
		words = commandWords(commands, l.args[0]+" ")
	case l.command != nil && !l.help:
		found.kind, words = argumentValues(argumentAt(l.command, len(l.args)), typed)
	}
	for _, w := range words {
		if strings.HasPrefix(w.text, typed) {
			found.words = append(found.words, w)
		}
	}
	return found
}

// commandWords are the words that may follow those of prefix in the name of a
// command.
func commandWords(commands []*command, prefix string) []candidate {
	members := slices.DeleteFunc(slices.Clone(commands), func(c *command) bool { return !strings.HasPrefix(c.name, prefix) })
	var words []candidate
	for _, word := range firstWords(members, prefix) {
		about := groupSummaries()[word]
		if prefix != "" || about == "" {
			about = findCommand(members, strings.Fields(prefix+word)).summary
		}
		words = append(words, candidate{word, about})
	}
	return words
}

// argumentAt is what the command's usage line calls the argument at an index,
// "" if it names none there.
func argumentAt(c *command, index int) string {
	names, _, _ := strings.Cut(c.args, "--")
	fields := strings.Fields(strings.NewReplacer("[", " ", "]", " ").Replace(names))
	if len(fields) == 0 {
		return ""
	}
	if index >= len(fields) {
		if index = len(fields) - 1; !strings.HasSuffix(fields[index], "…") {
			return ""
		}
	}
	return strings.TrimSuffix(fields[index], "…")
}
