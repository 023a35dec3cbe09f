//go:build servers

package keyspace_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

// TestRealKine asks a real kine over SQLite what the others are asked of its
// imitation.
func TestRealKine(t *testing.T) {
	k := fillKine(t, nil, runKine(t))
	t.Run("ranges", func(t *testing.T) { kineRanges(t, k) })
	t.Run("get", func(t *testing.T) { kineGet(t, k) })
	t.Run("history", func(t *testing.T) { kineHistory(t, k) })
}

// runKine starts a kine with an empty table and returns its URL.
func runKine(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	binary, err := lab.Server(t.Context(), "kine")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	log, err := os.Create(filepath.Join(dir, "kine.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "--listen-address", address, "--metrics-bind-address", "0",
		"--endpoint", fmt.Sprintf("sqlite://%s/state.db?_journal=WAL&cache=shared", dir))
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("kine says:\n%s", text)
		}
	})
	waitKine(t, "http://"+address)
	return "http://" + address
}

// waitKine waits until the table is there and the health key in it.
func waitKine(t *testing.T, url string) {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		resp, err := client.Get(ctx, prefix+"health")
		if err == nil && len(resp.Kvs) == 1 {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("kine does not answer: %v", err)
		}
	}
}
