package connect

import (
	"context"
	"errors"
	"log/slog"
	"sync"
)

// tryAtOnce bounds how many endpoints are tried at the same time.
const tryAtOnce = 16

// Trial is what one endpoint says when it is tried by itself.
type Trial struct {
	Endpoint string
	// Err is nil if it answered and its keys may be read; else it is an *Error
	// or a *SettingError.
	Err error
	// Version is that of the server, Cluster and Member are etcd's ids; kine
	// has none.
	Version         string
	Cluster, Member uint64
	// Leaderless and Kine are as in Conn.
	Leaderless, Kine bool
	// Warnings are what is odd, but no reason not to use it.
	Warnings []string
	// Served are the certificates that it shows.
	Served []Certificate
}

// Hint says what to do about Err, "" if nothing is known.
func (t Trial) Hint() string {
	var e *Error
	var s *SettingError
	switch {
	case errors.As(t.Err, &e):
		return e.Hint
	case errors.As(t.Err, &s):
		return s.Hint
	}
	return ""
}

// Try connects to every endpoint by itself, as Dial does, and says what came of
// it, in the order of the endpoints. It only reads, and returns within two and
// a half times s.DialTimeout for each 16 endpoints, or when ctx ends.
func Try(ctx context.Context, s Settings, endpoints []string, log *slog.Logger) []Trial {
	out := make([]Trial, len(endpoints))
	free := make(chan struct{}, tryAtOnce)
	var wg sync.WaitGroup
	for i, ep := range endpoints {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			out[i] = try(ctx, s, ep, log)
		})
	}
	wg.Wait()
	return out
}

func try(ctx context.Context, s Settings, endpoint string, log *slog.Logger) Trial {
	t := Trial{Endpoint: endpoint}
	if s.DialTimeout <= 0 {
		s.DialTimeout = DefaultDialTimeout
	}
	short, cancel := context.WithTimeout(ctx, s.DialTimeout)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { t.Served = Served(short, endpoint) })
	t.dial(ctx, s, log)
	wg.Wait()
	return t
}

func (t *Trial) dial(ctx context.Context, s Settings, log *slog.Logger) {
	conn, err := Dial(ctx, s, []string{t.Endpoint}, log)
	if err != nil {
		t.Err = err
		return
	}
	defer conn.Close()
	t.Kine, t.Leaderless, t.Warnings = conn.Kine, len(conn.Leaderless) > 0, conn.Warnings
	ctx, cancel := context.WithTimeout(ctx, s.DialTimeout)
	defer cancel()
	if resp, err := conn.Client.Status(ctx, conn.Endpoints[0]); err == nil {
		t.Version, t.Cluster, t.Member = resp.Version, resp.Header.GetClusterId(), resp.Header.GetMemberId()
	}
}
