package apply

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestOneRequestForAllThatWait: 64 workers that each wait for a timeout of
// their own, one after another, would take minutes to stop.
func TestOneRequestForAllThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o once
		var all sync.WaitGroup
		silent := errors.New("no answer")
		requests := 0 // by one at a time, which is what is tested
		began := time.Now()
		for range 64 {
			all.Go(func() {
				_, err := o.get(7, func() (int64, error) {
					requests++
					time.Sleep(10 * time.Second)
					return 0, silent
				})
				if !errors.Is(err, silent) {
					t.Errorf("%v", err)
				}
			})
		}
		all.Wait()
		if took := time.Since(began); requests != 1 || took != 10*time.Second {
			t.Errorf("%d requests, %s", requests, took)
		}
		if n, err := o.get(7, func() (int64, error) { return 3, nil }); n != 3 || err != nil {
			t.Errorf("after an error: %d, %v", n, err)
		}
		o.forget(7, 2) // an older one
		if n, _ := o.get(7, nil); n != 3 {
			t.Errorf("%d, want what is known", n)
		}
		o.forget(7, 3)
		if n, _ := o.get(7, func() (int64, error) { return 4, nil }); n != 4 {
			t.Errorf("%d after it was forgotten", n)
		}
	})
}
