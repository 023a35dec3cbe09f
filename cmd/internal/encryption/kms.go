package encryption

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/kms/pkg/util"
)

// kms builds the provider of one KMS plugin.
func (c *Config) kms(conf *apiserver.KMSConfiguration) ([]*provider, error) {
	addr, err := util.ParseEndpoint(conf.Endpoint)
	if err != nil {
		return nil, err
	}
	p := &plugin{name: conf.Name, endpoint: conf.Endpoint, addr: addr, timeout: conf.Timeout.Duration, dial: dialUnix}
	c.plugins = append(c.plugins, p)
	if conf.APIVersion == "v1" {
		return []*provider{{prefix: prefixEncrypted + "kms:v1:" + conf.Name + ":", Transformer: newKMSv1(p, int(*conf.CacheSize))}}, nil
	}
	return []*provider{{prefix: prefixEncrypted + "kms:v2:" + conf.Name + ":", Transformer: newKMSv2(p)}}, nil
}

func dialUnix(ctx context.Context, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", addr)
}

// plugin is a KMS plugin and the connection to it. The clients of
// k8s.io/apiserver are not used: they log to stderr, wait for a plugin that is
// not there until a request times out, again for each, and the one for KMS v1
// cannot be interrupted.
type plugin struct {
	name, endpoint string
	addr           string        // of a unix socket; "@name" is an abstract one
	timeout        time.Duration // of one request
	dial           func(ctx context.Context, addr string) (net.Conn, error)

	mu      sync.Mutex
	conn    *grpc.ClientConn // nil before the first request
	dialErr error            // of the last attempt
	down    error            // why there will be no more requests
}

// call makes one request, within the plugin's timeout. A plugin that cannot be
// reached or does not answer in time is given up: this request and every later
// one fail, those later ones at once. If it is ctx that ends, the plugin is not
// to blame.
func (p *plugin) call(ctx context.Context, request func(context.Context, grpc.ClientConnInterface) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	conn, err := p.connection()
	if err != nil {
		return err
	}
	deadline, has := ctx.Deadline()
	hurried := has && time.Until(deadline) < p.timeout
	limited, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	err = request(limited, conn)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	answer := status.Convert(err)
	if hurried && answer.Code() == codes.DeadlineExceeded {
		return context.DeadlineExceeded
	}
	return p.failed(answer)
}

func (p *plugin) connection() (grpc.ClientConnInterface, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down != nil {
		return nil, p.down
	}
	if p.conn != nil {
		return p.conn, nil
	}
	conn, err := grpc.NewClient("passthrough:///kms",
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			c, err := p.dial(ctx, p.addr)
			p.mu.Lock()
			defer p.mu.Unlock()
			p.dialErr = err
			return c, err
		}))
	if err != nil {
		return nil, p.errorf("cannot be called: %w", err)
	}
	p.conn = conn
	return conn, nil
}

func (p *plugin) errorf(format string, args ...any) error {
	return fmt.Errorf("KMS plugin %q at %s %w", p.name, p.endpoint, fmt.Errorf(format, args...))
}

// failed says what is wrong after an unsuccessful request, and gives the plugin
// up if it was not reached.
func (p *plugin) failed(answer *status.Status) error {
	switch answer.Code() {
	case codes.DeadlineExceeded:
		return p.giveUp(p.errorf("does not answer: nothing came within %v", p.timeout))
	case codes.Unavailable:
		p.mu.Lock()
		reason := p.dialErr
		p.mu.Unlock()
		if reason == nil {
			reason = errors.New(clip(answer.Message()))
		}
		return p.giveUp(p.errorf("does not answer: %w", reason))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down != nil {
		return p.down // by a request that ran beside this one
	}
	return p.errorf("refuses: %s, %s", answer.Code(), clip(answer.Message()))
}

// giveUp ends all requests, now and later, and returns why: the first reason
// stands. Left open, the connection would be dialled again and again, for
// nobody.
func (p *plugin) giveUp(why error) error {
	p.mu.Lock()
	if p.down == nil {
		p.down = why
	}
	why, conn := p.down, p.conn
	p.conn = nil
	p.mu.Unlock()
	if conn != nil {
		conn.Close() // fails only if it is closed already
	}
	return why
}

// clip quotes what a plugin says, which may be anything.
func clip(text string) string {
	const most = 300
	if len(text) > most {
		return fmt.Sprintf("%q…", text[:most])
	}
	return fmt.Sprintf("%q", text)
}
