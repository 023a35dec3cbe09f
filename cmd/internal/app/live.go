package app

import (
	"context"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// servers are the API servers that hold a lease under masterleases. They
// renew it every 10 s; it runs out 15 s after they stop
// (k8s pkg/controlplane/instance.go).
type servers []string

func (s *session) livingServers(ctx context.Context) (servers, error) {
	prefix := s.reader.Prefix + "masterleases/"
	var alive servers
	err := s.mainSource.Scan(ctx, keyspace.Prefix(prefix), true, func(kv *mvccpb.KeyValue) error {
		alive = append(alive, strings.TrimPrefix(string(kv.Key), prefix))
		return nil
	})
	return alive, err
}

func unsafeLiveFlag() cli.Flag {
	return &cli.Int64Flag{Name: flagUnsafeLive, Usage: "put back `COUNT` owned objects although an API server lives", Category: catPace}
}

// note says what the garbage collector may do with owned objects. It keeps
// the UIDs of owners that it saw missing until kube-controller-manager
// restarts (k8s pkg/controller/garbagecollector/uid_cache.go).
func (alive servers) note(owned int64) string {
	if len(alive) > 0 {
		return fmt.Sprintf("%s with owners, and an API server lives (%s): stop kube-controller-manager on all masters first, undo, start it again; or accept that the garbage collector "+
			"may delete them again: --%s %d", objects(owned), joinWords(alive), flagUnsafeLive, owned)
	}
	return fmt.Sprintf("%s with owners: restart kube-controller-manager before the API servers come back, because its garbage collector remembers the owners as missing", objects(owned))
}

// advice is what a report says of it afterwards.
func (alive servers) advice(owned int64) string {
	when := "before the API servers come back"
	if len(alive) > 0 {
		when = "now"
	}
	return fmt.Sprintf("Restart kube-controller-manager on all masters %s: its garbage collector may remember the owners of %s as missing.", when, objects(owned))
}

// checkLive refuses to put owned objects under a live garbage collector.
func (inv *invocation) checkLive(alive servers, owned int64) error {
	if len(alive) == 0 || owned == 0 || inv.Int64(flagUnsafeLive) == owned {
		return nil
	}
	return refuse(fmt.Sprintf("stop kube-controller-manager on all masters (move its manifest away) and the API servers too, undo, then start the controller-manager before them; or pass --%s %d",
		flagUnsafeLive, owned),
		"an API server lives (%s), and the garbage collector may delete the %s with owners again: it remembers missing owners until kube-controller-manager restarts",
		joinWords(alive), objects(owned))
}
