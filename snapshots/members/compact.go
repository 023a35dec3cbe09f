package members

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var (
	// ErrCompacted says that etcd had been compacted to the revision, or further, before.
	ErrCompacted = errors.New("is compacted already")
	// ErrFuture says that etcd has not come to the revision yet.
	ErrFuture = errors.New("is newer than anything in etcd")
	// ErrBehind says that a member did not tell how far its compaction is.
	ErrBehind = errors.New("does not tell how far it is")
)

// CompactObserver is told about once a second for how long a compaction has been going on.
type CompactObserver func(waiting time.Duration)

// Compact drops what was overwritten or deleted before revision rev, from the history of all members; what each key was
// at rev itself stays. With physical it returns when the member that was asked has removed it from its db file; the
// others may still be at it (AwaitCompaction). That takes as long as it takes, and etcd goes on when ctx ends.
//
// An error in which it stays open whether it was carried out is resolved by reading. ErrCompacted and ErrFuture are
// etcd's refusals, and change nothing. observe may be nil.
func Compact(ctx context.Context, client *clientv3.Client, rev int64, physical bool, observe CompactObserver) error {
	var opts []clientv3.CompactOption
	if physical {
		opts = append(opts, clientv3.WithCompactPhysical())
	}
	done := make(chan error, 1)
	go func() {
		_, err := client.Compact(ctx, rev, opts...)
		done <- err
	}()
	begun, tick := time.Now(), time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return compactOutcome(ctx, client, rev, err)
		case <-tick.C:
			if observe != nil {
				observe(time.Since(begun))
			}
		}
	}
}

// compactOutcome turns an answer into what it means.
func compactOutcome(ctx context.Context, client *clientv3.Client, rev int64, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, rpctypes.ErrCompacted):
		return fmt.Errorf("revision %d %w", rev, ErrCompacted)
	case errors.Is(err, rpctypes.ErrFutureRev):
		return fmt.Errorf("revision %d %w", rev, ErrFuture)
	}
	if gone, readErr := compactedBelow(ctx, client, rev); readErr == nil && gone {
		return nil
	}
	return fmt.Errorf("compact etcd to revision %d: %w", rev, err)
}

// compactedBelow says whether the revision before rev can no longer be read, which is what a compaction to rev does.
func compactedBelow(ctx context.Context, client *clientv3.Client, rev int64) (bool, error) {
	if rev <= 1 {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := client.Get(ctx, "health", clientv3.WithRev(rev-1), clientv3.WithCountOnly())
	if errors.Is(err, rpctypes.ErrCompacted) {
		return true, nil
	}
	return false, err
}

// AwaitCompaction returns when all voters have removed from their db files what the compaction to revision rev drops: each
// does that in its own time, and a defragmentation before that would find it all still there. Each is asked, by itself, to
// compact to rev once more. That it refuses (ErrCompacted), but no sooner than it is done, and then writes out what it has
// removed (etcdserver/v3_server.go, Compact): before that its status may go on telling of the old size, until the next
// writes, which under NOSPACE never come (hence writeOuts). etcd before 3.5 has nothing to write out then (see TellsLate).
//
// An error says which members do not answer, and is ErrBehind; the others are waited for all the same. Learners are not waited for.
// observe, which may be nil, is told as by Compact.
func AwaitCompaction(ctx context.Context, dial Dialer, members []Member, rev int64, observe CompactObserver) error {
	var silent []error
	for _, m := range Voters(members) {
		err := m.Err
		if m.Answers() {
			err = awaitCompaction(ctx, dial, m.Endpoint, rev, observe)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			silent = append(silent, fmt.Errorf("member %s %w: %w", m.Label(), ErrBehind, err))
		}
	}
	return errors.Join(silent...)
}

func awaitCompaction(ctx context.Context, dial Dialer, endpoint string, rev int64, observe CompactObserver) error {
	client, err := dial(ctx, endpoint)
	if err != nil {
		return err
	}
	defer client.Close()
	for range writeOuts {
		if err = Compact(ctx, client, rev, true, observe); err != nil && !errors.Is(err, ErrCompacted) {
			return err
		}
	}
	return nil
}

// writeOuts is how often a member is had to write out: once what it has removed; once until nobody reads that any more, and
// bbolt counts it as free; once until its status tells of it; and once more.
const writeOuts = 4

// TellsLate says that the member's release tells of what a compaction has freed after its next write only.
func TellsLate(m *Member) bool {
	var major, minor int
	n, _ := fmt.Sscanf(m.Version, "%d.%d.", &major, &minor)
	return n == 2 && major == 3 && minor < 5
}

// LosesEvents returns the versions of the members whose release may drop events of watches around a compaction: a delete
// in the very revision that etcd is compacted to is missed by a watch that begins there (etcd#18089, fixed in 3.4.36 and
// 3.5.18).
func LosesEvents(members []Member) []string {
	var versions []string
	for _, m := range members {
		var major, minor, patch int
		if n, _ := fmt.Sscanf(m.Version, "%d.%d.%d", &major, &minor, &patch); n < 3 || major != 3 {
			continue
		}
		if minor < 4 || minor == 4 && patch < 36 || minor == 5 && patch < 18 {
			versions = append(versions, m.Version)
		}
	}
	slices.Sort(versions)
	return slices.Compact(versions)
}
