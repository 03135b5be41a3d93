#!/bin/sh
# A conversation with curl alone: sh examples/curl.sh [URL]
# Needs a running gateway (ccapi serve --demo).
set -eu
url=${1:-http://127.0.0.1:8080}
headers=$(mktemp)
trap 'rm -f "$headers"' EXIT

curl --silent --show-error --fail --dump-header "$headers" "$url/v1/chat/completions" \
    --header 'content-type: application/json' \
    --data '{"model": "sonnet", "messages": [{"role": "user", "content": "My name is Ada."}]}'
echo

conversation=$(tr -d '\r' <"$headers" | sed -n 's/^x-conversation-id: //p')
curl --silent --show-error --fail --no-buffer "$url/v1/chat/completions" \
    --header 'content-type: application/json' \
    --header "x-conversation-id: $conversation" \
    --data '{"model": "sonnet", "stream": true,
             "messages": [{"role": "user", "content": "What did I say first?"}]}'
