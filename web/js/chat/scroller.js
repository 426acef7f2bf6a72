// Scrolling that follows the newest words, until the reader goes elsewhere.

import { el, icon } from "../dom.js";

const NEAR = 48;

export class Scroller {
  /** Whether the newest words are kept in sight. */
  isFollowing = true;
  button = el("button.button.small.latest", { type: "button", hidden: true, onclick: () => this.toLatest() }, icon("down"), "Jump to latest");
  onlatest = () => {};
  #last = 0;

  constructor(element, content) {
    this.element = element;
    this.content = content;
    element.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    // The wheel tells sooner than the position what the reader wants.
    element.addEventListener("wheel", ({ deltaY }) => deltaY < 0 && this.#isLong() && this.#follow(false), { passive: true });
    new ResizeObserver(() => this.isFollowing && this.#toEnd()).observe(content);
    new ResizeObserver(() => this.isFollowing && this.#toEnd()).observe(element);
  }

  /** Changes the content so that what is being read stays where it is. */
  keep(change) {
    const anchor = this.isFollowing ? null : this.#anchor();
    const before = anchor?.getBoundingClientRect().top;
    change();
    if (this.isFollowing) this.#toEnd();
    else if (anchor?.isConnected) this.element.scrollTop += anchor.getBoundingClientRect().top - before;
    this.#last = this.element.scrollTop;
  }

  /** Another conversation begins at its end. */
  reset() {
    this.#follow(true);
  }

  toLatest() {
    this.onlatest();
    this.#follow(true);
    this.#toEnd();
  }

  /** Brings something into the middle, and stays there. */
  show(target) {
    this.#follow(false);
    target.scrollIntoView({ block: "center" });
    this.#last = this.element.scrollTop;
  }

  #toEnd() {
    this.element.scrollTop = this.element.scrollHeight;
    this.#last = this.element.scrollTop;
  }

  #scrolled() {
    const { scrollTop } = this.element;
    const rest = this.element.scrollHeight - scrollTop - this.element.clientHeight;
    if (rest < NEAR) this.#follow(true);
    else if (scrollTop < this.#last - 1) this.#follow(false);
    this.#last = scrollTop;
  }

  #isLong() {
    return this.element.scrollHeight > this.element.clientHeight + NEAR;
  }

  #follow(isFollowing) {
    this.isFollowing = isFollowing;
    this.button.hidden = isFollowing;
  }

  /** The first message that can be seen. */
  #anchor() {
    const top = this.element.getBoundingClientRect().top;
    return [...this.content.querySelectorAll(".message")].find((message) => message.getBoundingClientRect().bottom > top);
  }
}
