package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// state is one that an etcd can be in.
type state struct {
	name string
	code int
	// make brings it about and returns when it is there; nil: all is well.
	make func(w *world)
	// mend undoes that; nil: nothing is to be undone, or nobody comes after.
	mend func(w *world)
	args []string // in place of the world's
	may  may
}

// TestStatusStates shows status in each state in which an operator may find an
// etcd of three members that speak plain http: one golden screen each, which
// is there in time, and nothing is touched.
func TestStatusStates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sandbox.ClusterOptions{})
	each := func(do func(i int, m *sandbox.Member)) {
		for i := range w.cluster.Members() {
			do(i, w.cluster.Member(i))
		}
	}
	leaderless := func(w *world, i int) {
		w.await("it has no leader", func(ctx context.Context) bool {
			st := w.status(ctx, i)
			return st != nil && st.Leader == 0
		})
	}
	secure := "https://" + strings.TrimPrefix(w.cluster.Endpoints()[0], "http://")
	w.show([]state{
		{name: "plain-http", code: exitDone},
		{name: "https-to-plain-http", code: exitConnect, args: []string{"--endpoints", secure}},
		{
			name: "one-endpoint-given", code: exitDone, args: []string{"--endpoints", w.cluster.Endpoints()[1]},
		},
		{
			name: "member-swallows-packets", code: exitPartial,
			make: func(w *world) { w.cluster.Member(2).Cut() },
			mend: func(w *world) { w.cluster.Member(2).Heal() },
		},
		{
			name: "partitioned", code: exitPartial,
			make: func(w *world) { w.cluster.Member(2).CutPeers(); leaderless(w, 2) },
			mend: func(w *world) { w.cluster.Member(2).HealPeers() },
		},
		{
			name: "no-leader", code: exitPartial,
			make: func(w *world) {
				each(func(_ int, m *sandbox.Member) { m.CutPeers() })
				each(func(i int, _ *sandbox.Member) { leaderless(w, i) })
			},
			mend: func(w *world) { each(func(_ int, m *sandbox.Member) { m.HealPeers() }) },
		},
		{
			name: "lagging", code: exitPartial,
			make: func(w *world) { w.cluster.Member(2).Lag(); w.write(1500, 4<<10) },
			mend: func(w *world) { w.cluster.Member(2).CatchUp() },
		},
		{
			name: "corrupt", code: exitPartial,
			make: func(w *world) { w.alarm(etcdserverpb.AlarmRequest_ACTIVATE, 1, etcdserverpb.AlarmType_CORRUPT) },
			mend: func(w *world) { w.alarm(etcdserverpb.AlarmRequest_DEACTIVATE, 1, etcdserverpb.AlarmType_CORRUPT) },
		},
		{
			name: "member-down", code: exitPartial,
			make: func(w *world) { w.kill(1) },
			mend: func(w *world) { w.restart(1) },
		},
		{
			name: "no-quorum", code: exitPartial,
			make: func(w *world) { w.kill(1); w.kill(2); leaderless(w, 0) },
			mend: func(w *world) { w.restart(1, 2) },
		},
		{name: "nospace", code: exitPartial, make: (*world).fillUp},
	})
}

// TestStatusTLS is the same where all members speak https and demand a
// certificate, and where kubeadm's files lead to them.
func TestStatusTLS(t *testing.T) {
	long(t)
	t.Parallel()
	root := t.TempDir()
	certs := newPKI(t, root, "etcd-ca")
	w := newWorld(t, sandbox.ClusterOptions{Options: sandbox.Options{TLS: certs.etcd()}})
	w.root, w.args = root, nil
	w.manifest(root)
	other := newPKI(t, filepath.Join(root, "elsewhere"), "other-ca")
	endpoints := []string{"--endpoints", strings.Join(w.cluster.Endpoints(), ",")}
	w.show([]state{
		{name: "healthy", code: exitDone},
		{
			name: "wrong-ca", code: exitConnect,
			args: append(endpoints, "--cacert", other.path("etcd/ca.crt"), "--cert", certs.path(apiserver+".crt"), "--key", certs.path(apiserver+".key")),
		},
		{
			name: "certificate-expires-soon", code: exitPartial,
			make: func(*world) { certs.issue("etcd/server", "cp-1", 5*24*time.Hour) },
			mend: func(*world) { certs.issue("etcd/server", "cp-1", year) },
		},
		{
			name: "client-certificate-expired", code: exitConnect,
			make: func(*world) { certs.issue(apiserver, apiserver, -2*24*time.Hour) },
			mend: func(*world) { certs.issue(apiserver, apiserver, clientYear) },
		},
		{
			name: "server-certificate-expired", code: exitConnect,
			make: func(*world) { certs.issue("etcd/server", "cp-1", -2*24*time.Hour) },
			mend: func(*world) { certs.issue("etcd/server", "cp-1", year) },
		},
	})
}

// TestStatusLearner is the same where a member has no vote, seen from all of
// them and, as from a node that is about to join, from that one alone.
func TestStatusLearner(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sandbox.ClusterOptions{Members: 1})
	learner, err := w.cluster.AddLearner(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := learner.Client(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	w.members, w.endpoints = append(w.members, c), append(w.endpoints, learner.Endpoint())
	w.show([]state{
		{name: "learner", code: exitDone},
		{name: "learner-alone", code: exitPartial, args: []string{"--endpoints", learner.Endpoint()}},
	})
}

// TestStatusAuth is the same where etcd wants to know who asks.
func TestStatusAuth(t *testing.T) {
	long(t)
	t.Parallel()
	w := newWorld(t, sandbox.ClusterOptions{Members: 1})
	w.renew()
	w.enableAuth()
	w.now = time.Now()
	as := func(name string) []string {
		file := filepath.Join(w.root, name+".password")
		if err := os.WriteFile(file, []byte(name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return append([]string{"--user", name, "--password-file", file}, w.args...)
	}
	wrong := as("root")
	wrong[3] = as("nobody")[3]
	w.show([]state{
		{name: "auth-nobody", code: exitConnect},
		{name: "auth-wrong-password", code: exitConnect, args: wrong, may: logIn},
		{name: "auth-root", code: exitDone, args: as("root"), may: logIn},
		{name: "auth-reader", code: exitDone, args: as("reader"), may: logIn},
		{name: "auth-stranger", code: exitConnect, args: as("stranger"), may: logIn},
	})
}

// enableAuth switches authentication on: root may do everything, reader read
// what Kubernetes stores, and stranger nothing. Each has its name as password.
func (w *world) enableAuth() {
	w.Helper()
	ctx, c := w.Context(), w.members[0]
	var failed error
	also := func(_ any, err error) { failed = errors.Join(failed, err) }
	for _, user := range []string{"root", "reader", "stranger"} {
		also(c.UserAdd(ctx, user, user))
		also(c.RoleAdd(ctx, user))
		also(c.UserGrantRole(ctx, user, user))
	}
	also(c.RoleGrantPermission(ctx, "reader", "/registry/", "/registry0", clientv3.PermissionType(clientv3.PermRead)))
	also(c.AuthEnable(ctx))
	if failed != nil {
		w.Fatal(failed)
	}
	root, err := clientv3.New(clientv3.Config{
		Context: context.Background(), Endpoints: c.Endpoints(), Username: "root", Password: "root", DialTimeout: patience, Logger: zap.NewNop(),
	})
	if err != nil {
		w.Fatal(err)
	}
	c.Close()
	w.members[0] = root
}

// show goes through states, one after the other.
func (w *world) show(states []state) {
	for _, s := range states {
		w.Run(s.name, func(t *testing.T) {
			within := *w
			within.T = t
			within.showOne(s)
		})
	}
}

func (w *world) showOne(s state) {
	w.Helper()
	w.lead(0)
	w.renew()
	w.lead(0) // all have that
	if s.mend != nil {
		defer s.mend(w) // also for the sake of the states to come
	}
	if s.make != nil {
		s.make(w)
	}
	if s.args != nil {
		w.args = s.args
	}
	w.judge(s, w.lookOnly(s.may, "status"))
}

// judge compares a screen with what is expected of the state.
func (w *world) judge(s state, got screen) {
	w.Helper()
	w.Logf("%s: exit code %d after %v\n%s%s", s.name, got.code, got.took.Round(time.Millisecond), got.out, got.err)
	if got.code != s.code {
		w.Errorf("%s: exit code %d, want %d", s.name, got.code, s.code)
	}
	if limit := 2*worldTimeout + worldSlack; got.took > limit {
		w.Errorf("%s: it took %v, more than twice the timeout of %v", s.name, got.took, worldTimeout)
	}
	for line := range strings.Lines(got.out) {
		n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n"))
		if n > 80 && !strings.Contains(line, w.root) {
			w.Errorf("%s: a line of %d columns: %s", s.name, n, line)
		}
	}
	text := fmt.Sprintf("exit code %d\n-- stdout --\n%s-- stderr --\n%s", got.code, w.mask(got.out), w.mask(got.err))
	golden(w.T, filepath.Join("testdata", "status", s.name+".golden"), text)
}

// golden compares a text with a file, or writes that file with -update.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// kill ends a member; those who are left go on without it.
func (w *world) kill(i int) {
	w.Helper()
	m := w.cluster.Member(i)
	if err := errors.Join(m.Kill(), m.Refuse()); err != nil {
		w.Fatal(err)
	}
}

// restart starts members again, all at once, since none is there before most
// are.
func (w *world) restart(members ...int) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	failed := make(chan error, len(members))
	for _, i := range members {
		m := w.cluster.Member(i)
		go func() { failed <- errors.Join(m.Listen(ctx), m.Restart(ctx)) }()
	}
	for range members {
		if err := <-failed; err != nil {
			w.Fatal(err)
		}
	}
	for _, i := range members {
		w.members[i].ActiveConnection().ResetConnectBackoff()
	}
}

// write puts so many values of one key.
func (w *world) write(n, bytes int) {
	w.Helper()
	value := strings.Repeat("x", bytes)
	for range n {
		w.put("/filler", value)
	}
}

// fillUp writes until etcd takes nothing any more. Which member comes to its
// quota first is chance; here it is the first.
func (w *world) fillUp() {
	w.Helper()
	value := strings.Repeat("x", 1<<20)
	for i := range 2 * worldQuota >> 20 {
		_, err := w.members[0].Put(w.Context(), fmt.Sprintf("/filler/%d", i), value)
		if errors.Is(err, rpctypes.ErrNoSpace) {
			for k := range w.members {
				w.alarm(etcdserverpb.AlarmRequest_DEACTIVATE, k, etcdserverpb.AlarmType_NOSPACE)
			}
			w.alarm(etcdserverpb.AlarmRequest_ACTIVATE, 0, etcdserverpb.AlarmType_NOSPACE)
			return
		}
		if err != nil {
			w.Fatal(err)
		}
	}
	w.Fatal("etcd takes more than its quota")
}

// alarmed waits until every member knows of that alarm and no other.
func (w *world) alarmed(id uint64) {
	w.Helper()
	w.await("all members know of the alarm", func(ctx context.Context) bool {
		for i := range w.members {
			st := w.status(ctx, i)
			if st == nil || len(st.Errors) != 1 || !strings.Contains(st.Errors[0], strconv.FormatUint(id, 10)) {
				return false
			}
		}
		return true
	})
}

// alarm raises or ends an alarm of a member.
func (w *world) alarm(action etcdserverpb.AlarmRequest_AlarmAction, i int, kind etcdserverpb.AlarmType) {
	w.Helper()
	id := w.cluster.Member(i).ID()
	_, err := etcdserverpb.NewMaintenanceClient(w.members[0].ActiveConnection()).Alarm(w.Context(),
		&etcdserverpb.AlarmRequest{Action: action, MemberID: id, Alarm: kind})
	if err != nil {
		w.Fatal(err)
	}
	if action == etcdserverpb.AlarmRequest_ACTIVATE {
		w.alarmed(id)
	}
}

// manifest writes the static pod of kube-apiserver, as kubeadm does.
func (w *world) manifest(root string) {
	w.Helper()
	dir := filepath.Join(root, "etc/kubernetes/manifests")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.Fatal(err)
	}
	text := `apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, namespace: kube-system}
spec:
  containers:
  - name: kube-apiserver
    command:
    - kube-apiserver
    - --etcd-cafile=/etc/kubernetes/pki/etcd/ca.crt
    - --etcd-certfile=/etc/kubernetes/pki/apiserver-etcd-client.crt
    - --etcd-keyfile=/etc/kubernetes/pki/apiserver-etcd-client.key
    - --etcd-servers=` + strings.Join(w.cluster.Endpoints(), ",") + "\n"
	if err := os.WriteFile(filepath.Join(dir, "kube-apiserver.yaml"), []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
}
