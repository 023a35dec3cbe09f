package app

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// shellKeys are typed at a shell's prompt; \t is the key that completes.
func shellKeys() []struct{ keys, want string } {
	return []struct{ keys, want string }{
		{"snap\tver\tbef\t", "<snapshot> <verify> <before.db>"},
		{"snapshot verify with\t", "<snapshot> <verify> <with blank.db>"},
		{"count --fr\tbef\t", "<count> <--from> <before.db>"},
		{"count --from=bef\t", "<count> <--from=before.db>"},
		{"delete --archive-dir sub\tx", "<delete> <--archive-dir> <sub dir/x>"},
		{"delete --archive-dir=sub\tx", "<delete> <--archive-dir=sub dir/x>"},
		{"delete statefuls\tweb --exec\t", "<delete> <statefulsets> <web> <--execute>"},
		{"count --output=js\tpods", "<count> <--output=json> <pods>"},
		{"count -o ya\t--by namespace,ow\t", "<count> <-o> <yaml> <--by> <namespace,owner>"},
		{"delete pods --owner jo\treport", "<delete> <pods> <--owner> <job/report>"},
		{"list pods -o jsonpath-\tbef\t", "<list> <pods> <-o> <jsonpath-file=before.db>"},
		{"--endpoints http://127.0.0.1:1 sn\tsa\t", "<--endpoints> <http://127.0.0.1:1> <snapshot> <save>"},
		{"count -l 'a in (b)' --fiel\ta=b statefuls\t", "<count> <-l> <a in (b)> <--field-selector> <a=b> <statefulsets>"},
		{"get pods nothin\tx", "<get> <pods> <nothinx>"},
	}
}

// shellPrompt is what a shell shows when it waits. It is put together by the shell,
// so that it does not stand in what is typed.
const shellPrompt = "ready> "

// showsWords makes the command print what it is called with. Completion still
// reaches the program itself.
const showsWords = `etcd-rescue() { if [[ $1 == __complete ]]; then command etcd-rescue "$@"; else printf 'got'; printf ' <%s>' "$@"; echo .; fi; }`

// TestCompletionInBash types at an interactive bash.
func TestCompletionInBash(t *testing.T) {
	t.Parallel()
	typeAtShell(t, []string{"bash", "--noprofile", "--norc", "-i"}, "source <(etcd-rescue completion bash)", showsWords, "PS1='rea''dy> '")
}

// TestCompletionInZsh is the same with zsh, where it is installed.
func TestCompletionInZsh(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("zsh"); err == nil {
		typeAtShell(t, []string{"zsh", "-f", "-i"}, "autoload -Uz compinit; compinit -D -u; source <(etcd-rescue completion zsh)", showsWords, "PS1='rea''dy> '")
	}
}

// TestCompletionInFish asks fish, where it is installed, what it would offer.
func TestCompletionInFish(t *testing.T) {
	t.Parallel()
	fish, err := exec.LookPath("fish")
	if err != nil {
		return
	}
	dir := completionFolder(t)
	for line, want := range map[string]string{
		"snap": "snapshot", "snapshot ver": "verify", "snapshot verify bef": "before.db", "count --from=bef": "--from=before.db", "snapshot verify no-such": "",
		"delete --archive-dir sub": "sub dir/", "delete --archive-dir=sub": "--archive-dir=sub dir/", "delete statefuls": "statefulsets", "delete pods ": "",
		"count --output=js": "--output=json", "count --by namespace,ow": "namespace,owner", "delete pods --owner jo": "job/", "list -o jsonpath-file=bef": "jsonpath-file=before.db",
	} {
		cmd := exec.CommandContext(t.Context(), fish, "--no-config", "-c", `etcd-rescue completion fish | source; complete -C "etcd-rescue $argv"`, line)
		cmd.Dir, cmd.Env = dir, shellEnvironment(dir)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		got, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\t")
		if got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

// completionFolder holds what there is to complete.
func completionFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"before.db", "with blank.db"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "sub dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func shellEnvironment(dir string) []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TERM=dumb", raceVariable + "=" + raceOptions}
}

// typeAtShell starts a shell on a terminal and types shellKeys.
func typeAtShell(t *testing.T, command []string, setUp ...string) {
	t.Helper()
	dir := completionFolder(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir, cmd.Env = dir, shellEnvironment(dir)
	master, tty := openPTY(t)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close()
	y := &typed{shell: shell{t: t, dir: dir}, cmd: cmd, master: master}
	y.enter(strings.Join(setUp, "; "))
	y.expect(shellPrompt)
	called := regexp.MustCompile(`(?s)got((?: <[^>]*>)*)\.\r?\n.*` + shellPrompt)
	for _, tc := range shellKeys() {
		y.screen = ""
		y.enter("etcd-rescue " + tc.keys)
		if got := strings.TrimSpace(y.match(called)[1]); got != tc.want {
			t.Errorf("%q: got %s, want %s", tc.keys, got, tc.want)
		}
	}
	y.enter("exit")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// match reads until the screen matches and returns the groups.
func (y *typed) match(pattern *regexp.Regexp) []string {
	y.t.Helper()
	buf := make([]byte, 4096)
	for {
		if found := pattern.FindStringSubmatch(y.screen); found != nil {
			return found
		}
		n, err := y.master.Read(buf)
		if y.screen += string(buf[:n]); err != nil {
			y.t.Fatalf("%s did not come: %v\n%q", pattern, err, y.screen)
		}
	}
}

func (y *typed) enter(keys string) {
	y.t.Helper()
	if _, err := y.master.WriteString(keys + "\n"); err != nil {
		y.t.Fatal(err)
	}
}
