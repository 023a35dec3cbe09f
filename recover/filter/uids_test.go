package filter

import (
	"errors"
	"testing"
)

// TestUIDsAreBounded: a full set says so, and still knows what it holds.
func TestUIDsAreBounded(t *testing.T) {
	t.Parallel()
	u := &UIDs{}
	if err := u.Add("a", "known"); err != nil {
		t.Fatal(err)
	}
	u.n = MaxUIDs
	if err := u.Add("a", "another"); !errors.Is(err, ErrTooManyUIDs) {
		t.Errorf("a full set: %v", err)
	}
	if err := u.Add("a", "known"); err != nil || !u.Has("a", "known") || u.Has("a", "another") {
		t.Errorf("what it holds: %v", err)
	}
}
