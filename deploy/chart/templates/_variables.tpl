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
