package plan

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"unicode/utf8"
)

// Writer writes a plan file. Steps may come in any order of stages; they are
// spooled on disk, so that a plan of any size needs little memory. Until Close
// returns nil there is no file under the final name.
type Writer struct {
	path   string
	header Header
	spools map[int]*spool
}

// spool holds the steps of one stage in a file that has no name any more, so
// that nothing is left behind however we end.
type spool struct {
	what  string
	file  *os.File
	buf   *bufio.Writer
	lines stepWriter
	line  []byte
	steps int64
	bytes int64
}

// Create prepares a plan file at path. An existing file is never replaced:
// the error then wraps fs.ErrExist.
func Create(path string, h Header) (*Writer, error) {
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("plan file %s: %w", path, fs.ErrExist)
	}
	h.Type, h.Version = "header", Version
	return &Writer{path: path, header: h, spools: map[int]*spool{}}, nil
}

// Add adds a step to the stage with the given order. Stages are carried out
// by ascending order, whatever order they were added in; what describes the
// stage to people, if it is the same for all of its steps.
func (w *Writer) Add(order int, what string, s Step) error {
	if !utf8.ValidString(s.Key) {
		return fmt.Errorf("key %q is not valid UTF-8 and cannot stand in a plan", s.Key)
	}
	sp, ok := w.spools[order]
	if !ok {
		f, err := os.CreateTemp(filepath.Dir(w.path), ".plan-*.part")
		if err != nil {
			return fmt.Errorf("write plan: %w", err)
		}
		if err := os.Remove(f.Name()); err != nil {
			return errors.Join(fmt.Errorf("write plan: %w", err), f.Close())
		}
		sp = &spool{what: what, file: f, buf: bufio.NewWriterSize(f, 1<<16)}
		w.spools[order] = sp
	}
	if sp.what != what {
		sp.what = several(s)
	}
	sp.line = sp.lines.append(sp.line[:0], &s)
	if _, err := sp.buf.Write(sp.line); err != nil {
		return fmt.Errorf("write plan: %w", err)
	}
	sp.steps++
	sp.bytes += s.Size
	return nil
}

// Abort gives up; no file is left behind. It does nothing after Close.
func (w *Writer) Abort() {
	for _, sp := range w.spools {
		sp.file.Close()
	}
	clear(w.spools)
}

// Close writes the plan to a temporary name, syncs it, renames it and syncs
// the folder. On an error there is no plan under the final name.
func (w *Writer) Close() (err error) {
	defer w.Abort()
	part := w.path + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write plan: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(part)
			err = fmt.Errorf("write plan %s: %w", w.path, err)
		}
	}()
	if err := w.writeTo(f); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(part, w.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(w.path))
}

func (w *Writer) writeTo(f io.Writer) error {
	buf := bufio.NewWriterSize(f, 1<<16)
	sum := sha256.New()
	both := io.MultiWriter(buf, sum)
	if err := writeLine(both, w.header); err != nil {
		return err
	}
	t := Trailer{Type: "trailer"}
	for stage, order := range slices.Sorted(maps.Keys(w.spools)) {
		sp := w.spools[order]
		if err := writeLine(both, stageLine{Type: "stage", Stage: stage, What: sp.what}); err != nil {
			return err
		}
		if err := sp.copyTo(both); err != nil {
			return err
		}
		t.Steps += sp.steps
		t.Bytes += sp.bytes
	}
	t.SHA256 = hexSum(sum)
	if err := writeLine(buf, t); err != nil {
		return err
	}
	return buf.Flush()
}

func (sp *spool) copyTo(w io.Writer) error {
	if err := sp.buf.Flush(); err != nil {
		return err
	}
	if _, err := sp.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err := io.Copy(w, sp.file)
	return err
}

func writeLine(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

func hexSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
