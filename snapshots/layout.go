package snapshots

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"sort"
	"strconv"
	"strings"
	"time"
)

// The names of version 1 of the archive format; docs/archive.md specifies them.
const (
	archiveVersion = 1

	bucketOwn   = "etcd-rescue"
	keyInfo     = "info"
	keyRevision = "revision"
	batchPrefix = "batch/"
	notePrefix  = "note/"
)

// ArchiveInfo says where an archive comes from: the audit trail. It is written once, when the archive is created.
// It is stored as JSON; readers ignore members that they do not know.
type ArchiveInfo struct {
	// Version is the version of the archive format. [CreateArchive] fills it in.
	Version int `json:"version"`
	// Tool is the program and its version.
	Tool string `json:"tool,omitempty"`
	// Run identifies this run of the program, Plan the plan that it carries out.
	Run  string `json:"run,omitempty"`
	Plan string `json:"plan,omitempty"`
	// User and Host are who ran it and where, Command the command line without secrets.
	User    string `json:"user,omitempty"`
	Host    string `json:"host,omitempty"`
	Command string `json:"command,omitempty"`
	// ClusterUID is the UID of Namespace kube-system; ClusterID is etcd's, for information only.
	ClusterUID string `json:"clusterUID,omitempty"`
	ClusterID  string `json:"clusterID,omitempty"`
	// Etcd is which etcd of the cluster the entries come from: "main" or "events".
	Etcd string `json:"etcd,omitempty"`
	// Prefix is the key prefix of the registry, with its final slash.
	Prefix string `json:"prefix,omitempty"`
	// Time is when the archive was created.
	Time time.Time `json:"time,omitzero"`
}

// Note is one remark that [Archive.Note] wrote.
type Note struct {
	Key   string
	Value []byte
}

// batch describes the entries of one Append. It is stored under the ordinal of the first of them.
type batch struct {
	first  int64
	Stage  int    `json:"stage"`
	Count  int64  `json:"count"`
	SHA256 string `json:"sha256"`
}

func (b batch) key() []byte { return fmt.Appendf(nil, "%s%020d", batchPrefix, b.first) }

// batchSum is the checksum of a batch while its entries are added.
type batchSum struct{ h hash.Hash }

func newBatchSum() batchSum { return batchSum{sha256.New()} }

// add frames every value with its length, so that no two batches have the same bytes by accident of concatenation.
func (s batchSum) add(pos Position, value []byte) {
	s.h.Write(pos.bytes())
	s.h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(value))))
	s.h.Write(value)
}

func (s batchSum) String() string { return hex.EncodeToString(s.h.Sum(nil)) }

// archiveMeta is what a reader keeps of bucket "etcd-rescue".
type archiveMeta struct {
	info   ArchiveInfo
	bucket tree
	starts []int64 // ordinals at which a stage begins, ascending
	stages []int
}

func (m *archiveMeta) stage(ordinal int64) int {
	i := sort.Search(len(m.starts), func(i int) bool { return m.starts[i] > ordinal })
	if i == 0 {
		return 0
	}
	return m.stages[i-1]
}

// loadArchive fills f.archive and f.rev if the file has our bucket.
func (f *File) loadArchive() error {
	own, ok, err := f.pages.bucket(bucketOwn)
	if err != nil || !ok {
		return err
	}
	m := &archiveMeta{bucket: own}
	e, ok, err := f.pages.get(own, []byte(keyInfo))
	if err != nil {
		return err
	}
	if !ok || json.Unmarshal(e.value, &m.info) != nil {
		return f.pages.damaged("the archive does not say what it is")
	}
	if m.info.Version != archiveVersion {
		return fmt.Errorf("archive %q has format version %d, this program knows %d", f.path, m.info.Version, archiveVersion)
	}
	e, ok, err = f.pages.get(own, []byte(keyRevision))
	if err != nil {
		return err
	}
	if ok && len(e.value) == 8 {
		f.rev = int64(binary.BigEndian.Uint64(e.value))
	}
	f.archive = m
	return f.walkBatches(context.Background(), func(b batch) error {
		if n := len(m.stages); n == 0 || m.stages[n-1] != b.Stage {
			m.starts, m.stages = append(m.starts, b.first), append(m.stages, b.Stage)
		}
		return nil
	})
}

func (f *File) walkBatches(ctx context.Context, fn func(batch) error) error {
	return f.pages.walk(ctx, f.archive.bucket, func(_ place, e element) error {
		ordinal, ok := strings.CutPrefix(string(e.key), batchPrefix)
		if !ok {
			return nil
		}
		first, err := strconv.ParseInt(ordinal, 10, 64)
		if err != nil {
			return f.pages.damaged("batch %q has no ordinal", ordinal)
		}
		b, err := f.batch(first, e.value)
		if err != nil {
			return err
		}
		return fn(b)
	})
}

func (f *File) batch(first int64, record []byte) (batch, error) {
	b := batch{first: first}
	if err := json.Unmarshal(record, &b); err != nil {
		return b, f.pages.damaged("the record of batch %d cannot be read", first)
	}
	return b, nil
}

// batchAt is the batch whose first entry has that ordinal.
func (f *File) batchAt(first int64) (b batch, ok bool, err error) {
	e, ok, err := f.pages.get(f.archive.bucket, batch{first: first}.key())
	if err != nil || !ok {
		return b, false, err
	}
	b, err = f.batch(first, e.value)
	return b, err == nil, err
}

// Notes are the remarks that were added to an archive, oldest first; none for other files.
func (f *File) Notes(ctx context.Context) ([]Note, error) {
	if f.archive == nil {
		return nil, nil
	}
	var notes []Note
	err := f.pages.walk(ctx, f.archive.bucket, func(_ place, e element) error {
		rest, ok := strings.CutPrefix(string(e.key), notePrefix)
		if _, name, found := strings.Cut(rest, "/"); ok && found {
			notes = append(notes, Note{Key: name, Value: append([]byte(nil), e.value...)})
		}
		return nil
	})
	return notes, err
}

// checkBatches compares every entry with the checksum of its batch, and finds entries that no batch claims. A slow run
// leaves hundreds of thousands of batches, so their records are read one by one.
func (f *File) checkBatches(ctx context.Context) error {
	records := 0
	if err := f.walkBatches(ctx, func(batch) error { records++; return nil }); err != nil {
		return err
	}
	c := &batchCheck{File: f, next: 1, records: records}
	err := f.walkKeys(ctx, func(pos Position, tombstone bool, _ place, value []byte) error {
		if c.left == 0 {
			if err := c.begin(pos); err != nil {
				return err
			}
		}
		return c.add(pos, tombstone, value)
	})
	if err == nil && (c.left != 0 || c.records != 0) {
		err = f.pages.damaged("entries from %d on are missing", c.next)
	}
	return err
}

// batchCheck is where checkBatches is.
type batchCheck struct {
	*File
	next    int64 // ordinal of the next entry
	left    int64 // entries of its batch that are still due
	records int   // batches that have not begun
	batch   batch
	sum     batchSum
}

func (c *batchCheck) begin(pos Position) error {
	b, ok, err := c.batchAt(c.next)
	if err != nil {
		return err
	}
	if !ok || b.Count < 1 {
		return c.pages.damaged("entry %s belongs to no batch", pos)
	}
	c.batch, c.left, c.sum = b, b.Count, newBatchSum()
	c.records--
	return nil
}

func (c *batchCheck) add(pos Position, tombstone bool, value []byte) error {
	if pos != (Position{Main: c.next}) || tombstone {
		return c.pages.damaged("entry %s stands where %d is due", pos, c.next)
	}
	var kv fields
	if err := c.parse(pos, value, &kv); err != nil {
		return err
	}
	c.sum.add(pos, value)
	c.next++
	if c.left--; c.left == 0 && c.sum.String() != c.batch.SHA256 {
		return c.pages.damaged("the checksum of the entries from %d on does not match", c.batch.first)
	}
	return nil
}
