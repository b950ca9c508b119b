"""The one place that says which versions the clusters are made of; everything cached carries these names."""

KUBERNETES = "v1.36.4"
KIND = "v0.33.0"
ETCD = "v3.6.8"  # ETCD, COREDNS and PAUSE are what `kubeadm config images list` of KUBERNETES names;
COREDNS = "v1.14.2"  # the node image refuses to be built when they differ
PAUSE = "3.10.2"
CONTAINERD = "v2.1.9"
LOCAL_PATH_PROVISIONER = "v0.0.30"
HELM = "v3.21.4"
GO_AT_LEAST = (1, 26)

DOCKER_SUITE = "trixie"  # the docker engine's packages
NODE_SUITE = "bookworm"  # the node's root file system: its systemd still does cgroup v1
