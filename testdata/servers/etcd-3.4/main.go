// Command etcd is etcd's own server, built from its module.
package main

import "go.etcd.io/etcd/etcdmain"

func main() { etcdmain.Main() }
