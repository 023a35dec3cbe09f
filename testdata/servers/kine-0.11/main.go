// Command kine is the server of kine 0.11.4: etcd's API over SQL. SQLite needs cgo and gcc.
package main

import (
	"context"
	"flag"
	"log"
	"time"

	"github.com/k3s-io/kine/pkg/endpoint"
	"github.com/k3s-io/kine/pkg/metrics"
)

// At this version kine's own command cannot be imported. This one takes the flags that tests pass, and sets what the
// other sets by default.
func main() {
	address := flag.String("listen-address", "127.0.0.1:2379", "address to serve on")
	store := flag.String("endpoint", "", "where the table is")
	_ = flag.String("metrics-bind-address", "0", "not served")
	flag.Parse()
	config := endpoint.Config{Listener: *address, Endpoint: *store, NotifyInterval: 5 * time.Second, MetricsRegisterer: metrics.Registry}
	if _, err := endpoint.Listen(context.Background(), config); err != nil {
		log.Fatal(err)
	}
	select {}
}
