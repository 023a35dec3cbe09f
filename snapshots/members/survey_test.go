package members

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// dialOne is a Dialer without TLS.
func dialOne(ctx context.Context, endpoint string) (*clientv3.Client, error) {
	// The client would try again and again.
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(endpoint, "http://"))
	if err != nil {
		return nil, err
	}
	conn.Close()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	if _, err := client.Status(ctx, endpoint); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

func httpMetrics(ctx context.Context, endpoint string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

func mustSurvey(t *testing.T, opt SurveyOptions) *Report {
	t.Helper()
	opt.Dial, opt.Timeout = dialOne, max(opt.Timeout, 2*time.Second)
	r, err := Survey(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// surveyUntil surveys until the reasons are those that are wanted: an election takes its time.
func surveyUntil(t *testing.T, opt SurveyOptions, want ...string) *Report {
	t.Helper()
	for {
		r := mustSurvey(t, opt)
		if slices.Equal(codes(r), want) {
			return r
		}
		t.Logf("not yet %q: %+v", want, r.Reasons)
	}
}

// codes are those of the reasons, sorted, each once.
func codes(r *Report) []string {
	var all []string
	for _, reason := range r.Reasons {
		all = append(all, reason.Code)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// TestSurvey surveys real members while one after the other is stopped, cut off and killed.
func TestSurvey(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c, err := sandbox.StartCluster(ctx, sandbox.ClusterOptions{Options: sandbox.Options{NoFsync: true, Dir: t.TempDir(), QuotaBytes: 1 << 30}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	client := connect(t, c.Endpoints()...)
	put, err := client.Put(ctx, "/registry/a", "1")
	if err != nil {
		t.Fatal(err)
	}
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	other, third := (leader+1)%3, (leader+2)%3

	var stores atomic.Int64
	opt := SurveyOptions{Endpoints: []string{c.Member(other).Endpoint()}, Metrics: httpMetrics}
	opt.Store = func(ctx context.Context, client *clientv3.Client, m *Surveyed, quorum bool) {
		stores.Add(1)
		resp, err := client.Get(ctx, "/registry/a", clientv3.WithSerializable())
		if err != nil || resp.Header.MemberId != m.ID || !quorum {
			t.Errorf("the store of %s: %+v, %v, quorum %v", m.Label(), resp, err, quorum)
		}
	}
	r := surveyUntil(t, opt)
	for slices.ContainsFunc(r.Members, func(m Surveyed) bool { return m.StorageVersion == "" }) {
		r = surveyUntil(t, opt) // it follows some seconds after the start
	}
	checkHealthy(t, r, c, leader)
	if stores.Load() == 0 {
		t.Error("the store was not read")
	}
	if r.Members[0].Revision != put.Header.Revision {
		t.Errorf("revision %d, want %d: a survey changes nothing", r.Members[0].Revision, put.Header.Revision)
	}
	if now, err := client.Get(ctx, "a"); err != nil || now.Header.Revision != put.Header.Revision || now.Header.RaftTerm != put.Header.RaftTerm {
		t.Errorf("%+v, %v: a survey changes nothing", now, err)
	}

	opt.Store = nil
	givenElsewhere(t, c)
	// A member hangs.
	if err := c.Member(third).Stop(); err != nil {
		t.Fatal(err)
	}
	r = surveyUntil(t, opt, ReasonDown)
	if m := r.byID(c.Member(third).ID()); m.Answers() || m.Err == nil || !r.Quorum {
		t.Errorf("one hangs: %+v", m)
	}
	if err := c.Member(third).Continue(); err != nil {
		t.Fatal(err)
	}
	// A member lives, and reaches nobody.
	c.Member(third).CutPeers()
	r = surveyUntil(t, opt, ReasonCutOff)
	if m := r.byID(c.Member(third).ID()); !m.Serializable.OK() || m.Linearizable.Err == nil {
		t.Errorf("one is cut off: %+v", m)
	}
	c.Member(third).HealPeers()
	surveyUntil(t, opt)
	// Nobody is left to make a quorum with.
	for _, i := range []int{leader, third} {
		if err := c.Member(i).Kill(); err != nil {
			t.Fatal(err)
		}
	}
	r = surveyUntil(t, opt, ReasonDown, ReasonNoLeader, ReasonNoQuorum)
	if m := r.byID(c.Member(other).ID()); !m.Serializable.OK() || r.Quorum || r.Leader() != nil || r.Looks != looks {
		t.Errorf("no quorum: %+v, %d looks", m, r.Looks)
	}
	if err := c.Member(other).Kill(); err != nil {
		t.Fatal(err)
	}
	r = mustSurvey(t, opt)
	if len(r.Members) > 0 || len(r.Silent) != 1 || r.Answers() || r.Silent[0].Err == nil {
		t.Errorf("nobody is left: %+v", r)
	}
}

// givenElsewhere gives addresses that are not those that the members advertise, and lead nowhere from here: nobody waits
// for those once every member has answered.
func givenElsewhere(t *testing.T, c *sandbox.Cluster) {
	t.Helper()
	var given []string
	for _, endpoint := range c.Endpoints() {
		given = append(given, strings.Replace(endpoint, "127.0.0.1", "localhost", 1))
	}
	asked := make(chan struct{})
	var once sync.Once
	var waited atomic.Int64
	dial := func(ctx context.Context, endpoint string) (*clientv3.Client, error) {
		if strings.Contains(endpoint, "127.0.0.1") {
			once.Do(func() { close(asked) })
			<-ctx.Done()
			if !errors.Is(ctx.Err(), context.Canceled) {
				waited.Add(1)
			}
			return nil, ctx.Err()
		}
		if endpoint != given[0] {
			<-asked // the first has told of the others by now
		}
		return dialOne(ctx, endpoint)
	}
	r, err := Survey(t.Context(), SurveyOptions{Endpoints: given, Dial: dial, Timeout: time.Minute})
	if err != nil || !r.Answers() || len(r.Members) != 3 || len(r.Silent) > 0 || waited.Load() > 0 {
		t.Errorf("%+v, %v, %d were waited for", r, err, waited.Load())
	}
}

func (r *Report) byID(id uint64) *Surveyed {
	for i := range r.Members {
		if r.Members[i].ID == id {
			return &r.Members[i]
		}
	}
	return &Surveyed{}
}

func checkHealthy(t *testing.T, r *Report, c *sandbox.Cluster, leader int) {
	t.Helper()
	if len(r.Members) != 3 || r.Leader() == nil || r.Leader().ID != c.Member(leader).ID() || !r.Quorum || r.Kine || len(r.Differences) > 0 {
		t.Fatalf("%+v", r)
	}
	for _, m := range r.Members {
		if !m.Answers() || !m.Serializable.OK() || !m.Linearizable.OK() || m.Quota != 1<<30 || m.QuotaFrom != "status" || m.Took <= 0 || len(m.PeerURLs) == 0 ||
			len(m.Knows) != 3 || m.MetricsErr != nil || m.Disk.Commit.Count == 0 || m.Disk.Fsync.Longest == 0 || m.Disk.Quota != 1<<30 || m.StorageVersion == "" || m.Full() < 0 {
			t.Errorf("%+v", m)
		}
	}
}

// TestSurveyEndpoints: members are told apart by what they say they are, not by where they answer.
func TestSurveyEndpoints(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	box, err := sandbox.Start(ctx, sandbox.Options{NoFsync: true, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { box.Close() })
	// Every sandbox of one member has the same ids.
	another, err := sandbox.StartCluster(ctx, sandbox.ClusterOptions{Members: 1, Options: sandbox.Options{NoFsync: true, Dir: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { another.Close() })
	at := box.Endpoints()[0]
	_, port, _ := strings.Cut(strings.TrimPrefix(at, "http://"), ":")
	const long = time.Minute // nothing here is to be waited for
	r := mustSurvey(t, SurveyOptions{Timeout: long, Endpoints: []string{at + "/", "http://localhost:" + port, at, "http://127.0.0.1:1"}})
	if len(r.Members) != 1 || len(r.Silent) != 1 || r.Silent[0].Endpoint != "http://127.0.0.1:1" || !slices.Equal(codes(r), []string{ReasonEndpoint}) {
		t.Errorf("a member at two addresses, and an address of nobody: %+v", r)
	}
	r = mustSurvey(t, SurveyOptions{Timeout: long, Endpoints: []string{at, another.Endpoints()[0]}})
	if len(r.Members) != 1 || len(r.Silent) != 1 || !errors.Is(r.Silent[0].Err, ErrForeign) || !slices.Equal(codes(r), []string{ReasonDiffer}) {
		t.Errorf("another etcd: %+v", r)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if r, err := Survey(gone, SurveyOptions{Endpoints: []string{at}, Dial: dialOne}); !errors.Is(err, context.Canceled) || r != nil {
		t.Errorf("interrupted: %+v, %v", r, err)
	}
}

// TestSurveyWaits: what never answers costs the timeout, and is said.
func TestSurveyWaits(t *testing.T) {
	t.Parallel()
	hangs := func(ctx context.Context, endpoint string) (*clientv3.Client, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	r, err := Survey(t.Context(), SurveyOptions{Endpoints: []string{"http://a", "http://b"}, Dial: hangs, Timeout: 20 * time.Millisecond})
	if err != nil || len(r.Silent) != 2 || r.Answers() || !strings.Contains(r.Silent[1].Err.Error(), "no answer in time") || !errors.Is(r.Silent[1].Err, context.DeadlineExceeded) {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestSurveyAdvertised: what members advertise is gone to, but not whatever they say.
func TestSurveyAdvertised(t *testing.T) {
	t.Parallel()
	var dialled atomic.Int64
	s := &survey{visits: map[string]*visit{}, found: map[uint64]bool{}, claimed: map[identity]bool{}}
	s.opt = SurveyOptions{Timeout: time.Minute, Dial: func(context.Context, string) (*clientv3.Client, error) {
		dialled.Add(1)
		return nil, errors.New("nothing listens there")
	}}
	s.ctx = t.Context()
	s.advertised, s.enough = context.WithCancel(s.ctx)
	defer s.enough()
	var list []Member
	for i := range 90 {
		m := Member{ID: uint64(i + 1)}
		for k := range 5 {
			m.ClientURLs = append(m.ClientURLs, fmt.Sprintf("http://192.0.2.%d:%d", i, k))
		}
		list = append(list, m)
	}
	s.learn(&visit{}, list)
	s.learn(&visit{}, list) // what was gone to does not count again
	s.all.Wait()
	if n := dialled.Load(); n != mostAdvertised {
		t.Errorf("%d addresses were gone to, want %d", n, mostAdvertised)
	}
}
