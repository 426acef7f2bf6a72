// Splits Markdown that is still being written into finished blocks, which no further text can
// change, and one open block. Each character is scanned once.

const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const LIST_ITEM = /^ {0,3}([-*+]|\d{1,9}[.)])(\s|$)/;
const HEADING = /^ {0,3}#{1,6}\s/;
/** Matches the start of a line that may still continue a list. */
const MAYBE_LIST = /^(\s|[-*+]\s?$|[-*+]\s|\d{1,9}[.)]?\s?)/;

export class BlockSplitter {
  /** The text of the block that is being written. */
  openBlock = "";
  /** The start of the first line in `openBlock` that was not scanned yet. */
  #offset = 0;
  /** @type {string | null} */
  #fence = null;
  #isAfterBlankLine = false;
  #isList = false;

  /**
   * Adds text and returns the blocks that it finishes.
   *
   * @param {string} text
   */
  push(text) {
    this.openBlock += text;
    /** @type {string[]} */
    const finished = [];
    for (;;) {
      const end = this.openBlock.indexOf("\n", this.#offset);
      if (end < 0) break;
      this.#scanLine(this.openBlock.slice(this.#offset, end), end + 1, finished);
    }
    this.#lookAhead(finished);
    return finished;
  }

  /**
   * Scans a complete line. The next line starts at `next`.
   *
   * @param {string} line
   * @param {number} next
   * @param {string[]} finished
   */
  #scanLine(line, next, finished) {
    const fence = FENCE.exec(line)?.[1];
    if (this.#fence) {
      if (fence && fence[0] === this.#fence[0] && fence.length >= this.#fence.length && line.trim() === fence) {
        this.#fence = null;
        if (!this.#isList) return this.#endBlock(next, finished);
      }
    } else if (line.trim() === "") {
      this.#isAfterBlankLine = true;
    } else {
      const isContinuation = this.#isList && (LIST_ITEM.test(line) || /^(\s{2,}|\t)/.test(line));
      const isStart = (this.#isAfterBlankLine || ((fence || HEADING.test(line)) && !this.#isList)) && !isContinuation;
      if (isStart && this.#offset > 0) {
        const start = this.#offset;
        this.#endBlock(start, finished);
        next -= start;
      }
      if (this.#offset === 0) this.#isList = LIST_ITEM.test(line);
      this.#isAfterBlankLine = false;
      if (fence) this.#fence = fence;
      else if (HEADING.test(line) && !this.#isList) return this.#endBlock(next, finished);
    }
    this.#offset = next;
  }

  /**
   * Ends the block after a blank line as soon as the next line cannot continue it.
   *
   * @param {string[]} finished
   */
  #lookAhead(finished) {
    const start = this.openBlock.slice(this.#offset, this.#offset + 12);
    if (this.#fence || !this.#isAfterBlankLine || this.#offset === 0 || start.trim() === "") return;
    if (this.#isList && MAYBE_LIST.test(start)) return;
    this.#endBlock(this.#offset, finished);
  }

  /**
   * @param {number} end
   * @param {string[]} finished
   */
  #endBlock(end, finished) {
    const block = this.openBlock.slice(0, end);
    if (block.trim() !== "") finished.push(block);
    this.openBlock = this.openBlock.slice(end);
    this.#offset = 0;
    this.#isAfterBlankLine = false;
    this.#isList = false;
  }
}
