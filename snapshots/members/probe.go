package members

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// probeTTL is for how many seconds a lease of ProveWrite stays if it cannot be taken back.
const probeTTL = 60

// ProveWrite shows that etcd takes writes again, without touching a key or its revision: it is granted a lease, which
// etcd refuses under NOSPACE and above the quota as it does a put (etcdserver/apply, quotaApplierV3), and gives it back.
// An error of the giving back is one too; the lease then ends by itself after a minute.
func ProveWrite(ctx context.Context, client *clientv3.Client) error {
	granted, err := client.Grant(ctx, probeTTL)
	if err != nil {
		return fmt.Errorf("have etcd grant a lease: %w", err)
	}
	if _, err := client.Revoke(ctx, granted.ID); err != nil {
		return fmt.Errorf("give back the lease that etcd granted: %w", err)
	}
	return nil
}
