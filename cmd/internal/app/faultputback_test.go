//go:build faults

package app

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// changeAll takes a snapshot and then changes all pods, which a put-back takes
// back.
func (w *faultWorld) changeAll(ctx context.Context) error {
	w.snapshot = filepath.Join(w.shell.dir, "before.snapshot")
	stream, err := w.client.Snapshot(ctx)
	if err != nil {
		return err
	}
	f, err := os.Create(w.snapshot)
	if err != nil {
		return errors.Join(err, stream.Close())
	}
	_, err = io.Copy(f, stream)
	if err := errors.Join(err, stream.Close(), f.Close()); err != nil {
		return err
	}
	for _, key := range w.podKeys() {
		value := bytes.ReplaceAll(w.whole.keys[key].Value, []byte("Pending"), []byte("Unknown"))
		if _, err := w.client.Put(ctx, key, string(value)); err != nil {
			return err
		}
	}
	return nil
}

func (w *faultWorld) putBackArgs() []string {
	return append([]string{"put-back", "pods", "-n", "ops-tools", "--from", w.snapshot, "--replace", "--execute", "--yes", "-o", "json"}, w.rate()...)
}

// checkReplace: a put-back writes the file's bytes, in the place of what a plan
// saw and the archive holds, or where a plan saw nothing.
func (w *faultWorld) checkReplace(e *clientv3.Event, archived map[string][]*mvccpb.KeyValue, guards map[guard]bool) {
	key, rev := string(e.Kv.Key), e.Kv.ModRevision
	if e.Type != clientv3.EventTypePut {
		w.violate("a put-back deleted %q, at revision %d", key, rev)
		return
	}
	if was := w.whole.keys[key]; was == nil || !bytes.Equal(was.Value, e.Kv.Value) {
		w.violate("%q was put back at revision %d with bytes that the file does not hold", key, rev)
	}
	if before := e.PrevKv.GetModRevision(); !guards[guard{key, before}] {
		w.violate("%q was put back at revision %d over revision %d, which no plan saw", key, rev, before)
	}
	switch {
	case e.IsCreate():
	case e.PrevKv == nil:
		w.violate("nobody knows what was replaced under %q at revision %d", key, rev)
	case !holds(archived[key], e.PrevKv):
		w.violate("LOST: %q as of revision %d was replaced at revision %d and is in no archive", key, e.PrevKv.ModRevision, rev)
	}
}

// holds tells whether what is archived of a key has these bytes.
func holds(kvs []*mvccpb.KeyValue, kv *mvccpb.KeyValue) bool {
	for _, kept := range kvs {
		if kept.ModRevision == kv.ModRevision && bytes.Equal(kept.Value, kv.Value) {
			return true
		}
	}
	return false
}
