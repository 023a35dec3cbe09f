// Command kine is kine's own server, built from its module: etcd's API over SQL. SQLite needs cgo and gcc.
package main

import (
	"log"
	"os"

	"github.com/k3s-io/kine/pkg/app"
)

func main() {
	if err := app.New().Run(os.Args); err != nil {
		log.Fatal(err)
	}
}
