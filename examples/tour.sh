#!/usr/bin/env bash
# A tour of the API with curl. Start the server with `cargo run --release`, and in another terminal:
#
#   examples/tour.sh
#
# It shows each command and the answer. ECHOIC_URL says where the server is, if not on this machine.
set -euo pipefail

url=${ECHOIC_URL:-http://127.0.0.1:8080}
session=tour-$(date +%s)-$$   # your own; or leave it out, and the server makes one

step() { printf '\n\n# %s\n' "$*"; }

# Shows a request and sends it. `-N`: print what arrives at once; `--json`: POST it, with the header for it.
ask() {
    printf '$ curl -sN %s\n' "$*"
    curl -sN --fail-with-body --max-time 60 "$@"
}

step "Say something. The first message makes the session; the reply streams, a frame at a time."
ask "$url/api/chat" --json '{"id": "'"$session"'", "message": {"id": "hello", "role": "user", "parts": [{"type": "text", "text": "My name is Ada."}]}}'

step "The session remembers. From now on, two fields are enough."
ask "$url/api/chat" --json '{"sessionId": "'"$session"'", "message": "Who am I?"}'

step "Hang up after the first frame: the reply goes on without us."
first=$(curl -sN "$url/api/chat" --json '{"sessionId": "'"$session"'", "message": "What is my name good for?"}' | sed -n '/^id: /{s///p;q}' || true)
echo "the first frame was $first"

step "Come back for what we missed, as an EventSource would: with the id of the last frame we saw."
ask "$url/api/chat/$session/stream" -H "Last-Event-ID: $first"

step "Stop a reply. What was said by then is kept."
curl -sN "$url/api/chat" --json '{"sessionId": "'"$session"'", "message": "Tell me a long story."}' | head -n 1 >/dev/null || true
ask -X POST "$url/api/chat/$session/stop"

step "Ask for that reply once more. It becomes a sibling: nothing is overwritten."
ask -X POST "$url/api/chat/$session/regenerate"

step "Edit the first message: a branch, with a reply of its own."
ask "$url/api/chat" --json '{"id": "'"$session"'", "message": {"id": "hello", "role": "user", "parts": [{"type": "text", "text": "My name is Eve."}]}}'

step "Read the conversation as it is shown now (\`view=all\`: every branch)."
ask "$url/api/chat-sessions/$session/messages"

step "What would the model be told next? No model is asked for that."
ask -G "$url/api/chat-sessions/$session/memory" --data-urlencode 'message=And who am I now?'

step "The same session in OpenAI's words: any of its libraries will do."
ask "$url/v1/chat/completions" --json '{"session_id": "'"$session"'", "model": "default", "messages": [{"role": "user", "content": "And who am I now?"}]}'

step "… and as one of OpenAI's conversations."
ask "$url/v1/conversations/conv_$session/items?order=asc&limit=2"

step "Take it away, to read it or to keep it."
ask "$url/api/export?sessionId=$session&format=markdown"

step "Find it, and delete it."
ask -G "$url/api/chat-sessions" --data-urlencode 'search=my name' -d limit=1
ask -X DELETE "$url/api/chat-sessions/$session"
echo
