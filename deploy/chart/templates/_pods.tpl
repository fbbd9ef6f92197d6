{{/* Least privilege. Of a pod, and of each of its containers. */}}
{{- define "pd.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "pd.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* The part of a pod's spec that says what it may and where it runs: dict "root" "part" "place". */}}
{{- define "pd.placement" -}}
automountServiceAccountToken: false
{{- /* Or a Service `proxy` would set PROXY_PORT=tcp://... in every pod. */}}
enableServiceLinks: false
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets: {{- range . }}
  - {name: {{ . }}}{{ end }}
{{- end }}
{{- with .root.Values.topologySpread }}
topologySpreadConstraints:
  {{- range . }}
  - {{ toYaml . | indent 4 | trim }}
    labelSelector:
      matchLabels: {{- include "pd.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- range $name := list "nodeSelector" "tolerations" "affinity" "runtimeClassName" "priorityClassName" }}
{{- with index $.place $name }}
{{ $name }}: {{- if kindIs "string" . }} {{ . }}{{ else }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{/* A container's requests and limits. A null takes away what an earlier values file said. */}}
{{- define "pd.resources" -}}
{{- range $kind := list "requests" "limits" }}
{{- with index $ $kind }}
{{ $kind }}:
  {{- range $name, $amount := . }}
  {{- if not (kindIs "invalid" $amount) }}
  {{ $name }}: {{ include "pd.text" $amount | quote }}
  {{- end }}
  {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Of one part at most so many pods are taken away at once when nodes are drained: dict "root" "part". */}}
{{- define "pd.disruptionBudget" -}}
{{- with .root.Values.disruptionBudgets }}{{- if .enabled }}
---
apiVersion: {{ ternary "policy/v1" "policy/v1beta1" (semverCompare ">=1.21-0" $.root.Capabilities.KubeVersion.Version) }}
kind: PodDisruptionBudget
metadata: {{- include "pd.metadata" $ | nindent 2 }}
spec:
  maxUnavailable: {{ .maxUnavailable }}
  selector:
    matchLabels: {{- include "pd.selector" $ | nindent 6 }}
{{- end }}{{- end }}
{{- end }}
