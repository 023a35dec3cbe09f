package apply

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/etcd-rescue/etcd-rescue/recover/plan"
)

// JournalRun is what a journal says of one run.
type JournalRun struct {
	Header JournalHeader
	Steps  []Decision // of Step only Action and Key are known
	// Ended tells whether the run came to its end and said so.
	Ended     bool
	Counts    Counts
	Remaining int64
	Stopped   string
}

// ReadJournal reads a whole journal into memory, which is for tests and for
// people. Lines that cannot be read are passed over.
func ReadJournal(path string) ([]JournalRun, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var runs []JournalRun
	_, err = readJournal(f, func(line any) {
		if h, ok := line.(JournalHeader); ok {
			runs = append(runs, JournalRun{Header: h})
		}
		if len(runs) == 0 {
			return
		}
		run := &runs[len(runs)-1]
		switch l := line.(type) {
		case stepLine:
			run.Steps = append(run.Steps, Decision{
				N: l.N, Stage: l.Stage, Step: plan.Step{Action: l.Action, Key: l.Key}, Outcome: l.Outcome, Why: l.Why,
				Archived: l.Archived, Revision: l.Revision,
			})
		case endLine:
			run.Ended, run.Counts, run.Remaining, run.Stopped = true, l.Counts, l.Remaining, l.Stopped
		}
	})
	return runs, err
}

// maxJournalLine bounds one line: a key, and the text of an error.
const maxJournalLine = 1 << 20

// readJournal calls fn with a JournalHeader, stepLine or endLine for each line
// that is one. whole tells whether the last line has its end.
func readJournal(f io.Reader, fn func(line any)) (whole bool, err error) {
	in := bufio.NewReaderSize(f, 64<<10)
	whole = true
	for {
		line, err := journalLine(in)
		if len(line) > 0 {
			whole = line[len(line)-1] == '\n'
			if l := parseJournal(line); l != nil {
				fn(l)
			}
		}
		if errors.Is(err, io.EOF) {
			return whole, nil
		}
		if err != nil {
			return false, fmt.Errorf("read it: %w", err)
		}
	}
}

// journalLine returns a line with its newline. Of one that is too long it
// returns the end, which is no line of ours.
func journalLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return line, err
	}
	long := bytes.Clone(line)
	for errors.Is(err, bufio.ErrBufferFull) {
		if len(long) > maxJournalLine {
			long = long[:1]
			long[0] = 0
		}
		line, err = in.ReadSlice('\n')
		long = append(long, line...)
	}
	return long, err
}

func parseJournal(line []byte) any {
	var kind struct {
		Type    string `json:"type"`
		Version int    `json:"version"`
	}
	if json.Unmarshal(line, &kind) != nil {
		return nil
	}
	switch kind.Type {
	case "run":
		return parsed[JournalHeader](line)
	case "step":
		return parsed[stepLine](line)
	case "end":
		return parsed[endLine](line)
	}
	return nil
}

func parsed[T any](line []byte) any {
	var l T
	if json.Unmarshal(line, &l) != nil {
		return nil
	}
	return l
}
