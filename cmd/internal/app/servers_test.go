//go:build servers

package app

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

// foreign is a real server of another release that holds the incident.
type foreign struct {
	*testing.T
	client *clientv3.Client
	shell  shell
	before *contents
	fill   string // the snapshot that it was filled from
}

const incidentObjects = killPods + 1 // the pods and their Job

func etcdReleases() []string {
	return []string{"etcd-3.4", lab.DebianEtcd, "etcd-3.5", "etcd-3.6", "etcd-3.7"}
}

// TestEveryEtcd deletes and puts back in a real etcd of each release that
// there are clusters of.
func TestEveryEtcd(t *testing.T) {
	for _, release := range etcdReleases() {
		t.Run(release, func(t *testing.T) { startForeign(t, release, 0).core() })
	}
}

// startForeign restores the incident into an etcd.
func startForeign(t *testing.T, release string, quota int64) *foreign {
	t.Helper()
	server, err := lab.Server(t.Context(), release)
	if err != nil {
		t.Fatal(err)
	}
	path := mustIncident(t)
	// The small snapshot was taken by the etcd in this program, whose format etcd 3.6 does not read.
	box, client := lab.Box(t, sandbox.Options{
		Fixture: sandbox.Runaway30k, Keep: firstPods(killPods), Server: server, NoFsync: true, QuotaBytes: quota,
	})
	status, err := client.Status(t.Context(), box.Endpoints()[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s is etcd %s", release, status.Version)
	return newForeign(t, client, path)
}

func mustIncident(t *testing.T) string {
	t.Helper()
	path, err := tests.incident()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func newForeign(t *testing.T, client *clientv3.Client, path string) *foreign {
	f := &foreign{T: t, client: client, shell: shell{t, t.TempDir(), client.Endpoints()[0]}, fill: path}
	f.before = f.everything()
	return f
}

// everything reads the store with one request of the plainest kind, which
// every server answers alike.
func (f *foreign) everything() *contents {
	f.Helper()
	resp, err := f.client.Get(f.Context(), "/registry/", clientv3.WithRange("/registry0"))
	if err != nil {
		f.Fatal(err)
	}
	c := &contents{resp.Header.Revision, map[string]*mvccpb.KeyValue{}}
	for _, kv := range resp.Kvs {
		c.keys[string(kv.Key)] = kv
	}
	return c
}

// core is what must work on every server.
func (f *foreign) core() {
	f.reads()
	archive, plan := f.deletes()
	f.readsArchive(archive)
	f.deletesAgain(plan)
	f.undoes(archive)
	f.carriesOutSavedPlan()
	f.survivesKill()
}

// incident selects the Job and its pods.
func incident(command ...string) []string {
	selection := []string{"pods", "-n", "ops-tools", "--owner", "job/error-ret"}
	return append(append(command[:1:1], selection...), command[1:]...)
}

// executed adds what carries it out at once.
func executed(args ...string) []string {
	return append(args, "--execute", "--yes", "--settle", "0", "--rate", "max")
}

func deleteIncident(more ...string) []string {
	return executed(incident(append([]string{"delete", "--with-owners", "--max-deletes", strconv.Itoa(incidentObjects)}, more...)...)...)
}

// reads: a server answers what the file says that it was filled from.
func (f *foreign) reads() {
	f.Helper()
	for _, args := range [][]string{
		{"count", "pods", "jobs", "namespaces", "deployments", "-A", "--bytes"},
		{"list", "pods", "-A", "-o", "name"},
		{"list", "pods", "-n", "ops-tools", "--phase", "Pending", "-o", "key"},
		incident("list", "-o", "name"),
		{"get", "job", "error-ret", "-n", "ops-tools", "-o", "name"},
	} {
		live := f.shell.run(exitDone, args...).out
		if file := f.shell.run(exitDone, append(args, "--from", f.fill)...).out; live != file || live == "" {
			f.Errorf("%v says\n%.400s\nand from the file\n%.400s", args, live, file)
		}
	}
	r := f.shell.run(exitDone, incident("delete", "--with-owners")...)
	if !strings.Contains(r.out, "Would delete 2,001 objects") || !strings.HasSuffix(r.out, "Add --execute to do it.\n") {
		f.Errorf("the preview says:\n%s", r.out)
	}
	f.mustBeUnchanged()
}

func (f *foreign) mustBeUnchanged() {
	f.Helper()
	if diff := unchanged(f.before, f.everything()); diff != "" {
		f.Fatalf("it was changed: %s", diff)
	}
}

// deletes the incident in one run.
func (f *foreign) deletes() (archive, plan string) {
	f.Helper()
	r := f.shell.run(exitDone, deleteIncident()...)
	if !strings.HasPrefix(r.out, "Deleted 2,001 objects in ") || !strings.Contains(r.out, "\nNothing that is selected is left ") {
		f.Errorf("the report says:\n%s", r.out)
	}
	archive = find(f.T, r.out, `^archive: (.*)$`)
	f.mustBeGone(archive)
	return archive, find(f.T, r.out, `^plan:    (.*)$`)
}

// mustBeGone: the incident is gone and nothing else, each object at a revision
// of its own, and the archives hold all of it.
func (f *foreign) mustBeGone(archives ...string) {
	f.Helper()
	now := f.everything()
	if left := now.below("/registry/pods/ops-tools/") + now.below("/registry/jobs/ops-tools/"); left != 0 {
		f.Fatalf("%d objects are left", left)
	}
	if gone := len(f.before.keys) - len(now.keys); gone != incidentObjects || now.revision-f.before.revision != incidentObjects {
		f.Errorf("%d keys went in %d revisions, want %d", gone, now.revision-f.before.revision, incidentObjects)
	}
	if key, err := lost(f.Context(), f.before, now, archives...); key != "" || err != nil {
		f.Fatalf("lost %q, %v", key, err)
	}
	f.history(f.before.revision, incidentObjects, clientv3.EventTypeDelete)
}

// history reads n events behind a revision: all are of one type, each of a key
// and at a revision of its own.
func (f *foreign) history(rev int64, n int, want mvccpb.Event_EventType) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), patience)
	defer cancel()
	keys, revisions := map[string]bool{}, map[int64]bool{}
	events := f.client.Watch(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithRev(rev+1))
	for len(keys) < n {
		resp, ok := <-events
		if !ok || resp.Err() != nil {
			f.Fatalf("the history ends after %d of %d changes: %v", len(keys), n, resp.Err())
		}
		for _, e := range resp.Events {
			if key := string(e.Kv.Key); e.Type != want || keys[key] || revisions[e.Kv.ModRevision] {
				f.Fatalf("%s of %s at revision %d; before it %d changes, this key %v, this revision %v",
					e.Type, key, e.Kv.ModRevision, len(keys), keys[key], revisions[e.Kv.ModRevision])
			}
			keys[string(e.Kv.Key)], revisions[e.Kv.ModRevision] = true, true
		}
	}
}

// readsArchive: the archive says of the incident what the file does.
func (f *foreign) readsArchive(archive string) {
	f.Helper()
	for _, args := range [][]string{
		incident("list", "-o", "name"),
		{"get", "job", "error-ret", "-n", "ops-tools", "-o", "name"},
		{"count", "pods", "jobs", "-n", "ops-tools", "--bytes"},
	} {
		got := f.shell.run(exitDone, append(args, "--from", archive)...).out
		if want := f.shell.run(exitDone, append(args, "--from", f.fill)...).out; got != want || got == "" {
			f.Errorf("%v from the archive says\n%.400s\nand from the file\n%.400s", args, got, want)
		}
	}
}

// deletesAgain: a plan that is done is done.
func (f *foreign) deletesAgain(plan string) {
	f.Helper()
	now := f.everything()
	r := f.shell.run(exitDone, executed("apply", plan)...)
	if !strings.HasPrefix(r.out, "Deleted 0 objects in ") {
		f.Errorf("the report says:\n%s", r.out)
	}
	if diff := unchanged(now, f.everything()); diff != "" {
		f.Errorf("a plan that was done changed something: %s", diff)
	}
}

// undoes puts everything back, and once more nothing.
func (f *foreign) undoes(archives ...string) {
	f.Helper()
	args := append(append([]string{"undo"}, archives...), "--execute", "--yes", "--rate", "max")
	from := f.everything().revision
	f.shell.run(exitDone, args...)
	f.history(from, incidentObjects, clientv3.EventTypePut)
	now := f.everything()
	if diff := sameValues(f.before, now); diff != "" {
		f.Fatalf("after the undo %s", diff)
	}
	if r := f.shell.run(exitDone, args...); !strings.HasPrefix(r.out, "Put back 0 objects in ") {
		f.Errorf("the report of a second undo says:\n%s", r.out)
	}
	if diff := unchanged(now, f.everything()); diff != "" {
		f.Errorf("a second undo changed something: %s", diff)
	}
	f.before = now
}

func (f *foreign) carriesOutSavedPlan() {
	f.Helper()
	f.shell.run(exitDone, incident("delete", "--with-owners", "--plan", "saved.jsonl")...)
	f.mustBeUnchanged()
	r := f.shell.run(exitDone, executed("apply", "saved.jsonl")...)
	archive := find(f.T, r.out, `^archive: (.*)$`)
	f.mustBeGone(archive)
	f.undoes(archive)
}

// survivesKill: after a SIGKILL in the middle nothing is lost, and the saved
// plan finishes with the same archive.
func (f *foreign) survivesKill() {
	f.Helper()
	seed := *killSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	n := 1 + rand.New(rand.NewPCG(seed, 0)).IntN(killPods/2)
	f.Logf("killed after %d deletes; to see the same again: -seed %d", n, seed)
	f.shell.dir = f.TempDir() // no archive but this one
	f.killAfter(n, incident("delete", "--with-owners", "--execute", "--yes", "--max-deletes", strconv.Itoa(incidentObjects), "--rate", "1000")...)
	now := f.everything()
	archives, plans := glob(f.T, f.shell.dir, "*.db"), glob(f.T, f.shell.dir, "*.plan.jsonl")
	if left := now.below("/registry/pods/ops-tools/"); left == 0 || left > killPods-n+1 || len(archives) != 1 || len(plans) != 1 {
		f.Fatalf("%d pods are left, archives %v, plans %v", left, archives, plans)
	}
	if key, err := lost(f.Context(), f.before, now, archives...); key != "" || err != nil {
		f.Fatalf("lost %q, %v", key, err)
	}
	f.shell.run(exitDone, executed("apply", plans[0])...)
	f.mustBeGone(archives...)
	f.undoes(archives...)
}

// killAfter runs a command and kills it when n keys have been deleted.
func (f *foreign) killAfter(n int, args ...string) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), patience)
	defer cancel()
	events := f.client.Watch(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithRev(f.before.revision+1))
	c := f.shell.command(args...)
	if err := c.Start(); err != nil {
		f.Fatal(err)
	}
	for seen := 0; seen < n; {
		resp, ok := <-events
		if !ok || resp.Err() != nil {
			f.Errorf("the watch ended after %d deletes: %v", seen, resp.Err())
			break
		}
		seen += len(resp.Events)
	}
	if err := c.Process.Signal(syscall.SIGKILL); err != nil {
		f.Error(err)
	}
	if r := f.shell.finish(c); r.code != -1 {
		f.Fatalf("exit code %d before it was killed:\n%s%s", r.code, r.out, r.errOut)
	}
}

// withoutSpace is a quota that the incident fits into.
const withoutSpace = 32 << 20

// TestEveryEtcdWithoutSpace: when the quota is reached, deletes go on where
// etcd lets them, and an undo is refused until there is room again.
func TestEveryEtcdWithoutSpace(t *testing.T) {
	for _, release := range etcdReleases() {
		t.Run(release, func(t *testing.T) {
			f := startForeign(t, release, withoutSpace)
			f.fillUp()
			if release == "etcd-3.4" {
				f.mustRefuse("space", deleteIncident()...)
				return
			}
			archive, _ := f.deletes()
			f.undoesWhenThereIsRoom(archive)
		})
	}
}

// TestOldEtcdWithoutSpaceUnguarded: etcd before 3.4.20 refuses every
// transaction then, so only a plain delete is left, and only when asked for.
func TestOldEtcdWithoutSpaceUnguarded(t *testing.T) {
	f := startForeign(t, "etcd-3.4", withoutSpace)
	f.fillUp()
	unguarded := "--unsafe-unguarded=" + strconv.Itoa(incidentObjects)
	f.mustRefuse("--unsafe-unguarded", deleteIncident()...)
	f.mustRefuse("--unsafe-unguarded", deleteIncident("--unsafe-unguarded=1")...)
	r := f.shell.run(exitDone, deleteIncident(unguarded)...)
	archive := find(f.T, r.out, `^archive: (.*)$`)
	f.mustBeGone(archive)
	f.undoesWhenThereIsRoom(archive)
}

// fillUp writes beside the registry until the quota is reached.
func (f *foreign) fillUp() {
	f.Helper()
	value := strings.Repeat("x", 256<<10)
	for n := 0; ; n++ {
		_, err := f.client.Put(f.Context(), "/filler/"+strconv.Itoa(n), value)
		if errors.Is(err, rpctypes.ErrNoSpace) {
			break
		}
		if err != nil || n > 8*withoutSpace/len(value) { // etcd notices late
			f.Fatalf("put %d: %v, want no space", n, err)
		}
	}
	f.before = f.everything()
}

// mustRefuse: the command changes nothing, and says why.
func (f *foreign) mustRefuse(word string, args ...string) {
	f.Helper()
	now := f.everything()
	c := f.shell.command(args...)
	if err := c.Start(); err != nil {
		f.Fatal(err)
	}
	r := f.shell.finish(c)
	if refused := []int{exitFailed, exitPartial, exitRefused}; !slices.Contains(refused, r.code) || !strings.Contains(strings.ToLower(r.errOut), word) {
		f.Errorf("%v: exit code %d, want one of %v and %q on stderr:\n%s%s", args, r.code, refused, word, r.out, r.errOut)
	}
	if diff := unchanged(now, f.everything()); diff != "" {
		f.Fatalf("%v changed something: %s", args, diff)
	}
}

// undoesWhenThereIsRoom makes room as an operator does.
func (f *foreign) undoesWhenThereIsRoom(archive string) {
	f.Helper()
	f.mustRefuse("space", "undo", archive, "--execute", "--yes", "--rate", "max")
	resp, err := f.client.Delete(f.Context(), "/filler/", clientv3.WithPrefix())
	if err != nil {
		f.Fatal(err)
	}
	_, err = f.client.Compact(f.Context(), resp.Header.Revision, clientv3.WithCompactPhysical())
	if err == nil {
		_, err = f.client.Defragment(f.Context(), f.client.Endpoints()[0])
	}
	if err == nil {
		_, err = f.client.AlarmDisarm(f.Context(), &clientv3.AlarmMember{})
	}
	if err != nil {
		f.Fatal(err)
	}
	f.undoes(archive)
}
