// Command etcd-rescue looks at, counts, deletes and puts back Kubernetes
// objects straight in etcd.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/app"
	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
)

func main() { os.Exit(run()) }

const (
	// A live heap of a few MiB would be collected hundreds of times a
	// second while pages of objects go through it; the limit keeps the
	// whole process small all the same.
	gcPercent   = 400
	memoryLimit = 96 << 20
)

// run is main with an exit code. The first interrupt (also a lost terminal)
// ends the work in good order, the second ends the process at once.
func run() int {
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memoryLimit)
	// Past a file size limit a write must fail as on a full disk, so that
	// it is reported, instead of killing the process.
	signal.Ignore(syscall.SIGXFSZ)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop)
	return app.Run(ctx, app.Process{
		Args:    os.Args[1:],
		Streams: term.Detect(os.Stdin, os.Stdout, os.Stderr, os.Getenv),
		Getenv:  os.Getenv,
		Root:    "/",
		Now:     time.Now,
	})
}
