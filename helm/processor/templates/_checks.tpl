{{/* What would lose or delay jobs is refused before it is deployed. Arguments: root, part. */}}
{{- define "processor.checkPart" -}}
{{- $part := .part -}}
{{- $where := ternary (printf "workers.%s" $part.key) $part.key (eq $part.role "worker") -}}
{{- range $setting, $why := dict "worker.metrics_host" "each pod listens on its own address" "worker.group" "set `group` of the worker group" "kafka.group.instance.id" "set `kind: StatefulSet`" -}}
{{- $table := splitn "." 2 $setting -}}
{{- $given := get (default (dict) (get $part.settings $table._0)) $table._1 -}}
{{- if or (not (empty $given)) (hasKey $part.secrets $setting) -}}
{{- fail (printf "%s: %s is not set here: %s" $where $setting $why) -}}
{{- end -}}
{{- end -}}
{{- include "processor.checkSecrets" (dict "where" $where "prefix" "" "values" $part.settings) -}}
{{- range $setting, $entry := $part.secrets -}}
{{- if and (eq (include "processor.secretAs" $setting) "path") (eq (toString $entry.as) "content") -}}
{{- fail (printf "%s: %s names a file, and the content of the secret would become its path; leave `as` out" $where $setting) -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := $part.env -}}
{{- $named := regexMatch `(?i)(^|_)(secret|password|passphrase|passwd|token|credentials?|api_?key|private_key)(_access_key|_key|_value)?$` $name -}}
{{- /* A switch is no secret, nor is where credentials lie: GOOGLE_APPLICATION_CREDENTIALS is a path. */ -}}
{{- $harmless := or (has (toString $value) (list "" "true" "false")) (and (regexMatch `(?i)credentials?$` $name) (regexMatch `^(/[\w.-]+)+$` (toString $value))) -}}
{{- if or (hasKey $part.secrets $name) (and $named (not $harmless)) -}}
{{- fail (printf "%s: the variable %s holds a secret, and `env` is read by whoever reads the pod; put it into a Secret, and under `secrets`: {env: %s, secret: NAME, key: KEY}, which gives the program the path of a file" $where $name (ternary $name (printf "%s_FILE" $name) (hasKey $part.secrets $name))) -}}
{{- end -}}
{{- end -}}
{{- range $kind, $folder := dict "topics" "topics_dir" "schemas" "schemas_dir" -}}
{{- if and (get $.root.Values.contracts $kind) (hasKey $part.settings $folder) -}}
{{- fail (printf "%s: both contracts.%s and settings.%s are given; keep one" $where $kind $folder) -}}
{{- end -}}
{{- end -}}
{{- if ne $part.role "provision" -}}
{{- include "processor.checkStopping" (dict "root" .root "part" $part "where" $where) -}}
{{- end -}}
{{- if eq $part.role "worker" -}}
{{- include "processor.checkWorkers" (dict "part" $part "where" $where) -}}
{{- end -}}
{{- if and (eq $part.role "relay") (not (hasKey $part.secrets "outbox.url")) (not (dig "outbox" "url" "" $part.settings)) -}}
{{- fail "relay: no database is named whose outbox is meant; add the secret of the setting outbox.url" -}}
{{- end -}}
{{- end -}}

{{/* Settings are read by whoever reads the ConfigMap: no secret may be among them. Arguments: where, prefix, values. */}}
{{- define "processor.checkSecrets" -}}
{{- range $key, $value := .values -}}
{{- $setting := printf "%s%s" $.prefix $key -}}
{{- $named := and (regexMatch `password|passphrase|secret|jaas|token|key\.pem|ssl_key|oauthbearer\.config` $setting) (not (regexMatch `(\.url|\.location|_url)$` $setting)) -}}
{{- /* A query may hold an @ of its own, unless what comes before it begins with what can be no port. */ -}}
{{- $url := regexMatch `://[^:/@\[\s]*:([^@?\s]+|\d*[^\d@/?,\s][^@\s]*)@|[?&](ssl)?password=` (toString $value) -}}
{{- $url = or $url (regexMatch `https?://[^/?#\s,]+@` (toString $value)) -}}{{/* Where it is alone it is a token. */}}
{{- if kindIs "map" $value -}}
{{- include "processor.checkSecrets" (dict "where" $.where "prefix" (printf "%s." $setting) "values" $value) -}}
{{- else if or $url (and $named (not (kindIs "invalid" $value)) (ne (toString $value) "")) -}}
{{- fail (printf "%s: %s holds a secret, and settings are kept in a ConfigMap; put it into a Secret, and under `secrets`: {setting: %s, secret: NAME, key: KEY}" $.where $setting $setting) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether a secret is a setting's `content`, or a file whose `path` it is, by the setting's name. Argument: setting. */}}
{{- define "processor.secretAs" -}}
{{- ternary "path" "content" (regexMatch `[._](file|location|dir|keytab|paths?)$` .) -}}
{{- end -}}

{{/* Arguments: root, part, where. */}}
{{- define "processor.checkStopping" -}}
{{- $drain := include "processor.seconds" (dig "worker" "drain_seconds" "20s" .part.settings) | float64 -}}
{{- $shutdown := include "processor.seconds" (dig "worker" "shutdown_seconds" "30s" .part.settings) | float64 -}}
{{- $least := addf $drain .root.Values.commitSeconds -}}
{{- if lt $shutdown $least -}}
{{- fail (printf "%s: worker.shutdown_seconds is %v s, but the drain (%v s) and the last commit (%v s) may take %v s; raise it, or lower worker.drain_seconds" .where $shutdown $drain .root.Values.commitSeconds $least) -}}
{{- end -}}
{{- $grace := include "processor.graceSeconds" . | int -}}
{{- $needed := include "processor.stopSeconds" . | int -}}
{{- if lt $grace $needed -}}
{{- fail (printf "%s: terminationGracePeriodSeconds is %d, but stopping may take %d s (worker.shutdown_seconds, and 5 s for a supervisor); leave it out to have it computed" .where $grace $needed) -}}
{{- end -}}
{{- with .part.values.pool -}}
{{- $pool := get $.root.Values.pools . -}}
{{- if not $pool -}}
{{- fail (printf "%s: there is no pool %s; `pools` has %s" $.where (quote .) (keys $.root.Values.pools | sortAlpha | join ", ")) -}}
{{- end -}}
{{- if and $pool.noticeSeconds (gt $grace (int $pool.noticeSeconds)) -}}
{{- fail (printf "%s: a pod may take %d s to stop, but nodes of the pool %s go %d s after notice; lower worker.drain_seconds and worker.shutdown_seconds, or choose another pool" $.where $grace (quote .) (int $pool.noticeSeconds)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Arguments: part, where. */}}
{{- define "processor.checkWorkers" -}}
{{- $values := .part.values -}}
{{- if not $values.module -}}
{{- fail (printf "%s: name its app in `module`, such as mail:app" .where) -}}
{{- end -}}
{{- $ledger := dig "ledger" "url" "" .part.settings -}}
{{- if and (not $ledger) (not (hasKey .part.secrets "ledger.url")) -}}
{{- fail (printf "%s: no ledger is named; add the secret of the setting ledger.url (postgresql://…), or set ledger.url to none and read what that gives up" .where) -}}
{{- end -}}
{{- if hasPrefix "sqlite" $ledger -}}
{{- fail (printf "%s: a SQLite file in each pod is not one ledger: jobs would take effect twice; use postgresql://… or none" .where) -}}
{{- end -}}
{{- $partitions := int $values.partitions -}}
{{- if $values.autoscaling.enabled -}}
{{- if not $partitions -}}
{{- fail (printf "%s: autoscaling needs `partitions`: pods beyond them would have no work" .where) -}}
{{- end -}}
{{- if ne $values.kind "Deployment" -}}
{{- fail (printf "%s: autoscaling needs `kind: Deployment`: the partitions of a static member that is removed stand still for session.timeout.ms" .where) -}}
{{- end -}}
{{- else if and $partitions (gt (mul $values.replicas $values.processes | int) $partitions) -}}
{{- fail (printf "%s: %d pods of %d processes are more than the %d partitions; the rest would have no work" .where (int $values.replicas) (int $values.processes) $partitions) -}}
{{- end -}}
{{- if gt (int $values.processes) (int (default $values.processes $values.partitions)) -}}
{{- fail (printf "%s: %d processes in a pod are more than the %d partitions" .where (int $values.processes) $partitions) -}}
{{- end -}}
{{- end -}}

{{/* How long stopping may take at most. Arguments: part. */}}
{{- define "processor.stopSeconds" -}}
{{- $shutdown := include "processor.seconds" (dig "worker" "shutdown_seconds" "30s" .part.settings) | float64 -}}
{{- $overtime := ternary 5 0 (gt (int (default 1 .part.values.processes)) 1) -}}
{{- addf (ceil $shutdown) $overtime -}}
{{- end -}}

{{/* Arguments: part. */}}
{{- define "processor.graceSeconds" -}}
{{- $given := get .part.values "terminationGracePeriodSeconds" -}}
{{- if not $given -}}
{{- add (include "processor.stopSeconds" . | int) 5 -}}
{{- else -}}
{{- int $given -}}
{{- end -}}
{{- end -}}

{{/* The most pods that autoscaling makes: no more processes than partitions. Argument: part. */}}
{{- define "processor.podsMax" -}}
{{- min .values.autoscaling.maxReplicas (max 1 (div (int .values.partitions) (int .values.processes))) -}}
{{- end -}}

{{- define "processor.podsMin" -}}
{{- min .values.autoscaling.minReplicas (include "processor.podsMax" . | int) -}}
{{- end -}}
