{{- /* The operator's settings: each value of the chart maps to one environment variable. */}}
{{- define "llmservice.settings" -}}
- name: LLMSERVICE_ROUTER_IMAGE
  value: {{ include "llmservice.image" . }}
- name: LLMSERVICE_ENGINE_IMAGE
  value: {{ .Values.defaults.engineImage | quote }}
- name: LLMSERVICE_PROMETHEUS_URL
  value: {{ .Values.defaults.prometheusURL | quote }}
- name: LLMSERVICE_WATCH_NAMESPACES
  value: {{ join "," .Values.watchNamespaces | quote }}
- name: LLMSERVICE_LOG_LEVEL
  value: {{ .Values.logLevel }}
{{- end }}
