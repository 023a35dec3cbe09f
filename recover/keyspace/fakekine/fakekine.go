// Package fakekine is a server for tests that answers reads and transactions
// as kine does, the three ways that kine has had, in memory. What it says is
// copied from what kine 0.11.4, 0.13.0 and 0.17.5 over SQLite were seen to say;
// a test that passes on it says something of kine only as far as that goes.
package fakekine

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Version is whose behaviour is copied.
type Version int

const (
	// V011 is kine 0.11.4: lists in the order of revisions.
	V011 Version = iota
	// V013 is kine 0.13.0: lists by name, ranges are prefixes.
	V013
	// V017 is kine 0.17.5: ranges are ranges.
	V017
)

func (v Version) String() string { return [...]string{"0.11", "0.13", "0.17"}[v] }

// Server is a running server. Close it.
type Server struct {
	pb.UnimplementedKVServer
	pb.UnimplementedMaintenanceServer
	version Version
	url     string
	grpc    *grpc.Server

	mu   sync.Mutex
	rows []row
	lose string
}

// row is one line of kine's table; its id, the revision, is its place plus 1.
type row struct {
	name    string
	deleted bool
	created int64
	lease   int64
	value   []byte
}

// Start serves on a free port of 127.0.0.1. The server holds what kine makes
// for itself, and nothing else.
func Start(v Version) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{version: v, url: "http://" + l.Addr().String(), grpc: grpc.NewServer()}
	s.append("compact_rev_key", nil, 0)
	s.append("/registry/health", []byte(`{"health":"true"}`), 0)
	pb.RegisterKVServer(s.grpc, s)
	pb.RegisterMaintenanceServer(s.grpc, s)
	go func() { _ = s.grpc.Serve(l) }()
	return s, nil
}

// URL is where it listens.
func (s *Server) URL() string { return s.url }

// Close ends it.
func (s *Server) Close() { s.grpc.Stop() }

// Lose makes lists leave out the key, but not counts.
func (s *Server) Lose(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lose = key
}

// Status implements the Maintenance service: kine's header is empty.
func (s *Server) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	return &pb.StatusResponse{Header: &pb.ResponseHeader{}, Version: "3.6.11", DbSize: 4096}, nil
}

func (s *Server) append(name string, value []byte, lease int64) int64 {
	s.rows = append(s.rows, row{name: name, value: value, lease: lease, created: int64(len(s.rows)) + 1})
	return int64(len(s.rows))
}

// at is what matches at a revision, 0 for the newest, in the order of the
// version.
func (s *Server) at(rev int64, matches func(string) bool) []*mvccpb.KeyValue {
	if rev == 0 {
		rev = int64(len(s.rows))
	}
	newest := map[string]int64{}
	for i, r := range s.rows[:rev] {
		if matches(r.name) {
			newest[r.name] = int64(i) + 1
		}
	}
	var kvs []*mvccpb.KeyValue
	for name, id := range newest {
		if r := s.rows[id-1]; !r.deleted {
			kvs = append(kvs, &mvccpb.KeyValue{Key: []byte(name), Value: r.value, ModRevision: id, CreateRevision: r.created, Lease: r.lease})
		}
	}
	slices.SortFunc(kvs, func(a, b *mvccpb.KeyValue) int {
		if s.version == V011 {
			return int(a.ModRevision - b.ModRevision)
		}
		return strings.Compare(string(a.Key), string(b.Key))
	})
	return kvs
}

// like is SQLite's LIKE.
func like(pattern, name string) bool {
	if pattern == "" {
		return name == ""
	}
	switch pattern[0] {
	case '%':
		for i := range len(name) + 1 {
			if like(pattern[1:], name[i:]) {
				return true
			}
		}
		return false
	case '_':
		return name != "" && like(pattern[1:], name[1:])
	}
	return name != "" && strings.EqualFold(pattern[:1], name[:1]) && like(pattern[1:], name[1:])
}

func unsupported(what string) error {
	return status.Errorf(codes.Unimplemented, "%s is not implemented by kine", what)
}

// Range implements the KV service.
func (s *Server) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.Serializable:
		return nil, unsupported("serializable")
	case r.KeysOnly && s.version < V017:
		return nil, unsupported("keysOnly")
	case r.SortOrder != 0 || r.SortTarget != 0:
		return nil, unsupported("sortOrder")
	case r.Revision > int64(len(s.rows)):
		return nil, rpctypes.ErrGRPCFutureRev
	}
	if len(r.RangeEnd) == 0 {
		return s.single(r)
	}
	kvs, counted := s.list(r)
	kvs = slices.DeleteFunc(kvs, func(kv *mvccpb.KeyValue) bool { return s.lose != "" && string(kv.Key) == s.lose })
	resp := &pb.RangeResponse{Header: s.header(), Count: int64(len(kvs))}
	if r.CountOnly {
		resp.Count = counted
		return resp, nil
	}
	if r.Limit > 0 && int64(len(kvs)) > r.Limit {
		kvs, resp.More, resp.Count = kvs[:r.Limit], true, counted
	}
	resp.Kvs = s.shown(kvs, r.KeysOnly)
	return resp, nil
}

func (s *Server) header() *pb.ResponseHeader { return &pb.ResponseHeader{Revision: int64(len(s.rows))} }

func (s *Server) shown(kvs []*mvccpb.KeyValue, keysOnly bool) []*mvccpb.KeyValue {
	if keysOnly {
		for _, kv := range kvs {
			kv.Value = nil
		}
	}
	return kvs
}

func (s *Server) single(r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if s.version == V017 && r.Limit > 1 {
		return nil, unsupported("limit")
	}
	kvs := s.at(r.Revision, s.named(string(r.Key)))
	kvs = s.shown(kvs[:min(len(kvs), 1)], r.KeysOnly)
	return &pb.RangeResponse{Header: s.header(), Kvs: kvs, Count: int64(len(kvs))}, nil
}

// named is how a single key is looked for.
func (s *Server) named(key string) func(string) bool {
	if s.version == V017 {
		return func(name string) bool { return name == key }
	}
	if strings.HasSuffix(key, "/") {
		key += "%"
	}
	return func(name string) bool { return like(key, name) }
}

// list is what a range is taken for, and how many keys a count of it says.
func (s *Server) list(r *pb.RangeRequest) (kvs []*mvccpb.KeyValue, counted int64) {
	start, end := string(r.Key), string(r.RangeEnd)
	if s.version == V017 {
		all := start == "\x00" && end == "\x00"
		kvs = s.at(r.Revision, func(name string) bool { return all || (name >= start && name < end) })
		return kvs, int64(len(kvs))
	}
	prefix := end[:len(end)-1] + string([]byte{end[len(end)-1] - 1})
	if !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	start = strings.TrimRight(start, "\x00")
	all := s.at(r.Revision, func(name string) bool { return like(prefix+"%", name) })
	if start == prefix {
		return all, int64(len(all))
	}
	if s.version == V013 {
		kvs = slices.DeleteFunc(all, func(kv *mvccpb.KeyValue) bool { return string(kv.Key) <= start })
		return kvs, int64(len(kvs))
	}
	after := int64(len(s.rows)) // behind a key that is not there nothing comes
	for i, row := range s.rows {
		if row.name == start && (r.Revision == 0 || int64(i) < r.Revision) {
			after = int64(i) + 1
		}
	}
	counted = int64(len(all))
	return slices.DeleteFunc(all, func(kv *mvccpb.KeyValue) bool { return kv.ModRevision <= after }), counted
}
