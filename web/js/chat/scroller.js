// Scrolling that follows the newest words, until the reader goes elsewhere.

import { el, icon } from "../dom.js";

const NEAR = 48;

export class Scroller {
  /** Whether the newest words are kept in sight. */
  isFollowing = true;
  button = el("button.button.small.latest", { type: "button", hidden: true, onclick: () => this.toLatest() }, icon("down"), "Jump to latest");
  onlatest = () => {};
  /** Where it stood when it was last looked at, or put there. */
  #last = 0;
  /** A finger lies on it: nothing is pulled from under it. */
  #isHeld = false;

  constructor(element, content) {
    this.element = element;
    this.content = content;
    element.addEventListener("scroll", () => this.#look(), { passive: true });
    // The wheel tells sooner than the position what the reader wants.
    element.addEventListener("wheel", ({ deltaY }) => deltaY < 0 && this.#isLong() && this.#follow(false), { passive: true });
    element.addEventListener("touchstart", () => (this.#isHeld = true), { passive: true });
    for (const end of ["touchend", "touchcancel"]) element.addEventListener(end, () => this.#release(), { passive: true });
    const resized = new ResizeObserver(() => this.#isPulling && this.#toEnd());
    resized.observe(content);
    resized.observe(element);
  }

  /** Changes the content so that what is being read stays where it is. */
  keep(change) {
    // Who has just begun to scroll up is not pulled back by what is added now.
    this.#look();
    const anchor = this.#isPulling ? null : this.#anchor();
    const before = anchor?.getBoundingClientRect().top;
    change();
    if (this.#isPulling) this.#toEnd();
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

  get #isPulling() {
    return this.isFollowing && !this.#isHeld;
  }

  /** Upwards the reader leaves the newest words, however slowly; only downwards they are met again. */
  #look() {
    const { scrollTop } = this.element;
    const rest = this.element.scrollHeight - scrollTop - this.element.clientHeight;
    const isUp = scrollTop < this.#last - 1;
    if (scrollTop > this.#last && rest < NEAR) this.#follow(true);
    // At the very end it was what is shown that became shorter.
    else if (isUp && rest > 1) this.#follow(false);
    if (isUp || scrollTop > this.#last) this.#last = scrollTop;
  }

  #release() {
    this.#isHeld = false;
    this.#look();
    if (this.isFollowing) this.#toEnd();
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
