package term

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

func TestFormat(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ got, want string }{
		{Count(0), "0"}, {Count(999), "999"}, {Count(1000), "1,000"}, {Count(30000), "30,000"},
		{Count(1234567), "1,234,567"}, {Count(-1), "-1"}, {Count(-123456), "-123,456"},
		{Count(-9223372036854775808), "-9,223,372,036,854,775,808"},
		{Bytes(0), "0 B"}, {Bytes(1023), "1023 B"}, {Bytes(1024), "1.0 KiB"}, {Bytes(49388000), "47.1 MiB"},
		{Bytes(1<<20 - 1), "1.0 MiB"}, {Bytes(8 << 30), "8.0 GiB"}, {Bytes(-2048), "-2.0 KiB"}, {Bytes(1<<63 - 1), "8.0 EiB"},
		{Duration(0), "0s"}, {Duration(1500 * time.Nanosecond), "2µs"}, {Duration(350 * time.Millisecond), "350ms"},
		{Duration(999600 * time.Microsecond), "1s"}, {Duration(6200 * time.Millisecond), "6.2s"}, {Duration(6 * time.Second), "6s"},
		{Duration(9960 * time.Millisecond), "10s"}, {Duration(42 * time.Second), "42s"}, {Duration(59700 * time.Millisecond), "1m"},
		{Duration(150 * time.Second), "2m30s"}, {Duration(time.Hour), "1h"}, {Duration(200 * time.Minute), "3h20m"},
		{Duration(124 * time.Hour), "5d4h"}, {Duration(24*time.Hour - time.Second), "1d"}, {Duration(-90 * time.Second), "-1m30s"},
		{Rate(2950.4), "2,950/s"}, {Rate(9.96), "10/s"}, {Rate(0.42), "0.4/s"}, {Rate(2), "2/s"}, {Rate(0.02), "2/min"}, {Rate(0), "0/s"},
		{Plural(1, "pod"), "1 pod"}, {Plural(0, "pod"), "0 pods"}, {Plural(30000, "pod"), "30,000 pods"},
		{Plural(2, "policy"), "2 policies"}, {Plural(2, "key"), "2 keys"}, {Plural(2, "ingress"), "2 ingresses"},
		{Wrap("check the address, the host and firewalls", 16), "check the\naddress, the\nhost and\nfirewalls"},
		{Wrap("a\n  a command that is longer than that\nb", 10), "a\n  a command that is longer than that\nb"},
		{Wrap("averyveryverylongword x", 10), "averyveryverylongword\nx"}, {Wrap("a b", 0), "a b"}, {Wrap("", 10), ""},
		{Clean("pod-1"), "pod-1"}, {Clean("a\x1b[31mb\n\t"), `a\x1b[31mb\n\t`}, {Clean("\xff東"), `\xff東`}, {Clean("a\u202eb"), `a\u202eb`},
		{Clean("it's"), "it's"},
	} {
		if tc.got != tc.want {
			t.Errorf("got %q, want %q", tc.got, tc.want)
		}
	}
}

func TestTableAligned(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	table := NewTable(&b, true)
	table.Header("NAMESPACE", "NAME", "COUNT")
	table.Row("kube-system", "東京", "1")
	table.Row("a", "evil\x1b[2J", "30,000")
	table.Row("b", "no-count", "")
	table.Row("c", "more", "1", "than", "expected")
	if err := table.Flush(); err != nil {
		t.Fatal(err)
	}
	want := `NAMESPACE     NAME          COUNT
kube-system   東京          1
a             evil\x1b[2J   30,000
b             no-count
c             more          1        than   expected
`
	if b.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
	}
}

func TestTableFit(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		columns int
		names   []string
		want    string
	}{
		{40, []string{"cp-1", "a"}, "#   MEMBER   SIZE\n1   cp-1     60.1 MiB\n1   a        60.1 MiB\n"},
		// Just as wide as the terminal.
		{28, []string{"ip-10-0-1-23"}, "#   MEMBER         SIZE\n1   ip-10-0-1-23   60.1 MiB\n"},
		{30, []string{"ip-10-0-1-23.internal", "b"}, "#   MEMBER            SIZE\n1   ip-10-0…nternal   60.1 MiB\n1   b                 60.1 MiB\n"},
		// No less than 12.
		{10, []string{"ip-10-0-1-23.internal"}, "#   MEMBER         SIZE\n1   ip-10-…ernal   60.1 MiB\n"},
		// Two that would look the same.
		{30, []string{"ip-10-0-1-23.internal", "ip-10-0-2-23.internal"}, "#   MEMBER                  SIZE\n1   ip-10-0-1-23.internal   60.1 MiB\n1   ip-10-0-2-23.internal   60.1 MiB\n"},
		{0, []string{"ip-10-0-1-23.internal"}, "#   MEMBER                  SIZE\n1   ip-10-0-1-23.internal   60.1 MiB\n"},
	} {
		var b bytes.Buffer
		table := NewTable(&b, true)
		table.Fit(tc.columns, 1)
		table.Header("#", "MEMBER", "SIZE")
		for _, name := range tc.names {
			table.Row("1", name, "60.1 MiB")
		}
		if err := table.Flush(); err != nil {
			t.Fatal(err)
		}
		if b.String() != tc.want {
			t.Errorf("%d columns, %q:\n%swant:\n%s", tc.columns, tc.names, b.String(), tc.want)
		}
	}
}

func TestTableTabs(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	table := NewTable(&b, false)
	table.Header("NAME", "COUNT", "NODE")
	table.Row("a\tb", "30000", "")
	if err := table.Flush(); err != nil {
		t.Fatal(err)
	}
	if want := "NAME\tCOUNT\tNODE\na\\tb\t30000\t\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

// The first 1000 rows decide the widths; what follows is written as it comes.
func TestTableLong(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	table := NewTable(&b, true)
	table.Header("A", "B")
	for i := range 1000 {
		table.Row(fmt.Sprintf("row-%d", i), "x")
	}
	table.Row("a-row-that-is-longer-than-the-others", "x")
	if len(table.held) != 0 {
		t.Errorf("%d rows are held", len(table.held))
	}
	table.Row("s", "x")
	if err := table.Flush(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	want := []string{"row-999   x", "a-row-that-is-longer-than-the-others   x", "s         x"}
	if got := lines[len(lines)-3:]; strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTableEmpty(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := NewTable(&b, true).Flush(); err != nil || b.Len() > 0 {
		t.Errorf("got %v, %q", err, b.String())
	}
}

type brokenWriter struct{}

var errBroken = errors.New("broken pipe")

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestTableWriteError(t *testing.T) {
	t.Parallel()
	for _, aligned := range []bool{true, false} {
		table := NewTable(brokenWriter{}, aligned)
		for range 5000 {
			table.Row("a", "b")
		}
		if err := table.Flush(); !errors.Is(err, errBroken) {
			t.Errorf("aligned %t: got %v", aligned, err)
		}
	}
}

func TestEncode(t *testing.T) {
	t.Parallel()
	v := map[string]any{"a": "<b>", "m": int64(9007199254740993)}
	var j, y bytes.Buffer
	for _, err := range []error{JSON(&j, v), YAML(&y, v)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct{ got, want string }{
		{j.String(), "{\n    \"a\": \"<b>\",\n    \"m\": 9007199254740993\n}\n"},
		{y.String(), "a: <b>\nm: 9007199254740993\n"},
	} {
		if tc.got != tc.want {
			t.Errorf("got %q, want %q", tc.got, tc.want)
		}
	}
	if err := JSON(brokenWriter{}, v); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
	if err := YAML(brokenWriter{}, v); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
}

func TestDetectFiles(t *testing.T) {
	t.Parallel()
	f, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := Detect(f, f, f, func(k string) string { return map[string]string{"TERM": "xterm", "COLUMNS": "99"}[k] })
	if s.InTTY || s.OutTTY || s.ErrTTY || s.OutWidth != 0 || s.ErrWidth != 0 || s.Interactive() || s.ColorOut() || s.ColorErr() {
		t.Errorf("got %+v", s)
	}
	if s := Detect(nil, nil, nil, nil); s.InTTY || s.Color {
		t.Errorf("got %+v", s)
	}
}

func TestStreamsInteractive(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		s    Streams
		want bool
	}{
		{Streams{InTTY: true, ErrTTY: true}, true},
		{Streams{InTTY: true, OutTTY: true}, false},
		{Streams{OutTTY: true, ErrTTY: true}, false},
	} {
		if got := tc.s.Interactive(); got != tc.want {
			t.Errorf("%+v: got %t", tc.s, got)
		}
	}
	if s := (Streams{In: io.Reader(nil), Color: true, OutTTY: true}); !s.ColorOut() || s.ColorErr() {
		t.Errorf("%+v: colour", s)
	}
}
