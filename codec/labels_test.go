package codec

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/labels"
)

// Labels are matched by apimachinery's selectors.
var _ labels.Labels = Labels(nil)

func TestLabels(t *testing.T) {
	t.Parallel()
	set := map[string]string{"tier": "", "app": "web", "example.com/x": "1", "a": "2", "zone": "3"}
	l := labelsOf(set)
	want := Labels{{"a", "2"}, {"app", "web"}, {"example.com/x", "1"}, {"tier", ""}, {"zone", "3"}}
	if diff := cmp.Diff(want, l); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, key := range []string{"", "a", "ap", "app", "apps", "example.com/x", "tier", "zone", "zz"} {
		value, ok := set[key]
		if got, has := l.Lookup(key); got != value || has != ok || l.Has(key) != ok || l.Get(key) != value {
			t.Errorf("%q: got %q, %t, want %q, %t", key, got, has, value, ok)
		}
	}
	if labelsOf(map[string]string{}) != nil || Labels(nil).Has("") {
		t.Error("no labels are some")
	}
}

func TestLabelsMatchAsASet(t *testing.T) {
	t.Parallel()
	set := map[string]string{"tier": "", "app": "web", "n": "3"}
	for _, text := range []string{
		"", "app=web", "app!=web", "app", "!app", "none", "!none", "tier=", "tier!=", "none=", "none!=x",
		"app in (api, web),n>2", "app notin (web)", "none notin (web)", "n<3", "n>2,!none,tier",
	} {
		selector, err := labels.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := selector.Matches(labelsOf(set)), selector.Matches(labels.Set(set)); got != want {
			t.Errorf("%q: got %t, want %t", text, got, want)
		}
	}
}

func TestLabelsNormal(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		in, want Labels
	}{
		{"none", nil, nil},
		{"sorted", Labels{{"a", "1"}, {"b", "2"}}, Labels{{"a", "1"}, {"b", "2"}}},
		{"unsorted", Labels{{"b", "2"}, {"a", "1"}}, Labels{{"a", "1"}, {"b", "2"}}},
		{"the last of a key wins", Labels{{"b", "2"}, {"a", "1"}, {"b", ""}, {"a", "3"}}, Labels{{"a", "3"}, {"b", ""}}},
		{"neighbours", Labels{{"a", "1"}, {"a", "2"}}, Labels{{"a", "2"}}},
	}
	for _, test := range tests {
		if diff := cmp.Diff(test.want, test.in.normal()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}
