package app

import (
	"fmt"
	"strconv"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
)

// show prints what was done, or what would be.
func (c *compacting) show() error {
	inv := c.inv
	if inv.format() != formatTable {
		return inv.document(c.document())
	}
	w := writer{inv.Streams.Out, width(inv.Streams.OutWidth)}
	if c.changed {
		c.report(w)
		return nil
	}
	c.write(w)
	if c.target <= c.floor || inv.Bool(flagExecute) {
		w.line("Nothing was changed.")
	} else {
		w.line("Nothing was changed. Add --execute to do it.")
	}
	return nil
}

// write is the preview, without its last line.
func (c *compacting) write(w writer) {
	if c.target <= c.floor {
		w.line("Would compact nothing: what is before the target is gone already.")
	} else {
		w.line("Would compact etcd (%s) to revision %d", term.Plural(int64(len(c.all)), "member"), c.target)
	}
	w.field("target", fmt.Sprintf("revision %d, %s", c.target, c.why))
	w.field("present", fmt.Sprintf("revision %d", c.now))
	compacted := "never"
	if c.floor > 1 {
		compacted = fmt.Sprintf("to revision %d, the oldest that can be read", c.floor)
	}
	w.field("compacted", compacted)
	w.field("apiserver", c.serversText())
	if c.target > c.floor {
		w.line("")
		w.field("lost", c.lost())
		w.field("warning", watchWarning("revision "+strconv.FormatInt(c.target, 10)))
		for _, text := range c.notes() {
			w.field("note", text)
		}
	}
	w.line("")
}

func (c *compacting) serversText() string {
	if c.apiserver == 0 {
		return "has left no word of a compaction (compact_rev_key)"
	}
	return fmt.Sprintf("compacted to revision %d last (compact_rev_key)", c.apiserver)
}

// lost is what cannot be had back from etcd's history afterwards.
func (c *compacting) lost() string {
	return fmt.Sprintf("the history of revisions %d to %d: what was overwritten or deleted by then is no longer shown by history and get --rev; only an archive or a snapshot has it", c.floor, c.target-1)
}

// watchWarning is what a compaction does to watches (facts of kube-apiserver:
// its cacher ends all watches of a resource on ErrCompacted, and lists again).
func watchWarning(target string) string {
	return "a watch that has not come to " + target + " yet is cancelled, and its API server lists the whole resource again, for all its clients: a load that a weak etcd may not stand"
}

func (c *compacting) notes() (notes []string) {
	if versions := etcdmembers.LosesEvents(c.all); len(versions) > 0 {
		notes = append(notes, "etcd "+joinWords(versions)+" may lose a delete for a watch that begins at the target (etcd#18089): should an object linger in the API, restart the API servers")
	}
	if c.inv.Bool(flagToHead) {
		notes = append(notes, "the present revision leaves watches no time at all; --"+flagOlderThan+" does")
	}
	return notes
}

func (c *compacting) report(w writer) {
	w.line("Compacted etcd to revision %d in %s", c.target, term.Duration(c.took))
	if c.inv.Bool(flagPhysical) {
		w.field("in use", fmt.Sprintf("%s before, %s now, of all members together", term.Bytes(c.before), term.Bytes(c.after)))
	} else {
		w.field("note", "etcd goes on removing it from its files")
	}
	w.field("next", "the files get smaller by etcd-rescue defrag"+c.inv.connectionWords())
}

func (c *compacting) document() map[string]any {
	doc := map[string]any{
		"version": 1, "kind": "compact", "changed": c.changed, "members": len(c.all),
		"revision": c.now, "oldest": c.floor, "target": c.target, "nothing": c.target <= c.floor, "notes": append([]string{}, c.notes()...),
	}
	if c.apiserver > 0 {
		doc["apiserver"] = c.apiserver
	}
	if c.clock != nil && !c.clock.time.IsZero() {
		doc["targetTime"] = c.clock.time.UTC()
		doc["targetTimeFrom"] = c.clock.by
	}
	if c.changed {
		doc["milliseconds"], doc["inUseBefore"], doc["inUseAfter"] = c.took.Milliseconds(), c.before, c.after
	}
	return doc
}
