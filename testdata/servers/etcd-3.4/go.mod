module github.com/etcd-rescue/etcd-rescue/testdata/servers/etcd-3.4

go 1.16

require go.etcd.io/etcd v0.5.0-alpha.5.0.20200910180754-dd1b699fc489
