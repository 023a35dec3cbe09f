package app

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
	clientv3 "go.etcd.io/etcd/client/v3"
	"sigs.k8s.io/yaml"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/filter"
	"github.com/etcd-rescue/etcd-rescue/recover/tally"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// countWith runs show as the count command with these flags would.
func countWith(t *testing.T, streams term.Streams, env map[string]string, args []string, show func(*invocation) error) (out, err string) {
	t.Helper()
	var o, e bytes.Buffer
	streams.Out, streams.Err = &o, &e
	command := countCommand()
	a := &cli.App{Name: "count", Flags: command.flags, Action: func(c *cli.Context) error {
		return show(&invocation{Context: c, command: command, Process: Process{Streams: streams, Getenv: func(k string) string { return env[k] }}})
	}}
	if err := a.RunContext(context.Background(), append([]string{"count"}, args...)); err != nil {
		t.Fatal(err)
	}
	return o.String(), e.String()
}

// oddTexts are what groups may be called, and what YAML reads as something
// other than text.
func oddTexts() []string {
	return []string{
		none, "plain", "true", "null", "~", "0x10", "1e3", "12:30:00", "2026-01-01", "no", "Running", "kube-system", "job/report-1",
		"a: b", "- a", "#", "a #b", "", " ", "\"", "'", "a\nb", "\t", "é", "\u2028", "<&>", "\xff", "\x00", "null-and-void", "groups: null",
		"a\n    \"groups\": null", strings.Repeat("long words ", 30), strings.Repeat("x", 300), "y", "Yes", ".inf", "a\\b", "@a", "`", "%",
	}
}

// TestCountIsStreamedAsMarshalled: what is written group by group is what
// encoding the whole document at once gives.
func TestCountIsStreamedAsMarshalled(t *testing.T) {
	t.Parallel()
	for _, groups := range []int{0, 1, len(oddTexts())} {
		for _, by := range [][]string{{"owner"}, {"phase", "owner"}, {"node", "owner", "node"}} {
			for _, withBytes := range []bool{false, true} {
				r := newCountResult(by, withBytes, tally.Limits{})
				r.survey.unknown.add("a\n    \"groups\": null")
				for i, v := range oddTexts()[:groups] {
					r.groups.Add(slices.Repeat([]string{v}, len(by)), int64(i), int64(i*i))
				}
				whole := r.document()
				list := []any{}
				for g := range r.sorted() {
					by := map[string]any{}
					for i, name := range r.by {
						if by[name] = strings.Clone(g.By[i]); g.By[i] == none {
							by[name] = nil
						}
					}
					group := map[string]any{"by": by, "objects": g.Objects}
					if withBytes {
						group["bytes"] = g.Bytes
					}
					list = append(list, group)
				}
				whole["groups"] = list
				var want bytes.Buffer
				if err := term.JSON(&want, whole); err != nil {
					t.Fatal(err)
				}
				show := func(inv *invocation) error { return inv.countDocument(r) }
				got, _ := countWith(t, term.Streams{}, nil, []string{"-o", "json"}, show)
				if got != want.String() {
					t.Fatalf("%v of %d groups: JSON is\n%s\nwant\n%s", by, groups, got, want.String())
				}
				want.Reset()
				if err := term.YAML(&want, whole); err != nil {
					t.Fatal(err)
				}
				got, _ = countWith(t, term.Streams{}, nil, []string{"-o", "yaml"}, show)
				if asJSON(t, got) != asJSON(t, want.String()) || groups == 1 && got != want.String() {
					t.Fatalf("%v of %d groups: YAML is\n%s\nwant\n%s", by, groups, got, want.String())
				}
			}
		}
	}
}

func asJSON(t *testing.T, text string) string {
	t.Helper()
	b, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return string(b)
}

// merged is a count of more groups than it has room for.
func merged() *countResult {
	r := newCountResult([]string{"owner"}, true, tally.Limits{Groups: 4})
	for i := range 6 {
		r.groups.Add([]string{fmt.Sprintf("job/small-%d", i)}, 1, 10)
		r.groups.Add([]string{"job/large"}, 1000, 1<<20)
	}
	return r
}

func TestApproximateFiguresAreMarked(t *testing.T) {
	t.Parallel()
	out, err := countWith(t, term.Streams{OutTTY: true, OutWidth: 80}, nil, nil, func(inv *invocation) error { return inv.showCount(merged()) })
	want := `OWNER         OBJECTS   BYTES
job/large     ~6,000    ~6.0 MiB
job/small-4   ~1        ~10 B
job/small-5   ~1        ~10 B
<others>      ~4        ~40 B
TOTAL         6,006     6.0 MiB
`
	if out != want {
		t.Errorf("the table is\n%s\nwant\n%s", out, want)
	}
	wantErr := "note: there are more groups than memory is meant for. The smallest, of 4 objects, are merged into one line. " +
		"Figures with ~ may be too low, by at most 2 and 20 B; the total is exact.\n"
	if err != wantErr {
		t.Errorf("stderr is %q, want %q", err, wantErr)
	}
	out, _ = countWith(t, term.Streams{}, nil, []string{"-o", "yaml"}, func(inv *invocation) error { return inv.showCount(merged()) })
	for _, part := range []string{"approximate: true\n", "rest:\n  bytes: 40\n  objects: 4\n", "shortfall:\n  bytes: 20\n  objects: 2\n", "\nobjects: 6006\n"} {
		if !strings.Contains(out, part) {
			t.Errorf("the document lacks %q:\n%s", part, out)
		}
	}
}

func TestTimelineGetsCoarser(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name   string
		step   time.Duration
		times  int
		unit   string
		groups int
		first  string
	}{
		{"minutes", time.Minute, maxLines, "minute", maxLines, "2026-03-01T08:00:00Z"},
		{"too many minutes", time.Minute, maxLines + 1, "hour", 3, "2026-03-01T08:00:00Z"},
		{"minutes with gaps", 2 * time.Minute, 60, "minute", 60, "2026-03-01T08:00:00Z"},
		{"gaps are lines too", 2 * time.Minute, 61, "hour", 3, "2026-03-01T08:00:00Z"},
		{"a few far apart", 300 * time.Hour, 60, "minute", 60, "2026-03-01T08:00:00Z"},
		{"days", 40 * time.Minute, 500, "day", 15, "2026-03-01T00:00:00Z"},
		{"very many days", 31 * time.Hour, 5000, "day", 5000, "2026-03-01T00:00:00Z"},
		{"before the epoch", -3 * time.Hour, 3, "minute", 3, "2026-03-01T02:00:00Z"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newCountResult([]string{byCreated, "owner"}, true, tally.Limits{})
			for i := range tc.times {
				at := start.Add(time.Duration(i) * tc.step)
				r.groups.Add([]string{r.times.add(at.Add(59 * time.Second)), "job/a"}, 2, 20)
			}
			r.groups.Add([]string{none, "job/a"}, 1, 1)
			var groups []tally.Group
			var objects int64
			for g := range r.sorted() {
				groups = append(groups, tally.Group{By: []string{strings.Clone(g.By[0])}})
				objects += g.Objects
			}
			if got := r.times.unit.name; got != tc.unit || len(groups) != tc.groups+1 {
				t.Fatalf("%d groups by %s, want %d by %s", len(groups), got, tc.groups+1, tc.unit)
			}
			if groups[0].By[0] != tc.first || groups[len(groups)-1].By[0] != none || objects != int64(2*tc.times+1) {
				t.Errorf("from %q to %q, %d objects", groups[0].By[0], groups[len(groups)-1].By[0], objects)
			}
		})
	}
}

func TestHistogramFitsTheTerminal(t *testing.T) {
	t.Parallel()
	r := newCountResult([]string{byCreated}, true, tally.Limits{})
	add := func(at string, n int64) {
		when, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		r.groups.Add([]string{r.times.add(when)}, n, n*1600)
	}
	add("2026-01-01T08:00:00Z", 3)
	add("2026-03-01T08:00:30Z", 1)
	for i := range 30 {
		add(fmt.Sprintf("2026-03-01T09:%02d:00Z", 10+i), int64(1000*(i+1)))
	}
	add("2026-03-01T09:42:00Z", 2)
	for _, width := range []int{0, 40, 80, 200} {
		out, _ := countWith(t, term.Streams{OutTTY: true, OutWidth: width}, map[string]string{"LC_ALL": "C.utf8", "LANG": "C"}, nil,
			func(inv *invocation) error { return inv.showCount(r) })
		lines := strings.Split(strings.TrimSpace(out), "\n")
		widest := 0
		for _, line := range lines {
			widest = max(widest, term.Width(line))
		}
		if limit := max(width, 68); width > 0 && widest > limit || width == 0 && widest > 80 {
			t.Errorf("%d columns on a terminal of %d:\n%s", widest, width, out)
		}
		if want := []string{"… 58 days with none", "… 69 min with none", "… 2 min with none"}; width == 80 {
			for _, text := range want {
				if !strings.Contains(out, text) {
					t.Errorf("no %q in\n%s", text, out)
				}
			}
			if !strings.Contains(lines[6], "09:11:00Z") || !strings.HasSuffix(lines[6], "← begins") || !strings.HasSuffix(lines[34], "← most") {
				t.Errorf("the flood is not marked:\n%s", out)
			}
		}
	}
}

func TestBar(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		n, most int64
		blocks  bool
		want    string
	}{
		{0, 10, true, ""}, {0, 0, true, ""}, {1, 1 << 60, true, "▏"}, {1, 1 << 60, false, "#"},
		{10, 10, true, "████"}, {10, 10, false, "####"}, {5, 10, true, "██"}, {3, 10, true, "█▎"}, {3, 10, false, "#"},
	} {
		if got := bar(tc.n, tc.most, 4, tc.blocks); got != tc.want {
			t.Errorf("%d of %d, blocks %v: %q, want %q", tc.n, tc.most, tc.blocks, got, tc.want)
		}
	}
}

// BenchmarkCountObject is what one pod of the incident costs the client, beside
// reading it, at each depth:
//
//	go test -run '^$' -bench CountObject ./cmd/internal/app
func BenchmarkCountObject(b *testing.B) {
	ctx := context.Background()
	store, err := startIncident(ctx, 1000, sandbox.InProcess)
	if err != nil {
		b.Fatal(err)
	}
	defer store.close()
	pods, err := store.client.Get(ctx, "/registry/pods/ops-tools/", clientv3.WithPrefix())
	if err != nil || len(pods.Kvs) != 1000 {
		b.Fatal(err, len(pods.Kvs))
	}
	s := &session{reader: &codec.Reader{Catalog: codec.NewCatalog(), Prefix: "/registry/"}}
	f, err := filter.New(filter.Selection{}, s.reader, nil)
	if err != nil {
		b.Fatal(err)
	}
	for _, bc := range []struct {
		by    string
		depth depth
	}{{"namespace", keysAlone}, {"namespace,resource", sizesAlone}, {"owner,phase", wholeHeads}, {"created", wholeHeads}} {
		b.Run(bc.by, func(b *testing.B) {
			c := newCounter(s, newCountResult(strings.Split(bc.by, ","), true, tally.Limits{}))
			c.depth, c.judging = bc.depth, f.Judging(c.judged)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := c.one(ctx, f, pods.Kvs[i%len(pods.Kvs)]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCountOutput is a million groups in each format:
//
//	go test -run '^$' -bench CountOutput ./cmd/internal/app
func BenchmarkCountOutput(b *testing.B) {
	const n = 1_000_000
	r := newCountResult([]string{"owner", "phase"}, true, tally.Limits{})
	for i := range n {
		r.groups.Add([]string{fmt.Sprintf("job/nightly-report-%d", i), "Pending"}, 1, 1600)
	}
	for name, write := range map[string]func(*bufio.Writer, *countResult){"json": writeJSONGroups, "yaml": writeYAMLGroups} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				var size counted
				w := bufio.NewWriter(&size)
				write(w, r)
				w.Flush()
				b.SetBytes(int64(size))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/group")
		})
	}
}

type counted int64

func (c *counted) Write(p []byte) (int, error) {
	*c += counted(len(p))
	return len(p), nil
}
