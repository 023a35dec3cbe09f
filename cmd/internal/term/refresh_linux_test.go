package term

import (
	"bufio"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRefreshOnTerminal(t *testing.T) {
	t.Parallel()
	master, tty := openPTY(t)
	kind := "xterm"
	env := func(name string) string {
		if name == "TERM" {
			return kind
		}
		return ""
	}
	r := NewRefresh(Detect(tty, tty, tty, env))
	if r == nil || r.Rows() != 23 {
		t.Fatalf("%+v on a terminal of 24 lines", r)
	}
	resized := &unix.Winsize{Row: 10, Col: 12}
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, resized); err != nil {
		t.Fatal(err)
	}
	if r.Rows() != 9 {
		t.Errorf("%d rows after the terminal shrank to 10", r.Rows())
	}
	if err := r.Show(strings.Repeat("0123456789abcdef\n", 20)); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(master)
	for i := range 9 {
		line, err := lines.ReadString('\n')
		if err != nil || !strings.Contains(line, "0123456789a…\033[K") {
			t.Fatalf("line %d: %q, %v", i, line, err)
		}
	}
	kind = "dumb"
	if NewRefresh(Detect(tty, tty, tty, env)) != nil {
		t.Error("frames on a terminal that cannot move its cursor")
	}
}
