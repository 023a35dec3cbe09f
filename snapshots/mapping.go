package snapshots

import (
	"fmt"
	"math"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// mapFile maps a whole file for reading. Touching the map faults where the disk has an error, or where the file has
// become shorter since: whatever touches it runs under guard, and no slice of it leaves this package.
func mapFile(file *os.File, path string, size int64) ([]byte, error) {
	if size > math.MaxInt {
		return nil, fmt.Errorf("open db file %q: %d bytes are too many for this machine", path, size)
	}
	data, err := unix.Mmap(int(file.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("open db file %q: map it: %w", path, err)
	}
	return data, nil
}

// guard runs f and makes an error of a panic. Faults count as panics: a file that is shorter than its pages say
// raises SIGBUS in bbolt, which trusts them.
func guard(path string, f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		r := recover()
		if _, fault := r.(interface{ Addr() uintptr }); fault {
			err = &damage{path, "a part of the file is gone or cannot be read"}
		} else if r != nil {
			err = &damage{path, fmt.Sprint(r)}
		}
	}()
	return f()
}
