// Server-sent events read from a response, so that requests can carry headers.

/** Each event as `{id, event, data}`; ends where the body ends, throws where it breaks. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = fresh();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line === "" && event.data !== null) {
          yield event;
          event = fresh();
        } else {
          take(event, line);
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

const fresh = () => ({ id: null, event: "message", data: null });

function take(event, line) {
  const colon = line.indexOf(":");
  if (colon < 1) return;
  const value = line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
  const field = line.slice(0, colon);
  if (field === "data") event.data = event.data === null ? value : `${event.data}\n${value}`;
  if (field === "id" || field === "event") event[field] = value;
}
