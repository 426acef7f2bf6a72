#!/usr/bin/env bash
# The container's health check: succeeds if the server is ready for turns. Written in bash because
# the image has no HTTP client. The caller sets the deadline.
set -euo pipefail
exec 3<>"/dev/tcp/127.0.0.1/${PORT:-8080}"
printf 'GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
read -r _ status _ <&3
[[ $status == 200 ]]
