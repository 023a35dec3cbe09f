package members

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// probeKey is what is read to see whether reads work. It need not exist; etcd's own health check asks for it.
const probeKey = "health"

// SurveyOptions says whom to ask, and how.
type SurveyOptions struct {
	// Endpoints are asked first, in this order; then those that the members advertise. The first that answers decides
	// which cluster is meant.
	Endpoints []string
	Dial      Dialer
	// Timeout is how long one endpoint may take to connect; zero means 3 s. Survey takes less than twice as long.
	Timeout time.Duration
	// Metrics opens what the member at an endpoint tells of itself in the text format of Prometheus, or returns
	// [ErrNoMetrics]. Nil: it is not asked.
	Metrics func(ctx context.Context, endpoint string) (io.ReadCloser, error)
	// Quota says how large the db file of a member may get, in bytes, and who says so, if neither its status nor its
	// metrics do. Nil: nobody else knows.
	Quota func(m *Member) (quota int64, from string)
	// Store is called once, if it is set and a member answers reads, with a client of that member alone, which is closed
	// afterwards. quorum says that there is a quorum. The context leaves it the time that is left.
	Store func(ctx context.Context, client *clientv3.Client, m *Surveyed, quorum bool)
}

// ErrNoMetrics says that nobody knows where the metrics of a member are, which is no failure.
var ErrNoMetrics = errors.New("its metrics are not known")

// Read is how one kind of read went.
type Read struct {
	// Took is the median of three reads; 0: it was not tried, or failed.
	Took time.Duration
	Err  error
}

// OK says that it was tried and worked.
func (r Read) OK() bool { return r.Err == nil && r.Took > 0 }

// Surveyed is what a survey finds out about a member.
type Surveyed struct {
	// Member is as in List. ID is 0 in a server that names no members: kine.
	Member
	// Revision is that of the newest change that the member knows; 0: unknown.
	Revision int64
	// Serializable is a read of what the member holds itself, which tells whether it lives; Linearizable one that takes
	// a quorum, which tells whether that lives, and is not asked of learners.
	Serializable, Linearizable Read
	// Disk is from its metrics; MetricsErr says why they could not be read.
	Disk       Disk
	MetricsErr error
	// QuotaFrom says where Quota is from: "status", "metrics", what SurveyOptions.Quota says, or if it is not known "".
	QuotaFrom string
	// Behind is how many raft entries it has not carried out of those that the others knew to be committed at the
	// first look.
	Behind uint64
	// Knows are the members in its own list, sorted; nil if it did not tell.
	Knows []uint64
	// Lost is why it did not answer any more when it was looked at again.
	Lost error
}

// Silent is an endpoint that was given, where no member was found.
type Silent struct {
	Endpoint string
	Err      error
}

// Report is what a survey found.
type Report struct {
	// Members are all that are known of, sorted by name and id.
	Members []Surveyed
	// Silent are the given endpoints that led to no member, in their order.
	Silent []Silent
	// Kine says that a server answers that is no etcd, and has no members.
	Kine bool
	// Quorum says that a linearizable read worked somewhere.
	Quorum bool
	// Looks is how often the members were looked at.
	Looks int
	// Differences are what members disagree on.
	Differences []Difference
	// Reasons are why not all is well; none if it is.
	Reasons []Reason
}

// Answers says that a member was reached.
func (r *Report) Answers() bool {
	return slices.ContainsFunc(r.Members, func(m Surveyed) bool { return m.Answers() })
}

// Healthy says that all is well.
func (r *Report) Healthy() bool { return len(r.Reasons) == 0 }

// Leader is the member that leads, as the one in the latest term says that answers; nil if none does, or is not known to.
// It need not have answered itself.
func (r *Report) Leader() *Surveyed {
	var says *Surveyed
	for i := range r.Members {
		m := &r.Members[i]
		if m.Answers() && m.Leader != 0 && (says == nil || m.Term > says.Term || m.Term == says.Term && m.IsLeader()) {
			says = m
		}
	}
	if says == nil {
		return nil
	}
	i := slices.IndexFunc(r.Members, func(m Surveyed) bool { return m.ID == says.Leader })
	if i < 0 {
		return nil
	}
	return &r.Members[i]
}

// Survey asks every member how it is. All are asked at once, so that one that is dead costs its timeout once, and none of
// it takes a leader. It only reads, and no request becomes an entry of raft, unless the dialer logs in with a password.
//
// An endpoint that does not answer is no error but part of the report. The error is that of ctx.
func Survey(ctx context.Context, opt SurveyOptions) (*Report, error) {
	if opt.Timeout <= 0 {
		opt.Timeout = defaultTimeout
	}
	limited, cancel := context.WithTimeout(ctx, opt.Timeout*19/10)
	defer cancel()
	s := &survey{opt: opt, ctx: limited, visits: map[string]*visit{}, found: map[uint64]bool{}, claimed: map[identity]bool{}}
	s.advertised, s.enough = context.WithCancel(limited)
	defer s.close()
	s.mu.Lock()
	for _, endpoint := range unique(opt.Endpoints) {
		s.visit(endpoint, true)
	}
	s.mu.Unlock()
	s.all.Wait()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	r := s.report()
	if v := s.best(); v == nil || opt.Store == nil {
		s.lookAgain(r)
	} else if told := *r.of(v); v.linearizable.OK() {
		var store sync.WaitGroup
		store.Go(func() { opt.Store(limited, v.client, &told, true) })
		s.lookAgain(r)
		store.Wait()
	} else {
		// Whether there is a quorum may only show at another look, after an election.
		s.lookAgain(r)
		opt.Store(limited, v.client, &told, r.Quorum)
	}
	r.judge()
	return r, ctx.Err()
}

// survey is one call of Survey.
type survey struct {
	opt SurveyOptions
	ctx context.Context
	// advertised is for endpoints that nobody gave; enough ends it.
	advertised context.Context
	enough     context.CancelFunc
	all        sync.WaitGroup

	mu     sync.Mutex
	visits map[string]*visit
	// strangers is how many of them nobody gave.
	strangers int
	order     []*visit
	known     []Member        // by anybody's list
	found     map[uint64]bool // of them
	claimed   map[identity]bool
}

// identity tells members apart: those of a restored etcd have the ids of the old one's.
type identity struct{ cluster, member uint64 }

// visit is what is asked at one endpoint.
type visit struct {
	answer
	given  bool
	client *clientv3.Client
	// kine says that the server has no members; second that another visit is to the same member.
	kine, second bool

	list                       []Member
	serializable, linearizable Read
	revision                   int64
	disk                       Disk
	metricsErr                 error
}

// mostAdvertised bounds the endpoints that are visited because members advertise them. etcd advises against more than
// seven members, and each has a few addresses at most.
const mostAdvertised = 200

// visit goes to an endpoint, unless it was gone to before. s.mu is held.
func (s *survey) visit(endpoint string, given bool) {
	if s.visits[endpoint] != nil || !given && s.strangers == mostAdvertised {
		return
	}
	if !given {
		s.strangers++
	}
	v := &visit{answer: answer{endpoint: endpoint}, given: given}
	s.visits[endpoint], s.order = v, append(s.order, v)
	ctx := s.ctx
	if !given {
		ctx = s.advertised
	}
	s.all.Go(func() {
		if v.err = s.open(ctx, v); v.err == nil && !v.second {
			s.question(s.ctx, v)
		}
	})
}

// open connects and asks who is there.
func (s *survey) open(ctx context.Context, v *visit) error {
	limited, cancel := context.WithTimeout(ctx, s.opt.Timeout*5/4)
	defer cancel()
	client, err := s.opt.Dial(limited, v.endpoint)
	if err != nil {
		return s.why(limited, err)
	}
	v.client = client
	asking, stop := context.WithTimeout(ctx, s.patience())
	defer stop()
	begun := time.Now()
	v.status, err = askStatus(asking, client)
	v.took = time.Since(begun)
	if err != nil || v.status.Header.GetMemberId() == 0 {
		return s.openNameless(asking, v, err)
	}
	s.claim(v)
	return nil
}

// patience is how long one question may take, once there is a connection.
func (s *survey) patience() time.Duration { return s.opt.Timeout / 2 }

// why says what it means that our own time is over.
func (s *survey) why(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.DeadlineExceeded) {
		return noAnswer{err}
	}
	return err
}

// noAnswer is the end of our own time, which is told in no other words than these.
type noAnswer struct{ error }

func (noAnswer) Error() string   { return "no answer in time" }
func (e noAnswer) Unwrap() error { return e.error }

// openNameless tells kine, which answers reads in the name of no member, and may not know the status call at all.
func (s *survey) openNameless(ctx context.Context, v *visit, cause error) error {
	resp, err := askRange(ctx, v.client, false)
	if err != nil || resp.Header.GetClusterId() != 0 || resp.Header.GetMemberId() != 0 {
		if cause == nil {
			cause = err
		}
		return fmt.Errorf("it does not tell its status: %w", s.why(ctx, cause))
	}
	v.kine = true
	return nil
}

// claim makes sure that every member is questioned once, at one of its addresses.
func (s *survey) claim(v *visit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := identity{v.status.Header.GetClusterId(), v.status.Header.GetMemberId()}
	v.second = s.claimed[id]
	s.claimed[id], s.found[id.member] = true, true
	s.checkEnough()
}

// checkEnough gives up the advertised addresses when every member has answered: some lead nowhere from here.
func (s *survey) checkEnough() {
	missing := slices.ContainsFunc(s.known, func(m Member) bool { return !s.found[m.ID] })
	if len(s.known) > 0 && !missing {
		s.enough()
	}
}

// question asks everything else of a member at once.
func (s *survey) question(ctx context.Context, v *visit) {
	ctx, cancel := context.WithTimeout(ctx, s.patience())
	defer cancel()
	var all sync.WaitGroup
	if v.kine {
		v.linearizable, v.revision = askRead(ctx, v.client, false)
		return
	}
	all.Go(func() { s.learn(v, askList(ctx, v.client)) })
	all.Go(func() { v.serializable, v.revision = askRead(ctx, v.client, true) })
	if !v.status.IsLearner {
		all.Go(func() { v.linearizable, _ = askRead(ctx, v.client, false) })
	}
	if s.opt.Metrics != nil {
		id := v.status.Header.GetMemberId()
		all.Go(func() { v.disk, v.metricsErr = askMetrics(ctx, s.opt.Metrics, v.endpoint, id) })
	}
	all.Wait()
}

// learn goes to members that are not found yet.
func (s *survey) learn(v *visit, list []Member) {
	v.list = list
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = union(s.known, list)
	for _, m := range list {
		if s.found[m.ID] {
			continue
		}
		for _, url := range unique(m.ClientURLs) {
			s.visit(url, false)
		}
	}
	s.checkEnough()
}

// union adds members that are not among the others.
func union(all, more []Member) []Member {
	for _, m := range more {
		if !slices.ContainsFunc(all, func(a Member) bool { return a.ID == m.ID }) {
			all = append(all, m)
		}
	}
	return all
}

// best is the visit whose member the store is read from: one with a quorum, or else any that answers reads.
func (s *survey) best() *visit {
	var best *visit
	for _, v := range s.order {
		switch {
		case v.err != nil || v.second:
		case v.linearizable.OK():
			return v
		case best == nil && v.serializable.OK():
			best = v
		}
	}
	return best
}

// report puts together what was found at the first look.
func (s *survey) report() *Report {
	r := &Report{Looks: 1}
	answers := make([]answer, 0, len(s.order))
	for _, v := range s.order {
		if !v.kine {
			answers = append(answers, v.answer)
		}
	}
	answers = sameCluster(answers)
	var known []Member
	for _, a := range answers {
		v := s.visits[a.endpoint]
		if v.err = a.err; v.err == nil {
			known = union(known, v.list)
		}
	}
	for _, m := range join(known, answers) {
		r.Members = append(r.Members, s.surveyed(m))
	}
	slices.SortFunc(r.Members, func(a, b Surveyed) int { return byName(a.Member, b.Member) })
	for _, v := range s.order {
		switch {
		case v.kine:
			r.Kine = true
			r.Members = append(r.Members, s.surveyed(v.nameless()))
		case v.given && v.err != nil && !r.explains(v.endpoint):
			r.Silent = append(r.Silent, Silent{v.endpoint, v.err})
		}
	}
	r.Quorum = r.reads()
	return r
}

// explains says that a member that does not answer is the one that was meant by an endpoint.
func (r *Report) explains(endpoint string) bool {
	return slices.ContainsFunc(r.Members, func(m Surveyed) bool {
		return !m.Answers() && slices.ContainsFunc(m.ClientURLs, func(u string) bool { return strings.TrimSuffix(u, "/") == endpoint })
	})
}

// nameless is kine at an endpoint.
func (v *visit) nameless() Member {
	m := Member{Endpoint: v.endpoint, Took: v.took}
	if v.status != nil {
		m.Version, m.DBSize = v.status.Version, v.status.DbSize
	}
	return m
}

// surveyed adds to a member what was asked of it, at whichever of its addresses that was.
func (s *survey) surveyed(m Member) Surveyed {
	out := Surveyed{Member: m}
	if m.Quota != 0 {
		out.QuotaFrom = "status"
	}
	for _, v := range s.order {
		mine := v.status != nil && v.status.Header.GetMemberId() == m.ID && m.ID != 0 || v.kine && v.endpoint == m.Endpoint
		if v.err != nil || v.second || !mine {
			continue
		}
		out.Revision, out.Serializable, out.Linearizable = v.revision, v.serializable, v.linearizable
		if v.status != nil { // who may not read what was read is told the revision all the same
			out.Revision = max(out.Revision, v.status.Header.GetRevision())
		}
		out.Disk, out.MetricsErr = v.disk, v.metricsErr
		if v.list != nil {
			out.Knows = ids(v.list)
		}
		if out.Quota == 0 && v.disk.Quota != 0 {
			out.Quota, out.QuotaFrom = v.disk.Quota, "metrics"
		}
	}
	if out.Quota == 0 && s.opt.Quota != nil && m.Answers() {
		out.Quota, out.QuotaFrom = s.opt.Quota(&m)
	}
	return out
}

// of is the member that was visited.
func (r *Report) of(v *visit) *Surveyed {
	for i := range r.Members {
		m := &r.Members[i]
		if v.kine && m.Endpoint == v.endpoint || !v.kine && m.ID == v.status.Header.GetMemberId() {
			return m
		}
	}
	return &Surveyed{}
}

func (s *survey) close() {
	s.enough()
	for _, v := range s.order {
		if v.client != nil {
			v.client.Close()
		}
	}
}
