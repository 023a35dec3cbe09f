package app

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// figures are what running a command cost.
type figures struct {
	wall, client, server time.Duration // client and server: CPU
	peak, growth         int64         // RssAnon in KiB: of the client, and by how much the server's grew
	lines                int           // on stdout
	served               bool          // by a server
	reads
}

// reads is what a command says of its requests.
type reads struct{ visits, keys, requests int64 }

func (f *figures) add(g figures) {
	f.wall += g.wall
	f.client += g.client
	f.server += g.server
	f.peak, f.growth = max(f.peak, g.peak), max(f.growth, g.growth)
	f.served = g.served
	f.visits += g.visits
	f.keys += g.keys
	f.requests += g.requests
}

// run runs a command to its end and watches it and the server.
func (t *bed) run(b *testing.B, argv []string) figures {
	b.Helper()
	// Files, because reading from a pipe would take time from the two.
	out, errs := createIn(b, t.dir, "out"), createIn(b, t.dir, "err")
	defer out.Close()
	defer errs.Close()
	if err := os.Remove(t.plan()); err != nil && !errors.Is(err, os.ErrNotExist) {
		b.Fatal(err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = out, errs
	before, rss := t.cpu(b), rssAnon(t.pid)
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	f := figures{served: t.pid != 0}
	for running := true; running; {
		f.peak = max(f.peak, rssAnon(cmd.Process.Pid))
		f.growth = max(f.growth, rssAnon(t.pid)-rss)
		select {
		case err := <-done:
			if err != nil {
				said, _ := os.ReadFile(errs.Name())
				b.Fatalf("%q: %v: %s", argv, err, said)
			}
			running = false
		case <-tick.C:
		}
	}
	f.wall, f.server = time.Since(begun), t.cpu(b)-before
	f.client = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	f.lines = countLines(b, out.Name())
	f.reads = readsIn(b, errs.Name())
	return f
}

func createIn(b *testing.B, dir, name string) *os.File {
	b.Helper()
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		b.Fatal(err)
	}
	return f
}

// cpu is the time that the server has used so far. The id of a process's clock
// is made as clock_getcpuclockid makes it; /proc/PID/stat has hundredths of a
// second only.
func (t *bed) cpu(b *testing.B) time.Duration {
	b.Helper()
	if t.pid == 0 {
		return 0
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^t.pid<<3|2), &ts); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

func countLines(b *testing.B, path string) int {
	b.Helper()
	n := 0
	eachLine(b, path, func(string) { n++ })
	return n
}

// readsIn adds up the lines of a log that tell of finished reads. A command
// that does not write any gives zero.
func readsIn(b *testing.B, path string) reads {
	b.Helper()
	isRead := regexp.MustCompile(`msg="?read"? `)
	number := regexp.MustCompile(` (visits|keys|requests)=(\d+)`)
	var r reads
	eachLine(b, path, func(line string) {
		if !isRead.MatchString(line) {
			return
		}
		for _, m := range number.FindAllStringSubmatch(line, -1) {
			n, err := strconv.ParseInt(m[2], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			switch m[1] {
			case "visits":
				r.visits += n
			case "keys":
				r.keys += n
			case "requests":
				r.requests += n
			}
		}
	})
	return r
}

func eachLine(b *testing.B, path string, fn func(string)) {
	b.Helper()
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fn(lines.Text())
	}
	if err := lines.Err(); err != nil {
		b.Fatal(err)
	}
}
