package restore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// patience is how long etcd's code may go on after ctx has ended. Most restores are over by then; a longer one is in
// the middle of copying the db, finds its directory gone after that, and ends.
const patience = 2 * time.Second

// runEtcd calls etcd's own restore.
func runEtcd(ctx context.Context, cfg snapshot.RestoreConfig) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return wait(ctx, call(func(lg *zap.Logger) error { return snapshot.NewV3(lg).Restore(cfg) }))
}

// wait returns how it ended, or soon after ctx has.
func wait(ctx context.Context, ended <-chan error) error {
	select {
	case err := <-ended:
		return wrap(err)
	case <-ctx.Done():
	}
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-ended:
	case <-t.C:
	}
	return ctx.Err()
}

func wrap(err error) error {
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}

// call runs etcd's code in a goroutine of its own. Where it would end the process, or panic, it ends as an error, and
// the goroutine stays as it is: it may hold locks that nobody gives up.
func call(f func(*zap.Logger) error) <-chan error {
	ended := make(chan error, 1)
	stop := stopper{ended}
	lg := zap.New(zapcore.NewNopCore(), zap.WithPanicHook(stop), zap.WithFatalHook(stop))
	go func() {
		defer func() {
			if r := recover(); r != nil {
				stop.say(fmt.Errorf("etcd panicked: %v", r))
			}
		}()
		stop.say(f(lg))
	}()
	return ended
}

// stopper stands where etcd's logger would panic or end the process.
type stopper struct{ ended chan<- error }

// say keeps the first that is said.
func (s stopper) say(err error) {
	select {
	case s.ended <- err:
	default:
	}
}

// OnWrite implements zapcore.CheckWriteHook.
func (s stopper) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := errors.New("etcd gave up: " + e.Message)
	for _, f := range fields {
		if cause, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			err = fmt.Errorf("etcd gave up: %s: %w", e.Message, cause)
		}
	}
	s.say(err)
	runtime.Goexit()
}

// readEtcd reads what the db says about itself, which package snapshots has no use for.
func (r *Result) readEtcd(db string) error {
	return wrap(<-call(func(lg *zap.Logger) error {
		cfg := backend.DefaultBackendConfig(lg)
		cfg.Path, cfg.MmapSize = db, 0
		be := backend.New(cfg)
		defer be.Close()
		v := schema.NewMembershipBackend(lg, be).ClusterVersionFromBackend()
		if v == nil {
			v = schema.ReadStorageVersion(be.ReadTx())
		}
		if v != nil {
			r.EtcdVersion = fmt.Sprintf("%d.%d", v.Major, v.Minor)
		}
		alarms, err := schema.NewAlarmBackend(lg, be).GetAllAlarms()
		if err != nil {
			return err
		}
		for _, a := range alarms {
			r.Alarms = append(r.Alarms, a.Alarm.String())
		}
		slices.Sort(r.Alarms)
		r.Alarms = slices.Compact(r.Alarms)
		return nil
	}))
}
