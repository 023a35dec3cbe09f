package members

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

// TestTellQuotas: what the status says counts, then the member's own metrics; nothing is guessed.
func TestTellQuotas(t *testing.T) {
	t.Parallel()
	metrics := map[string]string{
		"http://a": quotaMetric + " 100\n", "http://b": quotaMetric + " 200\n", "http://c": quotaMetric + " -1\n", "http://d": "<html>\n",
	}
	open := func(_ context.Context, endpoint string) (io.ReadCloser, error) {
		text, ok := metrics[endpoint]
		if !ok {
			return nil, errors.New("404")
		}
		return io.NopCloser(strings.NewReader(text)), nil
	}
	all := []Member{
		{ID: 1, Endpoint: "http://a", Quota: 7}, {ID: 2, Endpoint: "http://b"}, {ID: 3, Endpoint: "http://c"}, {ID: 4, Endpoint: "http://d"},
		{ID: 5, Endpoint: "http://e"}, {ID: 6},
	}
	TellQuotas(t.Context(), all, open, 0)
	for i, want := range []int64{7, 200, -1, 0, 0, 0} {
		if all[i].Quota != want {
			t.Errorf("member %d: %d, want %d", all[i].ID, all[i].Quota, want)
		}
	}
}
