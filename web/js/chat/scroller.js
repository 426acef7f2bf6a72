// A scroll area that follows the newest text until the reader scrolls away from it.

import { createIcon, el } from "../dom.js";

/** Distance from the end, in pixels, within which scrolling down follows again. */
const NEAR_END = 48;

export class Scroller {
  /** Whether the newest text is kept in view. */
  isFollowing = true;
  button = el("button.button.small.jump-to-latest", { type: "button", hidden: true, onclick: () => this.jumpToLatest() }, createIcon("down"), "Jump to latest");
  /** @type {() => unknown} Called before the jump to the newest text. */
  onjump = () => {};
  /** The last known scroll position. */
  #lastTop = 0;
  /** Whether a finger is on the area. It must not scroll under the finger. */
  #isTouched = false;

  /**
   * @param {HTMLElement} element
   * @param {HTMLElement} content
   */
  constructor(element, content) {
    this.element = element;
    this.content = content;
    element.addEventListener("scroll", () => this.#updateFollowing(), { passive: true });
    // The wheel reports the direction before the position changes.
    element.addEventListener("wheel", ({ deltaY }) => deltaY < 0 && this.#isScrollable() && this.#setFollowing(false), { passive: true });
    element.addEventListener("touchstart", () => (this.#isTouched = true), { passive: true });
    element.addEventListener("touchend", () => this.#endTouch(), { passive: true });
    element.addEventListener("touchcancel", () => this.#endTouch(), { passive: true });
    const observer = new ResizeObserver(() => this.#canScroll && this.#scrollToEnd());
    observer.observe(content);
    observer.observe(element);
  }

  /**
   * Changes the content without moving what is being read.
   *
   * @param {() => void} change
   */
  keepPosition(change) {
    // A reader who has just started to scroll up must not be pulled back.
    this.#updateFollowing();
    const anchor = this.#canScroll ? undefined : this.#findAnchor();
    const top = anchor?.getBoundingClientRect().top ?? 0;
    change();
    if (this.#canScroll) this.#scrollToEnd();
    else if (anchor?.isConnected) this.element.scrollTop += anchor.getBoundingClientRect().top - top;
    this.#lastTop = this.element.scrollTop;
  }

  /** Follows the newest text again, for another conversation. */
  reset() {
    this.#setFollowing(true);
  }

  jumpToLatest() {
    this.onjump();
    this.#setFollowing(true);
    this.#scrollToEnd();
  }

  /**
   * Scrolls an element into the middle and stays there.
   *
   * @param {Element} target
   */
  show(target) {
    this.#setFollowing(false);
    target.scrollIntoView({ block: "center" });
    this.#lastTop = this.element.scrollTop;
  }

  #scrollToEnd() {
    this.element.scrollTop = this.element.scrollHeight;
    this.#lastTop = this.element.scrollTop;
  }

  get #canScroll() {
    return this.isFollowing && !this.#isTouched;
  }

  /** Scrolling up by any amount stops following; only scrolling down to the end starts it again. */
  #updateFollowing() {
    const { scrollTop } = this.element;
    const distance = this.element.scrollHeight - scrollTop - this.element.clientHeight;
    const isUp = scrollTop < this.#lastTop - 1;
    if (scrollTop > this.#lastTop && distance < NEAR_END) this.#setFollowing(true);
    // At the very end the content has shrunk, and the reader did not scroll.
    else if (isUp && distance > 1) this.#setFollowing(false);
    if (isUp || scrollTop > this.#lastTop) this.#lastTop = scrollTop;
  }

  #endTouch() {
    this.#isTouched = false;
    this.#updateFollowing();
    if (this.isFollowing) this.#scrollToEnd();
  }

  #isScrollable() {
    return this.element.scrollHeight > this.element.clientHeight + NEAR_END;
  }

  /** @param {boolean} isFollowing */
  #setFollowing(isFollowing) {
    this.isFollowing = isFollowing;
    this.button.hidden = isFollowing;
  }


  #findAnchor() {
    const { top } = this.element.getBoundingClientRect();
    return [...this.content.querySelectorAll(".message")].find((message) => message.getBoundingClientRect().bottom > top);
  }
}
