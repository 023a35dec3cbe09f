package members

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// askStatus asks the one member that the client knows. clientv3 would open another connection for it, and in the calls below
// repeat what fails until the time is over.
func askStatus(ctx context.Context, client *clientv3.Client) (*clientv3.StatusResponse, error) {
	resp, err := etcdserverpb.NewMaintenanceClient(client.ActiveConnection()).Status(ctx, &etcdserverpb.StatusRequest{})
	return (*clientv3.StatusResponse)(resp), rpctypes.Error(err)
}

// mostMembers is how many a list may have that is believed.
const mostMembers = 100

// askList is the list that a member has, nil if it does not tell, or tells of more than there can be.
func askList(ctx context.Context, client *clientv3.Client) []Member {
	resp, err := etcdserverpb.NewClusterClient(client.ActiveConnection()).MemberList(ctx, &etcdserverpb.MemberListRequest{})
	if err != nil || len(resp.Members) > mostMembers {
		return nil
	}
	return listed(resp.Members)
}

func askRange(ctx context.Context, client *clientv3.Client, serializable bool) (*etcdserverpb.RangeResponse, error) {
	if !serializable {
		ctx = clientv3.WithRequireLeader(ctx)
	}
	resp, err := etcdserverpb.NewKVClient(client.ActiveConnection()).
		Range(ctx, &etcdserverpb.RangeRequest{Key: []byte(probeKey), CountOnly: true, Serializable: serializable})
	return resp, rpctypes.Error(err)
}

// askRead tries a read three times. Whether a member has a leader and a quorum shows before it is asked what the user may
// read.
func askRead(ctx context.Context, client *clientv3.Client, serializable bool) (Read, int64) {
	var took [3]time.Duration
	var revision int64
	for i := range took {
		begun := time.Now()
		resp, err := askRange(ctx, client, serializable)
		took[i] = max(time.Since(begun), 1)
		if err != nil && !errors.Is(err, rpctypes.ErrPermissionDenied) {
			if ctx.Err() != nil {
				err = noAnswer{ctx.Err()}
			}
			return Read{Err: err}, revision
		}
		revision = max(revision, resp.GetHeader().GetRevision())
	}
	slices.Sort(took[:])
	return Read{Took: took[1]}, revision
}

// askMetrics refuses those of another member: an address may lead to any of them, each time to another.
func askMetrics(ctx context.Context, open func(context.Context, string) (io.ReadCloser, error), endpoint string, id uint64) (Disk, error) {
	body, err := open(ctx, endpoint)
	if err != nil {
		return Disk{}, err
	}
	defer body.Close()
	d, err := readMetrics(body)
	if d.Member != 0 && d.Member != id {
		return Disk{}, fmt.Errorf("the metrics there are those of member %x", d.Member)
	}
	return d, err
}
