package app

import (
	"bytes"
	"io"
	"os"
	"strconv"

	"github.com/klauspost/compress/zstd"
	"github.com/rogpeppe/go-internal/testscript"
)

// cmdZooFile writes the zoo's snapshot as it was saved, and compressed as it
// is kept: zoo-file NAME NAME.zst.
func cmdZooFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: zoo-file NAME NAME.zst")
	}
	packed, err := os.ReadFile(ts.Getenv("ZOO_SNAPSHOT"))
	ts.Check(err)
	z, err := zstd.NewReader(bytes.NewReader(packed))
	ts.Check(err)
	defer z.Close()
	plain, err := io.ReadAll(z)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), plain, 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), packed, 0o600))
}

// cmdDamage makes a part of a file zero, or with no length ends it there:
// damage FILE OFFSET [LENGTH].
func cmdDamage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: damage FILE OFFSET [LENGTH]")
	}
	path := ts.MkAbs(args[0])
	at, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	if len(args) == 2 {
		ts.Check(os.Truncate(path, at))
		return
	}
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	ts.Check(err)
	_, err = f.WriteAt(make([]byte, n), at)
	ts.Check(err)
	ts.Check(f.Close())
}
