package connect

import (
	"testing"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

func TestDialBlackHole(t *testing.T) {
	t.Parallel()
	addr, stop, err := sandbox.Swallow()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	failure{name: "plain", endpoint: "http://" + addr, reason: Timeout,
		text: "did not accept a connection within 1s", hint: "firewalls"}.run(t)
	failure{name: "TLS", endpoint: "https://" + addr, reason: Timeout,
		text: "packets to it get lost", hint: "--dial-timeout"}.run(t)
}
