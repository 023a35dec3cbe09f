package plan

import (
	"bufio"
	"bytes"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
)

// figures is what a spill knows of a key. Those of the same key become one:
// the sum of n and the highest level.
type figures struct {
	n     int64
	level int
}

func (f figures) with(g figures) figures { return figures{f.n + g.n, max(f.level, g.level)} }

const (
	// spillBytes of a spill are held in memory, about.
	spillBytes = 8 << 20
	// entryCost is about what a key takes beside its bytes.
	entryCost = 96
	// maxRuns bounds how many parts of the file are read side by side, each
	// through a buffer of runBuffer.
	maxRuns   = 64
	runBuffer = 1 << 15
)

// spill adds up figures by key and yields them in the order of keys. What does
// not fit into memory goes to a file that has no name any more, in sorted runs,
// so that it stays exact for any number of keys.
type spill struct {
	dir   string // of the file
	limit int
	held  map[string]figures
	bytes int
	file  *os.File
	end   int64
	runs  []section
}

// section is where a run stands in the file.
type section struct{ from, size int64 }

func newSpill(dir string, limit int) *spill {
	if limit <= 0 {
		limit = spillBytes
	}
	return &spill{dir: dir, limit: limit, held: map[string]figures{}}
}

func (s *spill) add(key []byte, f figures) error {
	old, ok := s.held[string(key)]
	s.held[string(key)] = old.with(f)
	if ok {
		return nil
	}
	if s.bytes += len(key) + entryCost; s.bytes < s.limit {
		return nil
	}
	return s.flush()
}

// flush writes what is held as a run.
func (s *spill) flush() error {
	if len(s.runs) >= maxRuns {
		if err := s.mergeRuns(); err != nil {
			return err
		}
	}
	w, err := s.newRun()
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(s.held)) {
		if err := w.add([]byte(key), s.held[key]); err != nil {
			return fmt.Errorf("spool owners: %w", err)
		}
	}
	s.held, s.bytes = map[string]figures{}, 0
	return s.endRun(w)
}

// drain yields all keys in ascending order, once. The key is valid during the
// call only.
func (s *spill) drain(fn func(key []byte, f figures) error) error {
	if len(s.runs) == 0 {
		for _, key := range slices.Sorted(maps.Keys(s.held)) {
			if err := fn([]byte(key), s.held[key]); err != nil {
				return err
			}
		}
		return nil
	}
	if err := s.flush(); err != nil {
		return err
	}
	return s.merge(fn)
}

// close gives the file up; its space with it.
func (s *spill) close() {
	if s.file != nil {
		s.file.Close()
	}
	s.file, s.runs, s.held = nil, nil, nil
}

// mergeRuns makes one run of all.
func (s *spill) mergeRuns() error {
	into := &spill{dir: s.dir}
	w, err := into.newRun()
	if err != nil {
		return err
	}
	if err = s.merge(w.add); err == nil {
		err = into.endRun(w)
	}
	if err != nil {
		into.close()
		return err
	}
	s.file.Close()
	s.file, s.end, s.runs = into.file, into.end, into.runs
	return nil
}

// merge yields the keys of all runs in ascending order.
func (s *spill) merge(fn func(key []byte, f figures) error) error {
	var heads runHeap
	for _, at := range s.runs {
		r := &runReader{in: bufio.NewReaderSize(io.NewSectionReader(s.file, at.from, at.size), runBuffer)}
		if more, err := r.next(); err != nil {
			return err
		} else if more {
			heads = append(heads, r)
		}
	}
	heap.Init(&heads)
	var key []byte
	for len(heads) > 0 {
		key = append(key[:0], heads[0].key...)
		var f figures
		for len(heads) > 0 && bytes.Equal(heads[0].key, key) {
			f = f.with(heads[0].figures)
			more, err := heads[0].next()
			if err != nil {
				return err
			}
			if more {
				heap.Fix(&heads, 0)
			} else {
				heap.Pop(&heads)
			}
		}
		if err := fn(key, f); err != nil {
			return err
		}
	}
	return nil
}

// runHeap has the run with the least key first.
type runHeap []*runReader

func (h runHeap) Len() int           { return len(h) }
func (h runHeap) Less(i, j int) bool { return bytes.Compare(h[i].key, h[j].key) < 0 }
func (h runHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *runHeap) Push(r any)        { *h = append(*h, r.(*runReader)) }
func (h *runHeap) Pop() any {
	r := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return r
}

// runWriter writes the keys of a run, each without the beginning that it
// shares with the one before.
type runWriter struct {
	out  *bufio.Writer
	last []byte
	buf  []byte
	size int64
}

func (s *spill) newRun() (*runWriter, error) {
	if s.file == nil {
		f, err := os.CreateTemp(s.dir, ".owners-*.part")
		if err != nil {
			return nil, fmt.Errorf("spool owners: %w", err)
		}
		if err := os.Remove(f.Name()); err != nil {
			return nil, errors.Join(fmt.Errorf("spool owners: %w", err), f.Close())
		}
		s.file = f
	}
	return &runWriter{out: bufio.NewWriterSize(io.NewOffsetWriter(s.file, s.end), 1<<16)}, nil
}

func (w *runWriter) add(key []byte, f figures) error {
	shared := 0
	for shared < min(len(key), len(w.last)) && key[shared] == w.last[shared] {
		shared++
	}
	w.buf = w.buf[:0]
	for _, n := range []int{shared, len(key) - shared, int(f.n), f.level} {
		w.buf = binary.AppendUvarint(w.buf, uint64(n))
	}
	w.buf = append(w.buf, key[shared:]...)
	w.last = append(w.last[:0], key...)
	w.size += int64(len(w.buf))
	_, err := w.out.Write(w.buf)
	return err
}

func (s *spill) endRun(w *runWriter) error {
	if err := w.out.Flush(); err != nil {
		return fmt.Errorf("spool owners: %w", err)
	}
	s.runs = append(s.runs, section{s.end, w.size})
	s.end += w.size
	return nil
}

// runReader goes through one run.
type runReader struct {
	in  *bufio.Reader
	key []byte
	figures
}

func (r *runReader) next() (bool, error) {
	var n [4]uint64
	for i := range n {
		var err error
		if n[i], err = binary.ReadUvarint(r.in); err == io.EOF && i == 0 {
			return false, nil
		} else if err != nil {
			return false, fmt.Errorf("read spooled owners: %w", err)
		}
	}
	shared, rest := int(n[0]), int(n[1])
	r.key = slices.Grow(r.key[:shared], rest)[:shared+rest]
	r.figures = figures{int64(n[2]), int(n[3])}
	if _, err := io.ReadFull(r.in, r.key[shared:]); err != nil {
		return false, fmt.Errorf("read spooled owners: %w", err)
	}
	return true, nil
}

// join makes a key of texts, in the order of the first, then the second, and
// so on. It appends to buf.
func join(buf []byte, texts ...string) []byte {
	for _, t := range texts {
		buf = append(append(buf, t...), 0)
	}
	for _, t := range texts { // they may hold a zero
		buf = binary.BigEndian.AppendUint32(buf, uint32(len(t)))
	}
	return buf
}

// split takes a key of n texts apart.
func split(key []byte, n int) []string {
	texts := make([]string, n)
	lengths := key[len(key)-4*n:]
	for i := range texts {
		size := binary.BigEndian.Uint32(lengths[4*i:])
		texts[i], key = string(key[:size]), key[size+1:]
	}
	return texts
}
