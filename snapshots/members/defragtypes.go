package members

import (
	"context"
	"io"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// DefragOptions says what to defragment, and how carefully.
type DefragOptions struct {
	// Client knows the members, and is asked how they are; Endpoints are asked besides what they advertise, as in
	// [Options]. It stays the caller's.
	Client    *clientv3.Client
	Endpoints []string
	// Dial connects to one member only.
	Dial Dialer
	// Steps are from [PlanDefrag]. What leads by then goes last, whatever the plan thought.
	Steps []DefragStep
	// MoveLeader gives the leadership to a voter that is healthy and not to be defragmented any more, just before the
	// leader's turn. Without it the leader is defragmented while it leads, which it goes on to do, for raft does not wait
	// for the db file: others take writes meanwhile, and only what it is asked itself waits.
	MoveLeader bool
	// Wait is how long to leave the members alone after each.
	Wait time.Duration
	// Timeout bounds every question; zero means 3 s.
	Timeout time.Duration
	// Patience is after what time a member that is still at it is spoken of as [DefragWaiting]; zero means a minute. It ends
	// nothing.
	Patience time.Duration
	// Settle is for how long the health gate is tried again after a member is done, since that one has to catch up first;
	// zero means two minutes. Before the first member it is tried three times, a second apart.
	Settle time.Duration
	// Room refuses a member whose disk has no place for the copy; nil: not known. It is asked just before each.
	Room func(DefragStep) error
	// Metrics opens what the member at an endpoint tells of itself in the text format of Prometheus, as in a survey. It
	// names the reason if somebody else defragments that member; without it, it is one that does not answer. Nil: it is not
	// asked.
	Metrics func(ctx context.Context, endpoint string) (io.ReadCloser, error)
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// DefragStage is what a [DefragEvent] is about.
type DefragStage int

const (
	// DefragBegun: the member is asked to defragment itself now.
	DefragBegun DefragStage = iota
	// DefragWaiting comes every few seconds while a member takes longer than Patience, or the connection to it broke. Text
	// says what is known.
	DefragWaiting
	// DefragDone: it answers again. Result is complete.
	DefragDone
	// DefragGate comes while the health gate does not pass yet; Text says why.
	DefragGate
	// DefragPause: the wait between two members begins; For is how long.
	DefragPause
	// DefragMoved: Member has given the leadership to To.
	DefragMoved
)

// DefragEvent tells how far [Defrag] is.
type DefragEvent struct {
	Stage DefragStage
	// N counts the members from 1, Of is how many there are.
	N, Of  int
	Member Member
	To     Member
	For    time.Duration
	Text   string
	Result *Defragmented
}

// DefragObserver is told by the goroutine that called [Defrag], and must return soon. It may be nil.
type DefragObserver func(DefragEvent)

// Defragmented is what became of one member.
type Defragmented struct {
	// Before and After are what the member said of itself; After has no ID if it never answered again, which only an error
	// of Defrag can mean.
	Before, After Member
	// Took is from the request until it answered: how long it was stopped, or a little more.
	Took time.Duration
	// Unsure says that the answer got lost, and that the file is no smaller: it may be that it never got the request.
	Unsure bool
	// Err is etcd's own answer that it failed; the file is then as it was.
	Err error
}
