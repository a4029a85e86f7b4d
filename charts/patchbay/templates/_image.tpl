{{- /* The image of our program. */ -}}
{{- define "patchbay.image" -}}
{{- $where := required "image.repository is not set: it is where the nodes pull the image from that `make images` has made, for example --set image.repository=registry.example/patchbay" .Values.image.repository -}}
{{ $where }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
