package app

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

const (
	// worldTimeout is what status gets as its timeouts. Whatever a member does,
	// it may take twice as long; the slack is for a machine that is busy.
	worldTimeout = 4 * time.Second
	worldSlack   = 8 * time.Second
	worldQuota   = 32 << 20
)

// world is an etcd that something may be wrong with, and the node from which
// status looks at it.
type world struct {
	*testing.T
	cluster *sandbox.Cluster
	members []*clientv3.Client // each past its proxy, open since all was well
	root    string             // of the node
	now     time.Time          // on the node
	// endpoints are all that there are, args what of them status is told.
	endpoints, args []string
}

// newWorld starts members and puts into them what status looks for.
func newWorld(t *testing.T, opt sandbox.ClusterOptions) *world {
	t.Helper()
	opt.NoFsync, opt.QuotaBytes, opt.Names = true, worldQuota, []string{"cp-1", "cp-2", "cp-3"}
	cluster, err := sandbox.StartCluster(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, cluster: cluster, root: t.TempDir(), now: time.Now()}
	t.Cleanup(func() {
		for _, c := range w.members {
			c.Close()
		}
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	for i := range cluster.Members() {
		// Not the test's context: what cleans up still uses them.
		c, err := cluster.Member(i).Client(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		w.members = append(w.members, c)
	}
	w.endpoints = cluster.Endpoints()
	w.args = []string{"--endpoints", strings.Join(w.endpoints, ",")}
	w.fill()
	return w
}

// fill writes what an API server leaves in etcd: the cluster's identity, its
// own Lease, pods, and what it compacts by. It compacts as one does.
func (w *world) fill() {
	w.Helper()
	w.put("/registry/namespaces/kube-system", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"kube-system","uid":"8a5e6f3c-0000-4000-8000-000000000001"}}`)
	for i := range 40 {
		name := fmt.Sprintf("web-%02d", i)
		w.put("/registry/pods/default/"+name, `{"apiVersion":"v1","kind":"Pod","metadata":{"namespace":"default","name":"`+name+`","uid":"`+name+`"}}`)
	}
	compacted := w.revision(0)
	w.put("compact_rev_key", strconv.FormatInt(compacted, 10))
	if _, err := w.members[0].Compact(w.Context(), compacted, clientv3.WithCompactPhysical()); err != nil {
		w.Fatal(err)
	}
	w.renew()
}

// renew writes the Lease of an API server that lives, and stops the node's
// clock at that time, so that it goes on living while a test makes its state.
func (w *world) renew() {
	w.Helper()
	w.now = time.Now()
	w.put("/registry/leases/kube-system/apiserver-abcdefghijklmnopqrstuvwxyz", `{"apiVersion":"coordination.k8s.io/v1","kind":"Lease",
		"metadata":{"namespace":"kube-system","name":"apiserver-abcdefghijklmnopqrstuvwxyz","uid":"l",
			"labels":{"apiserver.kubernetes.io/identity":"kube-apiserver","kubernetes.io/hostname":"cp-1"}},
		"spec":{"holderIdentity":"apiserver-abcdefghijklmnopqrstuvwxyz_1","leaseDurationSeconds":3600,"renewTime":"`+w.now.UTC().Format("2006-01-02T15:04:05.000000Z")+`"}}`)
}

func (w *world) put(key, value string) {
	w.Helper()
	w.await("etcd takes "+key, func(ctx context.Context) bool {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err := w.members[0].Put(ctx, key, value)
		return err == nil
	})
}

// await waits for something that happens by itself.
func (w *world) await(what string, is func(ctx context.Context) bool) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	for !is(ctx) {
		if ctx.Err() != nil {
			w.Fatalf("never: %s", what)
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// status asks a member past its proxy; nil: it does not answer.
func (w *world) status(ctx context.Context, i int) *etcdserverpb.StatusResponse {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	// Not by the client's own method, which opens a connection for itself.
	st, err := etcdserverpb.NewMaintenanceClient(w.members[i].ActiveConnection()).Status(ctx, &etcdserverpb.StatusRequest{})
	if err != nil {
		return nil
	}
	return st
}

// lead makes a member the leader and waits until all follow it and have what
// it has, so that every state begins the same way.
func (w *world) lead(i int) {
	w.Helper()
	if len(w.members) == 1 {
		return
	}
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	if err := w.cluster.MoveLeader(ctx, i); err != nil {
		w.Fatal(err)
	}
	w.await("all members are at one", func(ctx context.Context) bool {
		first := w.status(ctx, i)
		for k := range w.members {
			st := w.status(ctx, k)
			if st == nil || first == nil || st.Leader != w.cluster.Member(i).ID() || st.RaftAppliedIndex != first.RaftAppliedIndex || !upToDate(st) {
				return false
			}
		}
		return true
	})
}

// upToDate says that a member has noticed which version of etcd its file may
// have, for which it takes some seconds after a start.
func upToDate(st *etcdserverpb.StatusResponse) bool {
	release := func(version string) string { return version[:strings.LastIndexByte(version, '.')+1] }
	return release(st.StorageVersion) == release(st.Version)
}

// revision is a member's own.
func (w *world) revision(i int) int64 {
	w.Helper()
	r, err := w.members[i].Get(w.Context(), "x", clientv3.WithSerializable(), clientv3.WithCountOnly())
	if err != nil {
		w.Fatal(err)
	}
	return r.Header.Revision
}

// trace is what a command may not change: of a member that is dead only its
// file is known.
type trace struct {
	revision, keys int64
	index          uint64 // raft's: also a proposal that changes no key moves it
	db             string // sha256
}

// traces are those of all members.
func (w *world) traces() []trace {
	w.Helper()
	var all []trace
	for i := range w.members {
		var one trace
		if st := w.status(w.Context(), i); st != nil {
			one = w.traceOf(i, st)
		}
		b, err := os.ReadFile(filepath.Join(w.cluster.Dir(), strconv.Itoa(i), "data", "member", "snap", "db"))
		if err != nil {
			w.Fatal(err)
		}
		one.db = fmt.Sprintf("%x", sha256.Sum256(b))
		all = append(all, one)
	}
	return all
}

func (w *world) traceOf(i int, st *etcdserverpb.StatusResponse) trace {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	c := w.members[i]
	all, err := c.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly(), clientv3.WithSerializable())
	if err != nil {
		w.Fatal(err)
	}
	return trace{revision: all.Header.Revision, keys: all.Count, index: st.RaftIndex}
}

// settled waits until nothing changes any more: what etcd has in memory it
// writes to its file within a tenth of a second (server/storage/backend,
// defaultBatchInterval).
func (w *world) settled() []trace {
	w.Helper()
	var last []trace
	w.await("nothing changes any more", func(ctx context.Context) bool {
		before := last
		last = w.traces()
		if slices.Equal(before, last) {
			return true
		}
		pause(ctx, 500*time.Millisecond)
		return false
	})
	return last
}

// screen is what a command printed on a terminal.
type screen struct {
	code     int
	out, err string
	took     time.Duration
}

// look runs a command on the node, on a terminal of 80 columns.
func (w *world) look(args ...string) screen {
	w.Helper()
	args = append(slices.Clone(args), w.args...)
	args = append(args, "--dial-timeout", worldTimeout.String(), "--command-timeout", worldTimeout.String())
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	var out, errs bytes.Buffer
	began := time.Now()
	code := Run(ctx, Process{
		Args: args,
		Streams: term.Streams{
			In: strings.NewReader(""), Out: &out, Err: &errs, OutTTY: true, ErrTTY: true, OutWidth: 80, ErrWidth: 80, Dumb: true,
		},
		Getenv: func(string) string { return "" },
		Root:   w.root,
		Now:    func() time.Time { return w.now },
	})
	return screen{code, out.String(), errs.String(), time.Since(began)}
}

// may says what a command may do to etcd besides answering.
type may int

const (
	nothing may = iota
	// logIn is a proposal to raft, and the number of the last of those is in
	// the file, too.
	logIn
	// flush is what etcd does before it streams its file: it writes that number,
	// even if it is the same (server/storage/backend, Snapshot).
	flush
)

// lookOnly is look, and asserts that nothing was touched beyond that.
func (w *world) lookOnly(allowed may, args ...string) screen {
	w.Helper()
	before := w.settled()
	s := w.look(args...)
	after := w.settled()
	for i := range before {
		b, a := before[i], after[i]
		if allowed != nothing {
			b.db, a.db = "", ""
		}
		if allowed == logIn {
			b.index, a.index = 0, 0
		}
		if b != a {
			w.Errorf("%s has touched member %d: before %+v, after %+v", strings.Join(args, " "), i, b, a)
		}
	}
	return s
}

// mask replaces what is never twice the same and leaves the shape: ports become
// 12379, 22379 and 32379.
func (w *world) mask(text string) string {
	if strings.Contains(text, w.root) {
		// Where lines break depends on how long it is.
		text = regexp.MustCompile(`\n {4,}`).ReplaceAllString(text, " ")
		text = strings.ReplaceAll(text, w.root, "")
	}
	for i, e := range w.endpoints {
		_, port, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(e, "https://"), "http://"), ":")
		text = strings.ReplaceAll(text, ":"+port, fmt.Sprintf(":%d2379", i+1))
	}
	for i := range w.members {
		text = strings.ReplaceAll(text, fmt.Sprintf("%x", w.cluster.Member(i).ID()), fmt.Sprintf("ID-OF-CP-%d", i+1))
	}
	// A member whose name is not known is called by its id, with as much of it as there is room for.
	text = regexp.MustCompile(`(?m)^([0-9a-f]+…[0-9a-f]+|ID-OF-CP-\d) `).ReplaceAllString(text, "nameless  ")
	var out strings.Builder
	var table [][]string
	for line := range strings.Lines(text) {
		if row := regexp.MustCompile(`^(MEMBER|cp-\d|nameless) {2,}`); row.MatchString(line) {
			table = append(table, maskRow(strings.TrimSpace(line)))
			continue
		}
		align(&out, table)
		table = nil
		out.WriteString(maskLine(line))
	}
	align(&out, table)
	return out.String()
}

// maskRow takes a row of a table apart and masks all of a member that changes,
// but for whether it is behind.
func maskRow(line string) []string {
	line = regexp.MustCompile(`\b[\d.,]+ (B|KiB|MiB)`).ReplaceAllString(line, "SIZE")
	line = regexp.MustCompile(`\b\d+%`).ReplaceAllString(line, "N%")
	line = regexp.MustCompile(`\b[\d.]+(µs|ms|s)\b`).ReplaceAllString(line, "TIME")
	cells := regexp.MustCompile(` {2,}`).Split(line, -1)
	number := regexp.MustCompile(`^[1-9][\d,]*$`)
	for i, cell := range cells {
		if number.MatchString(cell) {
			cells[i] = "N"
		}
	}
	if len(cells) == 8 && cells[1] == "SIZE" {
		cells[5] = "TIME" // a member that does not sync has measured that once, when it was made
	}
	return cells
}

// align writes a table with columns as wide as what is left in them.
func align(out *strings.Builder, table [][]string) {
	var width [10]int
	for _, cells := range table {
		for i, cell := range cells {
			width[i] = max(width[i], len(cell))
		}
	}
	for _, cells := range table {
		var line strings.Builder
		for i, cell := range cells {
			fmt.Fprintf(&line, "%-*s   ", width[i], cell)
		}
		fmt.Fprintln(out, strings.TrimRight(line.String(), " "))
	}
}

// maskLine masks, outside of tables, what counts the test's own writes, and
// days.
func maskLine(line string) string {
	line = regexp.MustCompile(`(revision|filled|carried out) [\d,]+`).ReplaceAllString(line, "$1 N")
	line = regexp.MustCompile(`\([\d,]+ ago\)`).ReplaceAllString(line, "(N ago)")
	return regexp.MustCompile(`20\d\d-\d\d-\d\d(T[\d:]+Z)?`).ReplaceAllString(line, "DATE")
}
