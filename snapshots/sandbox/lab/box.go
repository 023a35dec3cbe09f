package lab

import (
	"context"
	"os"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// Main runs the tests of a package whose program a sandbox also starts as its child. TestMain calls it; it does not
// return.
func Main(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == sandbox.ChildCommand {
		os.Exit(sandbox.ServeChild(context.Background(), os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// Box starts a sandbox and connects to it. Both end with the test. A server in a child process needs Main.
func Box(t testing.TB, opt sandbox.Options) (*sandbox.Sandbox, *clientv3.Client) {
	t.Helper()
	box, err := sandbox.Start(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { box.Close() })
	client, err := box.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return box, client
}
