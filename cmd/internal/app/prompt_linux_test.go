package app

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
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
	t.Cleanup(func() { master.Close() })
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
	return master, tty
}

// typed is a command on a terminal of its own: stdin and stderr. Its stdout
// goes elsewhere, which does not make it less of a terminal.
type typed struct {
	shell
	cmd    *exec.Cmd
	master *os.File
	screen string
}

func (s shell) onTerminal(args ...string) *typed {
	s.t.Helper()
	master, tty := openPTY(s.t)
	c := s.command(args...)
	c.Stdin, c.Stderr = tty, tty
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	tty.Close()
	return &typed{shell: s, cmd: c, master: master}
}

// expect reads until text stands on the screen.
func (y *typed) expect(text string) {
	y.t.Helper()
	buf := make([]byte, 4096)
	for !strings.Contains(y.screen, text) {
		n, err := y.master.Read(buf)
		if y.screen += string(buf[:n]); err != nil {
			y.t.Fatalf("%q did not come: %v\n%s", text, err, y.screen)
		}
	}
}

// answer types something and returns how the command ends.
func (y *typed) answer(keys string) result {
	y.t.Helper()
	if _, err := y.master.WriteString(keys); err != nil {
		y.t.Fatal(err)
	}
	var rest bytes.Buffer
	_, _ = rest.ReadFrom(y.master) // ends with an error when the other side closes
	r := y.finish(y.cmd)
	r.errOut = y.screen + rest.String()
	return r
}

// TestPromptRefuses: anything but the number changes nothing and leaves no
// file.
func TestPromptRefuses(t *testing.T) {
	t.Parallel()
	box := startRunaway(t, 12)
	before := box.mustContents(t)
	for _, tc := range []struct {
		name, keys, message string
		code                int
	}{
		{"another number", "11\n", "not confirmed; nothing was changed", exitRefused},
		{"yes", "y\n", "not confirmed; nothing was changed", exitRefused},
		{"only enter", "\n", "not confirmed; nothing was changed", exitRefused},
		{"the number and more", "13 \n", "not confirmed; nothing was changed", exitRefused},
		{"end of input", "\x04", "not confirmed; nothing was changed", exitRefused},
		{"Ctrl-C", "\x03", "interrupted", exitInterrupted},
		{"Ctrl-C behind the number", "12\x03", "interrupted", exitInterrupted},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			sh := newShell(t, box)
			y := sh.onTerminal("delete", "pods", "-n", "ops-tools", "--execute")
			y.expect("Type 12 to delete these 12 objects: ")
			r := y.answer(tc.keys)
			if r.code != tc.code || !strings.Contains(r.errOut, tc.message) || r.out != "" {
				t.Errorf("exit code %d, stdout %q, screen:\n%s", r.code, r.out, r.errOut)
			}
			if files := glob(t, sh.dir, "*"); len(files) > 0 {
				t.Errorf("it left %v", files)
			}
			if diff := unchanged(before, box.mustContents(t)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestPromptAccepts: the number typed does it, for delete, apply and undo; the
// preview stands before the question, and more than what was typed is never
// deleted.
func TestPromptAccepts(t *testing.T) {
	t.Parallel()
	box := startRunaway(t, 12)
	before := box.mustContents(t)
	sh := newShell(t, box)
	sh.run(exitDone, "delete", "pods", "-n", "ops-tools", "--with-owners", "--plan", "plan.jsonl")

	y := sh.onTerminal("delete", "pods", "-n", "ops-tools", "--with-owners", "--execute", "--settle", "0")
	y.expect("Type 13 to delete these 13 objects: ")
	if !strings.Contains(y.screen, "Would delete 13 objects") || strings.Contains(y.screen, "Nothing was changed") {
		t.Errorf("before the question stands:\n%s", y.screen)
	}
	r := y.answer("13\n")
	if r.code != exitDone || !strings.HasPrefix(r.out, "Deleted 13 objects in ") {
		t.Fatalf("exit code %d:\n%s%s", r.code, r.out, r.errOut)
	}
	archive := find(t, r.out, `^archive: (.*)$`)
	if left := box.mustContents(t).below("/registry/pods/ops-tools/"); left != 0 {
		t.Errorf("%d pods are left", left)
	}

	y = sh.onTerminal("undo", archive, "--execute")
	y.expect("Type 13 to put back these 13 objects: ")
	if r := y.answer("14\n"); r.code != exitRefused {
		t.Errorf("exit code %d:\n%s", r.code, r.errOut)
	}
	y = sh.onTerminal("undo", archive, "--execute")
	y.expect("Type 13 to put back these 13 objects: ")
	if r := y.answer("13\n"); r.code != exitDone {
		t.Errorf("exit code %d:\n%s", r.code, r.errOut)
	}
	if diff := sameValues(before, box.mustContents(t)); diff != "" {
		t.Error(diff)
	}

	y = sh.onTerminal("apply", "plan.jsonl", "--execute", "--settle", "0")
	y.expect("Type 13 to carry out these 13 steps: ")
	if r := y.answer("13\n"); r.code != exitDone || !strings.Contains(r.out, "Deleted 13 objects in ") {
		t.Errorf("exit code %d:\n%s%s", r.code, r.out, r.errOut)
	}
}
