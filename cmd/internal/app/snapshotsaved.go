package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

// memberFailure is why no member was chosen.
func memberFailure(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, etcdmembers.ErrUnknown):
		return usage("--"+flagMember+" takes an id, a name or a client URL", "%w", err)
	case errors.Is(err, etcdmembers.ErrLearner):
		return refuse("take it from a member that votes, or promote this one first (etcdctl member promote)", "%w", err)
	}
	return &failure{exitConnect, err, "give the endpoint of a member that is reached from here: --" + flagEndpoints}
}

// explain says what to do about a snapshot that was not taken.
func (s *saving) explain(ctx context.Context, err error) error {
	nothing := "nothing that looks like a snapshot was left; "
	if s.stdout() {
		nothing = "what was written is no snapshot; "
	}
	var known *failure
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &known):
		return err
	case errors.Is(err, fs.ErrExist):
		return s.exists()
	case errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrUserEmpty), errors.Is(err, rpctypes.ErrInvalidAuthToken):
		return &failure{exitConnect, err, "a snapshot holds everything, so that etcd gives it to users with the role root only"}
	case errors.Is(err, snapshots.ErrCutOff):
		return &failure{exitConnect, err, nothing + "run it again, or take it from another member (--" + flagMember + ")"}
	case errors.Is(err, snapshots.ErrChecksum), errors.Is(err, snapshots.ErrDamaged):
		return &failure{exitFailed, err, nothing + "run it again; if it happens again, take it from another member (--" + flagMember + "), and mistrust this one's disk and memory"}
	case errors.Is(err, snapshots.ErrNoSpace), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EFBIG), errors.Is(err, syscall.EDQUOT):
		return &failure{exitFailed, err, nothing + s.moreRoom()}
	}
	return err
}

// savedReport is what came of a save.
type savedReport struct {
	*saving
	saved  *snapshots.Saved
	began  time.Time
	pruned []string
	kept   error // why --keep removed less than it should
}

// prune removes older snapshots once the new one is complete. One that may be
// worth less than they are removes none.
func (r *savedReport) prune() {
	keep := r.inv.Int(flagKeep)
	if keep == 0 {
		return
	}
	if !r.quorum || r.corrupt() {
		r.inv.say("note: no older snapshot is removed: this one was taken without quorum, or under the alarm CORRUPT")
		return
	}
	paths, err := prunable(r.saved.Path, keep)
	r.kept = err
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.kept = errors.Join(r.kept, err)
			continue
		}
		r.pruned = append(r.pruned, path)
	}
}

func (r *savedReport) corrupt() bool {
	return slices.ContainsFunc(r.alarms, func(a etcdmembers.Alarm) bool { return a.Type == "CORRUPT" })
}

// show prints the result: on stdout, unless that took the snapshot itself.
func (r *savedReport) show() error {
	out := r.inv.Streams.Out
	if r.stdout() {
		if out = r.inv.Streams.Err; r.inv.Bool(flagQuiet) {
			out = io.Discard
		}
	}
	var err error
	switch r.inv.format() {
	case formatJSON:
		err = term.JSON(out, r.document())
	case formatYAML:
		err = term.YAML(out, r.document())
	default:
		_, err = fmt.Fprintln(out, term.Clean(r.line()))
		for _, path := range r.pruned {
			r.inv.say("removed %s", path)
		}
	}
	if err == nil && r.kept != nil {
		err = partial("the snapshot is complete; remove older ones by hand", "not every older snapshot could be removed: %w", r.kept)
	}
	return err
}

// line is the result in one line.
func (r *savedReport) line() string {
	s := r.saved
	var parts []string
	if r.stdout() {
		parts = append(parts, "sent to standard output: member "+r.memberText())
	} else {
		parts = append(parts, "saved "+s.Path+": member "+r.memberText())
	}
	if rep := s.Report; rep != nil {
		parts = append(parts, fmt.Sprintf("revision %d", rep.Revision), term.Plural(rep.Keys, "key"))
		if rep.HashKV != nil {
			parts = append(parts, fmt.Sprintf("hash %d", rep.HashKV.Hash))
		}
	}
	size := term.Bytes(s.Bytes)
	if r.compress != "" {
		size += " (" + r.compress + ": " + term.Bytes(s.Stored) + ")"
	}
	parts = append(parts, size, "took "+term.Duration(s.Took))
	if s.Report != nil {
		parts = append(parts, "read back in "+term.Duration(s.VerifyTook))
	} else {
		parts = append(parts, "its sha256 is right; its pages and keys were not read (etcd-rescue snapshot verify FILE does)")
	}
	if !r.quorum {
		parts = append(parts, "taken without quorum")
	}
	if r.corrupt() {
		parts = append(parts, "taken under the alarm CORRUPT")
	}
	return strings.Join(parts, ", ")
}

// document is the result for programs; docs/json.md describes it.
func (r *savedReport) document() map[string]any {
	s, m := r.saved, r.member
	alarms := []map[string]any{}
	for _, a := range r.alarms {
		alarms = append(alarms, map[string]any{"member": fmt.Sprintf("%x", a.Member), "alarm": a.Type})
	}
	doc := map[string]any{
		"version": 1, "kind": "snapshotSave",
		"member": map[string]any{
			"id": fmt.Sprintf("%x", m.ID), "name": m.Name, "endpoint": m.Endpoint, "version": m.Version, "leader": m.IsLeader(), "why": r.why,
		},
		"cluster": fmt.Sprintf("%x", m.Cluster), "began": r.began.UTC().Format(time.RFC3339),
		"bytes": s.Bytes, "stored": s.Stored, "sha256": s.SHA256, "withoutQuorum": !r.quorum, "alarms": alarms,
		"milliseconds": s.Took.Milliseconds(), "verified": s.Report != nil,
	}
	if s.StorageVersion != "" {
		doc["storageVersion"] = s.StorageVersion
	}
	if r.compress != "" {
		doc["compression"] = r.compress
	}
	if s.Path != "" {
		doc["path"] = s.Path
	}
	if r.inv.IsSet(flagKeep) {
		doc["pruned"] = append([]string{}, r.pruned...)
	}
	if rep := s.Report; rep != nil {
		doc["revision"], doc["compacted"], doc["keys"] = rep.Revision, rep.Compacted, rep.Keys
		doc["verifyMilliseconds"] = s.VerifyTook.Milliseconds()
		if h := rep.HashKV; h != nil {
			doc["hashKV"] = map[string]any{"hash": h.Hash, "revision": h.Revision, "compactRevision": h.CompactRevision}
		}
	}
	return doc
}
