package plan

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Equal lets cmp compare tallies.
func (t Tally) Equal(u Tally) bool {
	a, aRest := t.Largest(0)
	b, bRest := u.Largest(0)
	return reflect.DeepEqual(a, b) && aRest == bRest
}

func tallyOf(counts map[string]int64) (t Tally) {
	for name, n := range counts {
		for range n {
			t.Add(name)
		}
	}
	return t
}

// of is how many objects have that name.
func (t Tally) of(name string) int64 {
	shares, _ := t.Largest(0)
	for _, s := range shares {
		if s.Name == name {
			return s.Count
		}
	}
	return 0
}

func TestSharesAreSorted(t *testing.T) {
	t.Parallel()
	tally := tallyOf(map[string]int64{"b": 2, "a": 2, "c": 5, "d": 1})
	for _, tt := range []struct {
		most int
		want []Share
		rest Rest
	}{
		{0, []Share{{"c", 5}, {"a", 2}, {"b", 2}, {"d", 1}}, Rest{}},
		{4, []Share{{"c", 5}, {"a", 2}, {"b", 2}, {"d", 1}}, Rest{}},
		{2, []Share{{"c", 5}, {"a", 2}}, Rest{Names: 2, Count: 3}},
	} {
		got, rest := tally.Largest(tt.most)
		if diff := cmp.Diff(tt.want, got); diff != "" || rest != tt.rest {
			t.Errorf("%d: rest %+v, want %+v (-want +got):\n%s", tt.most, rest, tt.rest, diff)
		}
	}
	if got, _ := (Tally{}).Largest(0); got == nil || len(got) != 0 {
		t.Errorf("of nothing: %#v, want an empty list", got)
	}
}

// TestTooManyNamesAreMarked: what is shown and what is left out add up all the
// same.
func TestTooManyNamesAreMarked(t *testing.T) {
	t.Parallel()
	var tally Tally
	for i := range tallyNames + 1000 {
		tally.Add(fmt.Sprint(i))
		if i%10 == 0 {
			tally.Add("large")
		}
	}
	shares, rest := tally.Largest(5)
	sum := rest.Count
	for _, s := range shares {
		sum += s.Count
	}
	want := int64(tallyNames + 1000 + tallyNames/10 + 100)
	if shares[0].Name != "large" || !rest.Approximate || sum != want || rest.Names < tallyNames+900 || rest.Shortfall == 0 {
		t.Errorf("%v and %+v, %d in all; want large first and %d", shares, rest, sum, want)
	}
}
