package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/etcd-rescue/etcd-rescue/cmd/internal/term"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
)

// watching shows a report again and again: in place on a terminal, elsewhere
// one after the other.
type watching struct {
	inv     *invocation
	refresh *term.Refresh // nil: not in place
	shown   int
	every   time.Duration
	began   time.Time
}

func newWatching(inv *invocation) *watching {
	w := &watching{inv: inv, every: inv.Duration(flagInterval)}
	if f := inv.format(); f == formatTable || f == formatWide {
		w.refresh = term.NewRefresh(inv.Streams)
	}
	return w
}

// run shows reports until an interrupt, which is how this ends and no failure,
// or --refreshes, or the report says that it was the last one. A report that is
// not all well is shown, and does not end it.
func (w *watching) run(ctx context.Context, report func(ctx context.Context, n int) (last bool, err error), pause func(ctx context.Context) error) error {
	for n := 1; ; n++ {
		w.began = w.inv.Now()
		last, err := report(ctx, n)
		if ctx.Err() != nil {
			return nil
		}
		if last || n == w.inv.Int(flagRefreshes) || err != nil && !isPartial(err) {
			return err
		}
		if pause(ctx) != nil {
			return nil
		}
	}
}

func isPartial(err error) bool {
	var f *failure
	return errors.As(err, &f) && f.code == exitPartial
}

// rest is how many times as long as the reading it takes until the next one:
// looking at etcd must not be what keeps it busy.
const rest = 4

// breathe waits between two reports.
func (w *watching) breathe(ctx context.Context) error {
	pause := time.NewTimer(max(w.every, rest*w.inv.Now().Sub(w.began)))
	defer pause.Stop()
	select {
	case <-pause.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// draw shows one report. The report gets the number of lines that it should
// not exceed, 0 if there is no limit.
func (w *watching) draw(report func(rows int) error) error {
	w.shown++
	if w.refresh == nil {
		return w.append(report)
	}
	// A heading, an empty line, and between them notes, for which room is kept.
	const heading, most = 2, 4
	var out, notes bytes.Buffer
	err := w.into(&out, &notes, func() error { return report(max(w.refresh.Rows()-heading-most, 1)) })
	if err != nil && !isPartial(err) {
		return err
	}
	if err != nil {
		notes = *bytes.NewBufferString(cleanLines(err.Error()) + "\n" + notes.String())
	}
	lines := strings.SplitAfter(notes.String(), "\n")
	said := strings.Join(lines[:min(most, len(lines))], "")
	what := append([]string{w.inv.command.name}, w.inv.args[:min(1, len(w.inv.args))]...)
	head := fmt.Sprintf("%s, %s, Ctrl-C ends it\n", strings.Join(what, " "), w.inv.Now().UTC().Format(time.RFC3339))
	if showing := w.refresh.Show(head + said + "\n" + out.String()); showing != nil {
		return showing
	}
	return err
}

// append shows one report after the last one.
func (w *watching) append(report func(rows int) error) error {
	var out bytes.Buffer
	err := w.into(&out, w.inv.Streams.Err, func() error { return report(0) })
	if err != nil && !isPartial(err) {
		return err
	}
	text := out.String()
	switch {
	case w.inv.format() == formatJSON:
		var line bytes.Buffer
		if err := json.Compact(&line, out.Bytes()); err != nil {
			return err
		}
		text = strings.TrimSpace(line.String()) + "\n"
	case w.inv.format() == formatYAML:
		text = "---\n" + text
	case w.shown > 1:
		text = "\n" + text
	}
	if _, wrong := io.WriteString(w.inv.Streams.Out, text); wrong != nil {
		return wrong
	}
	return err
}

// into runs a report with its output going elsewhere.
func (w *watching) into(out, notes io.Writer, report func() error) error {
	real := w.inv.Streams
	defer func() { w.inv.Streams = real }()
	w.inv.Streams.Out, w.inv.Streams.Err = out, notes
	return report()
}

// repin moves a live session to the present.
func (s *session) repin(ctx context.Context) error {
	src, err := keyspace.Pin(ctx, s.main.Client, s.reader.Prefix, s.optionsOf(s.main))
	if err != nil {
		return err
	}
	s.mainSource = src
	if s.events == nil {
		return nil
	}
	if src, err = keyspace.Pin(ctx, s.events.Client, s.reader.Prefix, s.optionsOf(s.events)); err == nil {
		s.eventsSource = src
	}
	return err
}
