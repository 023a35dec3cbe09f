package app

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/connect"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
	etcdmembers "github.com/etcd-rescue/etcd-rescue/snapshots/members"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

const (
	fullPods  = 1500
	fullQuota = 24 << 20
)

// startFull is the incident on an etcd that it has filled: NOSPACE is raised,
// because pods were written again and again.
func startFull(t *testing.T) *store {
	t.Helper()
	path, err := tests.incident()
	if err != nil {
		t.Fatal(err)
	}
	s, err := startStore(t.Context(), sandbox.Options{Snapshot: path, NoFsync: true, QuotaBytes: fullQuota, Keep: firstPods(fullPods)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	s.fill(t, "/registry/pods/ops-tools/")
	return s
}

// fill writes all that is below a prefix again and again until etcd takes no
// more.
func (s *store) fill(t *testing.T, prefix string) {
	t.Helper()
	resp, err := s.client.Get(t.Context(), prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for {
		for _, kv := range resp.Kvs {
			_, err := s.client.Put(t.Context(), string(kv.Key), string(kv.Value))
			if errors.Is(err, rpctypes.ErrNoSpace) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// killAt runs the command until it says text on stderr and then moment has
// come, and kills it there. It may end by itself between the two.
func (s shell) killAt(c *exec.Cmd, text string, moment <-chan struct{}) {
	s.t.Helper()
	c.Stderr = nil
	pipe, err := c.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	waitFor(s.t, pipe, text)
	if moment != nil {
		<-moment
	}
	_ = c.Process.Signal(syscall.SIGKILL)
	_, _ = io.Copy(io.Discard, pipe)
	if r := s.finish(c); r.code != -1 && r.code != exitDone {
		s.t.Fatalf("exit code %d before it was killed at %q:\n%s", r.code, text, r.out)
	}
}

// TestReclaimKilled: an etcd under NOSPACE takes writes again, although the
// command that does it is killed in each of its steps, and run again.
func TestReclaimKilled(t *testing.T) {
	long(t)
	t.Parallel()
	s := startFull(t)
	sh := newShell(t, s)
	before := s.mustContents(t)
	bound := []string{"--execute", "--yes", "--max-deletes", strconv.Itoa(fullPods + 1), "--settle", "0"}
	args := append([]string{"reclaim", "pods", "-n", "ops-tools", "--owner", "job/error-ret", "--with-owners"}, bound...)
	for _, at := range []struct {
		text   string
		moment <-chan struct{}
	}{
		{"step 1 of 5: delete", nil},
		{"step 1 of 5: delete", s.deletes(t, 400)},
		{"step 2 of 5: compact", nil},
		{"step 3 of 5: defragment", nil},
		{"it answers nothing for about", nil},
		{"step 4 of 5", nil},
		{"step 5 of 5: prove", nil},
	} {
		sh.killAt(sh.command(append(args, "--rate", "2000")...), at.text, at.moment)
		noneLost(t, before, s.mustContents(t), archivesIn(t, sh.dir))
	}
	r := sh.run(exitDone, append(args, "--rate", "max")...)
	if !strings.Contains(r.out, provedText) {
		t.Errorf("it says:\n%s%s", r.out, r.errOut)
	}
	s.takesWrites(t)
	if left := s.mustContents(t).below("/registry/pods/ops-tools/"); left != 0 {
		t.Errorf("%d pods are left", left)
	}
	archives := archivesIn(t, sh.dir)
	noneLost(t, before, s.mustContents(t), archives)
	sh.run(exitDone, append(append([]string{"undo"}, archives...), "--execute", "--yes", "--rate", "max")...)
	now := s.mustContents(t)
	delete(now.keys, writeKey)
	if diff := sameValues(before, now); diff != "" {
		t.Errorf("after the undo %s", diff)
	}
}

const writeKey = "/registry/configmaps/default/written"

// raise raises an alarm without a reason.
func (s *store) raise(t *testing.T, alarm etcdserverpb.AlarmType) {
	t.Helper()
	_, err := etcdserverpb.NewMaintenanceClient(s.client.ActiveConnection()).Alarm(t.Context(),
		&etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_ACTIVATE, MemberID: 7, Alarm: alarm})
	if err != nil {
		t.Fatal(err)
	}
}

// takesWrites: no alarm, and a put works.
func (s *store) takesWrites(t *testing.T) {
	t.Helper()
	if _, err := s.client.Put(t.Context(), writeKey, "{}"); err != nil {
		t.Errorf("a put: %v", err)
	}
	status, err := s.client.Status(t.Context(), s.url())
	if err != nil || len(status.Errors) > 0 || status.DbSize >= fullQuota/2 {
		t.Errorf("%d bytes, %v, %v", status.DbSize, status.Errors, err)
	}
}

// archivesIn are the archives that can be opened: a run that is killed while it
// makes one leaves an empty one.
func archivesIn(t *testing.T, dir string) (archives []string) {
	t.Helper()
	for _, path := range glob(t, dir, "*.db") {
		f, err := snapshots.Open(path, snapshots.Options{})
		if errors.Is(err, snapshots.ErrNotDB) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		archives = append(archives, path)
	}
	return archives
}

func noneLost(t *testing.T, before, now *contents, archives []string) {
	t.Helper()
	key, err := lost(context.Background(), before, now, archives...)
	if err != nil || key != "" {
		t.Fatalf("neither etcd nor %v holds %q: %v", archives, key, err)
	}
}

// TestReclaimAlone: what fills etcd is history, so that nothing need be deleted;
// the second time there is nothing to do.
func TestReclaimAlone(t *testing.T) {
	t.Parallel()
	s := startFull(t)
	sh := newShell(t, s)
	before := s.mustContents(t)
	r := sh.run(exitSomething, "reclaim", "--detailed-exit-code")
	for _, want := range []string{"What fills this etcd", "1,500 pods", "old versions", "1.  ", "take back NOSPACE of member", "Nothing was changed. Add --execute to do it."} {
		if !strings.Contains(r.out, want) {
			t.Errorf("the preview lacks %q:\n%s", want, r.out)
		}
	}
	if diff := unchanged(before, s.mustContents(t)); diff != "" {
		t.Fatalf("after the preview %s", diff)
	}
	if r = sh.run(exitRefused, "disarm", "--execute", "--yes"); !strings.Contains(r.errOut, "is too near to its quota") || !strings.Contains(r.errOut, "etcd-rescue reclaim") {
		t.Errorf("disarm says:\n%s", r.errOut)
	}
	r = sh.run(exitDone, "reclaim", "--execute", "--yes", "--settle", "0", "-o", "json")
	for _, want := range []string{`"kind": "reclaim"`, `"changed": true`, `"compacted": true`, `"proved": true`, `"alarm": "NOSPACE"`} {
		if !strings.Contains(r.out, want) {
			t.Errorf("the document lacks %q:\n%s", want, r.out)
		}
	}
	if diff := unchanged(before, s.mustContents(t)); diff != "" {
		t.Errorf("afterwards %s", diff)
	}
	r = sh.run(exitDone, "reclaim", "--execute", "--yes", "--settle", "0")
	for _, want := range []string{"step 2 of 4: defragment no member", "step 3 of 4: disarm nothing"} {
		if !strings.Contains(r.errOut, want) {
			t.Errorf("the second time it does not say %q:\n%s", want, r.errOut)
		}
	}
	s.takesWrites(t)
	sh.run(exitDone, "reclaim", "--detailed-exit-code")
}

// TestReclaimUnknownQuota: while NOSPACE is raised, a quota that nobody tells is asked for before anything is changed.
func TestReclaimUnknownQuota(t *testing.T) {
	t.Parallel()
	raised := []etcdmembers.Alarm{{Member: 1, Type: etcdmembers.AlarmNoSpace}}
	r := &reclaiming{upkeep: &upkeep{conn: &connect.Conn{Endpoints: []string{"http://a"}}, all: []etcdmembers.Member{{ID: 1, Name: "a", Endpoint: "http://a", Alarms: raised}}}}
	if code, hint := explain(r.checkFit()); code != exitRefused || !strings.Contains(hint, "--"+flagUnsafeQuota) {
		t.Errorf("exit code %d, hint %q", code, hint)
	}
	r.opt.Quota = 100
	if err := r.checkFit(); err != nil {
		t.Errorf("with a quota: %v", err)
	}
	r.opt.Quota, r.all[0].Alarms = 0, nil
	if err := r.checkFit(); err != nil {
		t.Errorf("without an alarm: %v", err)
	}
}

// TestReclaimWhom: etcd before 3.5 may not tell of its room while nobody can write.
func TestReclaimWhom(t *testing.T) {
	t.Parallel()
	member := func(version string, size, inUse int64) etcdmembers.Member {
		return etcdmembers.Member{ID: 1, Endpoint: "http://a", Version: version, DBSize: size << 20, InUse: inUse << 20, Quota: 100 << 20,
			Alarms: []etcdmembers.Alarm{{Member: 1, Type: etcdmembers.AlarmNoSpace}}}
	}
	calm := member("3.4.37", 95, 94)
	calm.Alarms = nil
	for _, tc := range []struct {
		name   string
		member etcdmembers.Member
		want   int
	}{
		{"room", member("3.5.35", 95, 10), 1},
		{"none", member("3.5.35", 95, 94), 0},
		{"it may not tell", member("3.4.37", 95, 94), 1},
		{"it is small enough", member("3.4.37", 50, 49), 0},
		{"no alarm", calm, 0},
	} {
		r := &reclaiming{upkeep: &upkeep{all: []etcdmembers.Member{tc.member}}}
		if order := r.planDefrag(); len(order) != tc.want {
			t.Errorf("%s: %v, want %d", tc.name, order, tc.want)
		}
	}
}

// TestReclaimNotEnough: what is left is too much for the quota, so that NOSPACE
// stays, and it says so.
func TestReclaimNotEnough(t *testing.T) {
	long(t)
	t.Parallel()
	s := startFull(t)
	sh := newShell(t, s)
	r := sh.run(exitPartial, "reclaim", "--execute", "--yes", "--settle", "0", "--below", "1%")
	if !strings.Contains(r.errOut, "NOSPACE stays raised") || !strings.Contains(r.out, "go on:   etcd-rescue reclaim") {
		t.Errorf("it says:\n%s%s", r.out, r.errOut)
	}
	if _, err := s.client.Put(t.Context(), writeKey, "{}"); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Errorf("a put: %v", err)
	}
}

// TestReclaimCluster: every member is defragmented once, the leader last, and
// a member that is dead stops it before anything is changed.
func TestReclaimCluster(t *testing.T) {
	long(t)
	t.Parallel()
	ctx := t.Context()
	path, err := tests.incident()
	if err != nil {
		t.Fatal(err)
	}
	c, err := sandbox.StartCluster(ctx, sandbox.ClusterOptions{Options: sandbox.Options{Snapshot: path, NoFsync: true, QuotaBytes: fullQuota, Keep: firstPods(fullPods), Dir: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	client, err := c.Client(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	s := &store{client: client}
	s.fill(t, "/registry/pods/ops-tools/")
	sh := shell{t, t.TempDir(), strings.Join(c.Endpoints(), ",")}
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	dead := c.Member((leader + 1) % 3)
	if err := dead.Kill(); err != nil {
		t.Fatal(err)
	}
	before := s.mustContents(t)
	r := sh.run(exitRefused, "reclaim", "pods", "-n", "ops-tools", "--execute", "--yes", "--max-deletes", "5000", "--settle", "0")
	if !strings.Contains(r.errOut, "does not answer") {
		t.Errorf("it says:\n%s", r.errOut)
	}
	if diff := unchanged(before, s.mustContents(t)); diff != "" {
		t.Errorf("after it was refused %s", diff)
	}
	if err := dead.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	r = sh.run(exitDone, "reclaim", "pods", "-n", "ops-tools", "--owner", "job/error-ret", "--with-owners", "--execute", "--yes", "--max-deletes", "5000", "--settle", "0", "--rate", "max")
	if n := strings.Count(r.errOut, "it answers nothing for about"); n != 3 {
		t.Errorf("%d members were defragmented, want 3:\n%s", n, r.errOut)
	}
	for i := range c.Members() {
		status, err := client.Status(ctx, c.Member(i).Endpoint())
		if err != nil || len(status.Errors) > 0 || status.DbSize >= fullQuota/2 {
			t.Errorf("member %d: %v, %v", i, status, err)
		}
	}
	if _, err := client.Put(ctx, writeKey, "{}"); err != nil {
		t.Errorf("a put: %v", err)
	}
}

// TestReclaimInterrupted: in the settle time nothing is changed yet.
func TestReclaimInterrupted(t *testing.T) {
	t.Parallel()
	s := startRunaway(t, 5)
	before := s.mustContents(t)
	sh := newShell(t, s)
	c := sh.command("reclaim", "--execute", "--yes", "--settle", "1h")
	c.Stderr = nil
	pipe, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, pipe, "before the compaction")
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(pipe)
	if r := sh.finish(c); r.code != exitInterrupted || r.out != "" || !strings.Contains(string(rest), "interrupted") {
		t.Errorf("exit code %d, %v:\n%s%s", r.code, err, r.out, rest)
	}
	if diff := unchanged(before, s.mustContents(t)); diff != "" {
		t.Error(diff)
	}
	if _, err := s.client.Get(t.Context(), "x", clientv3.WithRev(1)); err != nil {
		t.Errorf("it was compacted: %v", err)
	}
}

// TestExamplesSelect: what the help of delete and reclaim shows is a selection that they take; what it names need not be
// there.
func TestExamplesSelect(t *testing.T) {
	long(t)
	t.Parallel()
	s := startRunaway(t, 12)
	before := s.mustContents(t)
	sh := newShell(t, s)
	for _, c := range []*command{deleteCommand(), reclaimCommand()} {
		for _, example := range c.examples {
			var line []string
			for _, word := range shellWords(example)[1:] {
				if word != "--execute" && word != "--yes" {
					line = append(line, word)
				}
			}
			p := sh.command(line...)
			if err := p.Start(); err != nil {
				t.Fatal(err)
			}
			if r := sh.finish(p); r.code == exitUsage || r.code == exitFailed {
				t.Errorf("%s: exit code %d\n%s", example, r.code, r.errOut)
			}
		}
	}
	if diff := unchanged(before, s.mustContents(t)); diff != "" {
		t.Error(diff)
	}
}
