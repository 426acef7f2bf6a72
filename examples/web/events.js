// A session, live in any number of tabs, without a library: one EventSource receives events, another
// reads the running reply. Open the address in two tabs to see it.

// You choose the id of the session. It is in the address.
const sessionId = (location.hash ||= `#${crypto.randomUUID()}`).slice(1)

/** Shows a message, or the part of it received so far. */
function show({ id, role, content }) {
  let element = document.getElementById(id)
  if (!element) {
    element = Object.assign(document.createElement('p'), { id, className: role })
    document.getElementById('messages').append(element)
  }
  element.textContent = content
}

/**
 * Listens to events of all of the user's sessions (`?sessionId=…` would limit them to one). Missed
 * events are not repeated: after every reconnect, read the stored messages.
 */
function listen() {
  const events = new EventSource('/api/events')
  const on = (name, handle) => events.addEventListener(name, ({ data }) => {
    const log = document.getElementById('events')
    log.append(Object.assign(document.createElement('li'), { textContent: data }))
    const event = JSON.parse(data)
    if (!event.sessionId || event.sessionId === sessionId) handle(event)
  })
  on('sync', catchUp) // the first event of every connection
  on('turn', ({ action }) => action === 'started' && follow())
  on('message', ({ message }) => show(message)) // sent for a reply once it is complete
  // The browser reconnects after a network error, but gives up after an error response, such as a
  // gateway's while the server restarts.
  events.onerror = () => events.readyState === EventSource.CLOSED && setTimeout(listen, 3000)
}

async function catchUp() {
  const response = await fetch(`/api/chat-sessions/${sessionId}/messages`)
  if (!response.ok) return // the first message creates the session
  for (const message of (await response.json()).data.messages) show(message)
  follow()
}

let stream

/**
 * Reads the running reply from its start. After a network error the browser reconnects with the id
 * of the last frame, and misses nothing. If no reply is running, the server responds with 204, which
 * closes an EventSource.
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
  const response = await fetch('/api/chat', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ id: sessionId, message }), // creates the session if it does not exist
  })
  // This response contains the reply too, but the EventSource reads it, as in every other tab.
  if (response.ok) response.body.cancel()
  else alert((await response.json()).message)
})

listen()
