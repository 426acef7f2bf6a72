// Reads one reply as it is written, and comes back to it when the connection breaks.

import { ApiError, chat, request } from "../api.js";
import { events } from "../sse.js";

const FIRST_PAUSE = 300;
const LONGEST_PAUSE = 8000;

/**
 * `sink` hears of a reply: `taken()` when the server has what was sent, `frame(frame)` of each frame
 * once and in order, `link(isUp)` when the connection is lost or there again, and at last `ended(how)`: "done", "gone" (it is over, read what
 * was stored), "refused" (with an `ApiError`).
 */
export class Turn {
  #sessionId;
  #sink;
  #end = new AbortController();
  #isTaken = false;
  #isLeft = false;
  #lastId = null;
  #isDone = false;
  #wake = () => {};

  constructor(sessionId, sink) {
    this.#sessionId = sessionId;
    this.#sink = sink;
  }

  /** Sends a message (or asks for another reply) and reads what comes of it. */
  async send(path, body, headers) {
    const response = await request("POST", path, { body, headers, signal: this.#end.signal }).catch((failure) => {
      this.#sink.ended("refused", asError(failure));
    });
    if (!response) return;
    this.#isTaken = true;
    this.#sink.taken();
    if (this.#isLeft) return this.leave();
    await this.#read(response);
    if (this.#end.signal.aborted) return;
    // What still waits for its turn has no reply to come back to; events will tell of it.
    if (body.onBusy === "queue" && this.#lastId === null) return this.#sink.ended("gone");
    await this.#follow();
  }

  /** Reads the reply that is running, from its first frame. */
  async join() {
    this.#isTaken = true;
    await this.#follow();
  }

  /** Stops reading; the reply goes on. What is being sent is sent to its end before that. */
  leave() {
    this.#isLeft = true;
    if (!this.#isTaken) return;
    this.#end.abort();
    this.#wake();
  }

  /** Which session it is in; a new one has its id with the first frame. */
  settle(sessionId) {
    this.#sessionId = sessionId;
  }

  async #follow() {
    let pause = FIRST_PAUSE;
    const wake = () => this.#wake();
    addEventListener("online", wake);
    while (!this.#isDone && !this.#end.signal.aborted) {
      if (!this.#sessionId) {
        // Nothing was heard of it: whether it exists is for the list of chats to tell.
        this.#sink.ended("refused", new ApiError(0, "unreachable", "The connection was lost."));
        break;
      }
      const outcome = await this.#rejoin();
      if (outcome === "over") {
        this.#sink.ended("gone");
        break;
      }
      if (outcome === "read") pause = FIRST_PAUSE;
      if (this.#isDone || this.#end.signal.aborted) break;
      this.#sink.link(false);
      await new Promise((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, pause);
      });
      pause = Math.min(pause * 2, LONGEST_PAUSE);
    }
    removeEventListener("online", wake);
  }

  async #rejoin() {
    const headers = this.#lastId ? { "last-event-id": this.#lastId } : {};
    try {
      const response = await request("GET", chat(this.#sessionId, "stream"), { headers, signal: this.#end.signal });
      if (response.status === 204) return "over";
      this.#sink.link(true);
      return (await this.#read(response)) ? "read" : "nothing";
    } catch (failure) {
      return failure.status >= 400 && failure.status < 500 && failure.status !== 429 ? "over" : "lost";
    }
  }

  /** Whether there was something new. A broken body is no error: the rest is asked for. */
  async #read(response) {
    let isNew = false;
    try {
      for await (const { id, data } of events(response)) {
        if (this.#end.signal.aborted) return isNew;
        if (!this.#isNext(id)) continue;
        isNew = true;
        if (data === "[DONE]") {
          this.#isDone = true;
          this.#sink.ended("done");
          return true;
        }
        this.#tell(JSON.parse(data));
      }
    } catch {
      // Cut off in the middle.
    }
    return isNew;
  }

  /** A mistake in showing a frame is no reason to read it again. */
  #tell(frame) {
    try {
      this.#sink.frame(frame);
    } catch (failure) {
      reportError(failure);
    }
  }

  /** Frames are numbered; what was read before is passed over. */
  #isNext(id) {
    if (!id) return true;
    const [turn, count] = split(id);
    const [lastTurn, lastCount] = split(this.#lastId ?? ":0");
    if (turn === lastTurn && count <= lastCount) return false;
    this.#lastId = id;
    return true;
  }
}

function split(id) {
  const colon = id.lastIndexOf(":");
  return [id.slice(0, colon), Number(id.slice(colon + 1))];
}

function asError(failure) {
  return failure instanceof ApiError ? failure : new ApiError(0, "unreachable", failure.message);
}
