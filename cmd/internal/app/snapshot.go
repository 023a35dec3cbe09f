package app

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// toStdout is the name of a file that is none.
const toStdout = "-"

const zstdSuffix = ".zst"

// snapshotTime is to the millisecond, so that two snapshots in one second get
// two names. Names sort by it.
const snapshotTime = "20060102T150405.000Z"

// memberFlags are the connection flags of commands that talk to members and
// do not read objects.
func memberFlags() []cli.Flag {
	return slices.DeleteFunc(connectionFlags(), func(f cli.Flag) bool {
		return slices.Contains([]string{flagEventsEndpoints, flagConsistency, flagEncryption}, f.Names()[0])
	})
}

// snapshotName is the name of a snapshot that was given none. id tells the
// clusters apart: the beginning of the UID of namespace kube-system, or etcd's
// id of the cluster where there is no such namespace.
func snapshotName(id string, at time.Time, compress string) string {
	name := "etcd-rescue-snapshot-" + id + "-" + at.UTC().Format(snapshotTime) + ".db"
	if compress == snapshots.Zstd {
		name += zstdSuffix
	}
	return name
}

// snapshotID is the part of the name that stands for a cluster.
func snapshotID(uid string, cluster uint64) string {
	if regexp.MustCompile(`^[0-9a-f]{8}-`).MatchString(uid) {
		return uid[:8]
	}
	return fmt.Sprintf("%016x", cluster)
}

// ownSnapshot takes a name of snapshotName apart. It is false for every other
// name, archives and unfinished snapshots among them.
func ownSnapshot(name string) (id, at string, ok bool) {
	found := regexp.MustCompile(`^etcd-rescue-snapshot-([0-9a-f]{8}|[0-9a-f]{16})-([0-9]{8}T[0-9]{6}\.[0-9]{3}Z)\.db(\.zst)?$`).FindStringSubmatch(name)
	if found == nil {
		return "", "", false
	}
	return found[1], found[2], true
}

// prunable returns the snapshots beside the new one that --keep lets go, the
// oldest first: of the same cluster, with a name of our own pattern, older by
// that name, regular files, and beyond the newest keep, the new one included.
func prunable(newest string, keep int) ([]string, error) {
	id, at, ok := ownSnapshot(filepath.Base(newest))
	if !ok || keep < 1 {
		return nil, nil
	}
	dir := filepath.Dir(newest)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look for older snapshots: %w", err)
	}
	type older struct{ path, at string }
	var all []older
	for _, e := range entries {
		theirs, then, ok := ownSnapshot(e.Name())
		if ok && theirs == id && then < at && e.Type().IsRegular() {
			all = append(all, older{filepath.Join(dir, e.Name()), then})
		}
	}
	slices.SortFunc(all, func(a, b older) int { return cmp.Or(strings.Compare(a.at, b.at), strings.Compare(a.path, b.path)) })
	var paths []string
	for _, o := range all[:max(0, len(all)-keep+1)] {
		paths = append(paths, o.path)
	}
	return paths, nil
}

// unfinished names what runs that were killed, or still go on, left beside
// path: all of our own pattern, and that of the file itself.
func unfinished(path string) []string {
	dir := filepath.Dir(path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // making the file will say so
	}
	var names []string
	for _, e := range entries {
		whole, isPart := strings.CutSuffix(e.Name(), ".part")
		if !isPart {
			continue
		}
		whole = regexp.MustCompile(`\.[0-9]+$`).ReplaceAllString(whole, "")
		if _, _, own := ownSnapshot(whole); own || whole == filepath.Base(path) {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	return names
}
