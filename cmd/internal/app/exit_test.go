package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	wrap := func(err error) error { return fmt.Errorf("some step: %w", err) }
	for _, tc := range []struct {
		name string
		err  error
		code int
		hint string // that the hint begins with, "" for none
	}{
		{"nothing", nil, 0, ""},
		{"anything", errors.New("x"), 1, ""},
		{"usage", wrap(usage("do so", "x")), 2, "do so"},
		{"selection", wrap(fmt.Errorf("%w: x", filter.ErrUsage)), 2, ""},
		{"partial", wrap(partial("look", "x")), 3, "look"},
		{"refused", wrap(refuse("narrow it", "x")), 4, "narrow it"},
		{"damaged plan", wrap(plan.ErrDamaged), 4, "nothing was changed; make the plan again"},
		{"foreign plan", wrap(plan.ErrForeign), 4, "check --endpoints"},
		{"expired plan", wrap(plan.ErrExpired), 4, "make the plan again"},
		{"endpoint", wrap(&connect.Error{Endpoint: "a", Hint: "start it"}), 5, "start it"},
		{"endpoints", errors.Join(&connect.Error{Hint: "first"}, &connect.Error{Hint: "second"}), 5, "first"},
		{"setting", settingFailure(&connect.SettingError{Setting: "--cert", Err: os.ErrNotExist, Hint: "look"}), 5, "look"},
		{"something to do", wrap(errSomething), 6, ""},
		{"interrupted", wrap(context.Canceled), 130, ""},
		{"compacted", wrap(&keyspace.CompactedError{Revision: 7}), 1, "nothing was changed; run the command again"},
		{"no leader", wrap(&keyspace.NoLeaderError{Err: context.DeadlineExceeded}), 5, "etcd may have lost its quorum"},
		{"kine contradicts itself", wrap(&keyspace.KineError{Prefix: "/registry/", Text: "x"}), 1, "nothing was changed; run it again"},
		{"archive", wrap(apply.ErrArchive), 1, "nothing is deleted that is not archived"},
		{"locked file", wrap(snapshots.ErrLocked), 1, "another process holds the file"},
		{"no db file", wrap(snapshots.ErrNotDB), 1, "give an etcd snapshot"},
		{"a refusal of a cancelled read", refuse("no", "%w", context.Canceled), 4, "no"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			code, hint := explain(tc.err)
			if code != tc.code || (tc.hint == "") != (hint == "") || !strings.HasPrefix(hint, tc.hint) {
				t.Errorf("got %d, %q, want %d, %q", code, hint, tc.code, tc.hint)
			}
		})
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		err  error
		json bool
		code int
		want string
	}{
		{"done", nil, false, 0, ""},
		{"something to do", errSomething, true, 6, ""},
		{"for people", usage("write it so", "it is %q", "so"), false, 2, "etcd-rescue: it is \"so\"\nhint: write it so\n"},
		{"without a hint", refuse("", "no"), false, 4, "etcd-rescue: no\n"},
		{"interrupt", fmt.Errorf("read: %w", context.Canceled), false, 130, "etcd-rescue: interrupted\n"},
		{"as JSON", refuse("h", "no\n"), true, 4, `{"version":1,"error":{"code":4,"message":"no\n","hint":"h"}}` + "\n"},
		{"as JSON without a hint", errors.New("x"), true, 1, `{"version":1,"error":{"code":1,"message":"x"}}` + "\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var out, errOut bytes.Buffer
			code := report(tc.err, term.Streams{Out: &out, Err: &errOut}, tc.json)
			if code != tc.code || errOut.String() != tc.want || out.Len() > 0 {
				t.Errorf("got %d, %q, stdout %q, want %d, %q", code, errOut.String(), out.String(), tc.code, tc.want)
			}
		})
	}
}

// TestExitCodes: the table of help is the table of the constants, in order.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	want := []int{0, 1, 2, 3, 4, 5, 6, 130}
	for i, e := range exitCodes() {
		if i >= len(want) || e.code != want[i] || e.meaning == "" {
			t.Errorf("exit code %d (%q) is not number %d of %v", e.code, e.meaning, i, want)
		}
	}
	if len(exitCodes()) != len(want) {
		t.Errorf("%d exit codes, want %d", len(exitCodes()), len(want))
	}
}

// TestHelpFits: the help of all, and of a group, fits in 80 columns too.
func TestHelpFits(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := term.Streams{Out: &out, OutWidth: 80}
	printHelp(s, shownCommands(commandTree()))
	for group := range groupSummaries() {
		printGroupHelp(s, shownCommands(commandTree()), group)
	}
	for line := range strings.Lines(out.String()) {
		if n := len([]rune(line)); n > 81 {
			t.Errorf("a line of %d columns: %s", n, line)
		}
	}
}

// TestHelpShowsEveryFlag: each flag of a command stands in its help, once, and
// all of it fits in 80 columns.
func TestHelpShowsEveryFlag(t *testing.T) {
	t.Parallel()
	for _, c := range commandTree() {
		var out bytes.Buffer
		printCommandHelp(term.Streams{Out: &out}, c)
		for _, f := range c.flags {
			for _, name := range f.Names() {
				if len(name) == 1 {
					continue
				}
				re := regexp.MustCompile(`(?m)^  (-\w, )?--` + regexp.QuoteMeta(name) + `( |$)`)
				if n := len(re.FindAllString(out.String(), -1)); n != 1 {
					t.Errorf("the help of %s shows --%s %d times", c.name, name, n)
				}
			}
		}
		for line := range strings.Lines(out.String()) {
			if n := len([]rune(line)); n > 81 {
				t.Errorf("the help of %s has a line of %d columns: %s", c.name, n, line)
			}
		}
	}
}
