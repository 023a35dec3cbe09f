package fakekine

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Txn implements the KV service for the three transactions that kine knows:
// create, update and delete.
func (s *Server) Txn(_ context.Context, t *pb.TxnRequest) (*pb.TxnResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(t.Compare) != 1 || t.Compare[0].Target != pb.Compare_MOD || t.Compare[0].Result != pb.Compare_EQUAL || len(t.Success) != 1 || len(t.Failure) > 1 {
		return nil, errNotSupported()
	}
	rev := t.Compare[0].GetModRevision()
	put, del := t.Success[0].GetRequestPut(), t.Success[0].GetRequestDeleteRange()
	switch {
	case put != nil && rev == 0 && len(t.Failure) == 0:
		return s.change(string(put.Key), 0, false, func() { s.append(string(put.Key), put.Value, put.Lease) })
	case len(t.Failure) != 1 || t.Failure[0].GetRequestRange() == nil:
	case put != nil:
		return s.change(string(put.Key), rev, true, func() { s.update(string(put.Key), put) })
	case del != nil:
		return s.change(string(del.Key), rev, true, func() { s.rows = append(s.rows, row{name: string(del.Key), deleted: true}) })
	}
	return nil, errNotSupported()
}

func errNotSupported() error {
	return status.Error(codes.InvalidArgument, "etcdserver: unsupported operations in txn request")
}

func (s *Server) update(key string, put *pb.PutRequest) {
	created := s.at(0, func(name string) bool { return name == key })
	s.append(key, put.Value, put.Lease)
	if len(created) > 0 {
		s.rows[len(s.rows)-1].created = created[0].CreateRevision
	}
}

// change carries out do if the key is at revision rev, 0 for absent. Else it
// answers with what is there, if that is wanted.
func (s *Server) change(key string, rev int64, get bool, do func()) (*pb.TxnResponse, error) {
	now := s.at(0, s.named(key))
	now = now[:min(len(now), 1)]
	var is int64
	if len(now) > 0 {
		is = now[0].ModRevision
	}
	if is != rev {
		resp := &pb.TxnResponse{Header: s.header()}
		if get {
			resp.Responses = []*pb.ResponseOp{{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{Header: s.header(), Kvs: now, Count: int64(len(now))}}}}
		}
		return resp, nil
	}
	do()
	done := &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{Header: s.header()}}}
	if s.rows[len(s.rows)-1].deleted {
		done = &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: &pb.DeleteRangeResponse{Header: s.header(), PrevKvs: now}}}
	}
	return &pb.TxnResponse{Header: s.header(), Succeeded: true, Responses: []*pb.ResponseOp{done}}, nil
}
