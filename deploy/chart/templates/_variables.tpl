{{/* A value as text. Numbers of a values file are floats, and a large one would be written with an exponent. */}}
{{- define "pd.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- define "pd.isSet" -}}
{{- if not (or (kindIs "invalid" .) (eq (toString .) "")) }}true{{ end }}
{{- end }}

{{/* A variable that the chart computes with, or its default: dict "root" "name". */}}
{{- define "pd.setting" -}}
{{- $value := index .root.Values.env .name }}
{{- if not (include "pd.isSet" $value) }}
{{- $value = index (.root.Files.Get "files/variables.yaml" | fromYaml).defaults .name }}
{{- end }}
{{- include "pd.text" $value }}
{{- end }}

{{/* A time of so many seconds as a whole number of them, rounded up: dict "root" "name". */}}
{{- define "pd.seconds" -}}
{{ include "pd.setting" . | float64 | ceil | int64 }}
{{- end }}

{{/* Entries of a container's `env`: the variables of `env` that this program reads: dict "root" "program". The kubelet would
     replace $(NAME). */}}
{{- define "pd.variables" -}}
{{- $names := index (.root.Files.Get "files/variables.yaml" | fromYaml).programs .program }}
{{- $isInstance := eq .program "instance" }}
{{- range $name, $value := .root.Values.env }}
{{- if and (include "pd.isSet" $value) (or (has $name $names) (and $isInstance (hasPrefix "MC_" $name))) }}
- {name: {{ $name }}, value: {{ include "pd.text" $value | replace "$(" "$$(" | toJson }}}
{{- end }}
{{- end }}
{{- end }}

{{/* Entries of a container's `env` from the Secret: dict "root" "names". Only the key of the control channel has to be there. */}}
{{- define "pd.secrets" -}}
{{- $secret := include "pd.secretName" .root }}
{{- range .names }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: {{ . }}, optional: {{ ne . "STACK_KEY" }}}}
{{- end }}
{{- end }}

{{/* Changes with the given secrets, so that who changes one gets new pods. A random key is not among them. */}}
{{- define "pd.secretsChecksum" -}}
{{- $given := list }}
{{- range $name := .names }}
{{- $given = append $given (index $.root.Values.env $name | default "") }}
{{- end }}
{{- if join "" $given }}
checksum/secrets: {{ join "\n" $given | sha256sum | trunc 8 | quote }}
{{- end }}
{{- end }}

{{/* Refuses, in one line each, what no schema can: it compares values, or says what else is right. */}}
{{- define "pd.check" -}}
{{- $problems := list }}
{{- $known := .Files.Get "files/variables.yaml" | fromYaml }}
{{- range $name, $value := .Values.env }}
{{- with index $known.elsewhere $name }}
{{- $problems = append $problems (printf "env.%s: in Kubernetes this is %s" $name .) }}
{{- end }}
{{- if and $.Values.secret.existing (has $name $known.secrets) (include "pd.isSet" $value) }}
{{- $problems = append $problems (printf "env.%s: secret.existing=%s has it; unset one of them" $name $.Values.secret.existing) }}
{{- end }}
{{- end }}
{{- $body := include "pd.setting" (dict "root" . "name" "PROXY_MAX_BODY_BYTES") | int64 }}
{{- $buffered := include "pd.setting" (dict "root" . "name" "PROXY_MAX_BUFFERED_BYTES") | int64 }}
{{- if lt $buffered $body }}
{{- $problems = append $problems (printf "env.PROXY_MAX_BUFFERED_BYTES=%d: expected at least PROXY_MAX_BODY_BYTES=%d" $buffered $body) }}
{{- end }}
{{- if and (eq (.Values.env.LOADTEST_ARRIVALS | default "") "trace") .Values.env.LOADTEST_STAGES }}
{{- $problems = append $problems "env.LOADTEST_STAGES: with LOADTEST_ARRIVALS=trace the trace has the rate; unset one of them" }}
{{- end }}
{{- range list "trace" "prompts" }}
{{- $file := printf "LOADTEST_%s_FILE" (upper .) }}
{{- if and (eq ($.Values.env.LOADTEST_WORKLOAD | default "") .) (not (index $.Values.env $file)) }}
{{- $problems = append $problems (printf "env.%s is unset: LOADTEST_WORKLOAD=%s sends this file" $file .) }}
{{- end }}
{{- end }}
{{- $tensor := .Values.env.TENSOR_PARALLEL_SIZE | default 1 | int }}
{{- $pipeline := .Values.env.PIPELINE_PARALLEL_SIZE | default 1 | int }}
{{- if gt (mul $tensor $pipeline) 16 }}
{{- $problems = append $problems (printf "env.TENSOR_PARALLEL_SIZE=%d, PIPELINE_PARALLEL_SIZE=%d: these are %d ranks, expected 16 or fewer" $tensor $pipeline (mul $tensor $pipeline)) }}
{{- end }}
{{- if and (eq (.Values.env.MOONCAKE_PROTOCOL | default "") "nvlink_intra") (not .Values.pair.enabled) (not .Values.instances.hostPID) }}
{{- $problems = append $problems "env.MOONCAKE_PROTOCOL=nvlink_intra: producer and consumer need one PID namespace; set pair.enabled, or instances.hostPID" }}
{{- end }}
{{- if and .Values.pair.enabled (ne .Values.autoscaling.kind "none") }}
{{- $problems = append $problems (printf "autoscaling.kind=%s: the two roles of a pair cannot be scaled apart; unset pair.enabled" .Values.autoscaling.kind) }}
{{- end }}
{{- if $problems }}
{{- fail (printf "\n%s" (join "\n" $problems)) }}
{{- end }}
{{- end }}
