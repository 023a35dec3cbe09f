package app

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/etcd-rescue/etcd-rescue/recover/alive"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

// controlPlane is what lives beside the tool, and acts on what it does, and how
// its etcd is.
type controlPlane struct {
	alive.View
	health *health // of the etcd that is to be changed
}

// controlPlane looks once at who lives and how the named etcd is, nil for a
// file.
func (s *session) controlPlane(ctx context.Context, etcd string) (*controlPlane, error) {
	if s.main == nil {
		return nil, nil
	}
	main := s.healthOf(ctx, s.main)
	watch := alive.New(s.reader, s.inv.Now)
	watch.Frozen = main.frozen()
	view, err := watch.Look(ctx, keyspace.Current(s.main.Client, s.optionsOf(s.main)))
	return s.planeOf(ctx, &controlPlane{view, main}, etcd), err
}

// planeOf is the same control plane beside the named etcd.
func (s *session) planeOf(ctx context.Context, plane *controlPlane, etcd string) *controlPlane {
	if etcd != etcdEvents || s.events == nil {
		return plane
	}
	return &controlPlane{plane.View, s.healthOf(ctx, s.events)}
}

// served says that an API server lives, or may.
func (cp *controlPlane) served() bool { return cp != nil && cp.Server() }

func unsafeLiveFlag() cli.Flag {
	return &cli.Int64Flag{Name: flagUnsafeLive, Usage: "put back `COUNT` owned objects although an API server lives", Category: catPace}
}

// lives says that an API server does, or may, and which.
func (cp *controlPlane) lives() string {
	verb := "may live"
	if cp.Certain() {
		verb = "lives"
	}
	text := "an API server " + verb
	if names := joinWords(cp.Addresses()); names != "" {
		text += " (" + names + ")"
	}
	return text
}

// note says what the garbage collector may do with owned objects. It keeps
// the UIDs of owners that it saw missing until kube-controller-manager
// restarts (k8s pkg/controller/garbagecollector/uid_cache.go).
func (cp *controlPlane) note(owned int64) string {
	if cp.Server() {
		return fmt.Sprintf("%s with owners, and %s: stop kube-controller-manager on all masters first, put them back, start it again; or accept that the garbage collector "+
			"may delete them again: --%s %d", objects(owned), cp.lives(), flagUnsafeLive, owned)
	}
	return fmt.Sprintf("%s with owners: restart kube-controller-manager before the API servers come back, because its garbage collector remembers the owners as missing", objects(owned))
}

// advice is what a report says of it afterwards.
func (cp *controlPlane) advice(owned int64) string {
	when := "before the API servers come back"
	if cp.Server() {
		when = "now"
	}
	return fmt.Sprintf("Restart kube-controller-manager on all masters %s: its garbage collector may remember the owners of %s as missing.", when, objects(owned))
}

// checkLive refuses to put owned objects under a live garbage collector.
func (inv *invocation) checkLive(cp *controlPlane, owned int64) error {
	if !cp.Server() || owned == 0 || inv.Int64(flagUnsafeLive) == owned {
		return nil
	}
	return refuse(fmt.Sprintf("stop kube-controller-manager on all masters (move its manifest away) and the API servers too, put them back, then start the controller-manager before them; or pass --%s %d",
		flagUnsafeLive, owned),
		"%s, and the garbage collector may delete the %s with owners again: it remembers missing owners until kube-controller-manager restarts",
		cp.lives(), objects(owned))
}

// aftermath is what happens next, of itself, once a plan is carried out.
func (cp *controlPlane) aftermath(operation string, sum *plan.Summary) []plan.Consequence {
	living := plan.Alive{Server: cp.Server(), Manager: cp.Manager()}
	largest, rest := sum.Resources.Largest(mostShares)
	var resources []string
	for _, share := range largest {
		resources = append(resources, share.Name)
	}
	if rest.Names > 0 {
		resources = append(resources, "") // any without a rule of its own
	}
	switch operation {
	case operationUndo:
		return plan.UndoAftermath(resources, sum.Owned, living)
	case operationPutBack:
		return plan.PutBackAftermath(resources, sum.Owned, sum.Replacing, living)
	}
	return plan.Aftermath(resources, living)
}
