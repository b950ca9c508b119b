{{- define "llmservice.name" -}}
{{- default "llmservice-operator" .Values.nameOverride | trunc 53 | trimSuffix "-" }}
{{- end }}

{{- define "llmservice.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" }}
{{- else if eq .Release.Name .Chart.Name }}
{{- include "llmservice.name" . }}
{{- else if contains (include "llmservice.name" .) .Release.Name }}
{{- .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "llmservice.name" .) | trunc 53 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "llmservice.selectorLabels" -}}
app.kubernetes.io/name: {{ include "llmservice.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "llmservice.labels" -}}
{{ include "llmservice.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "llmservice.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "llmservice.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "llmservice.image" -}}
{{- $repository := required "image.repository is empty: build the image (make images REGISTRY=...) and name it here" .Values.image.repository }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- /* The namespaces that are looked after, as JSON; an empty list means all. */}}
{{- define "llmservice.namespaces" -}}
{{- if and .Values.namespaced .Values.watchNamespaces }}
{{- fail "set either namespaced or watchNamespaces: the first is short for the release namespace alone" }}
{{- end }}
{{- ternary (list .Release.Namespace) .Values.watchNamespaces .Values.namespaced | toJson }}
{{- end }}
