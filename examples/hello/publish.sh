#!/bin/sh
# ./publish.sh [TEXT]: publishes one message to the channel `hello`, with nothing but curl.
set -eu
: "${RINGCAST_KEY:?is the key that ringcast serve has printed}"

# JSON wants quotes and backslashes escaped.
text=$(printf %s "${1:-hello, world}" | sed 's/[\\"]/\\&/g')

curl --fail-with-body --silent --show-error --user "$RINGCAST_KEY" \
  "http://${RINGCAST_ADDRESS:-127.0.0.1:8080}/channels/hello/messages" \
  --header 'Content-Type: application/json' \
  --data "{\"name\":\"greeting\",\"data\":\"$text\"}"
echo
