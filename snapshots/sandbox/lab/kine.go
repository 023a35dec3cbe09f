package lab

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Kines returns the names, for Server, of the kines that answer unlike one another: 0.11.4 lists in the order of
// revisions, 0.13.0 takes every range for a prefix, in both "_" in a key stands for any letter; 0.17.5 does as etcd does.
func Kines() []string { return []string{"kine-0.11", "kine-0.13", "kine"} }

// Kine starts a kine over SQLite with an empty table and returns its URL. It ends with the test.
func Kine(t testing.TB, name string) string {
	t.Helper()
	binary, err := Server(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "kine.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "--listen-address", address, "--metrics-bind-address", "0",
		"--endpoint", "sqlite://"+dir+"/state.db?_journal=WAL&cache=shared&_busy_timeout=30000&_txlock=immediate&_synchronous=OFF")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("%s says:\n%s", name, text)
		}
	})
	waitKine(t, "http://"+address)
	return "http://" + address
}

// waitKine waits until the table is there and the health key in it.
func waitKine(t testing.TB, url string) {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		resp, err := client.Get(ctx, "/registry/health")
		if err == nil && len(resp.Kvs) == 1 {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("kine does not answer: %v", err)
		}
	}
}
