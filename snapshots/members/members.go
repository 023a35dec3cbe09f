// Package members asks the members of an etcd how they are, each for itself, says which of them to take a snapshot from,
// and maintains them: Compact, Defrag, Disarm and ProveWrite are all that changes anything, and none of them a key.
//
// Its invariant: what is said of a member comes from that member. An address counts only if the member that answers
// there is the one that was meant, since what members advertise may lead elsewhere from here.
package members

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// ErrForeign says that a member of another etcd answers at an address.
var ErrForeign = errors.New("belongs to another etcd cluster")

// defaultTimeout is how long one member may take to answer.
const defaultTimeout = 3 * time.Second

// Options says whom to ask.
type Options struct {
	// Endpoints are asked first, in this order; then those that the members advertise. The first that answers decides
	// which cluster is meant.
	Endpoints []string
	// Timeout bounds every question; zero means 3 s. List takes about twice as long at most.
	Timeout time.Duration
}

// Member is what is known of one member of an etcd.
type Member struct {
	// ID is never 0, Name empty if the member was not in the list of members.
	ID   uint64
	Name string
	// Cluster is etcd's id of the cluster, 0 if the member did not answer.
	Cluster uint64
	// ClientURLs are what it advertises, PeerURLs what it advertises to the other members.
	ClientURLs, PeerURLs []string
	// Endpoint is where it answered; empty if it did not, and then Err says why and what follows is not known,
	// Learner excepted.
	Endpoint string
	Err      error
	// Took is how long the answer took.
	Took time.Duration
	// also are the other addresses where it answered.
	also []string

	Learner bool
	// Leader is the member that this one takes for the leader; 0: it knows none.
	Leader uint64
	// Version is that of the server. StorageVersion is that of its db file, as etcd tells it from 3.6 on.
	Version, StorageVersion string
	// DBSize is the length of its db file in bytes, InUse what of it holds data.
	DBSize, InUse int64
	// Quota is what DBSize may not exceed, in bytes, as etcd tells it from 3.6 on: 0 if it is not known, below 0 if
	// there is none.
	Quota int64
	// Term, Index and Applied are raft's: Applied is the last entry that it has carried out.
	Term, Index, Applied uint64
	// Alarms are those of the whole etcd, as this member knows them.
	Alarms []Alarm
	// Errors is what else it complains of.
	Errors []string
}

// Alarm is one that a member has raised.
type Alarm struct {
	Member uint64
	Type   string // "NOSPACE", "CORRUPT"
}

// IsLeader says that the member takes itself for the leader.
func (m *Member) IsLeader() bool { return m.ID != 0 && m.Leader == m.ID }

// Answers says that the member was reached.
func (m *Member) Answers() bool { return m.Endpoint != "" }

// Label names the member for people: by its name, or by its id in etcd's own notation.
func (m *Member) Label() string {
	if m.Name != "" {
		return m.Name
	}
	return fmt.Sprintf("%x", m.ID)
}

// List returns all members, sorted by name and id: those that the list of members names and those that answer at the
// given endpoints. It takes no leader and no quorum, and waits for none that is dead. The error is the one of the list
// of members, and comes with what could be found out without it.
func List(ctx context.Context, client *clientv3.Client, opt Options) ([]Member, error) {
	if opt.Timeout <= 0 {
		opt.Timeout = defaultTimeout
	}
	known, err := list(ctx, client, opt.Timeout)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	endpoints := slices.Clone(opt.Endpoints)
	for _, m := range known {
		endpoints = append(endpoints, m.ClientURLs...)
	}
	answers := ask(ctx, client, unique(endpoints), opt.Timeout)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	members := join(known, answers)
	slices.SortFunc(members, byName)
	return members, err
}

func byName(a, b Member) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) }

// list asks any member for what it knows of all of them, which takes no leader.
func list(ctx context.Context, client *clientv3.Client, timeout time.Duration) ([]Member, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var resp *clientv3.MemberListResponse
	var err error
	for range 3 { // each asks another member, and learners do not know the call
		if resp, err = client.MemberList(ctx, clientv3.WithSerializable()); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list the members of etcd: %w", err)
	}
	return listed(resp.Members), nil
}

func listed(all []*etcdserverpb.Member) []Member {
	members := make([]Member, 0, len(all))
	for _, m := range all {
		members = append(members, Member{ID: m.ID, Name: m.Name, ClientURLs: m.ClientURLs, PeerURLs: m.PeerURLs, Learner: m.IsLearner})
	}
	return members
}

func unique(endpoints []string) []string {
	var out []string
	for _, e := range endpoints {
		if e = strings.TrimSuffix(e, "/"); e != "" && !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	return out
}

// answer is what was found at an endpoint.
type answer struct {
	endpoint string
	status   *clientv3.StatusResponse
	err      error
	took     time.Duration
}

// ask asks all endpoints at once.
func ask(ctx context.Context, client *clientv3.Client, endpoints []string, timeout time.Duration) []answer {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answers := make([]answer, len(endpoints))
	var all sync.WaitGroup
	for i, endpoint := range endpoints {
		all.Go(func() {
			begun := time.Now()
			status, err := client.Status(ctx, endpoint)
			answers[i] = answer{endpoint, status, err, time.Since(begun)}
		})
	}
	all.Wait()
	return sameCluster(answers)
}

// sameCluster turns the answers of another cluster than the first into errors.
func sameCluster(answers []answer) []answer {
	var cluster uint64
	for i := range answers {
		a := &answers[i]
		if a.err != nil {
			continue
		}
		id := a.status.Header.GetClusterId()
		if cluster == 0 {
			cluster = id
		}
		if id != cluster {
			a.err = fmt.Errorf("%w: %x, not %x", ErrForeign, id, cluster)
		}
	}
	return answers
}

// join puts together what the list says and what was answered.
func join(members []Member, answers []answer) []Member {
	for _, a := range answers {
		if a.err != nil {
			continue
		}
		id := a.status.Header.GetMemberId()
		i := slices.IndexFunc(members, func(m Member) bool { return m.ID == id })
		if i < 0 && id != 0 {
			members, i = append(members, Member{ID: id}), len(members)
		}
		switch {
		case i < 0:
		case members[i].Answers():
			members[i].also = append(members[i].also, a.endpoint)
		default:
			members[i].fill(a)
		}
	}
	for i := range members {
		if !members[i].Answers() {
			members[i].Err = whyNot(&members[i], answers)
		}
	}
	return members
}

func (m *Member) fill(a answer) {
	s := a.status
	m.Cluster, m.Endpoint, m.Took = s.Header.GetClusterId(), a.endpoint, a.took
	m.Leader, m.Version, m.StorageVersion = s.Leader, s.Version, s.StorageVersion
	m.Learner = m.Learner || s.IsLearner
	m.DBSize, m.InUse, m.Quota = s.DbSize, s.DbSizeInUse, s.DbSizeQuota
	m.Term, m.Index, m.Applied = s.RaftTerm, s.RaftIndex, s.RaftAppliedIndex
	if m.Applied == 0 {
		m.Applied = m.Index // before etcd 3.4 only this was told
	}
	for _, text := range s.Errors {
		if alarm, ok := ParseAlarm(text); ok {
			m.Alarms = append(m.Alarms, alarm)
		} else {
			m.Errors = append(m.Errors, text)
		}
	}
}

// whyNot says what was found where the member advertises to be.
func whyNot(m *Member, answers []answer) error {
	for _, a := range answers {
		at := slices.ContainsFunc(m.ClientURLs, func(u string) bool { return strings.TrimSuffix(u, "/") == a.endpoint })
		switch {
		case !at:
		case a.err != nil:
			return fmt.Errorf("%s: %w", a.endpoint, a.err)
		default:
			return fmt.Errorf("%s: another member answers there", a.endpoint)
		}
	}
	if len(m.ClientURLs) == 0 {
		return errors.New("it has not started yet, and advertises no address")
	}
	return errors.New("it answers nowhere")
}

// ParseAlarm reads an alarm as Status prints it among its errors: "memberID:1 alarm:NOSPACE", with any number of blanks
// (api/etcdserverpb). It is not ok if the text is no alarm.
func ParseAlarm(text string) (a Alarm, ok bool) {
	for word := range strings.FieldsSeq(text) {
		switch name, value, _ := strings.Cut(word, ":"); name {
		case "memberID":
			_, _ = fmt.Sscan(value, &a.Member)
		case "alarm":
			a.Type = value
		}
	}
	_, known := etcdserverpb.AlarmType_value[a.Type]
	return a, known
}
