package restore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/etcd-rescue/etcd-rescue/snapshots"
)

// TestEtcdGivesUp: where etcd's code would end the process it ends as an error, in whichever goroutine.
func TestEtcdGivesUp(t *testing.T) {
	t.Parallel()
	cause := errors.New("no space left on device")
	for name, tt := range map[string]struct {
		f    func(*zap.Logger) error
		is   error
		text string
	}{
		"error": {func(*zap.Logger) error { return cause }, cause, ""},
		"panic": {func(*zap.Logger) error { panic("out of range") }, nil, "etcd panicked: out of range"},
		"log that panics": {func(lg *zap.Logger) error {
			lg.Panic("failed to open database", zap.String("path", "x"), zap.Error(cause))
			return nil
		}, cause, "etcd gave up: failed to open database"},
		"log that ends the process": {func(lg *zap.Logger) error {
			lg.Fatal("failed to commit tx", zap.Error(cause))
			return nil
		}, cause, "etcd gave up: failed to commit tx"},
		"in a goroutine that others wait for": {func(lg *zap.Logger) error {
			go lg.Fatal("failed to commit tx", zap.Error(cause))
			select {}
		}, cause, "failed to commit tx"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := <-call(tt.f)
			if err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestEtcdHangs: code of etcd's that does not end does not keep an interrupted restore.
func TestEtcdHangs(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	running := make(chan struct{})
	go func() {
		<-running
		cancel()
	}()
	err := wait(ctx, call(func(*zap.Logger) error {
		close(running)
		select {}
	}))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestNoRoom: what does not fit is not begun.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	d, err := begin(filepath.Join(parent, "new"))
	if err != nil {
		t.Fatal(err)
	}
	d.statfs = func(_ string, s *unix.Statfs_t) error {
		s.Bavail, s.Bsize = 100, 1<<20
		return nil
	}
	if err := d.room(100 << 20); err != nil {
		t.Errorf("what just fits: %v", err)
	}
	want := "not enough free space: it takes 101 MiB more, and \"" + parent + "\" has 100 MiB"
	if err := d.room(100<<20 + 1); !errors.Is(err, snapshots.ErrNoSpace) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := d.end(false); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
