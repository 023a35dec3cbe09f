package members

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Dialer gives a client that knows one endpoint only, so that what is asked of it is asked of that member. It has
// answered at least once. The caller closes it.
type Dialer func(ctx context.Context, endpoint string) (*clientv3.Client, error)
