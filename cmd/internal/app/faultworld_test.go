//go:build faults

package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/plan"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// faultWorld is a cluster with the incident in it, a client past all proxies
// that sees everything that happens, and the command under test.
type faultWorld struct {
	t         *testing.T
	operation string
	random    *rand.Rand
	cluster   *sandbox.Cluster
	client    *clientv3.Client
	shell     shell
	whole     *contents // before anything was deleted
	base      *contents // where the history begins
	history   *chronicle
	archive   string // that an undo puts back
	snapshot  string // that a put-back takes its bytes from
	sum       string // of its file
	touched   keySet // by the other client

	command *exec.Cmd
	when    string // the fault strikes
	struck  bool
	killed  bool         // we were
	dead    map[int]bool // members to be restarted

	mu         sync.Mutex
	violations []string
}

func newFaultWorld(ctx context.Context, t *testing.T, f fault, operation string, random *rand.Rand) *faultWorld {
	t.Helper()
	path, err := tests.incident()
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := sandbox.StartCluster(ctx, sandbox.ClusterOptions{Options: sandbox.Options{
		Snapshot: path, Keep: firstPods(faultPods), NoFsync: true, QuotaBytes: f.quota,
	}})
	if err != nil {
		t.Fatal(err)
	}
	w := &faultWorld{t: t, operation: operation, random: random, cluster: cluster, dead: map[int]bool{},
		shell: shell{t, t.TempDir(), strings.Join(cluster.Endpoints(), ",")}}
	if err := w.begin(ctx, f); err != nil {
		w.close()
		t.Fatal(err)
	}
	return w
}

func (w *faultWorld) begin(ctx context.Context, f fault) (err error) {
	if w.client, err = w.cluster.Client(context.Background()); err != nil {
		return err
	}
	if w.whole, err = w.contents(ctx); err != nil {
		return err
	}
	if w.operation == operationUndo {
		var report struct{ Archive string }
		out := w.shell.run(exitDone, w.deleteArgs("--rate", "max")...).out
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			return err
		}
		w.archive = report.Archive
		if w.sum, err = snapshots.SHA256(ctx, w.archive); err != nil {
			return err
		}
	}
	if w.operation == operationPutBack {
		if err := w.changeAll(ctx); err != nil {
			return err
		}
	}
	if f.quota != 0 { // so that little is missing when the fault strikes
		if err := w.fill(ctx, int(f.quota/2/fillBytes)); err != nil {
			return err
		}
	}
	if w.base, err = w.contents(ctx); err != nil {
		return err
	}
	w.history = watchEverything(w.client, w.base.revision)
	return nil
}

func (w *faultWorld) close() {
	if w.history != nil {
		w.history.cancel()
	}
	if w.client != nil {
		w.client.Close()
	}
	if err := w.cluster.Close(); err != nil {
		w.t.Error(err)
	}
}

func (w *faultWorld) violate(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	if len(w.violations) < 20 && !slices.Contains(w.violations, text) {
		w.violations = append(w.violations, text)
	}
}

func (w *faultWorld) contents(ctx context.Context) (*contents, error) {
	return (&store{client: w.client}).contents(ctx)
}

func (w *faultWorld) head(ctx context.Context) (int64, error) {
	r, err := w.client.Get(ctx, "/registry/", clientv3.WithCountOnly())
	if err != nil {
		return 0, err
	}
	return r.Header.Revision, nil
}

// sync waits until the history has everything that has happened.
func (w *faultWorld) sync(ctx context.Context) {
	w.t.Helper()
	var head int64
	err := retry(ctx, func(ctx context.Context) (err error) {
		head, err = w.head(ctx)
		return err
	})
	if err == nil {
		err = w.history.reach(ctx, head)
	}
	if err != nil {
		w.t.Fatalf("the history ends at revision %d, the store at %d: %v", w.history.reached(), head, err)
	}
}

// retry tries until it succeeds or ctx ends: a cluster that has just been
// mended may take a moment.
func retry(ctx context.Context, do func(context.Context) error) error {
	for {
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := do(one)
		cancel()
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
	}
}

// run runs the command to its end; started is called when it has begun.
func (w *faultWorld) run(ctx context.Context, c *exec.Cmd, started func()) ranCommand {
	w.t.Helper()
	ran := ranCommand{args: c.Args[1:], from: w.history.reached()}
	began := time.Now()
	if err := c.Start(); err != nil {
		w.t.Fatal(err)
	}
	if started != nil {
		started()
	}
	ran.result = w.shell.finish(c)
	ran.took = time.Since(began)
	if ran.out != "" && ran.code >= 0 {
		if err := json.Unmarshal([]byte(ran.out), &ran.report); err != nil {
			w.violate("what it printed is no document: %v", err)
		}
	}
	return ran
}

// lasts waits for a fault's own time, or until ctx ends.
func (w *faultWorld) lasts(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}

func (w *faultWorld) kill(i int) error {
	w.dead[i] = true
	return w.cluster.Member(i).Kill()
}

// restart also goes on after the command has ended.
func (w *faultWorld) restart(i int) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := w.cluster.Member(i).Restart(ctx); err != nil {
		return err
	}
	delete(w.dead, i)
	return nil
}

// mend repairs whatever a fault has left behind.
func (w *faultWorld) mend(ctx context.Context) {
	w.t.Helper()
	for i := range w.cluster.Members() {
		m := w.cluster.Member(i)
		m.Heal()
		m.HealPeers()
		if w.dead[i] {
			if err := w.restart(i); err != nil {
				w.t.Fatal(err)
			}
		}
		if err := m.Continue(); err != nil {
			w.t.Fatal(err)
		}
	}
	if _, err := w.cluster.Leader(ctx); err != nil {
		w.t.Fatal(err)
	}
	if err := retry(ctx, w.makeRoom); err != nil {
		w.t.Fatal(err)
	}
}

const (
	fillPrefix = "/filler/"
	fillBytes  = 256 << 10
)

// fill writes n large values, or until the quota is reached.
func (w *faultWorld) fill(ctx context.Context, n int) error {
	value := string(make([]byte, fillBytes))
	for i := range n {
		key := fillPrefix + strconv.Itoa(i) + "-" + strconv.FormatUint(w.random.Uint64(), 36)
		if _, err := w.client.Put(ctx, key, value); err != nil {
			return err
		}
	}
	return nil
}

// fillUp is the fault: etcd takes no more writes that need space.
func fillUp(ctx context.Context, w *faultWorld) error {
	err := w.fill(ctx, 2*faultQuota/fillBytes)
	if errors.Is(err, rpctypes.ErrNoSpace) {
		return nil
	}
	return fmt.Errorf("the quota was not reached: %w", err)
}

// makeRoom removes what fill wrote, compacts, defragments and disarms, if
// there is an alarm.
func (w *faultWorld) makeRoom(ctx context.Context) error {
	alarms, err := w.client.AlarmList(ctx)
	if err != nil || len(alarms.Alarms) == 0 {
		return err
	}
	if _, err := w.client.Delete(ctx, fillPrefix, clientv3.WithPrefix()); err != nil {
		return err
	}
	head, err := w.head(ctx)
	if err != nil {
		return err
	}
	if err := w.history.reach(ctx, head); err != nil {
		return err
	}
	if _, err := w.client.Compact(ctx, head, clientv3.WithCompactPhysical()); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return err
	}
	for i := range w.cluster.Members() {
		if err := defragment(ctx, w.cluster.Member(i)); err != nil {
			return err
		}
	}
	_, err = w.client.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	return err
}

func defragment(ctx context.Context, m *sandbox.Member) error {
	client, err := m.Client(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.Defragment(ctx, client.Endpoints()[0])
	return err
}

// lastPlan is the whole plan of the last pass, "" if there is none.
func (w *faultWorld) lastPlan(ctx context.Context) string {
	last, pass := "", 0
	for _, path := range glob(w.t, w.shell.dir, "*.plan.jsonl") {
		p, err := plan.Open(ctx, path)
		if err != nil {
			continue // the command was killed while it wrote it
		}
		if p.Header().Pass > pass {
			last, pass = path, p.Header().Pass
		}
		p.Close()
	}
	return last
}

// keySet is a set of keys that two goroutines use.
type keySet struct {
	mu   sync.Mutex
	keys map[string]bool
}

func (s *keySet) add(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil {
		s.keys = map[string]bool{}
	}
	s.keys[key] = true
}

func (s *keySet) has(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[key]
}

func (s *keySet) any() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.keys) > 0
}

const podsOfJob = "/registry/pods/ops-tools/"

// ownedBy is the name in the owner reference to the Job, field 3, as it is
// stored.
var ownedBy, disowned = []byte("\x1a\x09error-ret"), []byte("\x1a\x09error-rex")

// isMeant says whether a delete selects the object: a pod of the Job, or the
// Job itself.
func isMeant(key string, value []byte) bool {
	if key == "/registry/jobs/ops-tools/error-ret" {
		return true
	}
	return strings.HasPrefix(key, podsOfJob) && bytes.Contains(value, ownedBy)
}

// podKeys are those of the incident, sorted.
func (w *faultWorld) podKeys() (keys []string) {
	for key := range w.whole.keys {
		if strings.HasPrefix(key, podsOfJob) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}
