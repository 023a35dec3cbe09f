package snapshots

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// ErrNoSpace says that a compressed file is not unpacked because it would fill the disk.
var ErrNoSpace = errors.New("not enough free space")

const (
	// maxWindow is how far back a zstd frame may refer, which is memory: what "zstd -d" allows unless told otherwise.
	maxWindow = 128 << 20
	// unpackStep is how much is written between two looks at the free space and at the context.
	unpackStep = 4 << 20
	// keepFree is how much of a disk is never filled by unpacking, or a tenth of the disk if that is less: etcd's own
	// data is often on the same one, and etcd stops when it is full.
	keepFree = 1 << 30
)

// unpacker copies a file, decompressed if it is zstd.
type unpacker struct {
	// space tells how much may be written where the file stands, and how large that place is.
	space func(*os.File) (free, total int64, err error)
}

// Unpack copies src to dst, decompressed if it is zstd (any number of frames), else as it is. It stops before the
// disk of dst is full, with an error that wraps [ErrNoSpace], and when ctx ends. A zstd stream that was cut, or that
// contradicts itself or its checksum, gives an error that wraps [ErrDamaged]. Its memory is bounded by the window of
// the stream, of which more than 128 MiB is refused. After an error dst holds a part of the content.
func Unpack(ctx context.Context, dst *os.File, src io.Reader) error {
	return unpacker{freeSpace}.unpack(ctx, dst, src)
}

func (u unpacker) unpack(ctx context.Context, dst *os.File, src io.Reader) error {
	in := bufio.NewReaderSize(src, 1<<16)
	head, err := in.Peek(zstd.HeaderMaxSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !isZstd(head) {
		return u.copy(ctx, dst, in)
	}
	var frame zstd.Header
	if frame.Decode(head) == nil && frame.HasFCS {
		if err := u.room(dst, frame.FrameContentSize); err != nil {
			return err
		}
	}
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return fmt.Errorf("decompress: %w", err)
	}
	defer z.Close()
	return u.copy(ctx, dst, zstdErrors{z})
}

// copy looks at the free space before each step, so that what is left free is never used.
func (u unpacker) copy(ctx context.Context, dst *os.File, in io.Reader) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := u.room(dst, unpackStep); err != nil {
			return err
		}
		_, err := io.CopyN(dst, in, unpackStep)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, unix.ENOSPC):
			return fmt.Errorf("%w: %w", ErrNoSpace, err)
		case err != nil:
			return err
		}
	}
}

// UnpackRoom is how long a content can be unpacked into dir: less than what is free there.
func UnpackRoom(dir string) (int64, error) {
	d, err := os.Open(dir)
	if err != nil {
		return 0, fmt.Errorf("look at the free space: %w", err)
	}
	defer d.Close()
	free, total, err := freeSpace(d)
	if err != nil {
		return 0, fmt.Errorf("look at the free space: %w", err)
	}
	return max(0, free-reserve(total)-unpackStep), nil
}

// reserve is how much of a disk of that size is left free.
func reserve(total int64) int64 { return min(keepFree, total/10) }

// room refuses when n more bytes would leave too little free.
func (u unpacker) room(dst *os.File, n uint64) error {
	free, total, err := u.space(dst)
	if err != nil {
		return fmt.Errorf("look at the free space: %w", err)
	}
	if keep := reserve(total); free < keep || n > uint64(free-keep) {
		return fmt.Errorf("%w: %d bytes are free, and %d of them are left so", ErrNoSpace, free, keep)
	}
	return nil
}

func freeSpace(f *os.File) (free, total int64, err error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return 0, 0, err
	}
	return int64(fs.Bavail) * int64(fs.Bsize), int64(fs.Blocks) * int64(fs.Bsize), nil
}

// zstdErrors makes [ErrDamaged] of what the decoder says about its input.
type zstdErrors struct{ z io.Reader }

func (r zstdErrors) Read(p []byte) (int, error) {
	n, err := r.z.Read(p)
	var osErr unix.Errno
	switch {
	case err == nil, err == io.EOF, errors.As(err, &osErr):
		return n, err
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrWindowSizeTooSmall):
		return n, fmt.Errorf("%w: its window is not one that this program unpacks", err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return n, fmt.Errorf("%w: the compressed data was cut short", ErrDamaged)
	}
	return n, fmt.Errorf("%w: the compressed data is damaged: %w", ErrDamaged, err)
}

// isZstd says whether a file that begins with head is zstd: a frame, or one to be skipped, with which parallel
// compressors begin.
func isZstd(head []byte) bool {
	if len(head) < 4 {
		return false
	}
	magic := binary.LittleEndian.Uint32(head)
	return magic == 0xFD2FB528 || magic&^0xF == 0x184D2A50
}

// packedWith names a compression that is not unpacked, and the command that does it.
func packedWith(head []byte) (name, unpack string) {
	for _, p := range []struct{ magic, name, unpack string }{
		{"\x1f\x8b", "gzip", "gunzip"},
		{"BZh", "bzip2", "bunzip2"},
		{"\xfd7zXZ\x00", "xz", "unxz"},
		{"\x04\x22\x4d\x18", "lz4", "unlz4"},
		{"PK\x03\x04", "zip", "unzip"},
	} {
		if bytes.HasPrefix(head, []byte(p.magic)) {
			return p.name, p.unpack
		}
	}
	return "", ""
}

// tempDir is dir, or where that is memory, and nobody chose it, disk: a node that runs out of memory loses its etcd.
func tempDir(dir, disk string, chosen bool, inMemory func(dir string) bool) string {
	if !chosen && inMemory(dir) && unix.Access(disk, unix.W_OK) == nil && !inMemory(disk) {
		return disk
	}
	return dir
}

func inMemory(dir string) bool {
	const tmpfs = 0x01021994
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Type == tmpfs
}

// unpackFile unpacks the zstd file at path into a file without a name in dir ("": see tempDir), so that
// nothing is left of it when the process ends, however it does.
func unpackFile(ctx context.Context, path, dir string) (f *os.File, err error) {
	in, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open db file: %w", err)
	}
	defer in.Close()
	if dir == "" {
		dir = tempDir(os.TempDir(), "/var/tmp", os.Getenv("TMPDIR") != "", inMemory)
	}
	out, err := os.CreateTemp(dir, "etcd-rescue-unpacked-") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("unpack %q: %w", path, err)
	}
	if err = os.Remove(out.Name()); err == nil {
		err = Unpack(ctx, out, in)
	}
	if err != nil {
		_ = out.Close()
		return nil, fmt.Errorf("unpack %q into %q: %w", path, dir, err)
	}
	return out, nil
}
