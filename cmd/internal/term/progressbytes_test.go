package term

import (
	"bytes"
	"testing"
	"time"
)

// TestProgressOfBytes: sizes and a rate in bytes, and nothing of skipping.
func TestProgressOfBytes(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	now := time.Unix(1000, 0)
	p := NewProgress(Streams{Err: &out}, ProgressOptions{
		Total: 4 << 20, Verb: "saving", Past: "received", Bytes: true, Every: time.Second, Now: func() time.Time { return now },
	})
	now = now.Add(2 * time.Second)
	p.Add(2<<20, 0, 0)
	now = now.Add(2 * time.Second)
	p.Add(2<<20, 0, 0)
	p.Finish()
	want := "received 2.0 MiB of 4.0 MiB (1.0 MiB/s, about 2s left)\n" +
		"received 4.0 MiB of 4.0 MiB (1.0 MiB/s, about 0s left)\n" +
		"received 4.0 MiB of 4.0 MiB (1.0 MiB/s, took 4s)\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	out.Reset()
	p = NewProgress(Streams{Err: &out, ErrTTY: true, ErrWidth: 80}, ProgressOptions{Total: 4 << 20, Verb: "saving", Bytes: true})
	p.Finish()
	if !bytes.Contains(out.Bytes(), []byte("saving 0 B/4.0 MiB")) {
		t.Errorf("the bar says %q", out.String())
	}
}
