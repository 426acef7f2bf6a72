// A chat with memory, with the AI SDK's `useChat`: no custom transport, no adapter.
import { useChat } from '@ai-sdk/react'
import { useState } from 'react'
import { createRoot } from 'react-dom/client'

// You choose the id of the session. It is in the address, so a reload opens the session again.
const id = (location.hash ||= `#${crypto.randomUUID()}`).slice(1)
// The history in the format of `useChat`. Until the first message creates the session: 404.
const stored = await fetch(`/api/chat-sessions/${id}/messages?format=ui`)
const history = stored.ok ? (await stored.json()).data.messages : []

function Chat() {
  // `resume` reads a running reply, which continued while the page was closed.
  const { messages, sendMessage, regenerate, status, error } = useChat({ id, messages: history, resume: stored.ok })
  const [editedId, setEditedId] = useState()
  const isBusy = status === 'submitted' || status === 'streaming'
  const send = (event) => {
    event.preventDefault()
    const { text, images } = event.target.elements
    // With a `messageId` it replaces that message. The server keeps both as branches.
    sendMessage({ text: text.value, files: images.files, messageId: editedId })
    setEditedId()
    event.target.reset()
  }
  // The `stop` of `useChat` would only disconnect. This ends the reply and keeps its text.
  const stop = () => fetch(`/api/chat/${id}/stop`, { method: 'POST' })
  return <>
    {messages.map(({ id: messageId, role, parts, metadata }) => <article key={messageId} className={role}>
      {parts.map((part, i) => part.type === 'text' ? part.text : part.type === 'file' && <img key={i} src={part.url} />)}
      <footer>{role === 'user'
        ? <button disabled={isBusy} onClick={() => setEditedId(messageId)}>Edit</button>
        : <>{metadata?.model} <button disabled={isBusy} onClick={() => regenerate({ messageId })}>Regenerate</button></>}</footer>
    </article>)}
    {error && <p role="alert">{error.message} <button onClick={() => regenerate()}>Try again</button></p>}
    <form onSubmit={send}>
      <input name="text" aria-label="Message" placeholder={editedId ? 'Edit the message' : 'Write a message'} required />
      <input name="images" aria-label="Images" type="file" accept="image/*" multiple />
      {isBusy ? <button type="button" onClick={stop}>Stop</button> : <button>Send</button>}
    </form>
  </>
}
createRoot(document.getElementById('page')).render(<Chat />)
