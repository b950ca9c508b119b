{{- /* What the operator may do where LLMServices live: cluster-wide, or in each watched namespace. Every block says
what it is for. A test holds this list against operator/llmservice_operator/rbac.md, in both directions. */}}
{{- define "llmservice.rules" -}}
# What people want. It is only read: learned state lives in the status. Routers are granted the same.
- apiGroups: [llmservice.dev]
  resources: [llmservices]
  verbs: [get, list, watch]
# What `kubectl get llmsvc` shows: the decision record.
- apiGroups: [llmservice.dev]
  resources: [llmservices/status]
  verbs: [patch]
# Which engines are ready, starting or without a node. Routers are granted the same. patch: the mark on a pod that
# drains, and Kubernetes' cost of its deletion; the operator deletes no pod itself.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch]
# The last lines of an engine that ended, for condition Degraded; what looks like a secret is taken out.
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# Pools and routers, and putting back what somebody edits or deletes. Server-side apply is a patch, and a create where
# nothing is yet. delete: pools of an old revision.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch, create, patch, delete]
# The OpenAI endpoint and the headless Services. delete: the Service of a pool that a service has no longer.
- apiGroups: [""]
  resources: [services]
  verbs: [list, watch, create, patch, delete]
# The accounts under which routers run. Never deleted by us: they go with their service, by garbage collection.
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [list, watch, create, patch]
# Rights of the routers, one Role per service. Kubernetes lets the operator grant only what it holds itself, so it needs
# neither `escalate` nor `bind`; and it can take no Role from anybody.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [list, watch, create, patch]
# Never more than one pod of a pool is evicted at a time. delete: the budget of a pool that a service has no longer.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch, delete]
# Who reaches engines and routers, where networkPolicies.enabled asks for it. delete: when it no longer does.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch, create, patch, delete]
# Scraping of engines and routers where the Prometheus Operator is installed.
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [list, watch, create, patch]
# One Event per change that the owner of a service should know of.
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end }}
