{{- /* The operator's settings: each value of the chart maps to one environment variable. */}}
{{- define "llmservice.settings" -}}
- name: LLMSERVICE_ROUTER_IMAGE
  value: {{ include "llmservice.image" . }}
- name: LLMSERVICE_ENGINE_IMAGE
  value: {{ .Values.defaults.engineImage | quote }}
- name: LLMSERVICE_PROMETHEUS_URL
  value: {{ .Values.defaults.prometheusURL | quote }}
- name: LLMSERVICE_WATCH_NAMESPACES
  value: {{ include "llmservice.namespaces" . | fromJsonArray | join "," | quote }}
- name: LLMSERVICE_LOG_LEVEL
  value: {{ .Values.logLevel }}
- name: LLMSERVICE_POD_TEMPLATE
  value: {{ .Values.operator.podTemplate }}
{{- with .Values.networkPolicies }}
{{- if .enabled }}
- name: LLMSERVICE_NETWORK_POLICIES
  value: {{ dict "clients" .clients "prometheus" .prometheus "operator" (list (include "llmservice.peer" $ | fromYaml)) | toJson | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The operator's own pod, as other pods' NetworkPolicies name it. */}}
{{- define "llmservice.peer" -}}
namespaceSelector:
  matchLabels:
    kubernetes.io/metadata.name: {{ .Release.Namespace }}
podSelector:
  matchLabels:
    {{- include "llmservice.selectorLabels" . | nindent 4 }}
{{- end }}
