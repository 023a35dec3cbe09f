package heat

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// segments makes each part of a key that ends in a slash a level.
func segments(key string) (ends []int) {
	for i := range key {
		if key[i] == '/' && i > 0 {
			ends = append(ends, i+1)
		}
	}
	return ends
}

// add counts n writes of a key.
func add(s *Sample, key string, n int, w Write) {
	for range n {
		s.Add([]byte(key), w)
	}
}

// draw writes a tree as text: path, key or place, creates+updates-deletes,
// bytes, keys, writer.
func draw(n *Node, indent string) string {
	what := "place"
	if n.Key {
		what = "key"
	}
	text := fmt.Sprintf("%s%s %s %d+%d-%d %dB %dk %s\n", indent, n.Path, what, n.Creates, n.Updates, n.Deletes, n.Bytes, n.Keys, n.By)
	for _, b := range n.Below {
		text += draw(b, indent+"  ")
	}
	if n.Others != nil {
		text += draw(n.Others, indent+"  others ")
	}
	return text
}

func TestTree(t *testing.T) {
	t.Parallel()
	s := NewSample(0, segments)
	add(s, "/pods/team/a", 50, Write{Op: Update, Bytes: 10, By: "kubelet"})
	add(s, "/pods/team/b", 1, Write{Op: Create, Bytes: 7, By: "scheduler"})
	add(s, "/pods/team/c", 1, Write{Op: Delete, Bytes: 9})
	add(s, "/pods/other/a", 20, Write{Op: Create, Bytes: 1, By: "job"})
	add(s, "/leases/x", 26, Write{Op: Update, Bytes: 1, By: "node"})
	add(s, "/rare", 2, Write{Op: Update})
	want := ` place 21+78-1 553B 6k kubelet
  /pods/ place 21+50-1 527B 4k kubelet
    /pods/team/ place 1+50-1 507B 3k kubelet
      /pods/team/a key 0+50-0 500B 1k kubelet
      others  place 1+0-1 7B 2k scheduler
    /pods/other/ place 20+0-0 20B 1k job
      /pods/other/a key 20+0-0 20B 1k job
  /leases/ place 0+26-0 26B 1k node
    /leases/x key 0+26-0 26B 1k node
  others  place 0+2-0 0B 1k 
`
	if diff := cmp.Diff(want, draw(s.Tree(0.05, 0), "")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	few := s.Tree(0, 1)
	if len(few.Below) != 1 || few.Others.Total() != 28 || few.Others.Keys != 2 {
		t.Errorf("with one line each:\n%s", draw(few, ""))
	}
	if got := s.Total(); got != (Writes{21, 78, 1, 553}) || s.Keys() != 6 || s.Beyond() != 0 {
		t.Errorf("total %+v of %d keys, %d beyond", got, s.Keys(), s.Beyond())
	}
	checkTree(t, s.Tree(0, 0))
}

// checkTree: a node is what is below it.
func checkTree(t *testing.T, n *Node) {
	t.Helper()
	var w Writes
	var keys int64
	for _, b := range n.Below {
		checkTree(t, b)
		w.add(b.Writes)
		keys += b.Keys
	}
	if n.Others != nil {
		w.add(n.Others.Writes)
		keys += n.Others.Keys
	}
	if !n.Key && (w != n.Writes || keys != n.Keys) {
		t.Errorf("%q holds %+v in %d keys, below it %+v in %d", n.Path, n.Writes, n.Keys, w, keys)
	}
}

func TestEmptyTree(t *testing.T) {
	t.Parallel()
	want := &Node{}
	if diff := cmp.Diff(want, NewSample(0, segments).Tree(0.01, 10), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestWriterChanges: the last one counts, and a write that tells nothing
// leaves it.
func TestWriterChanges(t *testing.T) {
	t.Parallel()
	s := NewSample(0, segments)
	for _, by := range []string{"one", "two", ""} {
		s.Add([]byte("/a"), Write{Op: Update, By: by})
	}
	if by := s.Tree(0, 0).By; by != "two" {
		t.Errorf("written by %q", by)
	}
}

// TestBounded: beyond its bound a sample counts to places, and forgets none.
func TestBounded(t *testing.T) {
	t.Parallel()
	const known, more = 100, 5000
	s := NewSample(known, segments)
	for i := range known + more {
		s.Add(fmt.Appendf(nil, "/pods/ns%d/p%d", i%10, i), Write{Op: Create, Bytes: 1})
	}
	add(s, "/pods/ns1/p1", 10, Write{Op: Update})
	add(s, "/top", 3, Write{Op: Update}) // has no place above it
	if s.Keys() != known || s.Beyond() != more+3 || s.Total().Total() != known+more+13 {
		t.Errorf("%d keys, %d writes beyond, %+v", s.Keys(), s.Beyond(), s.Total())
	}
	root := s.Tree(0, 0)
	checkTree(t, root)
	pods := root.Below[0]
	if len(root.Below) != 1 || root.Others.Total() != 3 || len(pods.Below) != 10 || pods.Below[0].Path != "/pods/ns1/" {
		t.Fatalf("tree:\n%s", draw(s.Tree(0.01, 0), ""))
	}
	if ns := pods.Below[1]; ns.Total() != (known+more)/10 || ns.Keys != known/10 || ns.Others.Total() != more/10 {
		t.Errorf("namespace:\n%s", draw(ns, ""))
	}
}

// TestHostileKeys: the memory for keys, places and names is bounded by bytes
// and by number.
func TestHostileKeys(t *testing.T) {
	t.Parallel()
	s := NewSample(0, segments)
	long := strings.Repeat("x", 1<<20)
	for i := range 40 {
		s.Add(fmt.Appendf(nil, "/%d%s/%s/", i, long, long), Write{Op: Create, By: fmt.Sprint(i, long)})
	}
	if s.bytes > 3*keyBytes {
		t.Errorf("%d bytes of keys are kept", s.bytes)
	}
	s = NewSample(1, segments)
	for i := range 2 * places {
		s.Add(fmt.Appendf(nil, "/%d/a/b", i), Write{Op: Create, By: fmt.Sprint("w", i)})
	}
	if len(s.places) > places || len(s.names) > writers {
		t.Errorf("%d places, %d names", len(s.places), len(s.names))
	}
	root := s.Tree(0, 0)
	checkTree(t, root)
	if root.Total() != 2*places {
		t.Errorf("%d writes of %d are in the tree", root.Total(), 2*places)
	}
}

// TestLevels: what a function gives is made fit: ascending, within the key.
func TestLevels(t *testing.T) {
	t.Parallel()
	s := NewSample(0, func(string) []int { return []int{0, -3, 2, 2, 1, 4, 99, 3, 5, 6} })
	s.Add([]byte("abcdefgh"), Write{Op: Create})
	root := s.Tree(0, 0)
	var paths []string
	for n := root; len(n.Below) > 0; n = n.Below[0] {
		paths = append(paths, n.Below[0].Path)
	}
	if diff := cmp.Diff([]string{"ab", "abcd", "abcde", "abcdefgh"}, paths); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
