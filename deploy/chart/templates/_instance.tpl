{{/* One vLLM server with its launcher, and what its pod needs. Each takes dict "root" and, for a container, "role". */}}

{{- define "pd.instance.port" -}}
{{ include "pd.setting" (dict "root" .root "name" (printf "%s_PORT" (upper .role))) }}
{{- end }}

{{/* Everything that a library wants to write outside the model's volume goes to memory. */}}
{{- define "pd.instance.folders" -}}
- {name: MODEL_DIR, value: /models}
- {name: HOME, value: /tmp}
- {name: HF_HOME, value: /models/.huggingface}
- {name: MODELSCOPE_CACHE, value: /models/.modelscope}
{{- end }}

{{- define "pd.instance.mounts" -}}
- {name: models, mountPath: /models}
- {name: tmp, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
{{- end }}

{{- define "pd.instance.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
{{- if .Values.instances.lockMemoryAsRoot }}
{{- /* An added capability is not effective for an ordinary user. */}}
runAsNonRoot: false
runAsUser: 0
capabilities: {drop: [ALL], add: [IPC_LOCK]}
{{- else }}
capabilities: {drop: [ALL]}
{{- end }}
{{- end }}

{{/* The model, if it is missing. Of several pods on one volume one does it, the others wait. */}}
{{- define "pd.instance.prepare" -}}
- name: prepare
  image: {{ include "pd.image" (dict "root" . "image" "vllm") }}
  imagePullPolicy: {{ .Values.images.pullPolicy }}
  command: [python, -m, stack.prepare]
  env:
    {{- include "pd.instance.folders" . | nindent 4 }}
    {{- with include "pd.variables" (dict "root" . "program" "prepare") | trim }}{{ . | nindent 4 }}{{ end }}
    {{- with include "pd.secrets" (dict "root" . "names" (list "STACK_KEY" "HF_TOKEN")) | trim }}{{ . | nindent 4 }}{{ end }}
    {{- with .Values.instances.extraEnv }}{{ toYaml . | nindent 4 }}{{ end }}
  securityContext: {{- include "pd.containerSecurity" . | nindent 4 }}
  resources: {{- include "pd.resources" .Values.model.resources | trim | nindent 4 }}
  volumeMounts: {{- include "pd.instance.mounts" . | nindent 4 }}
{{- end }}

{{- define "pd.instance.container" -}}
{{- $role := index .root.Values .role }}
{{- $control := include "pd.setting" (dict "root" .root "name" "CONTROL_PORT") | int }}
- name: {{ .role }}
  image: {{ include "pd.image" (dict "root" .root "image" "vllm") }}
  imagePullPolicy: {{ .root.Values.images.pullPolicy }}
  command: [python, -m, connector.instance.launcher]
  env:
    - {name: VLLM_DISTRIBUTED_KV_ROLE, value: {{ ternary "producer" "consumer" (eq .role "prefill") }}}
    - {name: VLLM_HOST_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    {{- if and .root.Values.instances.hostNetwork (not .root.Values.env.LISTEN_HOST) }}
    - {name: LISTEN_HOST, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    {{- else }}
    - {name: LISTEN_HOST, value: {{ .root.Values.env.LISTEN_HOST | default "0.0.0.0" | quote }}}
    {{- end }}
    - {name: ETCD_ENDPOINT, value: {{ include "pd.etcdEndpoint" .root | quote }}}
    {{- if $control }}
    - {name: CONTROL_PORT, value: {{ add $control (ternary 0 500 (eq .role "prefill")) | quote }}}
    {{- end }}
    {{- $devices := index .root.Values.env (printf "%s_CUDA_DEVICES" (upper .role)) }}
    {{- if include "pd.isSet" $devices }}
    - {name: CUDA_VISIBLE_DEVICES, value: {{ include "pd.text" $devices | quote }}}
    {{- end }}
    # `prepare` has downloaded what is missing, and calls between the parts go through no proxy.
    - {name: HF_HUB_OFFLINE, value: "1"}
    - {name: NO_PROXY, value: "*"}
    - {name: no_proxy, value: "*"}
    {{- include "pd.instance.folders" . | nindent 4 }}
    {{- with include "pd.variables" (dict "root" .root "program" "instance") | trim }}{{ . | nindent 4 }}{{ end }}
    {{- with include "pd.secrets" (dict "root" .root "names" (list "STACK_KEY" "OPENAI_API_KEY" "OTEL_EXPORTER_OTLP_HEADERS")) | trim }}{{ . | nindent 4 }}{{ end }}
    {{- with .root.Values.instances.extraEnv }}{{ toYaml . | nindent 4 }}{{ end }}
  ports:
    - {name: {{ .role }}, containerPort: {{ include "pd.instance.port" . }}, protocol: TCP}
  securityContext: {{- include "pd.instance.security" .root | nindent 4 }}
  # Loading takes a minute for the embedded model on two cores, many for a large one. A server that computes a long step
  # may be silent for a while: only minutes of silence are a failure. No preStop: on SIGTERM the launcher leaves etcd first.
  startupProbe:
    httpGet: {path: /health, port: {{ .role }}}
    periodSeconds: 5
    timeoutSeconds: 5
    failureThreshold: {{ div (include "pd.seconds" (dict "root" .root "name" "STACK_START_TIMEOUT_S") | int | add 4) 5 }}
  readinessProbe:
    httpGet: {path: /health, port: {{ .role }}}
    periodSeconds: 5
    timeoutSeconds: 5
    failureThreshold: 6
  livenessProbe:
    httpGet: {path: /health, port: {{ .role }}}
    periodSeconds: 10
    timeoutSeconds: 10
    failureThreshold: 12
  resources:
    {{- include "pd.resources" $role.resources | trim | nindent 4 }}
    {{- with $role.resourceClaims }}
    claims:
      {{- range . }}
      - {name: {{ .name }}}
      {{- end }}
    {{- end }}
  volumeMounts: {{- include "pd.instance.mounts" .root | nindent 4 }}
{{- end }}

{{/* The rest of the pod's spec: dict "root" "part" "roles" "place". */}}
{{- define "pd.instance.pod" -}}
{{- include "pd.placement" . }}
{{- /* The launcher ends vLLM within 15 s once the grace is over, and the kubelet must not be faster. */}}
terminationGracePeriodSeconds: {{ include "pd.seconds" (dict "root" .root "name" "SHUTDOWN_GRACE_S") | int | add 30 }}
securityContext: {{- include "pd.podSecurity" . | nindent 2 }}
{{- if .root.Values.instances.hostNetwork }}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
{{- if .root.Values.instances.hostPID }}
hostPID: true
{{- else if gt (len .roles) 1 }}
shareProcessNamespace: true
{{- end }}
{{- $claims := list }}
{{- range .roles }}
{{- range (index $.root.Values .).resourceClaims }}
{{- if not (has . $claims) }}{{ $claims = append $claims . }}{{ end }}
{{- end }}
{{- end }}
{{- with $claims }}
resourceClaims: {{- toYaml . | nindent 2 }}
{{- end }}
initContainers:
  {{- include "pd.instance.prepare" .root | nindent 2 }}
containers:
  {{- range .roles }}
  {{- include "pd.instance.container" (dict "root" $.root "role" .) | trim | nindent 2 }}
  {{- end }}
volumes:
  - name: models
    {{- toYaml (.root.Values.model.volume | default (dict "emptyDir" (dict))) | nindent 4 }}
  - {name: tmp, emptyDir: {medium: Memory, sizeLimit: {{ .root.Values.instances.tmpSize }}}}
  - {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ .root.Values.instances.shmSize }}}}
{{- end }}

{{/* Neither the embedded model nor a folder. */}}
{{- define "pd.modelComesFromAHub" -}}
{{- $model := include "pd.setting" (dict "root" . "name" "MODEL") }}
{{- if not (or (hasPrefix "/" $model) (eq $model "SmolLM2-135M-Instruct")) }}true{{ end }}
{{- end }}
