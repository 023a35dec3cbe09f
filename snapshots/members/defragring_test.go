package members

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdmain"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// twoURLs is an etcd server, of this program's release, that advertises two client URLs if its name ends in -0: the one
// that it is told and the one that it listens on.
func twoURLs(args []string) {
	var listens string
	for _, a := range args {
		if url, ok := strings.CutPrefix(a, "--listen-client-urls="); ok {
			listens = url
		}
	}
	args = slices.Clone(args)
	for i, a := range args {
		if strings.HasPrefix(a, "--advertise-client-urls=") && strings.HasSuffix(args[1], "-0") {
			args[i] += "," + listens
		}
	}
	etcdmain.Main(append(args, "--log-level=error"))
}

// ring is a cluster that is to be defragmented.
type ring struct {
	*sandbox.Cluster
	t      testing.TB
	client *clientv3.Client // past the proxies
}

func startRing(t testing.TB, members int) *ring {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	opt := sandbox.Options{NoFsync: true, Dir: t.TempDir(), Server: self, QuotaBytes: 8 << 30}
	c, err := sandbox.StartCluster(t.Context(), sandbox.ClusterOptions{Options: opt, Members: members})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	client, err := c.Client(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return &ring{c, t, client}
}

// litter writes so many MiB, deletes 60 % of it and compacts, and returns when every voter knows that it is free.
func (r *ring) litter(mebibytes int) {
	r.t.Helper()
	ctx := r.t.Context()
	value := make([]byte, 256<<10)
	rnd := rand.NewChaCha8([32]byte{1})
	for i := range mebibytes * 4 {
		rnd.Read(value)
		if _, err := r.client.Put(ctx, fmt.Sprintf("/litter/%06d", i), string(value)); err != nil {
			r.t.Fatal(err)
		}
	}
	var rev int64
	for i := range mebibytes * 4 {
		if i%5 >= 3 {
			continue
		}
		resp, err := r.client.Delete(ctx, fmt.Sprintf("/litter/%06d", i))
		if err != nil {
			r.t.Fatal(err)
		}
		rev = resp.Header.Revision
	}
	if _, err := r.client.Compact(ctx, rev, clientv3.WithCompactPhysical()); err != nil {
		r.t.Fatal(err)
	}
	r.until("every member is through with the compaction", func() bool {
		// bbolt counts pages as free when a later transaction may use them.
		if _, err := r.client.Put(ctx, "/litter", ""); err != nil {
			r.t.Fatal(err)
		}
		for _, m := range r.list() {
			if !m.Learner && (!m.Answers() || SizesOf(m).Free*10 < m.DBSize*5) {
				return false
			}
		}
		return true
	})
}

func (r *ring) until(what string, done func() bool) {
	r.t.Helper()
	for !done() {
		if err := sleep(r.t.Context(), 50*time.Millisecond); err != nil {
			r.t.Fatalf("it never came that %s: %v", what, err)
		}
	}
}

func (r *ring) list() []Member {
	r.t.Helper()
	all, err := List(r.t.Context(), r.client, Options{Endpoints: r.Endpoints()})
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

// quick has the pauses and patience of a test.
func (r *ring) quick(steps []DefragStep) DefragOptions {
	return DefragOptions{
		Client: r.client, Endpoints: r.Endpoints(), Dial: dialDefrag, Steps: steps, Timeout: 5 * time.Second, Patience: 50 * time.Millisecond,
	}
}

func dialDefrag(ctx context.Context, endpoint string) (*clientv3.Client, error) {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	if _, err := client.Status(ctx, endpoint); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

func (r *ring) of(id uint64) *sandbox.Member {
	r.t.Helper()
	for i := range r.Members() {
		if r.Member(i).ID() == id {
			return r.Member(i)
		}
	}
	r.t.Fatalf("there is no member %x", id)
	return nil
}

// sameHash demands that all voters hold the same.
func (r *ring) sameHash() {
	r.t.Helper()
	ctx := r.t.Context()
	resp, err := r.client.Get(ctx, "health")
	if err != nil {
		r.t.Fatal(err)
	}
	var hashes []uint32
	for _, m := range r.list() {
		if m.Learner {
			continue
		}
		var hash *clientv3.HashKVResponse
		r.until("the member has that revision", func() bool {
			hash, err = r.client.HashKV(ctx, m.Endpoint, resp.Header.Revision)
			return err == nil
		})
		hashes = append(hashes, hash.Hash)
	}
	if len(slices.Compact(slices.Clone(hashes))) != 1 {
		r.t.Errorf("the members hold different things: %v", hashes)
	}
}

// writer writes all the time, and remembers how long it could not.
type writer struct {
	stop    context.CancelFunc
	done    sync.WaitGroup
	longest time.Duration
	writes  int
}

func (r *ring) write() *writer {
	ctx, cancel := context.WithCancel(context.Background())
	w := &writer{stop: cancel}
	client, err := r.Client(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	w.done.Go(func() {
		defer client.Close()
		last := time.Now()
		for ctx.Err() == nil {
			// A client that asks the one that is stopped asks another then.
			try, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
			_, err := client.Put(try, "/writer", "x")
			cancel()
			if err == nil {
				w.longest, w.writes, last = max(w.longest, time.Since(last)), w.writes+1, time.Now()
			}
		}
	})
	return w
}

func (w *writer) end() {
	w.stop()
	w.done.Wait()
}
