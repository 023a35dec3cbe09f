package term

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// openPTY returns both ends of a new pseudo-terminal of 80 columns.
func openPTY(t *testing.T) (master, tty *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	return master, tty
}

func TestDetectTerminal(t *testing.T) {
	t.Parallel()
	_, tty := openPTY(t)
	env := func(kv ...string) func(string) string {
		return func(k string) string {
			for i := 0; i < len(kv); i += 2 {
				if kv[i] == k {
					return kv[i+1]
				}
			}
			return ""
		}
	}
	type want struct {
		width       int
		color, dumb bool
	}
	for _, tc := range []struct {
		env  func(string) string
		want want
	}{
		{env("TERM", "xterm-256color"), want{80, true, false}},
		{env("TERM", "xterm", "NO_COLOR", "1"), want{80, false, false}},
		{env("TERM", "xterm", "COLUMNS", "132"), want{132, true, false}},
		{env("TERM", "xterm", "COLUMNS", "wide"), want{80, true, false}},
		{env("TERM", "dumb"), want{80, false, true}},
		{env(), want{80, false, false}},
	} {
		s := Detect(tty, tty, tty, tc.env)
		if got := (want{s.ErrWidth, s.ColorErr(), s.Dumb}); got != tc.want || !s.Interactive() || s.OutWidth != s.ErrWidth {
			t.Errorf("got %+v (%+v), want %+v", got, s, tc.want)
		}
	}
}

func TestAskNumberOnTerminal(t *testing.T) {
	t.Parallel()
	master, tty := openPTY(t)
	s := Detect(tty, tty, tty, func(string) string { return "" })
	done := make(chan error, 1)
	go func() { done <- AskNumber(t.Context(), s, "Type 7 to go on: ", 7) }()
	if prompt, err := bufio.NewReader(master).ReadString(':'); err != nil || !strings.HasPrefix(prompt, "Type 7") {
		t.Fatalf("prompt %q, %v", prompt, err)
	}
	if _, err := master.WriteString("7\n"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
