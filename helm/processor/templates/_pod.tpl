{{/* Arguments: root, part. */}}
{{- define "processor.image" -}}
{{- $image := include "processor.imageOver" (list .root.Values.image .part.image) | fromJson -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default .root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* One image laid over another, whose digest is that of its own repository and tag. Argument: list of the two. */}}
{{- define "processor.imageOver" -}}
{{- $under := default (dict) (index . 0) -}}
{{- $over := default (dict) (index . 1) -}}
{{- if or $over.repository $over.tag -}}
{{- $under = omit $under "digest" -}}
{{- end -}}
{{- include "processor.merged" (list $under $over) -}}
{{- end -}}

{{/* What all pods have in common. Arguments: root, part. */}}
{{- define "processor.podCommon" -}}
serviceAccountName: {{ include "processor.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false # Variables of Services called processor-… would look like settings.
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ int .root.Values.user.id }}
  runAsGroup: {{ int .root.Values.user.group }}
  fsGroup: {{ int .root.Values.user.group }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{/* What all containers have in common. Arguments: root, part. */}}
{{- define "processor.containerCommon" -}}
image: {{ include "processor.image" . | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
command: [processor]
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
env:
  {{- include "processor.env" . | nindent 2 }}
volumeMounts:
  - name: config
    mountPath: /etc/processor
    readOnly: true
  {{- if .part.secrets }}
  - name: secrets
    mountPath: /run/secrets/processor
    readOnly: true
  {{- end }}
  - name: tmp
    mountPath: /tmp
  - name: state
    mountPath: /var/lib/processor
resources:
  {{- toYaml .part.values.resources | nindent 2 }}
{{- end -}}

{{/* Arguments: root, part. */}}
{{- define "processor.env" -}}
- name: PROCESSOR_CONFIG
  value: /etc/processor/processor.toml
- name: HOME
  value: /tmp
{{- if ne .part.role "provision" }}
- name: PROCESSOR_WORKER_METRICS_HOST
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
{{- end }}
{{- if eq .part.role "worker" }}
- name: PROCESSOR_WORKER_GROUP # Also for what is typed in the pod: lag, why, dead.
  value: {{ include "processor.consumerGroup" .part | quote }}
{{- end }}
{{- if eq (toString (get .part.values "kind")) "StatefulSet" }}
- name: PROCESSOR_KAFKA_GROUP_INSTANCE_ID
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- end }}
{{- range $setting, $entry := .part.secrets }}
- name: {{ if $entry.env }}{{ $entry.env | quote }}{{ else }}PROCESSOR_{{ $setting | replace "." "_" | upper }}{{ ternary "" "_FILE" (eq (default (include "processor.secretAs" $setting) $entry.as) "path") }}{{ end }}
  value: /run/secrets/processor/{{ $entry.secret }}/{{ $entry.key }}
{{- end }}
{{- range $name, $value := .part.env }}
- name: {{ $name | quote }}
  value: {{ ternary $value (toJson $value) (kindIs "string" $value) | quote }}
{{- end }}
{{- end -}}

{{/* Arguments: root, part. */}}
{{- define "processor.volumes" -}}
- name: config
  configMap:
    name: {{ include "processor.objectName" (dict "root" .root "name" .part.name) }}
    items:
      - key: processor.toml
        path: processor.toml
      {{- range $kind := list "topics" "schemas" }}
      {{- range $name, $_ := get $.root.Values.contracts $kind }}
      - key: {{ printf "%s.%s" $kind $name }}
        path: {{ $kind }}/{{ $name }}
      {{- end }}
      {{- end }}
{{- if .part.secrets }}
- name: secrets
  projected:
    # Readable for the owner alone; the kubelet lets the pod's group (fsGroup) read, too.
    defaultMode: 0400
    sources:
      {{- $bySecret := dict }}
      {{- range $_, $entry := .part.secrets }}
      {{- $_ := set $bySecret $entry.secret (append (default (list) (get $bySecret $entry.secret)) $entry.key | uniq) }}
      {{- end }}
      {{- range $secret, $names := $bySecret }}
      - secret:
          name: {{ $secret }}
          items:
            {{- range $names }}
            - key: {{ . }}
              path: {{ $secret }}/{{ . }}
            {{- end }}
      {{- end }}
{{- end }}
- name: tmp
  emptyDir:
    sizeLimit: {{ dig "tmp" "sizeLimit" "1Gi" .part.values }}
- name: state
  emptyDir:
    sizeLimit: {{ dig "state" "sizeLimit" "1Gi" .part.values }}
{{- end -}}

{{/* Ports and probes of something that serves them. Arguments: root, part. */}}
{{- define "processor.probed" -}}
{{- $first := int .part.settings.worker.metrics_port -}}
{{- $processes := int (default 1 .part.values.processes) -}}
{{- $probes := default .root.Values.workerDefaults.probes .part.values.probes -}}
ports:
  {{- range $n := until $processes }}
  - name: {{ ternary "metrics" (printf "metrics-%d" $n) (eq $n 0) }}
    containerPort: {{ add $first $n }}
    protocol: TCP
  {{- end }}
{{- range $kind, $path := dict "startup" "/readyz" "readiness" "/readyz" "liveness" "/healthz" }}
{{- $probe := get $probes $kind }}
{{ $kind }}Probe:
  {{- if eq $processes 1 }}
  httpGet:
    path: {{ $path }}
    port: metrics
  {{- else }}
  exec: # All processes of the pod must answer.
    command: [python, -m, processor.probe, {{ $path }}{{ range $n := until $processes }}, {{ add $first $n | toString | quote }}{{ end }}]
  {{- end }}
  periodSeconds: {{ int $probe.periodSeconds }}
  failureThreshold: {{ int $probe.failureThreshold }}
  timeoutSeconds: {{ int $probes.timeoutSeconds }}
{{- end }}
{{- end -}}

{{/* Where the pods run. Arguments: root, part. */}}
{{- define "processor.placement" -}}
{{- $pool := get .root.Values.pools (default "" .part.values.pool) | default (dict) -}}
{{- with merge (dict) (default (dict) .part.values.nodeSelector) (default (dict) $pool.nodeSelector) }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with concat (default (list) .part.values.tolerations) (default (list) $pool.tolerations) }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- $spread := default .root.Values.workerDefaults.topologySpread .part.values.topologySpread }}
{{- with $spread.topologyKeys }}
topologySpreadConstraints:
  {{- range . }}
  - topologyKey: {{ . }}
    maxSkew: {{ int $spread.maxSkew }}
    whenUnsatisfiable: {{ $spread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "processor.selector" (dict "root" $.root "component" $.part.component) | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Labels and annotations of a pod. Arguments: root, part. */}}
{{- define "processor.podMetadata" -}}
labels:
  {{- include "processor.labels" (dict "root" .root "component" .part.component) | nindent 2 }}
  {{- with .part.values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  # Pods read their settings once, so changed ones are rolled out.
  checksum/config: {{ include "processor.configData" . | sha256sum }}
  {{- with .part.values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}
