package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

func snapshotVerifyCommand() *command {
	return &command{
		name: "snapshot verify", args: "FILE", minArgs: 1, maxArgs: 1,
		summary: "check a snapshot, db file or archive, and print its hash",
		about: "Reads a snapshot, a copy of a member's db file or an archive, each of them also compressed with zstd, and checks all that can be checked: " +
			"the sha256 that a snapshot ends with, the pages of the database, every entry, and an archive's own checksums. " +
			"Says what is broken and where, and ends with exit code 1 then. A copy of a db file has no sha256, so a changed byte inside a value is not noticed there. " +
			"The hash is the one that etcd's members compare (etcdctl endpoint hashkv, etcdutl hashkv): the same revision, compacted revision and content give the same hash. Give etcdutl hashkv a copy: it writes to the file. " +
			"A file that a running etcd has open is refused after 5 seconds. The file is not changed. A compressed file is unpacked into a temporary file first (TMPDIR says where).",
		examples: []string{
			"etcd-rescue snapshot verify backup.db",
			"etcd-rescue snapshot verify backup.db.zst -o json",
			"etcd-rescue snapshot verify backup.db --rev 120340",
		},
		flags: slices.Concat([]cli.Flag{
			&cli.Int64Flag{Name: flagRev, Usage: "hash what was there at `REVISION` (default: the newest)", Category: catOutput},
		}, outputFlags("table, json, yaml")),
		run: runSnapshotVerify,
	}
}

func runSnapshotVerify(ctx context.Context, inv *invocation) error {
	if err := inv.checkFormat(formatTable, formatJSON, formatYAML); err != nil {
		return err
	}
	if err := inv.checkLogLevel(); err != nil {
		return err
	}
	if inv.Int64(flagRev) < 0 {
		return usage("", "--%s takes a revision, got %d", flagRev, inv.Int64(flagRev))
	}
	report, err := snapshots.Verify(ctx, inv.args[0], snapshots.VerifyOptions{Revision: inv.Int64(flagRev)})
	if report == nil {
		return verifyFailure(err)
	}
	if report.Trailer == snapshots.TrailerMissing && report.Kind == snapshots.KindDB {
		inv.say("note: no sha256 at its end: a copy of a member's db file, whose bytes cannot be checked against a sum")
	}
	show := inv.showVerified
	if inv.format() != formatTable {
		show = inv.documentVerified
	}
	if showErr := show(report); showErr != nil {
		return showErr
	}
	return err
}

// verifyFailure adds what to do about a file that could not be verified.
func verifyFailure(err error) error {
	switch {
	case errors.Is(err, snapshots.ErrLocked):
		return &failure{exitFailed, err, "a running etcd has it open: take a snapshot of that one (etcd-rescue snapshot save), and verify it"}
	case errors.Is(err, snapshots.ErrFutureRev), errors.Is(err, snapshots.ErrCompacted):
		return usage("leave out --"+flagRev+" for the newest revision", "%w", err)
	}
	return err
}

func (inv *invocation) showVerified(r *snapshots.Report) error {
	kind := string(r.Kind)
	if r.Compressed {
		kind += ", compressed with zstd"
	}
	rows := [][2]string{
		{"FILE", r.Path},
		{"KIND", kind},
		{"SIZE", inv.size(r.Bytes)},
	}
	if r.Kind != snapshots.KindArchive {
		rows = append(rows, [2]string{"SHA256", string(r.Trailer)})
	}
	if r.Pages > 0 { // else nothing could be read
		rows = append(rows, [][2]string{
			{"PAGES", inv.number(r.Pages)},
			{"FREE PAGES", inv.number(r.Free)},
			{"KEYS", inv.number(r.Keys)},
			{"ENTRIES", inv.number(r.Entries)},
			{"DELETIONS", inv.number(r.Tombstones)},
			{"REVISION", strconv.FormatInt(r.Revision, 10)},
		}...)
	}
	if r.Pages > 0 && r.Kind != snapshots.KindArchive {
		rows = append(rows, [2]string{"COMPACTED", strconv.FormatInt(r.Compacted, 10)})
	}
	if h := r.HashKV; h != nil {
		rows = append(rows, [2]string{"HASH", strconv.FormatUint(uint64(h.Hash), 10)},
			[2]string{"HASH REVISION", strconv.FormatInt(h.Revision, 10)})
	}
	for _, p := range r.Problems {
		rows = append(rows, [2]string{"PROBLEM", p})
	}
	if r.MoreProblems > 0 {
		rows = append(rows, [2]string{"PROBLEM", fmt.Sprintf("%s more", inv.number(int64(r.MoreProblems)))})
	}
	verdict := "sound"
	if len(r.Problems) > 0 {
		verdict = "damaged"
	}
	t := inv.table()
	for _, row := range append(rows, [2]string{"VERDICT", verdict}) {
		t.Row(row[0], row[1])
	}
	return t.Flush()
}

func (inv *invocation) documentVerified(r *snapshots.Report) error {
	doc := map[string]any{
		"version": 1, "kind": "snapshotVerify", "file": r.Path, "bytes": r.Bytes, "compressed": r.Compressed,
		"holds": string(r.Kind), "trailer": string(r.Trailer), "pages": r.Pages, "freePages": r.Free,
		"keys": r.Keys, "entries": r.Entries, "deletions": r.Tombstones, "revision": r.Revision, "compacted": r.Compacted,
		"sound": len(r.Problems) == 0, "problems": append([]string{}, r.Problems...), "moreProblems": r.MoreProblems,
	}
	if h := r.HashKV; h != nil {
		doc["hash"] = map[string]any{"hash": h.Hash, "revision": h.Revision, "compactRevision": h.CompactRevision}
	}
	return inv.document(doc)
}

// sayDamage says what could not be read of the command's files so far, once. It
// returns the path of one that is damaged, "" if none is.
func (inv *invocation) sayDamage() (damaged string) {
	for _, f := range inv.files {
		for _, text := range f.Damage() {
			damaged = f.Path()
			if line := damaged + ": " + text; !inv.damage[line] {
				inv.damage[line] = true
				inv.say("warning: %s", line)
			}
		}
	}
	return damaged
}

// afterFiles makes it the command's exit code that a file is damaged, unless it
// failed otherwise.
func (inv *invocation) afterFiles(err error) error {
	damaged := inv.sayDamage()
	if damaged == "" || err != nil && !errors.Is(err, errSomething) {
		return err
	}
	return partial("what was written there is missing here, and objects that were changed or deleted there are shown as they were before; take another copy, or an older snapshot. "+
		"All that is broken: etcd-rescue snapshot verify "+term.Clean(damaged), "%q is damaged, and was read as far as it is sound", damaged)
}
