// What happens to the user's chats, heard over one connection that comes back by itself.

import { request } from "./api.js";
import { events } from "./sse.js";

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 15_000;
/** The server says something each 15 s; longer silence means that the way is broken. */
const SILENCE = 40_000;

/** Dispatches `sync`, `session`, `message`, `turn`, `seen` with the event in `detail`, and `state`. */
class Live extends EventTarget {
  state = "connecting";
  #pause = FIRST_PAUSE;
  #wake = () => {};
  #end = new AbortController();

  start() {
    addEventListener("online", () => this.state === "locked" || this.#wake());
    addEventListener("locked", () => this.#set("locked"));
    // The browser may be wrong about this server, so it is asked at once.
    addEventListener("offline", () => this.state === "locked" || this.retry());
    document.addEventListener("visibilitychange", () => document.hidden || this.state === "locked" || this.#wake());
    this.#run();
  }

  /** Begins a new connection now; where a key is missing, only then. */
  retry() {
    this.#pause = 0;
    this.#end.abort();
    this.#wake();
  }

  async #run() {
    for (;;) {
      const isLocked = await this.#listen();
      this.#set(isLocked ? "locked" : "offline");
      await new Promise((resolve) => {
        this.#wake = resolve;
        if (!isLocked) setTimeout(resolve, this.#pause);
      });
      this.#wake = () => {};
      this.#pause = Math.min(this.#pause * 2 || FIRST_PAUSE, LONGEST_PAUSE);
      this.#set("connecting");
    }
  }

  /** Ends when the connection does; gives whether that was for want of a key. */
  async #listen() {
    const end = new AbortController();
    this.#end = end;
    try {
      const response = await request("GET", "/api/events", { signal: end.signal });
      const watched = response.body.pipeThrough(watch(() => end.abort()));
      for await (const { data } of events({ body: watched })) {
        const event = JSON.parse(data);
        if (event.type === "sync") {
          this.#pause = FIRST_PAUSE;
          this.#set("live");
        }
        this.dispatchEvent(new CustomEvent(event.type, { detail: event }));
      }
      return false;
    } catch (failure) {
      return failure.status === 401;
    } finally {
      end.abort();
    }
  }

  #set(state) {
    if (state === this.state) return;
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: state }));
  }
}

/** Passes bytes on, and calls `onSilence` when none come. */
function watch(onSilence) {
  let timer = setTimeout(onSilence, SILENCE);
  return new TransformStream({
    transform(chunk, controller) {
      clearTimeout(timer);
      timer = setTimeout(onSilence, SILENCE);
      controller.enqueue(chunk);
    },
    flush: () => clearTimeout(timer),
  });
}

export const live = new Live();
