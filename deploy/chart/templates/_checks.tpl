{{/* Refuses, in one line each, what no schema can: it compares values, says what else is right, or must not show a secret. */}}
{{- define "pd.check" -}}
{{- $problems := include "pd.check.variables" . | fromJsonArray }}
{{- $problems = concat $problems (include "pd.check.values" . | fromJsonArray) }}
{{- if $problems }}
{{- fail (printf "\n%s" (join "\n" $problems)) }}
{{- end }}
{{- end }}

{{- define "pd.check.variables" -}}
{{- $problems := list }}
{{- $env := .Values.env }}
{{- $known := .Files.Get "files/variables.yaml" | fromYaml }}
{{- range $name, $value := $env }}
{{- with index $known.elsewhere $name }}
{{- $problems = append $problems (printf "env.%s: in Kubernetes this is %s" $name .) }}
{{- end }}
{{- if and $.Values.secret.existing (has $name $known.secrets) (include "pd.isSet" $value) }}
{{- $problems = append $problems (printf "env.%s: secret.existing=%s has it; unset one of them" $name $.Values.secret.existing) }}
{{- end }}
{{- end }}
{{- range $name := list "ETCD_ENDPOINT" "LOADTEST_TARGET" "LOADTEST_TOKENIZER" "OTEL_EXPORTER_OTLP_ENDPOINT" "PROXY_PEERS" }}
{{- if contains "@" (index $env $name | default "") }}
{{- $problems = append $problems (printf "env.%s: expected an address without a user and a password" $name) }}
{{- end }}
{{- end }}
{{- range $number, $entry := splitList "," ($env.PROXY_API_KEYS | default "a:b") }}
{{- if not (regexMatch "^[A-Za-z0-9_.-]{1,64}:[!-~]+$" (trim $entry)) }}
{{- $problems = append $problems (printf "env.PROXY_API_KEYS, entry %d: expected name:key, the name of 1 to 64 of A-Z a-z 0-9 _ . -, the key of visible ASCII" (add1 $number)) }}
{{- end }}
{{- end }}
{{- if and $env.PROXY_PEERS (gt (int ($env.PROXY_WORKERS | default 1)) 1) }}
{{- $problems = append $problems (printf "env.PROXY_PEERS=%s: expected PROXY_WORKERS=1; raise proxy.replicas instead" $env.PROXY_PEERS) }}
{{- end }}
{{- $body := include "pd.setting" (dict "root" . "name" "PROXY_MAX_BODY_BYTES") | int64 }}
{{- $buffered := include "pd.setting" (dict "root" . "name" "PROXY_MAX_BUFFERED_BYTES") | int64 }}
{{- if lt $buffered $body }}
{{- $problems = append $problems (printf "env.PROXY_MAX_BUFFERED_BYTES=%d: expected at least PROXY_MAX_BODY_BYTES=%d" $buffered $body) }}
{{- end }}
{{- if and (eq ($env.LOADTEST_ARRIVALS | default "") "trace") $env.LOADTEST_STAGES }}
{{- $problems = append $problems "env.LOADTEST_STAGES: with LOADTEST_ARRIVALS=trace the trace has the rate; unset one of them" }}
{{- end }}
{{- range list "trace" "prompts" }}
{{- $file := printf "LOADTEST_%s_FILE" (upper .) }}
{{- if and (eq ($env.LOADTEST_WORKLOAD | default "") .) (not (index $env $file)) }}
{{- $problems = append $problems (printf "env.%s is unset: LOADTEST_WORKLOAD=%s sends this file" $file .) }}
{{- end }}
{{- end }}
{{- $tensor := $env.TENSOR_PARALLEL_SIZE | default 1 | int }}
{{- $pipeline := $env.PIPELINE_PARALLEL_SIZE | default 1 | int }}
{{- if gt (mul $tensor $pipeline) 16 }}
{{- $problems = append $problems (printf "env.TENSOR_PARALLEL_SIZE=%d, PIPELINE_PARALLEL_SIZE=%d: these are %d ranks, expected 16 or fewer" $tensor $pipeline (mul $tensor $pipeline)) }}
{{- end }}
{{- toJson $problems }}
{{- end }}

{{- define "pd.check.values" -}}
{{- $problems := list }}
{{- range $name, $image := omit .Values.images "registry" "pullPolicy" "pullSecrets" }}
{{- if and (eq $image.tag "latest") (empty $image.digest) }}
{{- $problems = append $problems (printf "images.%s.tag=latest: expected a version, or a digest beside it; nobody knows what latest is tomorrow" $name) }}
{{- end }}
{{- end }}
{{- $ranks := mul (.Values.env.TENSOR_PARALLEL_SIZE | default 1 | int) (.Values.env.PIPELINE_PARALLEL_SIZE | default 1 | int) }}
{{- range $role := list "prefill" "decode" }}
{{- $gpus := dig "limits" "nvidia.com/gpu" "" (index $.Values $role).resources }}
{{- if and (include "pd.isSet" $gpus) (lt (int $gpus) (int $ranks)) }}
{{- $problems = append $problems (printf "%s.resources.limits.nvidia.com/gpu=%d: expected one for each of %d ranks (env.TENSOR_PARALLEL_SIZE, env.PIPELINE_PARALLEL_SIZE)" $role (int $gpus) $ranks) }}
{{- end }}
{{- end }}
{{- if and (eq (.Values.env.MOONCAKE_PROTOCOL | default "") "nvlink_intra") (not .Values.pair.enabled) (not .Values.instances.hostPID) }}
{{- $problems = append $problems "env.MOONCAKE_PROTOCOL=nvlink_intra: producer and consumer need one PID namespace; set pair.enabled, or instances.hostPID" }}
{{- end }}
{{- if ne .Values.autoscaling.kind "none" }}
{{- if .Values.pair.enabled }}
{{- $problems = append $problems (printf "autoscaling.kind=%s: the two roles of a pair cannot be scaled apart; unset pair.enabled" .Values.autoscaling.kind) }}
{{- end }}
{{- range $role := list "prefill" "decode" }}
{{- $bounds := index $.Values.autoscaling $role }}
{{- if lt (int $bounds.maxReplicas) (int $bounds.minReplicas) }}
{{- $problems = append $problems (printf "autoscaling.%s.maxReplicas=%d: expected at least minReplicas=%d" $role (int $bounds.maxReplicas) (int $bounds.minReplicas)) }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $problems }}
{{- end }}
