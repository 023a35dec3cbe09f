package members

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == sandbox.ChildCommand {
		os.Exit(sandbox.ServeChild(context.Background(), os.Stdin, os.Stdout, os.Stderr))
	}
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "--name=") {
		twoURLs(os.Args)
	}
	os.Exit(m.Run())
}

// member is a voter that answers and is as far as all others.
func member(id uint64, leader uint64, change ...func(*Member)) Member {
	m := Member{ID: id, Name: fmt.Sprintf("m%d", id), Cluster: 9, Leader: leader, Term: 5, Index: 100_000, Applied: 100_000}
	m.Endpoint = fmt.Sprintf("https://10.0.0.%d:2379", id)
	m.ClientURLs = []string{m.Endpoint}
	for _, c := range change {
		c(&m)
	}
	return m
}

func behind(n uint64) func(*Member) { return func(m *Member) { m.Applied -= n } }
func learner(m *Member)             { m.Learner = true }
func broken(m *Member)              { m.Errors = []string{"etcdserver: no leader"} }
func silent(m *Member)              { m.Endpoint, m.Leader, m.Err = "", 0, errors.New("connection refused") }
func corrupt(id uint64) func(*Member) {
	return func(m *Member) { m.Alarms = []Alarm{{7, "NOSPACE"}, {id, "CORRUPT"}} }
}

func TestChoose(t *testing.T) {
	t.Parallel()
	old := func(m *Member) { m.Term-- }
	for _, tc := range []struct {
		name    string
		members []Member
		want    uint64 // 0: none
	}{
		{"one member", []Member{member(1, 1)}, 1},
		{"the first follower", []Member{member(1, 1), member(2, 1), member(3, 1)}, 2},
		{"the leader is not the first", []Member{member(1, 2), member(2, 2), member(3, 2)}, 1},
		{"a little behind is not behind", []Member{member(1, 1), member(2, 1, behind(maxLag)), member(3, 1)}, 2},
		{"behind", []Member{member(1, 1), member(2, 1, behind(maxLag+1)), member(3, 1)}, 3},
		{"all behind", []Member{member(1, 3, behind(maxLag+1)), member(2, 3, behind(2*maxLag)), member(3, 3)}, 3},
		{"a learner", []Member{member(1, 2, learner), member(2, 2)}, 2},
		{"a learner behind", []Member{member(1, 1), member(2, 1, learner, behind(50))}, 1},
		{"dead", []Member{member(1, 3, silent), member(2, 3), member(3, 3)}, 2},
		{"the leader is dead", []Member{member(1, 3, behind(7)), member(2, 3), member(3, 3, silent)}, 2},
		{"it complains", []Member{member(1, 3, broken), member(2, 3), member(3, 3)}, 2},
		{"it knows no leader", []Member{member(1, 0), member(2, 3), member(3, 3)}, 2},
		{"no leader", []Member{member(1, 0, behind(7)), member(2, 0), member(3, 0, silent)}, 2},
		{"corrupt", []Member{member(1, 3, corrupt(1)), member(2, 3, corrupt(1)), member(3, 3, corrupt(1))}, 2},
		{"the only sound one leads", []Member{member(1, 2, corrupt(1)), member(2, 2, corrupt(1))}, 2},
		{"all corrupt", []Member{member(1, 2, corrupt(1)), member(2, 2, corrupt(2))}, 1},
		{"two take themselves for the leader", []Member{member(1, 1, old), member(2, 2), member(3, 2)}, 3},
		{"none answers", []Member{member(1, 0, silent), member(2, 0, silent)}, 0},
		{"only a learner answers", []Member{member(1, 0, silent), member(2, 1, learner)}, 0},
		{"nobody is known", nil, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m, why, err := Choose(tc.members)
			var got uint64
			if m != nil {
				got = m.ID
			}
			if got != tc.want || (why == "") != (got == 0) || (got == 0) != errors.Is(err, ErrNone) {
				t.Errorf("got %d (%s), %v, want %d", got, why, err, tc.want)
			}
		})
	}
}

// TestChooseSays: a leader that is not taken is not one that is not there.
func TestChooseSays(t *testing.T) {
	t.Parallel()
	for want, members := range map[string][]Member{
		"no leader answers":                       {member(1, 0), member(2, 3)},
		"a follower that is not behind":           {member(1, 1, corrupt(1)), member(2, 1)},
		"the leader has raised the alarm CORRUPT": {member(1, 1, corrupt(1)), member(2, 1, behind(2*maxLag))},
		"the only one that answers":               {member(1, 1, corrupt(1))},
	} {
		if _, why, err := Choose(members); why != want || err != nil {
			t.Errorf("got %q, %v, want %q", why, err, want)
		}
	}
}

func TestNamed(t *testing.T) {
	t.Parallel()
	all := []Member{member(0xa1, 0xa1), member(2, 0xa1, learner), member(3, 0xa1, silent), member(4, 0xa1, behind(9*maxLag))}
	all[0].ClientURLs = []string{"https://10.0.0.161:2379", "https://main.example:2379/"}
	all[0].Name = "3" // as the id of another
	for name, want := range map[string]any{
		"a1": uint64(0xa1), "0xa1": uint64(0xa1), "https://10.0.0.161:2379": uint64(0xa1), "https://10.0.0.161:2379/": uint64(0xa1),
		"10.0.0.161:2379": uint64(0xa1), "https://main.example:2379": uint64(0xa1), "m4": uint64(4), "4": uint64(4),
		"m2": ErrLearner, "2": ErrLearner, "m3": ErrSilent, "3": ErrSilent,
		"m9": ErrUnknown, "": ErrUnknown, "https://10.0.0.9:2379": ErrUnknown, "https://10.0.0.161:2380": ErrUnknown,
	} {
		m, err := Named(all, name)
		var got any = err
		if m != nil {
			got = m.ID
		}
		if wanted, isErr := want.(error); isErr && errors.Is(err, wanted) {
			continue
		}
		if got != want {
			t.Errorf("%q: got %v, want %v", name, got, want)
		}
	}
}

func TestJoin(t *testing.T) {
	t.Parallel()
	status := func(cluster, id uint64, errs ...string) *clientv3.StatusResponse {
		s := &clientv3.StatusResponse{Leader: 1, RaftIndex: 8, RaftAppliedIndex: 7, DbSize: 4096, Version: "3.6.0", Errors: errs}
		s.Header = &etcdserverpb.ResponseHeader{ClusterId: cluster, MemberId: id}
		return s
	}
	refused := errors.New("connection refused")
	known := []Member{
		{ID: 1, Name: "a", ClientURLs: []string{"http://a"}}, {ID: 2, Name: "b", ClientURLs: []string{"http://b/"}, Learner: true},
		{ID: 3, Name: "c", ClientURLs: []string{"http://c"}}, {ID: 4},
	}
	answers := sameCluster([]answer{
		{"http://127.0.0.1", status(9, 1, "memberID:3 alarm:NOSPACE ", "etcdserver: no leader"), nil, 0},
		{"http://a", status(9, 1), nil, 0},
		{"http://b", nil, refused, 0},
		{"http://c", status(9, 1), nil, 0}, // leads to another member from here
		{"http://d", status(9, 5), nil, 0}, // is not in the list
		{"http://e", status(8, 6), nil, 0}, // is of another cluster
		{"http://f", status(9, 1), nil, 0}, // is not what it advertises
	})
	if !errors.Is(answers[5].err, ErrForeign) {
		t.Errorf("another cluster: %v", answers[5].err)
	}
	var got []string
	for _, m := range join(known, answers) {
		text := fmt.Sprintf("%s %d at %q", m.Label(), m.Cluster, m.Endpoint)
		if m.Err != nil {
			text += ": " + m.Err.Error()
		} else {
			text += fmt.Sprintf(" leader %d, %d/%d, %d bytes, %s, %v, %v", m.Leader, m.Applied, m.Index, m.DBSize, m.Version, m.Alarms, m.Errors)
		}
		got = append(got, text)
	}
	want := []string{
		`a 9 at "http://127.0.0.1" leader 1, 7/8, 4096 bytes, 3.6.0, [{3 NOSPACE}], [etcdserver: no leader]`,
		`b 0 at "": http://b: connection refused`,
		`c 0 at "": http://c: another member answers there`,
		`4 0 at "": it has not started yet, and advertises no address`,
		`5 9 at "http://d" leader 1, 7/8, 4096 bytes, 3.6.0, [], []`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	// It is named by any address where it answered, and by none where another did.
	all := join(known, answers)
	if m, err := Named(all, "http://f/"); err != nil || m.ID != 1 || m.Endpoint != "http://127.0.0.1" {
		t.Errorf("by another address: %+v, %v", m, err)
	}
	if m, err := Named(all, "http://c"); !errors.Is(err, ErrSilent) {
		t.Errorf("by an address where another answers: %+v, %v", m, err)
	}
}

// TestCluster looks at real members while they die, one after the other, and
// takes a snapshot of whoever is left.
func TestCluster(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c, err := sandbox.StartCluster(ctx, sandbox.ClusterOptions{Options: sandbox.Options{NoFsync: true, Dir: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	client := connect(t, c.Endpoints()...)
	if _, err := client.Put(ctx, "/registry/a", "1"); err != nil {
		t.Fatal(err)
	}
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// One endpoint is enough to find all of them. Their storage version follows some seconds after the start.
	all := mustList(t, client, c.Endpoints()[0])
	for slices.ContainsFunc(all, func(m Member) bool { return m.StorageVersion == "" }) {
		all = mustList(t, client, c.Endpoints()[0])
	}
	if len(all) != 3 {
		t.Fatalf("%d members, want 3", len(all))
	}
	for _, m := range all {
		if !m.Answers() || m.Leader != c.Member(leader).ID() || m.IsLeader() != (m.ID == m.Leader) || m.DBSize == 0 || m.Name == "" || m.Learner || len(m.Alarms) > 0 {
			t.Errorf("got %+v", m)
		}
	}
	chosen, _, err := Choose(all)
	if err != nil || chosen.IsLeader() {
		t.Fatalf("%+v was chosen, %v", chosen, err)
	}
	if one := connect(t, chosen.Endpoint); !HasQuorum(ctx, one, 10*time.Second) {
		t.Error("it has a quorum")
	}
	// A learner that nobody has started yet.
	addLearner(t, client)
	for _, m := range mustList(t, client, c.Endpoints()...) {
		if _, err := Named([]Member{m}, fmt.Sprintf("%x", m.ID)); errors.Is(err, ErrLearner) != m.Learner {
			t.Errorf("%+v: %v", m, err)
		}
	}
	// The leader hangs, and does not make anybody wait for it.
	if err := c.Member(leader).Stop(); err != nil {
		t.Fatal(err)
	}
	other := (leader + 1) % 3
	survivor := c.Member(other)
	one := connect(t, survivor.Endpoint())
	for _, m := range mustList(t, one, c.Endpoints()...) {
		if hangs := m.ID == c.Member(leader).ID(); hangs && (m.Answers() || m.Err == nil) || !hangs && !m.Learner && !m.Answers() {
			t.Errorf("while one hangs: %+v", m)
		}
	}
	// Two are dead.
	for _, i := range []int{leader, 3 - leader - other} {
		if err := c.Member(i).Kill(); err != nil {
			t.Fatal(err)
		}
	}
	if HasQuorum(ctx, one, time.Second) {
		t.Error("it has no quorum")
	}
	all = mustList(t, one, c.Endpoints()...)
	chosen, _, err = Choose(all)
	if err != nil || chosen.ID != survivor.ID() {
		t.Fatalf("%+v was chosen, %v", chosen, err)
	}
	saved, err := snapshots.Save(ctx, Snapshots(one), snapshots.SaveOptions{Path: filepath.Join(t.TempDir(), "a.db")})
	if err != nil || saved.Report.Keys != 1 || !strings.HasPrefix(saved.StorageVersion, "3.") {
		t.Errorf("got %+v, %v", saved, err)
	}
	if err := survivor.Kill(); err != nil {
		t.Fatal(err)
	}
	_, err = snapshots.Save(ctx, Snapshots(one), snapshots.SaveOptions{Path: filepath.Join(t.TempDir(), "a.db"), Stall: time.Second})
	if !errors.Is(err, snapshots.ErrCutOff) {
		t.Errorf("nobody is left: %v", err)
	}
}

// addLearner tries until the members have been connected for so long that etcd calls the cluster healthy.
func addLearner(t *testing.T, client *clientv3.Client) {
	t.Helper()
	for {
		_, err := client.MemberAddAsLearner(t.Context(), []string{"http://127.0.0.1:1"})
		if err == nil {
			return
		}
		if !errors.Is(err, rpctypes.ErrUnhealthy) {
			t.Fatal(err)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(err)
		}
	}
}

func mustList(t *testing.T, client *clientv3.Client, endpoints ...string) []Member {
	t.Helper()
	all, err := List(t.Context(), client, Options{Endpoints: endpoints})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func connect(t *testing.T, endpoints ...string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}
