package app

import (
	"bytes"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// roff is one man page in the macros of man(7), of which those are used that
// both groff and mandoc know.
type roff struct{ strings.Builder }

func newPage(name, summary string) *roff {
	p := &roff{}
	// No date and no version: the page changes when what it says does.
	p.macro("TH", strings.ToUpper(manName(name)), "1", "", "etcd-rescue", "etcd-rescue manual")
	p.macro("SH", "NAME")
	p.text(manName(name) + " - " + summary)
	return p
}

// macro writes one request, its arguments quoted.
func (p *roff) macro(name string, args ...string) {
	p.WriteString("." + name)
	for _, arg := range args {
		p.WriteString(` "` + escape(arg) + `"`)
	}
	p.WriteString("\n")
}

// text writes paragraphs, which empty lines divide.
func (p *roff) text(text string) {
	for i, paragraph := range strings.Split(text, "\n\n") {
		if i > 0 {
			p.WriteString(".PP\n")
		}
		for line := range strings.SplitSeq(paragraph, "\n") {
			p.WriteString(protect(escape(line)) + "\n")
		}
	}
}

// item writes a term in bold and what it means.
func (p *roff) item(term, about string) {
	p.WriteString(".TP\n")
	p.macro("B", term)
	p.text(about)
}

// example writes lines as they are typed.
func (p *roff) example(lines []string) {
	p.WriteString(".EX\n")
	for _, line := range lines {
		p.WriteString(protect(escape(line)) + "\n")
	}
	p.WriteString(".EE\n")
}

func (p *roff) exitCodes() {
	p.macro("SH", "EXIT STATUS")
	for _, e := range exitCodes() {
		p.item(fmt.Sprint(e.code), e.meaning)
	}
}

func (p *roff) seeAlso(names ...string) {
	p.macro("SH", "SEE ALSO")
	for i, name := range names {
		comma := ","
		if i == len(names)-1 {
			comma = ""
		}
		fmt.Fprintf(p, ".BR %s (1)%s\n", escape(name), comma)
	}
}

// escape keeps every character what it is: a plain - would be a hyphen that
// cannot be searched for or copied, and what is not ASCII depends on who reads.
func escape(text string) string {
	special := map[rune]string{'\\': `\e`, '-': `\-`, '"': `\(dq`, '\'': `\(aq`, '`': `\(ga`, '^': `\(ha`, '~': `\(ti`}
	var b strings.Builder
	for _, r := range text {
		switch s, ok := special[r]; {
		case ok:
			b.WriteString(s)
		case r > '~':
			fmt.Fprintf(&b, `\[u%04X]`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// protect keeps a line of text from being taken for a request.
func protect(line string) string {
	if strings.HasPrefix(line, ".") {
		return `\&` + line
	}
	return line
}

func mainPage(commands []*command) string {
	p := newPage("", "look at, count, delete and put back Kubernetes objects straight in etcd")
	p.macro("SH", "SYNOPSIS")
	p.WriteString(".B etcd\\-rescue\nCOMMAND [ARGUMENT\\[u2026]] [flags]\n")
	p.macro("SH", "DESCRIPTION")
	p.text(intro + "\n\nFlags may stand anywhere on the line, also before the command.")
	p.macro("SH", "COMMANDS")
	for _, c := range shownCommands(commands) {
		p.item(c.name, c.summary)
	}
	p.macro("SH", "ENVIRONMENT")
	p.item("ETCDCTL_*", "What etcdctl's flags of the same name take, for those that are not given. ETCDCTL_PASSWORD is the password of --user.")
	p.item("NO_COLOR", "If it is set, no colour is used.")
	p.item("TMPDIR", "Where compressed snapshots are unpacked, and throwaway etcds live.")
	p.exitCodes()
	names := []string{}
	for _, c := range shownCommands(commands) {
		names = append(names, manName(c.name))
	}
	p.seeAlso(append(names, "etcdctl", "kubectl")...)
	return p.String()
}

func groupPage(group string, members []*command) string {
	p := newPage(group, groupSummaries()[group])
	p.macro("SH", "SYNOPSIS")
	fmt.Fprintf(p, ".B etcd\\-rescue %s\nCOMMAND [ARGUMENT\\[u2026]] [flags]\n", escape(group))
	p.macro("SH", "COMMANDS")
	names := []string{manName("")}
	for _, c := range members {
		p.item(c.name, c.summary)
		names = append(names, manName(c.name))
	}
	p.seeAlso(names...)
	return p.String()
}

func manPage(c *command) string {
	p := newPage(c.name, c.summary)
	p.macro("SH", "SYNOPSIS")
	fmt.Fprintf(p, ".B %s\n", escape("etcd-rescue "+c.name))
	if rest := strings.TrimPrefix(synopsis(c), "etcd-rescue "+c.name); rest != "" {
		p.text(strings.TrimSpace(rest))
	}
	p.macro("SH", "DESCRIPTION")
	p.text(c.about)
	if len(c.flags) > 0 {
		p.macro("SH", "OPTIONS")
	}
	for _, category := range categories() {
		flags := documented(c.flags, category)
		if len(flags) > 0 {
			p.macro("SS", category)
		}
		for _, d := range flags {
			p.item(flagNames(d.(cli.Flag), d), flagText(d))
		}
	}
	if len(c.examples) > 0 {
		p.macro("SH", "EXAMPLES")
		p.example(c.examples)
	}
	p.exitCodes()
	names := []string{manName("")}
	if group, _, two := strings.Cut(c.name, " "); two {
		names = append(names, manName(group))
	}
	p.seeAlso(names...)
	return p.String()
}

// TestReferenceManPagesAreRoff: nothing but the requests that are meant, and
// no character that a terminal without UTF-8 could not show. Where groff is
// installed it has no complaint.
func TestReferenceManPagesAreRoff(t *testing.T) {
	t.Parallel()
	request := regexp.MustCompile(`^\.(TH|SH|SS|TP|PP|B|BR|EX|EE)( |$)`)
	groff, _ := exec.LookPath("groff")
	for name, page := range manPages(commandTree()) {
		for i, line := range strings.Split(strings.TrimSuffix(page, "\n"), "\n") {
			if strings.HasPrefix(line, "'") || (strings.HasPrefix(line, ".") && !request.MatchString(line)) {
				t.Errorf("%s:%d is taken for a request: %s", name, i+1, line)
			}
			if line == "" || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("%s:%d is empty, or not ASCII: %q", name, i+1, line)
			}
		}
		if groff != "" {
			cmd := exec.Command(groff, "-man", "-Tutf8", "-ww")
			cmd.Stdin = strings.NewReader(page)
			var complaints bytes.Buffer
			cmd.Stderr = &complaints
			if err := cmd.Run(); err != nil || complaints.Len() > 0 {
				t.Errorf("%s: groff says %s, %v", name, complaints.String(), err)
			}
		}
	}
}
