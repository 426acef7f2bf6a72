// Cuts Markdown that is still being written into blocks that will not change any more, and the open
// one behind them. Each character is looked at once.

const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const ITEM = /^ {0,3}([-*+]|\d{1,9}[.)])(\s|$)/;
const HEADING = /^ {0,3}#{1,6}\s/;
/** The beginning of a line that may yet turn out to go on with a list. */
const MAYBE_LIST = /^(\s|[-*+]\s?$|[-*+]\s|\d{1,9}[.)]?\s?)/;

export class Blocks {
  /** The block that is being written. */
  open = "";
  /** Where the first line begins that was not looked at. */
  #at = 0;
  #fence = null;
  #isBlank = false;
  #isList = false;

  /** Takes in more text; gives back the blocks that it finishes. */
  push(text) {
    this.open += text;
    const finished = [];
    for (;;) {
      const end = this.open.indexOf("\n", this.#at);
      if (end < 0) break;
      this.#line(this.open.slice(this.#at, end), end + 1, finished);
    }
    this.#lookAhead(finished);
    return finished;
  }

  /** Looks at one whole line, which ends before `next`. */
  #line(line, next, finished) {
    const fence = FENCE.exec(line)?.[1];
    if (this.#fence) {
      if (fence && fence[0] === this.#fence[0] && fence.length >= this.#fence.length && line.trim() === fence) {
        this.#fence = null;
        if (!this.#isList) return this.#cut(next, finished);
      }
    } else if (line.trim() === "") {
      this.#isBlank = true;
    } else {
      const continues = this.#isList && (ITEM.test(line) || /^(\s{2,}|\t)/.test(line));
      const begins = (this.#isBlank || ((fence || HEADING.test(line)) && !this.#isList)) && !continues;
      if (begins && this.#at > 0) {
        const start = this.#at;
        this.#cut(start, finished);
        next -= start;
      }
      if (this.#at === 0) this.#isList = ITEM.test(line);
      this.#isBlank = false;
      if (fence) this.#fence = fence;
      else if (HEADING.test(line) && !this.#isList) return this.#cut(next, finished);
    }
    this.#at = next;
  }

  /** Behind a blank line the first letters tell that a new block begins. */
  #lookAhead(finished) {
    const begun = this.open.slice(this.#at, this.#at + 12);
    if (this.#fence || !this.#isBlank || this.#at === 0 || begun.trim() === "") return;
    if (this.#isList && MAYBE_LIST.test(begun)) return;
    this.#cut(this.#at, finished);
  }

  #cut(at, finished) {
    const block = this.open.slice(0, at);
    if (block.trim() !== "") finished.push(block);
    this.open = this.open.slice(at);
    this.#at = 0;
    this.#isBlank = false;
    this.#isList = false;
  }
}
