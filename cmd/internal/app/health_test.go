package app

import (
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestRefusesDeletes(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{
		"3.3.27": true, "3.4.0": true, "3.4.13": true, "3.4.19": true, "3.4.20": false, "3.4.37": false,
		"3.5.0": true, "3.5.0-alpha.0": true, "3.5.6": true, "3.5.7": false, "3.5.35": false,
		"3.6.0": false, "3.6.0-rc.1": false, "3.7.3": false, "4.0.0": false, "": false, "kine": false, "2.3.8": false,
	} {
		if got := refusesDeletes(version); got != want {
			t.Errorf("%q: %v, want %v", version, got, want)
		}
	}
}

// TestHealthCheck goes through what members say and what is refused then.
func TestHealthCheck(t *testing.T) {
	t.Parallel()
	space, corrupt := "memberID:10501334649042878790 alarm:NOSPACE ", "memberID:7  alarm:CORRUPT"
	type member struct {
		version string
		leader  uint64
		errors  []string
	}
	for name, test := range map[string]struct {
		members   []member
		puts      bool
		unguarded int64
		want      string // part of the refusal, "" for none
		notes     int
	}{
		"well":                         {members: []member{{"3.4.13", 7, nil}}},
		"nobody says anything":         {},
		"unknown complaint":            {members: []member{{"3.6.0", 7, []string{"storage version is odd", "alarm:NONE", ""}}}},
		"no space, deletes":            {members: []member{{"3.6.16", 7, []string{space}}}, notes: 1},
		"no space, puts":               {members: []member{{"3.6.16", 7, []string{space}}}, puts: true, want: "takes no puts", notes: 1},
		"no space, old":                {members: []member{{"3.5.7", 7, nil}, {"3.5.6", 7, []string{space}}}, want: "3.5.6 then refuses", notes: 1},
		"no space, old, allowed":       {members: []member{{"3.5.6", 7, []string{space}}}, unguarded: 10, notes: 1},
		"no space, old, too few":       {members: []member{{"3.5.6", 7, []string{space}}}, unguarded: 9, want: "--unsafe-unguarded allows 9 objects, and there are 10", notes: 1},
		"no space, old, puts":          {members: []member{{"3.5.6", 7, []string{space}}}, unguarded: 10, puts: true, want: "takes no puts", notes: 1},
		"corrupt":                      {members: []member{{"3.6.16", 7, []string{corrupt}}}, want: "CORRUPT (member 7)", notes: 1},
		"corrupt and no space":         {members: []member{{"3.6.16", 7, []string{space, corrupt}}}, unguarded: 10, want: "CORRUPT", notes: 2},
		"one of two without a leader":  {members: []member{{"3.6.16", 0, []string{"etcdserver: no leader"}}, {"3.6.16", 7, nil}}},
		"both without a leader":        {members: []member{{"3.6.16", 0, nil}, {"3.6.16", 0, nil}}, want: "no leader (m0, m1)"},
		"the alarm said by all of two": {members: []member{{"3.6.16", 7, []string{corrupt}}, {"3.6.16", 7, []string{corrupt}}}, want: "(member 7)", notes: 1},
	} {
		h := &health{}
		for i, m := range test.members {
			h.add("m"+string(rune('0'+i)), (*clientv3.StatusResponse)(&etcdserverpb.StatusResponse{Version: m.version, Leader: m.leader, Errors: m.errors}))
		}
		err := h.check(test.puts, 10, test.unguarded)
		if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		if got := h.notes(test.puts); len(got) != test.notes {
			t.Errorf("%s: notes %q, want %d", name, got, test.notes)
		}
	}
}
