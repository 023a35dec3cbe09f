package apply

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

// Decision is how a step ended, as a journal keeps it.
type Decision struct {
	N       int64 // of the step in the plan, from 0
	Stage   int
	Step    plan.Step
	Outcome Outcome
	Why     string
	// Archived is the mod revision of the bytes that were archived, 0 if none.
	Archived int64
	// Revision is etcd's when it answered: of the change itself where there
	// was one. 0 if it is not known.
	Revision int64
}

// Journal takes down how each step ended. It is a record and never trusted to
// leave a step out: what is done is decided by etcd's answers. Its methods are
// called from several goroutines.
type Journal interface {
	// Decided notes a step. An error stops the run.
	Decided(d Decision) error
	// Before tells whether an earlier run of the same plan did the n-th step.
	Before(n int64) bool
	// Flush is called when a batch ends, and at the end of a run.
	Flush() error
}

// journalVersion is that of docs/journal.md.
const journalVersion = 1

// JournalHeader says which plan is being carried out. OpenJournal sets Type
// and Version.
type JournalHeader struct {
	Type    string    `json:"type"` // "run"
	Version int       `json:"version"`
	Time    time.Time `json:"time"`
	Tool    string    `json:"tool,omitempty"`
	Command string    `json:"command,omitempty"`
	Run     string    `json:"run,omitempty"`
	Pass    int       `json:"pass,omitempty"`
	Plan    string    `json:"plan,omitempty"` // path
	// PlanSHA256 is that of the plan's trailer; it tells one plan from another.
	PlanSHA256 string `json:"planSHA256"`
	Steps      int64  `json:"steps"`          // of the plan
	Rate       string `json:"rate,omitempty"` // as it was asked for
}

type stepLine struct {
	Type     string      `json:"type"` // "step"
	N        int64       `json:"n"`
	Stage    int         `json:"stage"`
	Action   plan.Action `json:"action"`
	Key      string      `json:"key"`
	Outcome  Outcome     `json:"outcome"`
	Why      string      `json:"why,omitempty"`
	Archived int64       `json:"archived,omitempty"`
	Revision int64       `json:"revision,omitempty"`
}

type endLine struct {
	Type      string    `json:"type"` // "end"
	Time      time.Time `json:"time"`
	Counts    Counts    `json:"counts"`
	Retries   int64     `json:"retries"`
	Remaining int64     `json:"remaining"`
	Stopped   string    `json:"stopped,omitempty"`
}

// journalBuffer is what is held back until a batch ends.
const journalBuffer = 64 << 10

// JournalFile is a Journal in a file, in JSON Lines (docs/journal.md). It only
// ever appends. What earlier runs of the same plan did takes one bit a step in
// memory.
type JournalFile struct {
	path    string
	now     func() time.Time
	earlier Counts
	done    bitmap // by earlier runs

	mu     sync.Mutex
	file   *os.File
	buf    []byte
	failed error
}

// OpenJournal opens the journal at path for a run of the plan that h names,
// and makes it with mode 0600 if it is not there. It reads first what earlier
// runs of that plan did; lines that it cannot read, as a torn last one, are
// passed over. h.Steps bounds the memory. h.Time is when the run begins; now,
// which may be nil, tells when it ends.
func OpenJournal(path string, h JournalHeader, now func() time.Time) (*JournalFile, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrJournal, err)
	}
	f, err := os.OpenFile(abs, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrJournal, err)
	}
	if now == nil {
		now = time.Now
	}
	j := &JournalFile{path: abs, now: now, file: f, done: newBitmap(h.Steps)}
	h.Type, h.Version = "run", journalVersion
	if err := j.begin(h); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return j, nil
}

func (j *JournalFile) begin(h JournalHeader) error {
	whole, err := readJournal(j.file, earlierOf(h.PlanSHA256, h.Steps, &j.earlier, j.done))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrJournal, err)
	}
	if !whole {
		j.buf = append(j.buf, '\n') // ends a torn line
	}
	if err := j.add(h); err != nil {
		return err
	}
	return j.Flush()
}

// earlierOf adds up what runs of one plan did.
func earlierOf(sha string, steps int64, counts *Counts, done bitmap) func(any) {
	same := false
	return func(line any) {
		switch l := line.(type) {
		case JournalHeader:
			same = l.Version == journalVersion && l.PlanSHA256 == sha && l.Steps == steps
		case stepLine:
			if !same {
				return
			}
			counts[l.Outcome]++
			switch l.Outcome {
			case Deleted, Created, Replaced, Raced:
				done.set(l.N)
			}
		}
	}
}

// Path is the absolute path of the file.
func (j *JournalFile) Path() string { return j.path }

// Earlier is how steps ended in earlier runs of this plan. A step that was
// begun by more than one of them is counted by each.
func (j *JournalFile) Earlier() Counts { return j.earlier }

// Before implements Journal.
func (j *JournalFile) Before(n int64) bool { return j.done.has(n) }

// Decided implements Journal. Errors wrap ErrJournal.
func (j *JournalFile) Decided(d Decision) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.buf = appendStep(j.buf, d)
	return j.flushFull()
}

// appendStep writes a stepLine as encoding/json would, for a fraction of the
// processor time, which etcd needs.
func appendStep(buf []byte, d Decision) []byte {
	number := func(name string, n int64) {
		buf = strconv.AppendInt(append(buf, name...), n, 10)
	}
	text := func(name, s string) {
		buf = appendJSON(append(buf, name...), s)
	}
	buf = append(buf, `{"type":"step"`...)
	number(`,"n":`, d.N)
	number(`,"stage":`, int64(d.Stage))
	text(`,"action":`, string(d.Step.Action))
	text(`,"key":`, d.Step.Key)
	text(`,"outcome":`, d.Outcome.String())
	if d.Why != "" {
		text(`,"why":`, d.Why)
	}
	if d.Archived != 0 {
		number(`,"archived":`, d.Archived)
	}
	if d.Revision != 0 {
		number(`,"revision":`, d.Revision)
	}
	return append(buf, '}', '\n')
}

// appendJSON appends a string as JSON.
func appendJSON(buf []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(s) // a string never fails
			return append(buf, quoted...)
		}
	}
	buf = append(append(buf, '"'), s...)
	return append(buf, '"')
}

func (j *JournalFile) add(line any) error {
	js, err := json.Marshal(line)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrJournal, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.buf = append(append(j.buf, js...), '\n')
	return j.flushFull()
}

// flushFull keeps the buffer small. The caller holds j.mu.
func (j *JournalFile) flushFull() error {
	if len(j.buf) < journalBuffer {
		return j.failed
	}
	return j.flush()
}

// Flush implements Journal: it hands what was noted to the operating system.
func (j *JournalFile) Flush() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.flush()
}

// flush writes whole lines at once, so that a second run of the same plan that
// appends to the same file does not tear them. The caller holds j.mu.
func (j *JournalFile) flush() error {
	if j.failed != nil || len(j.buf) == 0 {
		return j.failed
	}
	if _, err := j.file.Write(j.buf); err != nil {
		j.failed = fmt.Errorf("%w: %w", ErrJournal, err)
	}
	j.buf = j.buf[:0]
	return j.failed
}

// Close notes how the run ended, syncs the file and closes it. result may be
// nil if the run never began.
func (j *JournalFile) Close(result *Result) error {
	var err error
	if result != nil {
		end := endLine{
			Type: "end", Time: j.now().UTC(), Counts: result.Counts, Retries: result.Retries, Remaining: result.Remaining(),
		}
		if result.Stopped != nil {
			end.Stopped = result.Stopped.Error()
		}
		err = j.add(end)
	}
	if e := j.Flush(); err == nil { // else it is the same
		err = e
	}
	for _, end := range []func() error{j.file.Sync, j.file.Close} {
		if e := end(); e != nil {
			err = errors.Join(err, fmt.Errorf("%w: %w", ErrJournal, e))
		}
	}
	return err
}

// bitmap holds one bit for each step of a plan. It grows as far as bits are
// set, at most to its limit.
type bitmap struct {
	words *[]uint64
	limit int64
}

func newBitmap(limit int64) bitmap { return bitmap{new([]uint64), limit} }

func (b bitmap) set(n int64) {
	if n < 0 || n >= b.limit {
		return
	}
	for int64(len(*b.words)) <= n/64 {
		*b.words = append(*b.words, 0)
	}
	(*b.words)[n/64] |= 1 << (n % 64)
}

func (b bitmap) has(n int64) bool {
	return n >= 0 && n/64 < int64(len(*b.words)) && (*b.words)[n/64]&(1<<(n%64)) != 0
}
