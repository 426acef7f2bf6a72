// Reads the stream of one turn, and reconnects when the connection breaks.

import { ApiError, chatPath, getErrorMessage, request } from "../api.js";
import { readEvents } from "../event-stream.js";

const FIRST_DELAY_MS = 300;
const MAX_DELAY_MS = 8000;

export class TurnReader {
  /** @type {string | null} Unknown for a new chat until its first frame. */
  #sessionId;
  #handlers;
  #abort = new AbortController();
  #isAccepted = false;
  #hasLeft = false;
  #isDone = false;
  /** @type {string | null} */
  #lastEventId = null;
  #endWait = () => {};

  /**
   * @param {string | null} sessionId
   * @param {TurnHandlers} handlers
   */
  constructor(sessionId, handlers) {
    this.#sessionId = sessionId;
    this.#handlers = handlers;
  }

  /**
   * @param {string} path
   * @param {TurnBody} body
   * @param {Record<string, string>} headers
   */
  async send(path, body, headers) {
    const response = await request("POST", path, { body, headers, signal: this.#abort.signal }).catch((error) => {
      this.#handlers.onEnd("refused", toApiError(error));
    });
    if (!response) return;
    this.#isAccepted = true;
    this.#handlers.onAccepted();
    if (this.#hasLeft) return this.leave();
    await this.#readFrames(response);
    if (this.#abort.signal.aborted) return;
    // A queued message has no stream to resume; an event reports when its turn starts.
    if (body.onBusy === "queue" && this.#lastEventId === null) {
      this.#handlers.onEnd("gone");
      return;
    }
    await this.#follow();
  }

  /** Reads the running reply of the session from its first frame. */
  async join() {
    this.#isAccepted = true;
    await this.#follow();
  }

  /** Stops reading, but not before the server has the message. The reply itself continues. */
  leave() {
    this.#hasLeft = true;
    if (!this.#isAccepted) return;
    this.#abort.abort();
    this.#endWait();
  }

  /** @param {string | null} sessionId */
  setSession(sessionId) {
    this.#sessionId = sessionId;
  }


  async #follow() {
    let delay = FIRST_DELAY_MS;
    const endWait = () => this.#endWait();
    addEventListener("online", endWait);
    while (!this.#isDone && !this.#abort.signal.aborted) {
      if (!this.#sessionId) {
        // Without a frame it is unknown whether the chat exists. The sidebar will show it if it does.
        this.#handlers.onEnd("refused", new ApiError(0, "unreachable", "The connection was lost."));
        break;
      }
      const outcome = await this.#rejoin(this.#sessionId);
      if (outcome === "over") {
        this.#handlers.onEnd("gone");
        break;
      }
      if (outcome === "read") delay = FIRST_DELAY_MS;
      if (this.#isDone || this.#abort.signal.aborted) break;
      this.#handlers.onConnectionChange(false);
      await new Promise((/** @type {(value?: unknown) => void} */ resolve) => {
        this.#endWait = resolve;
        setTimeout(resolve, delay);
      });
      delay = Math.min(delay * 2, MAX_DELAY_MS);
    }
    removeEventListener("online", endWait);
  }

  /**
   * Reads on after the last frame.
   *
   * @param {string} sessionId
   */
  async #rejoin(sessionId) {
    const headers = this.#lastEventId ? { "last-event-id": this.#lastEventId } : undefined;
    try {
      const response = await request("GET", chatPath(sessionId, "stream"), { headers, signal: this.#abort.signal });
      if (response.status === 204) return "over";
      this.#handlers.onConnectionChange(true);
      return (await this.#readFrames(response)) ? "read" : "nothing";
    } catch (error) {
      const status = error instanceof ApiError ? error.status : 0;
      return status >= 400 && status < 500 && status !== 429 ? "over" : "lost";
    }
  }

  /**
   * Reads frames until the body ends or breaks. Returns whether any was new.
   *
   * @param {Response} response
   */
  async #readFrames(response) {
    let isNew = false;
    try {
      for await (const { id, data } of readEvents(response)) {
        if (this.#abort.signal.aborted) return isNew;
        if (!this.#advanceTo(id)) continue;
        isNew = true;
        if (data === "[DONE]") {
          this.#isDone = true;
          this.#handlers.onEnd("done");
          return true;
        }
        this.#handleFrame(JSON.parse(data));
      }
    } catch {
      // The connection broke. `#follow` asks for the rest.
    }
    return isNew;
  }

  /** @param {TurnFrame} frame */
  #handleFrame(frame) {
    try {
      this.#handlers.onFrame(frame);
    } catch (error) {
      // A bug in showing a frame must not look like a broken connection.
      reportError(error);
    }
  }

  /**
   * Returns whether a frame is new. Frame ids are `TURN:NUMBER`; a resumed stream may repeat some.
   *
   * @param {string | null} id
   */
  #advanceTo(id) {
    if (!id) return true;
    const frame = parseFrameId(id);
    const last = parseFrameId(this.#lastEventId ?? ":0");
    if (frame.turn === last.turn && frame.number <= last.number) return false;
    this.#lastEventId = id;
    return true;
  }
}

/** @param {string} id */
function parseFrameId(id) {
  const colon = id.lastIndexOf(":");
  return { turn: id.slice(0, colon), number: Number(id.slice(colon + 1)) };
}

/** @param {unknown} error */
function toApiError(error) {
  return error instanceof ApiError ? error : new ApiError(0, "unreachable", getErrorMessage(error));
}
