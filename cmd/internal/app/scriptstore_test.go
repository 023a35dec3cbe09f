package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	etcdsnapshot "go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// The commands that scripts have around a store. A store's name is also the
// variable that holds its URL.

type storesKey struct{}

type scriptStore struct {
	*store
	before *contents
}

func openStore(ts *testscript.TestScript, name string, s *store, err error) {
	ts.Check(err)
	ts.Defer(s.close)
	stores(ts)[name] = &scriptStore{store: s}
	ts.Setenv(name, s.url())
}

func stores(ts *testscript.TestScript) map[string]*scriptStore {
	return ts.Value(storesKey{}).(map[string]*scriptStore)
}

// named returns the store and the arguments after its name, of which there
// must be from least to most.
func named(ts *testscript.TestScript, neg bool, args []string, least, most int, usage string) (*scriptStore, []string) {
	if neg || len(args) < least+1 || len(args) > most+1 {
		ts.Fatalf("usage: %s", usage)
	}
	s := stores(ts)[args[0]]
	if s == nil {
		ts.Fatalf("there is no sandbox %s", args[0])
	}
	return s, args[1:]
}

func (s *scriptStore) now(ts *testscript.TestScript) *contents {
	c, err := s.contents(context.Background())
	ts.Check(err)
	return c
}

// cmdSandbox starts the incident: sandbox NAME [PODS].
func cmdSandbox(ts *testscript.TestScript, neg bool, args []string) {
	pods := 40
	if neg || len(args) == 0 || len(args) > 2 {
		ts.Fatalf("usage: sandbox NAME [PODS]")
	}
	if len(args) == 2 {
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		pods = n
	}
	s, err := startIncident(context.Background(), pods, sandbox.InProcess)
	openStore(ts, args[0], s, err)
}

// cmdSandboxZoo starts the zoo: sandbox-zoo NAME.
func cmdSandboxZoo(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: sandbox-zoo NAME")
	}
	s, err := startZoo(context.Background())
	openStore(ts, args[0], s, err)
}

func startZoo(ctx context.Context) (*store, error) {
	return startStore(ctx, sandbox.Options{Snapshot: zooSnapshot, NoFsync: true, Mode: sandbox.InProcess, Keep: still})
}

// cmdAlarm raises an alarm of a member that does not exist, or takes it back:
// alarm NAME on|off NOSPACE|CORRUPT.
func cmdAlarm(ts *testscript.TestScript, neg bool, args []string) {
	s, args := named(ts, neg, args, 2, 2, "alarm NAME on|off NOSPACE|CORRUPT")
	action := map[string]etcdserverpb.AlarmRequest_AlarmAction{
		"on": etcdserverpb.AlarmRequest_ACTIVATE, "off": etcdserverpb.AlarmRequest_DEACTIVATE,
	}[args[0]]
	kind, ok := etcdserverpb.AlarmType_value[args[1]]
	if action == 0 || !ok {
		ts.Fatalf("no alarm can be %s %s", args[0], args[1])
	}
	_, err := etcdserverpb.NewMaintenanceClient(s.client.ActiveConnection()).Alarm(context.Background(),
		&etcdserverpb.AlarmRequest{Action: action, MemberID: 7, Alarm: etcdserverpb.AlarmType(kind)})
	ts.Check(err)
}

// cmdRevision remembers all that a store holds: revision NAME.
func cmdRevision(ts *testscript.TestScript, neg bool, args []string) {
	s, _ := named(ts, neg, args, 0, 0, "revision NAME")
	s.before = s.now(ts)
}

// cmdUnchanged asserts that the revision, the keys and their values are what
// they were at the last revision command: unchanged NAME.
func cmdUnchanged(ts *testscript.TestScript, neg bool, args []string) {
	s, _ := named(ts, neg, args, 0, 0, "unchanged NAME")
	if diff := unchanged(s.before, s.now(ts)); diff != "" {
		ts.Fatalf("%s is not unchanged: %s", args[0], diff)
	}
}

// cmdRestored asserts the same keys and values, at whatever revisions:
// restored NAME.
func cmdRestored(ts *testscript.TestScript, neg bool, args []string) {
	s, _ := named(ts, neg, args, 0, 0, "restored NAME")
	if diff := sameValues(s.before, s.now(ts)); diff != "" {
		ts.Fatalf("%s is not as before: %s", args[0], diff)
	}
}

// cmdKept asserts that store and archives together hold all that was there,
// and that each change took a revision of its own: kept NAME [ARCHIVE...].
func cmdKept(ts *testscript.TestScript, neg bool, args []string) {
	s, archives := named(ts, neg, args, 0, 9, "kept NAME [ARCHIVE...]")
	for i := range archives {
		archives[i] = ts.MkAbs(archives[i])
	}
	now := s.now(ts)
	key, err := lost(context.Background(), s.before, now, archives...)
	ts.Check(err)
	if key != "" {
		ts.Fatalf("neither %s nor an archive holds %s as it was", args[0], key)
	}
	if gone := len(s.before.keys) - len(now.keys); now.revision-s.before.revision != int64(gone) {
		ts.Fatalf("%d keys went in %d revisions", gone, now.revision-s.before.revision)
	}
}

// cmdUntouched asserts that every key that does not begin with one of the
// prefixes is as it was: untouched NAME PREFIX...
func cmdUntouched(ts *testscript.TestScript, neg bool, args []string) {
	s, prefixes := named(ts, neg, args, 1, 9, "untouched NAME PREFIX...")
	rest := func(c *contents) *contents {
		r := *c
		for _, p := range prefixes {
			r.keys = without(r.keys, p)
		}
		r.revision = 0
		return &r
	}
	if diff := unchanged(rest(s.before), rest(s.now(ts))); diff != "" {
		ts.Fatalf("%s was touched: %s", args[0], diff)
	}
}

func without[V any](keys map[string]V, prefix string) map[string]V {
	rest := map[string]V{}
	for key, v := range keys {
		if !strings.HasPrefix(key, prefix) {
			rest[key] = v
		}
	}
	return rest
}

// cmdPut writes a file's content, without its last newline, under a key:
// etcdput NAME KEY FILE.
func cmdPut(ts *testscript.TestScript, neg bool, args []string) {
	s, args := named(ts, neg, args, 2, 2, "etcdput NAME KEY FILE")
	_, err := s.client.Put(context.Background(), args[0], strings.TrimSuffix(ts.ReadFile(args[1]), "\n"))
	ts.Check(err)
}

// cmdCopy writes the value of one key under another, or the same again:
// etcdcopy NAME FROM TO [LEASE-SECONDS].
func cmdCopy(ts *testscript.TestScript, neg bool, args []string) {
	s, args := named(ts, neg, args, 2, 3, "etcdcopy NAME FROM TO [LEASE-SECONDS]")
	ctx := context.Background()
	resp, err := s.client.Get(ctx, args[0])
	ts.Check(err)
	if len(resp.Kvs) == 0 {
		ts.Fatalf("there is no key %s", args[0])
	}
	lease := clientv3.NoLease
	if len(args) == 3 {
		ttl, err := strconv.ParseInt(args[2], 10, 64)
		ts.Check(err)
		granted, err := s.client.Grant(ctx, ttl)
		ts.Check(err)
		lease = granted.ID
	}
	_, err = s.client.Put(ctx, args[1], string(resp.Kvs[0].Value), clientv3.WithLease(lease))
	ts.Check(err)
}

// cmdDelete deletes a key: etcddel NAME KEY.
func cmdDelete(ts *testscript.TestScript, neg bool, args []string) {
	s, args := named(ts, neg, args, 1, 1, "etcddel NAME KEY")
	resp, err := s.client.Delete(context.Background(), args[0])
	ts.Check(err)
	if resp.Deleted != 1 {
		ts.Fatalf("there is no key %s", args[0])
	}
}

// cmdCount asserts how many keys begin with a prefix: etcdcount NAME PREFIX N.
func cmdCount(ts *testscript.TestScript, neg bool, args []string) {
	s, args := named(ts, neg, args, 2, 2, "etcdcount NAME PREFIX N")
	resp, err := s.client.Get(context.Background(), args[0], clientv3.WithPrefix(), clientv3.WithCountOnly())
	ts.Check(err)
	if got := strconv.FormatInt(resp.Count, 10); got != args[1] {
		ts.Fatalf("%s keys begin with %s, want %s", got, args[0], args[1])
	}
}

// cmdSnapshot saves a store as a snapshot: snapshot NAME FILE.
func cmdSnapshot(ts *testscript.TestScript, neg bool, args []string) {
	s, args := named(ts, neg, args, 1, 1, "snapshot NAME FILE")
	ts.Check(s.save(context.Background(), ts.MkAbs(args[0])))
}

// cmdStatus asserts that etcdutl snapshot status reads a file and counts so
// many keys in it: etcdutl-status FILE N.
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: etcdutl-status FILE KEYS")
	}
	status, err := etcdsnapshot.NewV3(zap.NewNop()).Status(ts.MkAbs(args[0]))
	if errors.Is(err, fs.ErrNotExist) {
		ts.Fatalf("no such file: %s", args[0])
	}
	ts.Check(err)
	if got := strconv.Itoa(status.TotalKey); got != args[1] {
		ts.Fatalf("etcdutl counts %s keys in %s, want %s", got, args[0], args[1])
	}
}

// cmdRefill stands for a controller: for each of the first N pods that are
// deleted it makes another: refill NAME N.
func cmdRefill(ts *testscript.TestScript, neg bool, args []string) {
	s, args := named(ts, neg, args, 1, 1, "refill NAME N")
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	ts.Defer(func() { cancel(); <-done })
	events := s.client.Watch(ctx, "/registry/pods/", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	<-events // it watches
	go func() {
		defer close(done)
		for resp := range events {
			for _, e := range resp.Events {
				if n > 0 && e.Type == clientv3.EventTypeDelete {
					n--
					// An error shows in what the script asserts next.
					again := fmt.Sprintf("%s-r%d", e.Kv.Key, e.Kv.ModRevision)
					_, _ = s.client.Put(ctx, again, string(e.PrevKv.Value))
				}
			}
		}
	}()
}

// cmdLeased asserts that a key hangs on a lease of that length:
// leased NAME KEY SECONDS.
func cmdLeased(ts *testscript.TestScript, neg bool, args []string) {
	s, args := named(ts, neg, args, 2, 2, "leased NAME KEY SECONDS")
	kv := s.now(ts).keys[args[0]]
	if kv == nil || kv.Lease == 0 {
		ts.Fatalf("%s has no lease", args[0])
	}
	resp, err := s.client.TimeToLive(context.Background(), clientv3.LeaseID(kv.Lease))
	ts.Check(err)
	if got := strconv.FormatInt(resp.GrantedTTL, 10); got != args[1] {
		ts.Fatalf("%s has a lease of %s s, want %s", args[0], got, args[1])
	}
}
