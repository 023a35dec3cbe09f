package filter_test

import (
	"testing"
	"time"

	"github.com/etcd-rescue/etcd-rescue/recover/filter"
)

func TestSelectionInWords(t *testing.T) {
	t.Parallel()
	job := &filter.OwnerRef{Group: "batch", Kind: "Job", Name: "error-ret"}
	tests := []struct {
		sel    filter.Selection
		want   string
		narrow bool
	}{
		{filter.Selection{}, "", false},
		{filter.Selection{Resource: "pods"}, "pods", false},
		{filter.Selection{Resource: "pods", AllNamespaces: true}, "pods -A", false},
		{filter.Selection{Resource: "pods", Now: now()}, "pods", false},
		{filter.Selection{Resource: "pods", Namespace: "team"}, "pods -n team", true},
		{filter.Selection{Resource: "pods", Namespace: "team", Names: []string{"a", "b"}}, "pods a b -n team", true},
		{filter.Selection{Keys: []string{"/registry/x/a", "/registry/x/b"}}, "--etcd-key /registry/x/a --etcd-key /registry/x/b", true},
		{filter.Selection{Resource: "pods", Labels: "app=web"}, "pods -l app=web", true},
		{filter.Selection{Resource: "pods", Fields: "status.phase=Failed"}, "pods --field-selector status.phase=Failed", true},
		{filter.Selection{Resource: "pods", Owner: job}, "pods --owner job/error-ret", true},
		{filter.Selection{Resource: "pods", Node: "w-9", Phase: "Pending"}, "pods --node w-9 --phase Pending", true},
		{filter.Selection{Resource: "jobs.batch", OlderThan: "2d", NewerThan: "1w"}, "jobs.batch --older-than 2d --newer-than 1w", true},
		{filter.Selection{Resource: "pods", Terminating: true}, "pods --terminating", true},
		{filter.Selection{Resource: "pods", Finalizer: "example.com/x"}, "pods --finalizer example.com/x", true},
		{filter.Selection{Resource: "pods", Orphaned: true}, "pods --orphaned", true},
		{filter.Selection{Where: `size > 1 && key != "\\d"`}, `--where 'size > 1 && key != "\\d"'`, true},
		{filter.Selection{Where: "key == 'a'"}, `--where 'key == '\''a'\'''`, true},
		{filter.Selection{Where: "size > 1 // 'big'\n&& \"\\\\\x1b\" < key"}, `--where $'size > 1 // \'big\'\n&& "\\\\\x1b" < key'`, true},
	}
	for _, tt := range tests {
		if got := tt.sel.String(); got != tt.want {
			t.Errorf("String = %q, want %q", got, tt.want)
		}
		if got := tt.sel.Narrow(); got != tt.narrow {
			t.Errorf("Narrow of %q = %v, want %v", tt.want, got, tt.narrow)
		}
	}
}

func TestOwnerInWords(t *testing.T) {
	t.Parallel()
	tests := []struct {
		owner filter.OwnerRef
		want  string
	}{
		{filter.OwnerRef{Kind: "Node", Name: "cp-0"}, "node/cp-0"},
		{filter.OwnerRef{Group: "apps", Kind: "ReplicaSet", Name: "web"}, "replicaset/web"},
		{filter.OwnerRef{Group: "batch", Kind: "CronJob", Name: "report"}, "cronjob/report"},
		{filter.OwnerRef{Group: "batch.volcano.sh", Kind: "Job", Name: "train"}, "job.batch.volcano.sh/train"},
	}
	for _, tt := range tests {
		if got := tt.owner.String(); got != tt.want {
			t.Errorf("String = %q, want %q", got, tt.want)
		}
	}
}

func TestParseAge(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	tests := []struct {
		age  string
		want time.Duration
		ok   bool
	}{
		{"0", 0, true},
		{"90m", 90 * time.Minute, true},
		{"1.5h", 90 * time.Minute, true},
		{"36h", 36 * time.Hour, true},
		{"250ms", 250 * time.Millisecond, true},
		{"2d", 2 * day, true},
		{"0d", 0, true},
		{"1d12h", 36 * time.Hour, true},
		{"1w", 7 * day, true},
		{"2w3d4h5m", 17*day + 4*time.Hour + 5*time.Minute, true},
		{"15250w", 15250 * 7 * day, true},
		{"15251w", 0, false}, // beyond what a Duration holds
		{"65535w", 0, false},
		{"15250w65535d", 0, false},
		{"15250w2540400h", 0, false},
		{"65536d", 0, false},
		{"", 0, false},
		{" ", 0, false},
		{"d", 0, false},
		{"w", 0, false},
		{"5", 0, false},
		{"-1h", 0, false},
		{"-1d", 0, false},
		{"1d-1h", 0, false},
		{"1d-48h", 0, false},
		{"+1d", 0, false},
		{"1d1w", 0, false},
		{"1h2d", 0, false},
		{"1d2d", 0, false},
		{"1.5d", 0, false},
		{"1 d", 0, false},
		{"1d ", 0, false},
		{"1y", 0, false},
		{"tomorrow", 0, false},
	}
	for _, tt := range tests {
		got, err := filter.ParseAge(tt.age)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("ParseAge(%q) = %v, %v; want %v, ok %v", tt.age, got, err, tt.want, tt.ok)
		}
	}
}

func FuzzParseAge(f *testing.F) {
	for _, age := range []string{"", "90m", "2d", "1w2d3h", "65535w65535d", "1d-1h", "9999999h"} {
		f.Add(age)
	}
	f.Fuzz(func(t *testing.T, age string) {
		got, err := filter.ParseAge(age)
		if got < 0 || err != nil && got != 0 {
			t.Fatalf("ParseAge(%q) = %v, %v", age, got, err)
		}
		if err != nil {
			return
		}
		// A day in front of what begins with no unit of its own is a day more.
		more, err := filter.ParseAge("1d" + got.String())
		if err == nil && more-got != 24*time.Hour {
			t.Errorf("1d%v = %v", got, more)
		}
	})
}
