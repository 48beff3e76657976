{{- define "rc.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 45 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 45 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "rc.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "rc.labels" -}}
{{ include "rc.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "rc.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/*
What every process is told: a dict of `root`, and `who` it is (a role, or migrate). The password comes by libpq's own
variable, so that no URL in a log has it.
*/}}
{{- define "rc.env" -}}
{{- with .root }}
{{- $database := mergeOverwrite (deepCopy .Values.database) (get .Values.database.users $.who | default dict) }}
- {name: RESOLUTION_KAFKA_SERVERS, value: {{ required "kafka.servers has to be given: Kafka's bootstrap servers" .Values.kafka.servers | quote }}}
- {name: RESOLUTION_TOPIC_PREFIX, value: {{ .Values.kafka.topicPrefix | quote }}}
{{- include "rc.env.kafka" (mergeOverwrite (deepCopy .Values.kafka.security) (get .Values.kafka.users $.who | default dict)) }}
- {name: RESOLUTION_DATABASE_URL, value: {{ required "database.url has to be given: postgresql://user@host/database, without a password" $database.url | quote }}}
- name: PGPASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ required "database.existingSecret has to be given: the name of a Secret with the password" $database.existingSecret }}
      key: {{ $database.passwordKey }}
{{- with .Values.masterKey.existingSecret }}
- name: RESOLUTION_MASTER_KEY
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.root.Values.masterKey.key }}
{{- end }}
- {name: RESOLUTION_METRICS_PORT, value: {{ .Values.metrics.port | quote }}}
- {name: RESOLUTION_METRICS_HOST, value: "0.0.0.0"}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{/* How to speak to Kafka, and as whom. */}}
{{- define "rc.env.kafka" -}}
{{- if .protocol }}
- {name: RESOLUTION_KAFKA_SECURITY_PROTOCOL, value: {{ .protocol | quote }}}
{{- with .caFile }}
- {name: RESOLUTION_KAFKA_TLS_CA_FILE, value: {{ . | quote }}}
{{- end }}
{{- if hasPrefix "SASL_" .protocol }}
- {name: RESOLUTION_KAFKA_SASL_MECHANISM, value: {{ .mechanism | quote }}}
- {name: RESOLUTION_KAFKA_SASL_USERNAME, value: {{ required "kafka.security.username has to be given with SASL" .username | quote }}}
- name: RESOLUTION_KAFKA_SASL_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ required "kafka.security.existingSecret has to be given with SASL: the name of a Secret with the password" .existingSecret }}
      key: {{ .passwordKey }}
{{- end }}
{{- end }}
{{- end }}

{{- define "rc.env.http" -}}
{{- $jwt := .Values.http.jwt }}
{{- if not (or $jwt.jwksUrl $jwt.key.secret $jwt.key.configMap) }}{{ fail "http.jwt.jwksUrl or http.jwt.key has to be given: without an issuer anybody could log in as anybody" }}{{ end }}
- {name: RESOLUTION_HTTP_HOST, value: "0.0.0.0"}
- {name: RESOLUTION_HTTP_PORT, value: {{ .Values.http.port | quote }}}
{{- with .Values.http.publicUrl }}
- {name: RESOLUTION_HTTP_PUBLIC_URL, value: {{ . | quote }}}
{{- end }}
{{- if $jwt.jwksUrl }}
- {name: RESOLUTION_JWT_JWKS_URL, value: {{ $jwt.jwksUrl | quote }}}
{{- else }}
- {name: RESOLUTION_JWT_KEY_FILE, value: /etc/resolution/jwt/key}
{{- end }}
{{- with $jwt.issuer }}
- {name: RESOLUTION_JWT_ISSUER, value: {{ . | quote }}}
{{- end }}
{{- with $jwt.audience }}
- {name: RESOLUTION_JWT_AUDIENCE, value: {{ . | quote }}}
{{- end }}
{{- with .Values.http.loginUrl }}
- {name: RESOLUTION_HTTP_LOGIN_URL, value: {{ . | quote }}}
{{- end }}
{{- end }}

{{/* The fields of a pod that keep it from doing harm, and where it may run. */}}
{{- define "rc.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "rc.container" -}}
image: {{ include "rc.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- with .Values.extraEnvFrom }}
envFrom: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}
