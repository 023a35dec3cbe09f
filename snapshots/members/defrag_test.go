package members

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const mib = 1 << 20

func sized(size, inUse, quota int64) func(*Member) {
	return func(m *Member) { m.DBSize, m.InUse, m.Quota = size*mib, inUse*mib, quota*mib }
}

func TestWorthwhile(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		size, inUse int64
		want        bool
	}{
		{1000, 550, true}, {1000, 551, false}, {1000, 100, true},
		{200, 100, true}, {200, 101, false}, {100, 0, true}, {99, 0, false},
		{0, 0, false}, {10, 20, false}, // in use is counted a moment later
	} {
		m := member(1, 1, sized(tc.size, tc.inUse, 0))
		if got, err := Worthwhile(SizesOf(m)); got != tc.want || err != nil {
			t.Errorf("%d MiB, %d in use: got %v, %v", tc.size, tc.inUse, got, err)
		}
	}
}

func TestSizesOf(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		m    Member
		want Sizes
	}{
		"known":   {member(1, 1, sized(300, 100, 400)), Sizes{300 * mib, 100 * mib, 200 * mib, 400 * mib, 0.75}},
		"unknown": {member(1, 1, sized(300, 100, 0)), Sizes{300 * mib, 100 * mib, 200 * mib, 0, 0}},
		"none":    {member(1, 1, sized(300, 100, -1)), Sizes{300 * mib, 100 * mib, 200 * mib, 0, 0}},
		"growing": {member(1, 1, sized(100, 101, 0)), Sizes{100 * mib, 101 * mib, 0, 0, 0}},
	} {
		if got := SizesOf(tc.m); got != tc.want {
			t.Errorf("%s: got %+v, want %+v", name, got, tc.want)
		}
	}
}

func TestPlanDefrag(t *testing.T) {
	t.Parallel()
	big := sized(1000, 400, 0)
	twoURLs := func(m *Member) {
		m.ClientURLs = append(m.ClientURLs, "https://10.1.0.1:2379")
		m.also = []string{"https://10.1.0.1:2379"}
	}
	broken := errors.New("cannot tell")
	for _, tc := range []struct {
		name    string
		members []Member
		rule    Rule
		want    string
	}{
		{"followers by id, the leader last", []Member{member(3, 2, big), member(2, 2, big), member(1, 2, big)}, nil, "1 3 2"},
		{"two URLs are one member", []Member{member(1, 2, big, twoURLs), member(2, 2, big, twoURLs)}, nil, "1 2"},
		{"a learner", []Member{member(1, 1, big), member(2, 1, big, learner)}, Always, "1 | 2 a learner, which etcd does not defragment"},
		{"silent", []Member{member(1, 1, big), member(2, 1, big, silent)}, Always, "1 | 2 does not answer: connection refused"},
		{"little to gain", []Member{member(1, 1, big), member(2, 1, sized(100, 99, 0))}, nil, "1 | 2 " + NotWorth},
		{"always", []Member{member(1, 1, big), member(2, 1, sized(100, 99, 0))}, Always, "2 1"},
		{"no rule is the usual one", []Member{member(1, 1, sized(100, 90, 0))}, nil, " | 1 " + NotWorth},
		{"a rule that cannot tell", []Member{member(1, 1, big)}, func(Sizes) (bool, error) { return true, broken }, " | 1 cannot tell (err)"},
		{"its own rule", []Member{member(1, 2, big), member(2, 2, sized(500, 400, 0))}, func(s Sizes) (bool, error) { return s.DBSize < 600*mib, nil }, "2 | 1 " + NotWorth},
		{"nobody", nil, Always, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			order, skipped := PlanDefrag(tc.members, tc.rule)
			var ids []string
			for _, s := range order {
				ids = append(ids, fmt.Sprint(s.Member.ID))
			}
			got := strings.Join(ids, " ")
			for _, s := range skipped {
				got += fmt.Sprintf(" | %d %s", s.Member.ID, s.Why)
				if s.Err != nil {
					got += " (err)"
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestEstimateStop(t *testing.T) {
	t.Parallel()
	for inUse, want := range map[int64]time.Duration{0: time.Second, 10 * mib: time.Second, DefragRate: time.Second, 30 * DefragRate: 30 * time.Second} {
		if got := EstimateStop(inUse); got != want {
			t.Errorf("%d bytes: got %s, want %s", inUse, got, want)
		}
	}
	if order, _ := PlanDefrag([]Member{member(1, 1, sized(1000, 400, 0))}, nil); order[0].Room() != 400*mib || order[0].Stop != EstimateStop(400*mib) {
		t.Errorf("got %+v", order)
	}
}

// TestFitToDefrag: NOSPACE passes, CORRUPT and a missing member do not.
func TestFitToDefrag(t *testing.T) {
	t.Parallel()
	noSpace := func(m *Member) { m.Alarms = []Alarm{{1, "NOSPACE"}} }
	three := func(change ...func(*Member)) []Member {
		return []Member{member(1, 1), member(2, 1, change...), member(3, 1)}
	}
	for name, tc := range map[string]struct {
		members []Member
		want    string // "": it passes
	}{
		"well":                     {three(), ""},
		"one member":               {[]Member{member(1, 1)}, ""},
		"NOSPACE":                  {three(noSpace), ""},
		"a little behind":          {three(behind(maxLag)), ""},
		"behind":                   {three(behind(maxLag + 1)), "m2 is 1001 entries behind the leader"},
		"CORRUPT":                  {three(corrupt(3)), "member 3 has raised the alarm CORRUPT"},
		"missing":                  {three(silent), "m2 does not answer: connection refused"},
		"it complains":             {three(broken), "m2 complains: etcdserver: no leader"},
		"another leader":           {three(func(m *Member) { m.Leader = 3 }), "m2 does not take m1 for the leader"},
		"no leader":                {[]Member{member(1, 0), member(2, 0)}, "no leader answers"},
		"the leader is silent":     {[]Member{member(1, 1, silent), member(2, 1)}, "no leader answers; m1 does not answer: connection refused"},
		"two leaders":              {[]Member{member(1, 1), member(2, 2, func(m *Member) { m.Term++ })}, "m1 does not take m2 for the leader"},
		"a silent learner":         {three(learner, silent), ""},
		"a learner behind":         {three(learner, behind(50_000)), ""},
		"CORRUPT told by learners": {three(learner, corrupt(2)), "member 2 has raised the alarm CORRUPT"},
		"nobody":                   {nil, "no member is known"},
		"two reasons":              {append(three(silent), member(4, 1, behind(2000))), "m2 does not answer: connection refused; m4 is 2000 entries behind the leader"},
	} {
		err := FitToDefrag(tc.members)
		got := ""
		if err != nil {
			got = strings.TrimPrefix(err.Error(), ErrUnfit.Error()+": ")
		}
		if got != tc.want || (err != nil) != errors.Is(err, ErrUnfit) {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}

// TestHeir: the leadership goes to a voter that is done.
func TestHeir(t *testing.T) {
	t.Parallel()
	all := []Member{member(1, 1), member(2, 1, learner), member(3, 1, behind(5)), member(4, 1), member(5, 1)}
	left := func(ids ...uint64) []DefragStep {
		var steps []DefragStep
		for _, id := range ids {
			steps = append(steps, DefragStep{Member: member(id, 1)})
		}
		return steps
	}
	for _, tc := range []struct {
		left []DefragStep
		want uint64
	}{{left(1), 4}, {left(1, 4), 5}, {left(1, 4, 5), 3}, {left(1, 3, 4, 5), 0}} {
		var got uint64
		if m := heir(all, 1, tc.left); m != nil {
			got = m.ID
		}
		if got != tc.want {
			t.Errorf("%d are left: got %d, want %d", len(tc.left), got, tc.want)
		}
	}
}

// TestIsLost: what may go on in the member is told from what etcd answered.
func TestIsLost(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{status.Error(grpccodes.Unavailable, "error reading from server: EOF"), true},
		{status.Error(grpccodes.Unavailable, "keepalive ping failed to receive ACK within timeout"), true},
		{status.Error(grpccodes.Canceled, "context canceled"), true},
		{status.Error(grpccodes.DeadlineExceeded, "context deadline exceeded"), true},
		{status.Error(grpccodes.Internal, "stream terminated by RST_STREAM"), true},
		{rpctypes.ErrPermissionDenied, false},
		{rpctypes.ErrGRPCNotSupportedForLearner, false},
		{status.Error(grpccodes.Unimplemented, "unknown method"), false},
		{status.Error(grpccodes.Unknown, "write /var/lib/etcd/member/snap/db.tmp.1: no space left on device"), false},
	} {
		for _, err := range []error{tc.err, rpctypes.Error(tc.err)} {
			if got := isLost(err); got != tc.want {
				t.Errorf("%v: got %v, want %v", err, got, tc.want)
			}
		}
	}
}

func TestSaysInflight(t *testing.T) {
	t.Parallel()
	const help = "# HELP etcd_disk_defrag_inflight Whether or not defrag is active on the member. 1 means active, 0 means not.\n# TYPE etcd_disk_defrag_inflight gauge\n"
	for text, want := range map[string]bool{
		help + "etcd_disk_defrag_inflight 1\n": true, help + "etcd_disk_defrag_inflight 0\n": false, help: false, "": false,
		"etcd_disk_defrag_inflight ": false, "etcd_disk_defrag_inflight_other 1\n": false, help + "etcd_disk_defrag_inflight 1": true,
		strings.Repeat("x", 1<<17) + "\netcd_disk_defrag_inflight 1\n": false, // a line like that is none of etcd's
	} {
		if got := saysInflight(strings.NewReader(text)); got != want {
			t.Errorf("%.90q: got %v, want %v", text, got, want)
		}
	}
}
