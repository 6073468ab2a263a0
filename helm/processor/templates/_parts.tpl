{{/*
A part is a worker group, the relay or the provision job, as JSON: `name` of its objects, `role`,
`component`, its own `values`, and the `settings`, `secrets` and `env` that result from the common ones.
*/}}

{{/* One map laid over another, at every depth; false and 0 count. Argument: list of the two. */}}
{{- define "processor.merged" -}}
{{- $under := deepCopy (index . 0) -}}
{{- range $key, $value := index . 1 -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $under $key)) -}}
{{- $value = include "processor.merged" (list (get $under $key) $value) | fromJson -}}
{{- end -}}
{{- $_ := set $under $key $value -}}
{{- end -}}
{{- toJson $under -}}
{{- end -}}

{{/* Arguments: root, role, name, values. */}}
{{- define "processor.part" -}}
{{- $common := .root.Values -}}
{{- $bySetting := dict -}}
{{- /* Without a dot it is a variable, which handlers alone have a use for. */ -}}
{{- $needless := get (dict "worker" `^outbox\.` "relay" `^((encryption|ledger|registry|s3)\.|[^.]+$)` "provision" `^((encryption|ledger|outbox|s3)\.|[^.]+$)`) .role -}}
{{- range $common.secrets -}}
{{- if not (regexMatch $needless (default .env .setting)) -}}
{{- $_ := set $bySetting (default .env .setting) . -}}
{{- end -}}
{{- end -}}
{{- range .values.secrets -}}
{{- $_ := set $bySetting (default .env .setting) . -}}
{{- end -}}
{{- $settings := include "processor.merged" (list $common.settings .values.settings) | fromJson -}}
{{- $component := ternary (printf "worker-%s" .name) .name (eq .role "worker") -}}
{{- $part := dict "name" $component "role" .role "component" $component "values" .values -}}
{{- $_ := set $part "key" .name -}}
{{- $_ := set $part "settings" $settings -}}
{{- $_ := set $part "secrets" $bySetting -}}
{{- $_ := set $part "env" (merge (dict) .values.env $common.env) -}}
{{- $_ := set $part "image" (default (dict) .values.image) -}}
{{- include "processor.checkPart" (dict "root" .root "part" $part) -}}
{{- toJson $part -}}
{{- end -}}

{{/* Arguments: root, name. */}}
{{- define "processor.group" -}}
{{- $own := default (dict) (get .root.Values.workers .name) -}}
{{- $values := include "processor.merged" (list .root.Values.workerDefaults $own) | fromJson -}}
{{- $image := include "processor.imageOver" (list .root.Values.workerDefaults.image $own.image) | fromJson -}}
{{- $_ := set $values "image" $image -}}
{{- include "processor.part" (dict "root" .root "role" "worker" "name" .name "values" $values) -}}
{{- end -}}

{{- define "processor.relay" -}}
{{- include "processor.part" (dict "root" . "role" "relay" "name" "relay" "values" .Values.relay) -}}
{{- end -}}

{{- define "processor.provision" -}}
{{- include "processor.part" (dict "root" . "role" "provision" "name" "provision" "values" .Values.provision) -}}
{{- end -}}

{{/* The consumer group of a worker group. Argument: part. */}}
{{- define "processor.consumerGroup" -}}
{{- default .key .values.group -}}
{{- end -}}
