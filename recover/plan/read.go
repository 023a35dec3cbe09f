package plan

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// maxLine bounds one line of a plan. A step's key and names are bounded by
// Kubernetes far below it.
const maxLine = 1 << 20

// Plan is a plan file that was found whole. It stays open until Close.
type Plan struct {
	file    *os.File
	path    string
	header  Header
	trailer Trailer
}

// Open reads the plan through once and proves that it is whole: the steps are
// counted and the checksum compared. Errors wrap ErrDamaged for a file that is
// edited, truncated or no plan.
func Open(ctx context.Context, path string) (*Plan, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open plan: %w", err)
	}
	p := &Plan{file: f, path: path}
	if err := p.read(ctx, func(int, string, Step) error { return nil }); err != nil {
		f.Close()
		return nil, err
	}
	return p, nil
}

// Path is the name that the plan was opened by.
func (p *Plan) Path() string { return p.path }

// Header returns what the plan says of itself.
func (p *Plan) Header() Header { return p.header }

// Trailer returns the plan's totals.
func (p *Plan) Trailer() Trailer { return p.trailer }

// Close closes the file.
func (p *Plan) Close() error { return p.file.Close() }

// Steps calls fn for every step in the order of execution. All steps of one
// stage must be finished before one of the next is begun; what describes the
// stage. An error of fn ends the reading and is returned as it is; a file that
// was changed since Open is reported at its end, wrapping ErrDamaged.
func (p *Plan) Steps(ctx context.Context, fn func(stage int, what string, s Step) error) error {
	return p.read(ctx, fn)
}

func (p *Plan) damaged(line int64, format string, args ...any) error {
	return fmt.Errorf("%s, line %d: %w: %s", p.path, line, ErrDamaged, fmt.Sprintf(format, args...))
}

func (p *Plan) read(ctx context.Context, fn func(int, string, Step) error) error {
	if _, err := p.file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read plan: %w", err)
	}
	r := &reader{plan: p, sum: sha256.New(), fn: fn, stage: -1}
	in := bufio.NewReaderSize(p.file, 1<<16)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		line, err := readLine(in)
		r.line++
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return r.end()
		}
		if errors.Is(err, errLongLine) || errors.Is(err, io.EOF) {
			return p.damaged(r.line, "the line is cut short or too long")
		}
		if err != nil {
			return fmt.Errorf("read plan %s: %w", p.path, err)
		}
		if err := r.take(line); err != nil {
			return err
		}
	}
}

var errLongLine = errors.New("line too long")

// readLine returns a line with its newline. Its slice is valid until the next
// call only.
func readLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return line, err
	}
	long := bytes.Clone(line)
	for errors.Is(err, bufio.ErrBufferFull) {
		if len(long) > maxLine {
			return nil, errLongLine
		}
		line, err = in.ReadSlice('\n')
		long = append(long, line...)
	}
	return long, err
}

type reader struct {
	plan *Plan
	sum  interface {
		Sum([]byte) []byte
		io.Writer
	}
	fn    func(int, string, Step) error
	line  int64
	stage int
	what  string
	steps int64
	bytes int64
	ended bool
}

func (r *reader) take(line []byte) error {
	if r.ended {
		return r.plan.damaged(r.line, "something follows the trailer")
	}
	var kind struct {
		Type string `json:"type"`
	}
	if !bytes.HasPrefix(line, []byte(`{"type":"step"`)) {
		if err := json.Unmarshal(line, &kind); err != nil {
			return r.plan.damaged(r.line, "not JSON")
		}
	} else {
		kind.Type = "step"
	}
	if (r.line == 1) != (kind.Type == "header") {
		return r.plan.damaged(r.line, "a plan begins with its header, and has one")
	}
	if kind.Type != "trailer" {
		r.sum.Write(line)
	}
	switch kind.Type {
	case "header":
		return r.header(line)
	case "stage":
		return r.newStage(line)
	case "step":
		return r.step(line)
	case "trailer":
		return r.trailer(line)
	}
	return r.plan.damaged(r.line, "unknown type %q", kind.Type)
}

func (r *reader) header(line []byte) error {
	var h Header
	if err := json.Unmarshal(line, &h); err != nil {
		return r.plan.damaged(r.line, "%v", err)
	}
	if h.Version < 1 || h.Version > Version {
		return fmt.Errorf("%s: %w: it has format version %d, this build reads up to %d", r.plan.path, ErrDamaged, h.Version, Version)
	}
	r.plan.header = h
	return nil
}

func (r *reader) newStage(line []byte) error {
	var s stageLine
	if err := json.Unmarshal(line, &s); err != nil || s.Stage != r.stage+1 {
		return r.plan.damaged(r.line, "a stage is missing or out of order")
	}
	r.stage, r.what = s.Stage, s.What
	return nil
}

func (r *reader) step(line []byte) error {
	s, err := readStep(line)
	if err != nil {
		return r.plan.damaged(r.line, "%v", err)
	}
	if r.stage < 0 || s.Key == "" || (s.Action != Delete && s.Action != Put) {
		return r.plan.damaged(r.line, "a step without stage, key or action")
	}
	r.steps++
	r.bytes += s.Size
	return r.fn(r.stage, r.what, s)
}

func (r *reader) trailer(line []byte) error {
	var t Trailer
	if err := json.Unmarshal(line, &t); err != nil {
		return r.plan.damaged(r.line, "%v", err)
	}
	if t.SHA256 != fmt.Sprintf("%x", r.sum.Sum(nil)) {
		return r.plan.damaged(r.line, "the checksum differs: the file was edited")
	}
	if t.Steps != r.steps || t.Bytes != r.bytes {
		return r.plan.damaged(r.line, "it has %d steps, the trailer says %d", r.steps, t.Steps)
	}
	r.ended = true
	r.plan.trailer = t
	return nil
}

func (r *reader) end() error {
	if !r.ended {
		return r.plan.damaged(r.line, "the trailer is missing: the file was cut short")
	}
	return nil
}
