// A chat with memory, on the AI SDK's `useChat` as it comes: no transport, no adapter.
import { useChat } from '@ai-sdk/react'
import { useState } from 'react'
import { createRoot } from 'react-dom/client'

// The session's id is yours to choose. It stands in the address, so that a reload opens it again.
const id = (location.hash ||= `#${crypto.randomUUID()}`).slice(1)
// What was said so far, as `useChat` wants it. The first message makes the session; until then: 404.
const stored = await fetch(`/api/chat-sessions/${id}/messages?format=ui`)
const history = stored.ok ? (await stored.json()).data.messages : []

function Chat() {
  // `resume` takes up a reply that is being written: it went on while the page was closed.
  const { messages, sendMessage, regenerate, status, error } = useChat({ id, messages: history, resume: stored.ok })
  const [edited, setEdited] = useState() // the id of the message that is being put anew
  const isBusy = status === 'submitted' || status === 'streaming'
  const send = (event) => {
    event.preventDefault()
    const { text, pictures } = event.target.elements
    // With a `messageId` it takes that message's place; the server keeps both, as branches.
    sendMessage({ text: text.value, files: pictures.files, messageId: edited })
    setEdited()
    event.target.reset()
  }
  // The `stop` of `useChat` would only hang up. This ends the reply; what was said of it is kept.
  const stop = () => fetch(`/api/chat/${id}/stop`, { method: 'POST' })
  return <>
    {messages.map(({ id: messageId, role, parts, metadata }) => <article key={messageId} className={role}>
      {parts.map((part, i) => part.type === 'text' ? part.text : part.type === 'file' && <img key={i} src={part.url} />)}
      <footer>{role === 'user'
        ? <button disabled={isBusy} onClick={() => setEdited(messageId)}>Edit</button>
        : <>{metadata?.model} <button disabled={isBusy} onClick={() => regenerate({ messageId })}>Again</button></>}</footer>
    </article>)}
    {error && <p role="alert">{error.message} <button onClick={() => regenerate()}>Try again</button></p>}
    <form onSubmit={send}>
      <input name="text" aria-label="Message" placeholder={edited ? 'Put it anew' : 'Say something'} required />
      <input name="pictures" aria-label="Pictures" type="file" accept="image/*" multiple />
      {isBusy ? <button type="button" onClick={stop}>Stop</button> : <button>Send</button>}
    </form>
  </>
}
createRoot(document.getElementById('page')).render(<Chat />)
