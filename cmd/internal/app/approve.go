package app

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
)

// checkApproval refuses, before anything is read, an --execute that could not
// be confirmed: without a terminal nobody can type the number, and with JSON
// output nobody is there to.
func (inv *invocation) checkApproval(bounded bool) error {
	if !inv.Bool(flagExecute) {
		return nil
	}
	if inv.from() != "" {
		return usage("a file is only read; leave out --from to change the cluster", "--execute and --from contradict each other")
	}
	words := "--yes"
	if bounded {
		words += " and --" + flagMaxDeletes + " N"
	}
	if !inv.Bool(flagYes) {
		if inv.json() {
			return refuse("add "+words, "with -o %s nobody can be asked, so --execute alone is not enough", inv.format())
		}
		if !inv.Streams.Interactive() {
			return refuse("add "+words, "without a terminal nobody can be asked, so --execute alone is not enough")
		}
		return nil
	}
	if bounded && !inv.IsSet(flagMaxDeletes) {
		return refuse("add --"+flagMaxDeletes+" with the largest number that you expect", "--yes needs a bound")
	}
	return nil
}

// confirm asks for the number to be typed, unless --yes was given.
func (inv *invocation) confirm(ctx context.Context, n int64, what string) error {
	if inv.Bool(flagYes) {
		return nil
	}
	prompt := fmt.Sprintf("Type %s to %s: ", strconv.FormatInt(n, 10), what)
	err := term.AskNumber(ctx, inv.Streams, prompt, n)
	if errors.Is(err, term.ErrNotConfirmed) {
		return refuse("", "not confirmed; nothing was changed")
	}
	return err
}

// maxDeletes returns the bound, 0 if there is none.
func (inv *invocation) maxDeletes() (int64, error) {
	if !inv.IsSet(flagMaxDeletes) {
		return 0, nil
	}
	n := inv.Int64(flagMaxDeletes)
	if n <= 0 {
		return 0, usage("", "--%s takes a positive number, got %d", flagMaxDeletes, n)
	}
	return n, nil
}

// commandLine is the audit trail's copy of what was typed, without passwords.
func (inv *invocation) commandLine() string {
	words := []string{"etcd-rescue"}
	secret := false
	for _, arg := range inv.Process.Args {
		name, value, hasValue := strings.Cut(arg, "=")
		switch {
		case secret:
			arg, _, _ = strings.Cut(arg, ":")
			secret = false
		case strings.TrimLeft(name, "-") == flagUser && strings.HasPrefix(name, "-"):
			if hasValue {
				user, _, _ := strings.Cut(value, ":")
				arg = name + "=" + user
			} else {
				secret = true
			}
		}
		words = append(words, quoteWord(arg))
	}
	return strings.Join(words, " ")
}
