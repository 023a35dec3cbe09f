package term

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// ErrNotConfirmed says that what was typed is not the number that was asked
// for. Nothing may be changed then.
var ErrNotConfirmed = errors.New("not confirmed")

// longestAnswer bounds what is kept of a line.
const longestAnswer = 64

// AskNumber writes prompt to Err, reads one line from In and returns nil only
// if it is want, plain ("30001") or as Count writes it ("30,001"). Anything
// else, also an empty line, "y" and the end of input, is ErrNotConfirmed. Once
// ctx has ended it returns ctx.Err() at once, whatever was typed; the read that
// is under way then keeps In busy, so In must not be read again.
func AskNumber(ctx context.Context, s Streams, prompt string, want int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := io.WriteString(s.Err, prompt); err != nil {
		return fmt.Errorf("ask for confirmation: %w", err)
	}
	type answer struct {
		line string
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		line, err := readLine(s.In)
		got <- answer{line, err}
	}()
	var a answer
	select {
	case <-ctx.Done():
	case a = <-got:
	}
	if ctx.Err() != nil || a.err != nil {
		// The cursor stands behind the prompt.
		_, _ = io.WriteString(s.Err, "\n")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	typed := strings.TrimSpace(a.line)
	switch {
	case a.err != nil && !errors.Is(a.err, io.EOF):
		return fmt.Errorf("%w: read the answer: %w", ErrNotConfirmed, a.err)
	case a.err != nil:
		return fmt.Errorf("%w: the input ended", ErrNotConfirmed)
	case typed == "":
		return fmt.Errorf("%w: nothing was typed", ErrNotConfirmed)
	case typed != strconv.FormatInt(want, 10) && typed != Count(want):
		return fmt.Errorf("%w: %q is not %s", ErrNotConfirmed, Clean(typed), Count(want))
	}
	return nil
}

// readLine reads up to a newline and nothing beyond it, so that the next
// question finds its own answer. A line that the end of input cut short is an
// error: it may be half a number.
func readLine(r io.Reader) (string, error) {
	var line []byte
	one := make([]byte, 1)
	for {
		n, err := r.Read(one)
		if n == 1 && one[0] == '\n' {
			return string(line), nil
		}
		if n == 1 && len(line) < longestAnswer {
			line = append(line, one[0])
		}
		if err != nil {
			return "", err
		}
	}
}
