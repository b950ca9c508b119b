#!/bin/bash
# First process of the enclosure (a network, PID and mount namespace of its own): runs containerd and dockerd until it
# is killed. With it die every daemon, node and pod, and every mount they made.
# Arguments: RUN (sockets, logs), DATA (images, kept between runs).
set -u
run=$1 data=$2
containerd --config "$run/containerd.toml" > "$run/containerd.log" 2>&1 &
until [ -S "$run/containerd.sock" ]; do sleep 0.05; done
dockerd --containerd "$run/containerd.sock" --host "unix://$run/docker.sock" --data-root "$data/docker" \
  --exec-root "$run/docker" --pidfile "$run/dockerd.pid" --storage-driver overlay2 --bip 172.31.255.1/24 \
  --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "$3" > "$run/dockerd.log" 2>&1 &
wait
