package snapshots

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// Length of the keys of bucket "key": main revision, '_', sub revision, and for a deletion a final 't'
// (etcd server/storage/mvcc/revision.go).
const (
	posLen       = 17
	tombstoneLen = 18
)

// Position is where an entry stands in bucket "key" of a db file. In etcd's own files it is the revision that wrote
// the entry; in an archive Main is the ordinal of the entry, from 1, and Sub is 0.
type Position struct{ Main, Sub int64 }

// String is the form that plan files use, such as "12_0".
func (p Position) String() string {
	return strconv.FormatInt(p.Main, 10) + "_" + strconv.FormatInt(p.Sub, 10)
}

// ParsePosition reads what [Position.String] wrote, and nothing else.
func ParsePosition(s string) (Position, error) {
	var p Position
	a, b, ok := strings.Cut(s, "_")
	var err1, err2 error
	p.Main, err1 = strconv.ParseInt(a, 10, 64)
	p.Sub, err2 = strconv.ParseInt(b, 10, 64)
	if !ok || err1 != nil || err2 != nil || p.Main < 0 || p.Sub < 0 || p.String() != s {
		return Position{}, fmt.Errorf("%q is no position in a db file", s)
	}
	return p, nil
}

func (p Position) bytes() []byte {
	b := make([]byte, posLen, tombstoneLen)
	binary.BigEndian.PutUint64(b, uint64(p.Main))
	b[8] = '_'
	binary.BigEndian.PutUint64(b[9:], uint64(p.Sub))
	return b
}

func positionOf(k []byte) (p Position, tombstone bool, err error) {
	if len(k) != posLen && len(k) != tombstoneLen || k[8] != '_' || len(k) == tombstoneLen && k[posLen] != 't' {
		return p, false, fmt.Errorf("bucket \"key\" holds %x, which is no revision", k[:min(len(k), 32)])
	}
	p.Main = int64(binary.BigEndian.Uint64(k))
	p.Sub = int64(binary.BigEndian.Uint64(k[9:]))
	if p.Main < 0 || p.Sub < 0 {
		return p, false, fmt.Errorf("bucket \"key\" holds the negative revision %s", p)
	}
	return p, len(k) == tombstoneLen, nil
}
