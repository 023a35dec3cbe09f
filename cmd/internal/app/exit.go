package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/recover/apply"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// The exit codes. The table is append-only: scripts depend on it.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitPartial     = 3
	exitRefused     = 4
	exitConnect     = 5
	exitSomething   = 6
	exitInterrupted = 130
)

type exitCode struct {
	code    int
	meaning string
}

func exitCodes() []exitCode {
	return []exitCode{
		{exitDone, "done"},
		{exitFailed, "failed, or the archive cannot be written"},
		{exitUsage, "bad invocation: unknown flag or resource, no selection"},
		{exitPartial, "finished, but not all is well: items failed, skipped or unreadable"},
		{exitRefused, "refused: guard, bound, unfit plan, unknown namespace, not approved"},
		{exitConnect, "cannot reach etcd or authenticate to it"},
		{exitSomething, "there is something to do (only with --detailed-exit-code)"},
		{exitInterrupted, "interrupted"},
	}
}

// failure is an error with the exit code and the advice that go with it.
type failure struct {
	code int
	err  error
	hint string
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func usage(hint, format string, args ...any) error {
	return &failure{exitUsage, fmt.Errorf(format, args...), hint}
}

func refuse(hint, format string, args ...any) error {
	return &failure{exitRefused, fmt.Errorf(format, args...), hint}
}

func partial(hint, format string, args ...any) error {
	return &failure{exitPartial, fmt.Errorf(format, args...), hint}
}

// errSomething ends a preview under --detailed-exit-code. It is no message.
var errSomething = errors.New("there is something to do")

// noLeaderHint is for reads that need a leader and got no answer.
const noLeaderHint = "etcd may have lost its quorum, or be overloaded: look at status and at its logs. To read what one member still holds, which may be old, try --" + flagConsistency + " s"

// explain finds the exit code and the hint of an error.
func explain(err error) (code int, hint string) {
	var f *failure
	var c *connect.Error
	var noLeader *keyspace.NoLeaderError
	var kine *keyspace.KineError
	var compacted *keyspace.CompactedError
	var future *keyspace.FutureError
	switch {
	case err == nil:
		return exitDone, ""
	case errors.Is(err, errSomething):
		return exitSomething, ""
	case errors.As(err, &f):
		return f.code, f.hint
	case errors.Is(err, context.Canceled):
		return exitInterrupted, ""
	case errors.As(err, &c):
		return exitConnect, c.Hint
	case errors.Is(err, filter.ErrUsage):
		return exitUsage, ""
	case errors.As(err, &future):
		return exitUsage, "the history command lists the revisions of an object"
	case errors.As(err, &compacted) && compacted.Oldest > 0:
		return exitFailed, "etcd does not keep older revisions; look into a snapshot with --from"
	case errors.As(err, &compacted):
		return exitFailed, "nothing was changed; run the command again, it reads at the newest revision. If it happens every time, the read is slower than the compaction interval: narrow the selection (-n), or read a snapshot with --from"
	}
	if code, hint, ok := explainFiles(err); ok {
		return code, hint
	}
	switch {
	case errors.As(err, &noLeader):
		return exitConnect, noLeaderHint
	case errors.As(err, &kine):
		return exitFailed, "nothing was changed; run it again, in case that kine was changing just then. If it happens every time, do not act on what this kine lists"
	}
	return exitFailed, ""
}

func explainFiles(err error) (code int, hint string, ok bool) {
	switch {
	case errors.Is(err, plan.ErrDamaged):
		return exitRefused, "nothing was changed; make the plan again, by the command that made it with --plan FILE", true
	case errors.Is(err, plan.ErrForeign):
		return exitRefused, "check --endpoints; to carry it out here all the same, pass --unsafe-cluster with the UID that the plan was made for, none if it names none", true
	case errors.Is(err, plan.ErrExpired):
		return exitRefused, "make the plan again, or allow its age with --max-plan-age", true
	case errors.Is(err, snapshots.ErrLocked):
		return exitFailed, "another process holds the file: a running etcd, or another etcd-rescue; for a running etcd read it live, without --from", true
	case errors.Is(err, apply.ErrArchive):
		return exitFailed, "nothing is deleted that is not archived; name a place with room by --archive-dir and run it again", true
	case errors.Is(err, snapshots.ErrNotDB):
		return exitFailed, "give an etcd snapshot, a member's db file or an archive; of compressed ones zstd is read, others are unpacked first", true
	case errors.Is(err, snapshots.ErrNoSpace):
		return exitFailed, "name a directory with room for what it unpacks to by TMPDIR, or unpack it on another machine (zstd -d)", true
	case errors.Is(err, snapshots.ErrDamaged):
		return exitFailed, "the file is damaged: take another copy, or an older snapshot", true
	case errors.Is(err, apply.ErrCorruptAlarm):
		return exitFailed, "find out which member is wrong (etcdctl endpoint hashkv), replace it, disarm the alarm, and carry on with the command above", true
	case errors.Is(err, apply.ErrDenied):
		return exitConnect, "use a user or certificate that may read and write below the prefix", true
	case errors.Is(err, apply.ErrNoSpace):
		return exitFailed, "make room first (etcd-rescue reclaim), then carry on with the command above", true
	case errors.Is(err, apply.ErrOldNoSpace):
		return exitFailed, "make room first (etcd-rescue reclaim without a selection); or delete without the guard, one at a time, with --unsafe-unguarded and the number of objects", true
	case errors.Is(err, apply.ErrSilent):
		return exitFailed, "look at etcd first (status of its members, its disk, its logs); once it answers, carry on with the command above", true
	}
	return 0, "", false
}

// report prints an error and returns its exit code.
func report(err error, s term.Streams, asJSON bool) int {
	code, hint := explain(err)
	if err == nil || errors.Is(err, errSomething) {
		return code
	}
	text := err.Error()
	if errors.Is(err, context.Canceled) && code == exitInterrupted {
		text = "interrupted"
	}
	if asJSON {
		reportJSON(s.Err, code, text, hint)
		return code
	}
	fmt.Fprintf(s.Err, "etcd-rescue: %s\n", cleanLines(text))
	if hint != "" {
		fmt.Fprintln(s.Err, term.Wrap("hint: "+cleanLines(hint), width(s.ErrWidth)))
	}
	return code
}

func reportJSON(w io.Writer, code int, text, hint string) {
	type body struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Hint    string `json:"hint,omitempty"`
	}
	b, err := json.Marshal(struct {
		Version int  `json:"version"`
		Error   body `json:"error"`
	}{1, body{code, text, hint}})
	if err == nil {
		fmt.Fprintln(w, string(b))
	}
}

func width(w int) int {
	if w <= 0 {
		return 80
	}
	return min(w, 100)
}

func joinWords(words []string) string { return strings.Join(words, ", ") }
