{{/* Labels that select a part's pods: dict "root" "part". They never change, so nothing of the chart's version is in them. */}}
{{- define "pd.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{/* metadata of an object: dict "root" "part", and "name" where a part has several. */}}
{{- define "pd.metadata" -}}
name: {{ .name | default (printf "%s-%s" .root.Release.Name .part) }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "pd.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .root.Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* An image by digest or tag: dict "root" "image". */}}
{{- define "pd.image" -}}
{{- $image := index .root.Values.images .image }}
{{- $name := ternary $image.repository (printf "%s/%s" .root.Values.images.registry $image.repository) (empty .root.Values.images.registry) }}
{{- ternary (printf "%s:%s" $name $image.tag) (printf "%s@%s" $name $image.digest) (empty $image.digest) }}
{{- end }}

{{- define "pd.secretName" -}}
{{ .Values.secret.existing | default (printf "%s-secrets" .Release.Name) }}
{{- end }}

{{- define "pd.etcdEndpoint" -}}
{{ .Values.env.ETCD_ENDPOINT | default (printf "%s-etcd:%s" .Release.Name (include "pd.setting" (dict "root" . "name" "ETCD_PORT"))) }}
{{- end }}
