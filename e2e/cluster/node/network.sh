#!/bin/sh
# The network agent of each node, run under the name of kind's own (kindnetd is in no Go module): writes the node's
# CNI configuration once its pod range is known, and keeps a route to every other node's range. IPv4 only, no
# masquerading (there is no uplink), no network policies.
account=/var/run/secrets/kubernetes.io/serviceaccount
target=/etc/cni/net.d/10-kindnet.conflist

read_nodes() {
  curl -sf -m 10 --cacert "$account/ca.crt" -H "Authorization: Bearer $(cat "$account/token")" \
    "https://$CONTROL_PLANE_ENDPOINT/api/v1/nodes" > /tmp/nodes
}

ranges_and_addresses() {
  jq -r '.items[] | select(.spec.podCIDR)
    | "\(.spec.podCIDR) \(first(.status.addresses[] | select(.type == "InternalIP")).address)"' /tmp/nodes
}

configure() {
  jq -n --arg range "$1" '{cniVersion: "0.4.0", name: "kindnet", plugins: [
    {type: "ptp", mtu: 1500, ipam: {type: "host-local", dataDir: "/run/cni-ipam-state",
      ranges: [[{subnet: $range}]], routes: [{dst: "0.0.0.0/0"}]}},
    {type: "portmap", capabilities: {portMappings: true}}]}' > /tmp/wanted
  cmp -s /tmp/wanted "$target" && return
  cp /tmp/wanted "$target.part" && mv "$target.part" "$target" && echo "wrote $target for $1"
}

while :; do
  if ! read_nodes; then
    echo "no answer from $CONTROL_PLANE_ENDPOINT" >&2
    sleep 1
    continue
  fi
  ranges_and_addresses | while read -r range address; do
    if [ "$address" = "$HOST_IP" ]; then configure "$range"; else ip route replace "$range" via "$address"; fi
  done
  if [ -e "$target" ]; then sleep 5; else sleep 1; fi
done
