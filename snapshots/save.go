package snapshots

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

var (
	// ErrCutOff says that a snapshot did not come whole: the connection broke, or the server fell silent.
	ErrCutOff = errors.New("snapshot is incomplete")
	// ErrChecksum says that a snapshot is not what the server sent: its bytes and its sha256 disagree.
	ErrChecksum = errors.New("snapshot was damaged on its way")
)

// Zstd is the one way in which [Save] compresses.
const Zstd = "zstd"

// defaultStall is how long a server may send nothing. It reads its pages from a disk that others use as well.
const defaultStall = 30 * time.Second

// Snapshotter begins the stream of a whole store, as one member of etcd holds it.
type Snapshotter interface {
	Snapshot(ctx context.Context) (Stream, error)
}

// Stream gives a snapshot piece by piece, the sha256 of it all at the end, then io.EOF. It ends with the context that
// it was begun with. The stream that etcd's client for Maintenance.Snapshot returns is one.
type Stream interface {
	Recv() (*etcdserverpb.SnapshotResponse, error)
}

// SaveOptions says where a snapshot goes, and who is told.
type SaveOptions struct {
	// Path is the file to make. It must not exist.
	Path string
	// Out takes the bytes and nothing else if Path is empty.
	Out io.Writer
	// Compress is [Zstd], or empty for the plain bytes.
	Compress string
	// Stall is for how long the server may send nothing; zero means 30 s.
	Stall time.Duration
	// Room, if set, is called once with the length of the snapshot, as soon as that is known and before a byte of it
	// is written. Its error ends the save.
	Room func(total int64) error
	// Received, if set, is called for every piece, Verifying before the file is read back, both by the goroutine that
	// called Save.
	Received  func(bytes int, total int64)
	Verifying func()
}

// Saved is a snapshot that was taken.
type Saved struct {
	// Path is absolute; empty when it went to SaveOptions.Out.
	Path string
	// Bytes is the length of the snapshot with its sha256, Stored that of what was written.
	Bytes, Stored int64
	// SHA256 is the sum of the snapshot without itself, in lower-case hex: what etcd appends.
	SHA256 string
	// StorageVersion is that of the data as the server names it, such as "3.6.0"; empty before etcd 3.6.
	StorageVersion string
	// Report is what [Verify] found; nil without Path.
	Report *Report
	// Took is until the bytes were on disk, VerifyTook until they were read back.
	Took, VerifyTook time.Duration
}

// Save takes a snapshot. No file that looks finished is ever a bad one: the bytes go to a file whose name ends in
// ".part" and that only its owner may read, their sha256 is checked as they come, they are brought to disk and read
// back with [Verify], and only then the file gets its name, which replaces nothing; its directory is synced last. After
// an error or a cancelled ctx the ".part" is gone as well; if the process is killed it stays, and is never used again.
//
// Without a Path the bytes go to Out as they come, so that what is wrong is only known when they are written; a
// compressed stream is then left without its end, and no decoder takes it for whole.
//
// Errors wrap [ErrCutOff] and what the server said, [ErrChecksum], [fs.ErrExist], [ErrDamaged], or are what the
// operating system says.
func Save(ctx context.Context, src Snapshotter, opt SaveOptions) (*Saved, error) {
	start := time.Now()
	if opt.Path == "" {
		saved, err := copyTo(ctx, src, opt.Out, opt)
		if err == nil {
			saved.Took = time.Since(start)
		}
		return saved, err
	}
	p, err := createPart(opt.Path)
	if err != nil {
		return nil, err
	}
	saved, err := p.fill(ctx, src, opt, start)
	if err != nil {
		return nil, errors.Join(err, p.discard())
	}
	return saved, nil
}

// fill does all that must have been done before the file gets its name, and then gives it.
func (p *part) fill(ctx context.Context, src Snapshotter, opt SaveOptions, start time.Time) (*Saved, error) {
	saved, err := copyTo(ctx, src, p, opt)
	if err != nil {
		return nil, err
	}
	if err := p.sync(); err != nil {
		return nil, err
	}
	saved.Path, saved.Took = p.path, time.Since(start)
	if opt.Verifying != nil {
		opt.Verifying()
	}
	reading := time.Now()
	saved.Report, err = Verify(ctx, p.name, VerifyOptions{TempDir: filepath.Dir(p.path)})
	if err == nil {
		err = saved.judge()
	}
	if err != nil {
		return nil, fmt.Errorf("read back what was saved: %w", err)
	}
	saved.VerifyTook = time.Since(reading)
	return saved, p.publish()
}

// judge compares what was read back with what was received.
func (s *Saved) judge() error {
	r := s.Report
	if r.Bytes != s.Bytes || r.Trailer != TrailerOK {
		return fmt.Errorf("%w: %d bytes were sent, and %d are there, with a sha256 that is %s", ErrDamaged, s.Bytes, r.Bytes, r.Trailer)
	}
	return nil
}

// copyTo streams a snapshot to out.
func copyTo(ctx context.Context, src Snapshotter, out io.Writer, opt SaveOptions) (*Saved, error) {
	counted := &counter{w: out}
	var w io.Writer = counted
	var z *zstd.Encoder
	switch opt.Compress {
	case "":
	case Zstd:
		var err error
		if z, err = newEncoder(counted); err != nil {
			return nil, err
		}
		w = z
	default:
		return nil, fmt.Errorf("compression %q is unknown", opt.Compress)
	}
	saved := &Saved{}
	err := receive(ctx, src, w, opt, saved)
	if z != nil {
		if err != nil {
			counted.w = io.Discard // no end for a stream that is not whole
		}
		err = errors.Join(err, z.Close())
	}
	if err != nil {
		return nil, err
	}
	saved.Stored = counted.n
	return saved, nil
}

// newEncoder compresses the same bytes always in the same way, and needs no more memory for more of them.
func newEncoder(w io.Writer) (*zstd.Encoder, error) {
	const window = 2 << 20
	return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(window),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// part is a file that is not finished.
type part struct {
	path string // that it gets
	name string // that it has
	file *os.File
}

// partSuffix marks what is not finished.
const partSuffix = ".part"

// createPart makes the file beside its final place, so that it can be renamed. One that a killed run left there is not
// touched: it may just as well be of a run that goes on.
func createPart(path string) (*part, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("save snapshot: %w", err)
	}
	if _, err := os.Lstat(abs); err == nil {
		return nil, &os.PathError{Op: "save snapshot", Path: abs, Err: os.ErrExist}
	}
	const tries = 100
	for i := range tries {
		name := abs + partSuffix
		if i > 0 {
			name = fmt.Sprintf("%s.%d%s", abs, i+1, partSuffix)
		}
		var f *os.File
		if f, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			return &part{path: abs, name: name, file: f}, nil
		}
		if !errors.Is(err, os.ErrExist) {
			break
		}
	}
	return nil, fmt.Errorf("save snapshot: %w", err)
}

// Write appends to the file.
func (p *part) Write(b []byte) (int, error) {
	n, err := p.file.Write(b)
	if err != nil {
		err = fmt.Errorf("save snapshot: %w", err)
	}
	return n, err
}

// sync brings all of it to disk.
func (p *part) sync() error {
	err := errors.Join(p.file.Sync(), p.file.Close())
	p.file = nil
	if err != nil {
		return fmt.Errorf("save snapshot: %w", err)
	}
	return nil
}

// publish gives the file its name unless somebody has taken it meanwhile.
func (p *part) publish() error {
	err := os.Link(p.name, p.path)
	switch {
	case err == nil:
		err = os.Remove(p.name)
	case errors.Is(err, os.ErrExist):
	default:
		// Some file systems know no links. Between these two calls somebody may take the name.
		if _, there := os.Lstat(p.path); there == nil {
			err = &os.PathError{Op: "rename", Path: p.path, Err: os.ErrExist}
		} else {
			err = os.Rename(p.name, p.path)
		}
	}
	if err == nil {
		err = syncDir(filepath.Dir(p.path))
	}
	if err != nil {
		return fmt.Errorf("save snapshot: %w", err)
	}
	return nil
}

// discard removes what is not finished.
func (p *part) discard() error {
	if p.file != nil {
		_ = p.file.Close()
	}
	if err := os.Remove(p.name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove what was not finished: %w", err)
	}
	return nil
}
