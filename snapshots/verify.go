package snapshots

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"
)

// Kind is what a file holds.
type Kind string

// The kinds of files.
const (
	KindSnapshot Kind = "snapshot" // what "etcdctl snapshot save" or this program saved
	KindDB       Kind = "db"       // a copy of a member's db file
	KindArchive  Kind = "archive"  // an undo record of this program
)

// Trailer says how the sha256 that ends a snapshot compares with its content.
type Trailer string

// What there is to say of a trailer.
const (
	TrailerOK      Trailer = "ok"
	TrailerMissing Trailer = "missing"
	TrailerWrong   Trailer = "wrong"
)

// VerifyOptions changes what [Verify] does.
type VerifyOptions struct {
	// LockTimeout and TempDir are those of [Options].
	LockTimeout time.Duration
	TempDir     string
	// Revision is that of the hash; 0 is the newest. It fails with [ErrCompacted] or [ErrFutureRev] when the file does
	// not hold it, as etcd does.
	Revision int64
	// Written says that all of the file is known to have been written, so that zeros in it are zeros. Of a file without
	// a sha256 they are otherwise taken for pages that were not.
	Written bool
	// MaxProblems bounds Report.Problems; 0 is 20.
	MaxProblems int
}

const defaultMaxProblems = 20

// HashKV is what etcd's HashKV answers at a revision: members with the same content, and "etcdutl hashkv" of a
// snapshot, give the same three numbers.
type HashKV struct {
	Hash     uint32 `json:"hash"`
	Revision int64  `json:"revision"`
	// CompactRevision is the last compacted revision, -1 if none was. Hashes with different ones do not compare.
	CompactRevision int64 `json:"compactRevision"`
}

// Report is what [Verify] found. Of a damaged file, what is counted is what could be read.
type Report struct {
	Path       string
	Bytes      int64 // of the content: unpacked, trailer included
	Compressed bool  // with zstd
	Kind       Kind
	Trailer    Trailer
	Pages      int64 // that the file should have, free ones included
	Free       int64 // of them are free, and bytes in them mean nothing
	Keys       int64 // alive at the newest revision
	Entries    int64 // in bucket "key", Tombstones included
	Tombstones int64
	Revision   int64
	Compacted  int64 // 0 if none was
	// HashKV is nil for an archive, whose revisions are not etcd's, and when entries could not be read.
	HashKV *HashKV
	// Problems are sentences that say what is broken and where; MoreProblems were found, too.
	Problems     []string
	MoreProblems int
}

// Verify reads a whole file and checks all that can be checked: the sha256 at its end, bbolt's pages (each used at
// most once, free ones not at all; their types, bounds and key order), the entries, in an archive the checksums of its
// batches, and computes the hash that members compare. It goes on after what is broken. It changes nothing, waits for
// a lock no longer than it is told, and needs some 22 bytes of memory a key, whatever the size of the file.
//
// A file with problems gives a Report and an error that wraps [ErrDamaged]. Other errors come without a Report:
// the file cannot be read, is locked or foreign, ctx ended, or it does not hold the revision asked for.
func Verify(ctx context.Context, path string, opt VerifyOptions) (*Report, error) {
	f, err := openFile(ctx, path, Options{LockTimeout: opt.LockTimeout, TempDir: opt.TempDir, Tolerant: true})
	if err != nil {
		return nil, err
	}
	f.written = opt.Written
	v := &verifier{File: f, ctx: ctx, opt: opt, report: &Report{Path: path, Bytes: f.size, Compressed: f.compressed}}
	err = v.run()
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, err
	}
	return v.report, v.report.err()
}

// err is nil when there are no problems.
func (r *Report) err() error {
	n := len(r.Problems) + r.MoreProblems
	switch n {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%w: %q: %s", ErrDamaged, r.Path, r.Problems[0])
	}
	return fmt.Errorf("%w: %q: %d problems; the first: %s", ErrDamaged, r.Path, n, r.Problems[0])
}

// verifier is a Verify under way.
type verifier struct {
	*File
	ctx    context.Context
	opt    VerifyOptions
	report *Report
	// Whether anything at all, and whether anything of bucket "key", could not be read.
	pagesLost, keysLost bool
}

func (v *verifier) problem(format string, args ...any) {
	most := v.opt.MaxProblems
	if most <= 0 {
		most = defaultMaxProblems
	}
	if len(v.report.Problems) >= most {
		v.report.MoreProblems++
		return
	}
	v.report.Problems = append(v.report.Problems, fmt.Sprintf(format, args...))
}

// damage notes an error that is about the content; others end the verification.
func (v *verifier) damage(err error) error {
	if err == nil || !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotDB) {
		return err
	}
	v.problem("%s", bare(err))
	return nil
}

// bare is what an error says beyond the name of the file.
func bare(err error) string {
	var d *damage
	if errors.As(err, &d) {
		return d.text
	}
	return err.Error()
}

func (v *verifier) run() error {
	if err := v.trailer(); err != nil {
		return err
	}
	v.onLoss = v.lost
	err := v.load()
	for _, note := range v.losses.notes {
		v.problem("%s", note)
	}
	if err != nil {
		return v.damage(err)
	}
	r := v.report
	r.Pages, r.Revision, r.Compacted = int64(v.pages.limit), v.rev, v.compacted
	if v.archive != nil {
		r.Kind = KindArchive
	}
	v.length()
	if err := v.contents(); err != nil || v.archive == nil {
		return err
	}
	return v.damage(v.checkBatches(v.ctx))
}

// contents counts the keys that are alive, goes through all buckets, and hashes the entries.
func (v *verifier) contents() error {
	r, err := v.Count(v.ctx, "", "\x00", 0)
	if err := v.damage(err); err != nil {
		return err
	}
	v.report.Keys = r
	var h *kvHash
	if v.archive == nil {
		x, err := v.index(v.ctx, v.opt.Revision)
		switch {
		case err == nil:
			h = v.newKVHash(x)
		case errors.Is(err, ErrFutureRev) && len(v.report.Problems) > 0:
			v.problem("%v", err) // it may have been in what is lost
		default:
			return v.damage(err)
		}
	}
	if err := v.structure(h); err != nil {
		return err
	}
	if h != nil && !v.keysLost {
		v.report.HashKV = h.result()
	}
	return nil
}

// lost notes what the reader had to leave out. It is told of each page and entry once.
func (v *verifier) lost(bucket string, at int64, err error) {
	v.pagesLost = true
	v.keysLost = v.keysLost || bucket == bucketKey || bucket == ""
	if bucket != "" {
		v.problem("%s (bucket %q, at byte %d)", bare(err), bucket, at)
		return
	}
	v.problem("%s (the list of buckets, at byte %d)", bare(err), at)
}

// length checks that the file is made of whole pages, and of all of them.
func (v *verifier) length() {
	n := v.size
	if v.HasHash() {
		n -= sha256.Size
	}
	if n%v.pages.pageSize != 0 {
		v.problem("its %d bytes are not a whole number of pages of %d: it was cut short or added to", v.size, v.pages.pageSize)
	}
}

// trailer compares the sha256 at the end with the content before it. It reads the file as a stream.
func (v *verifier) trailer() error {
	v.report.Kind, v.report.Trailer = KindDB, TrailerMissing
	if !v.HasHash() {
		return nil
	}
	v.report.Kind, v.report.Trailer = KindSnapshot, TrailerOK
	err := v.CheckHash(v.ctx)
	if errors.Is(err, ErrDamaged) {
		v.report.Trailer = TrailerWrong
	}
	return v.damage(err)
}

// CheckHash compares the sha256 at the end of the file, which it must have, with the content before it, that of a
// compressed file unpacked. It reads the file as a stream. The error wraps [ErrDamaged] if they differ.
func (f *File) CheckHash(ctx context.Context) error {
	h, buf := sha256.New(), make([]byte, 1<<20)
	content := io.NewSectionReader(f.file, 0, f.size-sha256.Size)
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{contextReader{ctx, content}}, buf); err != nil {
		return fmt.Errorf("read %q: %w", f.path, err)
	}
	want := make([]byte, sha256.Size)
	if _, err := f.file.ReadAt(want, f.size-sha256.Size); err != nil {
		return fmt.Errorf("read %q: %w", f.path, err)
	}
	if !bytes.Equal(h.Sum(nil), want) {
		return &damage{f.path, "the content does not match the sha256 at its end: a byte of either has changed, as by \"etcdutl hashkv\", which writes to the file that it reads"}
	}
	return nil
}

// contextReader makes a long read stop when ctx ends.
type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
