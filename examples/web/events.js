// A session, live in any number of tabs, without a library: one EventSource tells what happens,
// another reads the reply that is being written. Open the page's address twice to see it.

// The session's id is yours to choose, and stands in the address.
const sessionId = (location.hash ||= `#${crypto.randomUUID()}`).slice(1)

/** Shows a message, or what is known of it by now. */
function show({ id, role, content }) {
  let shown = document.getElementById(id)
  if (!shown) {
    shown = Object.assign(document.createElement('p'), { id, className: role })
    document.getElementById('messages').append(shown)
  }
  shown.textContent = content
}

/**
 * Tells what happens in all of the user's sessions; this page shows one. (`?sessionId=…` would tell
 * of one.) Events are not repeated: after every break, read what is stored.
 */
function listen() {
  const events = new EventSource('/api/events')
  const on = (name, react) => events.addEventListener(name, ({ data }) => {
    const log = document.getElementById('events')
    log.append(Object.assign(document.createElement('li'), { textContent: data }))
    const event = JSON.parse(data)
    if (!event.sessionId || event.sessionId === sessionId) react(event)
  })
  on('sync', catchUp) // the first event of every connection
  on('turn', ({ action }) => action === 'started' && follow())
  on('message', ({ message }) => show(message)) // a reply is one message, when it is done
  // A lost network is the browser's matter. It gives up on an answer that is an error, such as a
  // gateway's while the server restarts.
  events.onerror = () => events.readyState === EventSource.CLOSED && setTimeout(listen, 3000)
}

async function catchUp() {
  const answer = await fetch(`/api/chat-sessions/${sessionId}/messages`)
  if (!answer.ok) return // the session begins with its first message
  for (const message of (await answer.json()).data.messages) show(message)
  follow()
}

let stream

/**
 * Reads the running reply from its first word. Should the network break, the browser comes back by
 * itself, with the id of the last frame it got, and misses nothing. Where nothing runs the answer is
 * 204, at which an EventSource closes.
 */
function follow() {
  if (stream && stream.readyState !== EventSource.CLOSED) return
  let message
  stream = new EventSource(`/api/chat/${sessionId}/stream`)
  stream.onmessage = ({ data }) => {
    if (data === '[DONE]') return stream.close()
    const frame = JSON.parse(data)
    if (frame.type === 'start') message = { id: frame.messageId, role: 'assistant', content: '' }
    if (frame.type === 'text-delta') message.content += frame.delta
    if (message.content) show(message)
  }
}

document.querySelector('form').addEventListener('submit', async (event) => {
  event.preventDefault()
  const text = event.target.elements.text.value
  event.target.reset()
  const message = { id: crypto.randomUUID(), role: 'user', parts: [{ type: 'text', text }] }
  const answer = await fetch('/api/chat', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ id: sessionId, message }), // makes the session, if there is none
  })
  // The reply is in this answer, too, but EventSource reads it here, as in every other tab.
  if (answer.ok) answer.body.cancel()
  else alert((await answer.json()).message)
})

listen()
