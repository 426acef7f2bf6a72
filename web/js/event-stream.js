// Server-sent events: the connection to `/api/events`, which reports changes in the user's chats,
// and a reader for any stream. EventSource cannot send the key in a header.

import { ApiError, request } from "./api.js";

const FIRST_DELAY_MS = 500;
const MAX_DELAY_MS = 15_000;
/** The server sends a heartbeat every 15 s, so a longer silence means a dead connection. */
const SILENCE_MS = 40_000;

class EventStream extends EventTarget {
  /** @type {ConnectionState} */
  state = "connecting";
  #retryDelay = FIRST_DELAY_MS;
  #endWait = () => {};
  #connection = new AbortController();

  /**
   * @template {keyof ServerEvents} Type
   * @param {Type} type
   * @param {(event: ServerEvents[Type]) => unknown} handler
   */
  on(type, handler) {
    this.addEventListener(type, (event) => event instanceof CustomEvent && handler(event.detail));
  }

  start() {
    addEventListener("online", () => this.#reconnect());
    addEventListener("unauthenticated", () => this.#setState("unauthenticated"));
    // The browser may be wrong: a server on this machine is still reachable.
    addEventListener("offline", () => this.state === "unauthenticated" || this.retry());
    document.addEventListener("visibilitychange", () => document.hidden || this.#reconnect());
    this.#keepConnected();
  }

  /** Reconnects at once, even if connected. The only way out of `unauthenticated`. */
  retry() {
    this.#retryDelay = 0;
    this.#connection.abort();
    this.#endWait();
  }

  #reconnect() {
    if (this.state !== "unauthenticated") this.#endWait();
  }

  async #keepConnected() {
    for (;;) {
      const needsKey = await this.#receive();
      this.#setState(needsKey ? "unauthenticated" : "offline");
      await new Promise((/** @type {(value?: unknown) => void} */ resolve) => {
        this.#endWait = resolve;
        if (!needsKey) setTimeout(resolve, this.#retryDelay);
      });
      this.#endWait = () => {};
      this.#retryDelay = Math.min(this.#retryDelay * 2 || FIRST_DELAY_MS, MAX_DELAY_MS);
      this.#setState("connecting");
    }
  }

  /** Dispatches events until the connection ends. Returns whether a key was missing. */
  async #receive() {
    const connection = new AbortController();
    this.#connection = connection;
    try {
      const response = await request("GET", "/api/events", { signal: connection.signal });
      const body = response.body?.pipeThrough(detectSilence(() => connection.abort())) ?? null;
      for await (const { data } of readEvents({ body })) {
        const event = JSON.parse(data);
        if (event.type === "sync") {
          this.#retryDelay = FIRST_DELAY_MS;
          this.#setState("live");
        }
        this.dispatchEvent(new CustomEvent(event.type, { detail: event }));
      }
      return false;
    } catch (error) {
      return error instanceof ApiError && error.status === 401;
    } finally {
      connection.abort();
    }
  }

  /** @param {ConnectionState} state */
  #setState(state) {
    if (state === this.state) return;
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: state }));
  }
}

/**
 * Passes bytes through, and calls `onSilence` when none arrive in time.
 *
 * @param {() => void} onSilence
 * @returns {ByteTransform}
 */
function detectSilence(onSilence) {
  let timer = setTimeout(onSilence, SILENCE_MS);
  return new TransformStream({
    transform(chunk, controller) {
      clearTimeout(timer);
      timer = setTimeout(onSilence, SILENCE_MS);
      controller.enqueue(chunk);
    },
    flush: () => clearTimeout(timer),
  });
}

export const eventStream = new EventStream();

/**
 * Yields each event of a response. Ends with the body, throws if the connection breaks.
 *
 * @param {Pick<Response, "body">} response
 * @returns {AsyncGenerator<StreamEvent, void>}
 */
export async function* readEvents({ body }) {
  if (!body) return;
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = createEvent();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (line === "" && event.data !== null) {
          yield { ...event, data: event.data };
          event = createEvent();
        } else {
          parseLine(event, line);
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** @returns {PartialEvent} */
const createEvent = () => ({ id: null, event: "message", data: null });

/**
 * @param {PartialEvent} event
 * @param {string} line
 */
function parseLine(event, line) {
  const colon = line.indexOf(":");
  // A line that starts with a colon is a comment.
  if (colon < 1) return;
  const value = line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
  const field = line.slice(0, colon);
  if (field === "data") event.data = event.data === null ? value : `${event.data}\n${value}`;
  if (field === "id" || field === "event") event[field] = value;
}
