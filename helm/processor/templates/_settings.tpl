{{/* processor.toml of a part. Arguments: root, part. */}}
{{- define "processor.toml" -}}
{{- $settings := deepCopy .part.settings -}}
{{- range $kind, $folder := dict "topics" "topics_dir" "schemas" "schemas_dir" -}}
{{- if get $.root.Values.contracts $kind -}}
{{- $_ := set $settings $folder (printf "/etc/processor/%s" $kind) -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := $settings -}}
{{- if not (kindIs "map" $value) }}
{{ $name }} = {{ include "processor.tomlValue" $value }}
{{- end -}}
{{- end -}}
{{- range $table, $values := $settings -}}
{{- if kindIs "map" $values }}

[{{ $table }}]
{{- include "processor.tomlEntries" (list "" $values) }}
{{- end -}}
{{- end }}
{{ end -}}

{{/* The entries of a table, those of tables in it by dotted names. Argument: list of prefix, map. */}}
{{- define "processor.tomlEntries" -}}
{{- $prefix := index . 0 -}}
{{- range $name, $value := index . 1 -}}
{{- if kindIs "map" $value -}}
{{- include "processor.tomlEntries" (list (printf "%s%s." $prefix (quote $name)) $value) -}}
{{- else if not (kindIs "invalid" $value) }}
{{ $prefix }}{{ quote $name }} = {{ include "processor.tomlValue" $value }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Helm reads whole numbers as floats; clients want them as they were written. */}}
{{- define "processor.tomlValue" -}}
{{- if kindIs "slice" . -}}
{{- $entries := list -}}
{{- range . -}}{{- $entries = append $entries (include "processor.tomlValue" .) -}}{{- end -}}
[{{ join ", " $entries }}]
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . -}}
{{- else -}}
{{- toJson . -}}
{{- end -}}
{{- end -}}

{{/* Seconds of a duration as settings have it: 90, 90s, 1m30s, 500ms. */}}
{{- define "processor.seconds" -}}
{{- $text := toString . | trim -}}
{{- $units := dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0 -}}
{{- $total := 0.0 -}}
{{- if regexMatch `^\d+(\.\d+)?$` $text -}}
{{- $total = float64 $text -}}
{{- else if regexMatch `^(\d+(\.\d+)?(ms|s|m|h|d)\s*)+$` $text -}}
{{- range regexFindAll `\d+(\.\d+)?(ms|s|m|h|d)` $text -1 -}}
{{- $number := regexFind `^[\d.]+` . | float64 -}}
{{- $total = addf $total (mulf $number (get $units (regexFind `[a-z]+$` .))) -}}
{{- end -}}
{{- else -}}
{{- fail (printf "%s is no duration: write seconds, or like 500ms, 90s, 5m" (quote $text)) -}}
{{- end -}}
{{- $total -}}
{{- end -}}

{{/* The data of a part's ConfigMap. Arguments: root, part. */}}
{{- define "processor.configData" -}}
processor.toml: |
  {{- include "processor.toml" . | nindent 2 }}
{{- range $kind := list "topics" "schemas" }}
{{- range $name, $text := get $.root.Values.contracts $kind }}
{{ printf "%s.%s" $kind $name }}: {{ toJson $text }}
{{- end }}
{{- end }}
{{- end -}}
