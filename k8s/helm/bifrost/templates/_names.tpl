{{- define "bifrost.selector" -}}
app.kubernetes.io/name: bifrost
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "bifrost.labels" -}}
{{ include "bifrost.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "bifrost.members" -}}
{{ .Values.members | default (max .Values.replicas 1) }}
{{- end }}
