//go:build controlplane

package app

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

// TestControlPlaneStatus: status names a real kube-apiserver and kube-controller-manager, and when the API server
// compacted last, which it does here every few seconds.
func TestControlPlaneStatus(t *testing.T) {
	k := startKubernetes(t, sandbox.Options{}, lab.ControlPlaneOptions{LeaderElect: true, ServerArgs: []string{"--etcd-compaction-interval=5s"}})
	ctx, cancel := context.WithTimeout(k.Context(), patience)
	defer cancel()
	for {
		var out, errs bytes.Buffer
		code := Run(ctx, Process{
			Args:    []string{"status", "--endpoints", strings.Join(k.Endpoints(), ",")},
			Streams: term.Streams{In: strings.NewReader(""), Out: &out, Err: &errs, OutTTY: true, OutWidth: 80},
			Getenv:  func(string) string { return "" }, Root: t.TempDir(), Now: time.Now,
		})
		missing := slices.DeleteFunc([]string{
			"etcd is healthy: ", "  alive      kube-apiserver 192.0.2.1; kube-controller-manager (", "  compacted  to revision ", ", by an API server about ",
		}, func(text string) bool { return strings.Contains(out.String(), text) })
		if code == exitDone && len(missing) == 0 {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("exit code %d, never %q:\n%s%s", code, missing, out.String(), errs.String())
		}
		pause(ctx, time.Second)
	}
}
