package plan

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSpillAddsUp: whatever fits into memory, every key comes once, in order,
// with all that was added to it, and no file is left.
func TestSpillAddsUp(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 300, 20_000, 0} {
		dir := t.TempDir()
		s := newSpill(dir, limit)
		chance := rand.New(rand.NewPCG(1, uint64(limit)))
		want := map[string]figures{}
		for range 600 {
			key := fmt.Sprintf("%d/%s", chance.IntN(100), string(make([]byte, chance.IntN(3))))
			f := figures{chance.Int64N(1000), chance.IntN(17)}
			if err := s.add([]byte(key), f); err != nil {
				t.Fatal(err)
			}
			want[key] = want[key].with(f)
		}
		got, last := map[string]figures{}, ""
		err := s.drain(func(key []byte, f figures) error {
			if _, again := got[string(key)]; again || string(key) < last {
				t.Errorf("limit %d: %q after %q", limit, key, last)
			}
			last = string(key)
			got[last] = f
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if (s.file != nil) != (limit != 0) || len(s.runs) > maxRuns+1 {
			t.Errorf("limit %d: file %v, %d runs", limit, s.file, len(s.runs))
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(figures{})); diff != "" {
			t.Errorf("limit %d (-want +got):\n%s", limit, diff)
		}
		s.close()
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// TestSpillSaysWhatFails: without a folder to write to, and when what it is
// drained into fails.
func TestSpillSaysWhatFails(t *testing.T) {
	t.Parallel()
	s := newSpill(t.TempDir()+"/none", 1)
	if err := s.add([]byte("k"), figures{n: 1}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	for _, limit := range []int{1, 0} {
		s := newSpill(t.TempDir(), limit)
		defer s.close()
		for i := range 3 {
			if err := s.add(fmt.Append(nil, i), figures{n: 1}); err != nil {
				t.Fatal(err)
			}
		}
		n := 0
		if err := s.drain(func([]byte, figures) error { n++; return errLost }); !errors.Is(err, errLost) || n != 1 {
			t.Errorf("limit %d: %v after %d", limit, err, n)
		}
	}
}

func TestKeysOfTextsComeApart(t *testing.T) {
	t.Parallel()
	rows := [][]string{{"", "", ""}, {"", "\x00", "b"}, {"a", "", "c"}, {"a", "b", "c"}, {"a\x00", "", "c"}, {"a-b", "b", ""}, {"ü", "b", "c"}}
	var keys []string
	for _, row := range rows {
		key := join(nil, row...)
		if got := split(key, 3); !slices.Equal(got, row) {
			t.Errorf("%q became %q", row, got)
		}
		keys = append(keys, string(key))
	}
	if len(slices.Compact(slices.Sorted(slices.Values(keys)))) != len(rows) {
		t.Errorf("keys are not different: %q", keys)
	}
}
