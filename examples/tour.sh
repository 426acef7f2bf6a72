#!/usr/bin/env bash
# A tour of the API with curl. Start the server with `cargo run --release`, then run in another terminal:
#
#   examples/tour.sh
#
# It prints each command and its response. Set ECHOIC_URL if the server is on another machine.
set -euo pipefail

url=${ECHOIC_URL:-http://127.0.0.1:8080}
session=tour-$(date +%s)-$$   # your own id; without one the server generates it

step() { printf '\n\n# %s\n' "$*"; }

# Prints a request and sends it. `-N` disables buffering, `--json` sends a POST with a JSON body.
ask() {
    printf '$ curl -sN %s\n' "$*"
    curl -sN --fail-with-body --max-time 60 "$@"
}

step "Send a message. The first one creates the session; the reply streams frame by frame."
ask "$url/api/chat" --json '{"id": "'"$session"'", "message": {"id": "hello", "role": "user", "parts": [{"type": "text", "text": "My name is Ada."}]}}'

step "Send another. The session remembers the first, so two fields are enough."
ask "$url/api/chat" --json '{"sessionId": "'"$session"'", "message": "Who am I?"}'

step "Disconnect after the first frame: the reply continues on the server."
first=$(curl -sN "$url/api/chat" --json '{"sessionId": "'"$session"'", "message": "What is my name good for?"}' | sed -n '/^id: /{s///p;q}' || true)
echo "the first frame was $first"

step "Resume the stream like an EventSource, with the id of the last frame."
ask "$url/api/chat/$session/stream" -H "Last-Event-ID: $first"

step "Stop a reply. The text so far is kept."
curl -sN "$url/api/chat" --json '{"sessionId": "'"$session"'", "message": "Tell me a long story."}' | head -n 1 >/dev/null || true
ask -X POST "$url/api/chat/$session/stop"

step "Regenerate the reply. The new one becomes a sibling; nothing is overwritten."
ask -X POST "$url/api/chat/$session/regenerate"

step "Edit the first message. That starts a branch with its own reply."
ask "$url/api/chat" --json '{"id": "'"$session"'", "message": {"id": "hello", "role": "user", "parts": [{"type": "text", "text": "My name is Eve."}]}}'

step "Read the current branch of the conversation (\`view=all\` returns every branch)."
ask "$url/api/chat-sessions/$session/messages"

step "Preview the next prompt. This does not call the model."
ask -G "$url/api/chat-sessions/$session/memory" --data-urlencode 'message=And who am I now?'

step "Use the same session through OpenAI's API, with any OpenAI library."
ask "$url/v1/chat/completions" --json '{"session_id": "'"$session"'", "model": "default", "messages": [{"role": "user", "content": "And who am I now?"}]}'

step "Read it as one of OpenAI's conversations."
ask "$url/v1/conversations/conv_$session/items?order=asc&limit=2"

step "Export it as Markdown."
ask "$url/api/export?sessionId=$session&format=markdown"

step "Find it, and delete it."
ask -G "$url/api/chat-sessions" --data-urlencode 'search=my name' -d limit=1
ask -X DELETE "$url/api/chat-sessions/$session"
echo
