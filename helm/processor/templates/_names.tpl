{{/* The name that all objects of the release begin with. */}}
{{- define "processor.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 30 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $whole := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- $whole | trunc 30 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects our pods; other charts of an umbrella share the release's name. Argument: root. */}}
{{- define "processor.ours" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* What selects a component's pods: never changes in an upgrade. Arguments: root, component. */}}
{{- define "processor.selector" -}}
{{ include "processor.ours" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* The labels of an object. Arguments: root, component. */}}
{{- define "processor.labels" -}}
{{ include "processor.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The name of a part's objects: the release's and the part's. Arguments: root, name. */}}
{{- define "processor.objectName" -}}
{{- printf "%s-%s" (include "processor.fullname" .root) .name -}}
{{- end -}}

{{/* Arguments: root, part. */}}
{{- define "processor.serviceAccountName" -}}
{{- $account := .part.values.serviceAccount -}}
{{- if $account.name -}}{{ $account.name }}
{{- else if $account.create -}}{{ include "processor.objectName" (dict "root" .root "name" .part.name) }}
{{- else -}}default
{{- end -}}
{{- end -}}
