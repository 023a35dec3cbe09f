package app

import (
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestReclaimAsks: the objects are asked for, and then the members; without the
// second answer nothing but the delete is done.
func TestReclaimAsks(t *testing.T) {
	t.Parallel()
	s := startRunaway(t, 12)
	before := s.mustContents(t)
	sh := newShell(t, s)
	args := []string{"reclaim", "pods", "-n", "ops-tools", "--with-owners", "--execute", "--settle", "0", "--rate", "max"}
	y := sh.onTerminal(args...)
	y.expect("Type 13 to delete these 13 objects: ")
	for _, text := range []string{"What fills this etcd", ", 12 pods"} {
		if !strings.Contains(y.screen, text) {
			t.Errorf("before the question there is no %q:\n%s", text, y.screen)
		}
	}
	if r := y.answer("1\n"); r.code != exitRefused || r.out != "" || unchanged(before, s.mustContents(t)) != "" {
		t.Errorf("exit code %d:\n%s%s", r.code, r.out, r.errOut)
	}
	y = sh.onTerminal(args...)
	y.expect("Type 13 to delete these 13 objects: ")
	if _, err := y.master.WriteString("13\n"); err != nil {
		t.Fatal(err)
	}
	y.expect("Type 1 to compact, defragment and disarm this etcd of 1 member: ")
	if !strings.Contains(y.screen, "1.         delete what is selected: done") {
		t.Errorf("before the question stands:\n%s", y.screen)
	}
	r := y.answer("13\n")
	if r.code != exitRefused || !strings.Contains(r.out, "Deleted 13 objects") || strings.Contains(r.out, "Compacted") || !strings.Contains(r.out, "go on:   etcd-rescue reclaim") {
		t.Errorf("exit code %d:\n%s%s", r.code, r.out, r.errOut)
	}
	noneLost(t, before, s.mustContents(t), archivesIn(t, sh.dir))
	// The delete is done; only the members are asked for.
	y = sh.onTerminal(args...)
	y.expect("Type 1 to compact, defragment and disarm this etcd of 1 member: ")
	if r := y.answer("1\n"); r.code != exitDone || !strings.Contains(r.out, provedText) {
		t.Errorf("exit code %d:\n%s%s", r.code, r.out, r.errOut)
	}
	if _, err := s.client.Put(t.Context(), writeKey, "{}"); err != nil {
		t.Fatal(err)
	}
	s.raise(t, etcdserverpb.AlarmType_NOSPACE)
	for _, tc := range []struct {
		args     []string
		question string
	}{
		{[]string{"compact", "--execute", "--to-head"}, "Type 1 to compact etcd, which has 1 member, to revision "},
		{[]string{"disarm", "--execute"}, "Type 1 to take back NOSPACE in this etcd of 1 member: "},
	} {
		y := sh.onTerminal(tc.args...)
		y.expect(tc.question)
		if r := y.answer("1\n"); r.code != exitDone || r.out == "" {
			t.Errorf("%s: exit code %d:\n%s%s", tc.args[0], r.code, r.out, r.errOut)
		}
	}
}

// TestDisarmLooksAgain: what happens while somebody is asked counts.
func TestDisarmLooksAgain(t *testing.T) {
	t.Parallel()
	s := startRunaway(t, 1)
	s.raise(t, etcdserverpb.AlarmType_NOSPACE)
	y := newShell(t, s).onTerminal("disarm", "--execute")
	y.expect("Type 1 to take back NOSPACE in this etcd of 1 member: ")
	s.raise(t, etcdserverpb.AlarmType_CORRUPT)
	if r := y.answer("1\n"); r.code != exitRefused || r.out != "" || !strings.Contains(r.errOut, "the alarm CORRUPT is raised") {
		t.Errorf("exit code %d:\n%s%s", r.code, r.out, r.errOut)
	}
	status, err := s.client.Status(t.Context(), s.url())
	if err != nil || len(status.Errors) != 2 {
		t.Errorf("alarms afterwards: %v, %v", status, err)
	}
}
