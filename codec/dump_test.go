package codec

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/json"
)

func TestDump(t *testing.T) {
	t.Parallel()
	deep := bytesField(nil, 1, "\x01")
	for range 40 {
		deep = bytesField(nil, 1, deep)
	}
	tests := []struct {
		name string
		raw  []byte
		want string
	}{
		{"numbers", varintField(varintField(nil, 5, 3), 6, 1<<64-1), `{"5":3,"6":-1}`},
		{"repeated", varintField(varintField(varintField(nil, 5, 3), 5, 0), 5, 9), `{"5":[3,0,9]}`},
		{"fixed", []byte("\x2d\x01\x02\x03\x04\x31\x01\x02\x03\x04\x05\x06\x07\x08"),
			`{"5":{"fixed32":"0x04030201"},"6":{"fixed64":"0x0807060504030201"}}`},
		{"group", []byte("\x2b\x08\x05\x2c"), `{"5":{"group":"CAUs"}}`},
		{"metadata left out", bytesField(varintField(nil, 2, 1), 1, "gone"), `{"2":1}`},
		{"empty", bytesField(nil, 2, ""), `{"2":""}`},
		{"text", bytesField(nil, 2, "Straße\nnext\tcolumn"), `{"2":"Straße\nnext\tcolumn"}`},
		// '"' is also the tag of field 4, and ' ' a length of 32.
		{"text that could be a message", bytesField(nil, 2, `" `+strings.Repeat("a", 32)), `{"2":"\" ` + strings.Repeat("a", 32) + `"}`},
		// A line break is also the tag of field 1, and ' ' a length of 32.
		{"message that could be text", bytesField(nil, 2, bytesField(nil, 1, strings.Repeat("a", 32))), `{"2":{"1":"` + strings.Repeat("a", 32) + `"}}`},
		{"text that begins with a line break", bytesField(nil, 2, "\nab"), `{"2":"\nab"}`},
		{"message", bytesField(nil, 2, varintField(nil, 1, 0)), `{"2":{"1":0}}`},
		{"field number that nobody gives", bytesField(nil, 2, varintField(nil, 1001, 0)), `{"2":{"base64":"yD4A"}}`},
		{"message that breaks off", bytesField(nil, 2, "\x08\x01\x12\x05a"), `{"2":{"base64":"CAESBWE="}}`},
		{"bytes", bytesField(nil, 2, "\xff\x00"), `{"2":{"base64":"/wA="}}`},
		{"bell", bytesField(nil, 2, "ding\a"), `{"2":{"base64":"ZGluZwc="}}`},
	}
	for _, test := range tests {
		got, err := json.Marshal(dumpObject(test.raw))
		if err != nil || string(got) != test.want {
			t.Errorf("%s: %v\n got %s\nwant %s", test.name, err, got, test.want)
		}
	}
	got, err := json.Marshal(dumpObject(bytesField(nil, 2, deep)))
	if depth := strings.Count(string(got), "{"); err != nil || depth != dumpDepth+1 || !strings.Contains(string(got), "base64") {
		t.Errorf("%v, depth %d: %s", err, depth, got)
	}
}

// TestDumpIsBounded: what does not fit is kept in one piece.
func TestDumpIsBounded(t *testing.T) {
	t.Parallel()
	rest := bytesField(nil, 3, "the rest")
	var inner []byte
	for range 9_000 {
		inner = varintField(inner, 1, 1)
	}
	raw := bytesField(nil, 2, inner) // 9,001
	for range 999 {
		raw = varintField(raw, 2, 1)
	}
	got := dumpObject(append(slices.Clone(raw), rest...))
	list := got["2"].([]any)
	if n := len(list[0].(map[string]any)["1"].([]any)); n != 9_000 || len(list) != 1_000 || got["3"] != nil {
		t.Errorf("%d and %d fields, %v", n, len(list), got["3"])
	}
	if diff := cmp.Diff(encoded(rest), got["rest"]); diff != "" {
		t.Errorf("rest (-want +got):\n%s", diff)
	}
	if got := dumpObject(raw); got["rest"] != nil {
		t.Errorf("rest of a message that fits: %v", got["rest"])
	}
}
