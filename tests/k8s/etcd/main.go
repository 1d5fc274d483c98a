// etcd as Kubernetes of today expects it, and its etcdctl, by the name that the program is started under. Debian's is too
// old to say how far a watch has come, and without that the API server refuses to stream lists.
package main

import (
	"os"
	"path/filepath"

	"go.etcd.io/etcd/etcdctl/v3/ctlv3"
	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	if filepath.Base(os.Args[0]) == "etcdctl" {
		ctlv3.MustStart()
		return
	}
	etcdmain.Main(os.Args)
}
