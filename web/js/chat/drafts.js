// What was written and is not yet with the server, of each chat. The page holds all of it; the tab
// keeps the words, for a page that is loaded anew.

const held = new Map();
const NOT_KEPT = ["pictures", "isSending"];

export class Draft {
  text = "";
  pictures = [];
  /** A message that is written anew, `{id, parentId, text, pictures}`; the text beside it stays. */
  edit = null;
  /** Messages on their way, and those that did not arrive: `{key, text, pictures, edit?, isSending?}`. */
  unsent = [];
  #place;

  /** The draft of a chat. */
  static of(chat) {
    if (!held.has(chat)) held.set(chat, new Draft(chat));
    return held.get(chat);
  }

  constructor(chat) {
    this.#place = `echoic.written.${chat}`;
    const { edit, unsent, text } = JSON.parse(sessionStorage.getItem(this.#place) ?? "{}");
    const whole = (kept) => ({ ...kept, pictures: [] });
    if (text) this.text = text;
    if (edit) this.edit = whole(edit);
    if (unsent) this.unsent = unsent.map(whole);
  }

  /** Keeps what was changed. */
  keep() {
    const isEmpty = this.text === "" && !this.edit && this.unsent.length === 0;
    sessionStorage.removeItem(this.#place);
    if (isEmpty) return;
    try {
      sessionStorage.setItem(this.#place, JSON.stringify(this, (name, value) => (NOT_KEPT.includes(name) ? undefined : value)));
    } catch {
      // Longer than a tab may keep: the page still holds it.
    }
  }

  /** The chat that was new has its id now. */
  moveTo(chat) {
    held.forEach((draft, of) => draft === this && held.delete(of));
    held.set(chat, this);
    sessionStorage.removeItem(this.#place);
    this.#place = `echoic.written.${chat}`;
    this.keep();
  }

  /** A message is on its way. */
  sending(message) {
    message.isSending = true;
    if (!this.unsent.includes(message)) this.unsent.push(message);
    this.keep();
  }

  /** The server has it. */
  sent(message) {
    this.unsent = this.unsent.filter((each) => each !== message);
    this.keep();
  }

  /** Puts messages that did not arrive before what was written since. */
  takeBack(messages = this.unsent.filter(({ isSending }) => !isSending)) {
    for (const { text, pictures, edit } of messages.toReversed()) {
      if (edit) this.edit ??= { ...edit, text: "", pictures: [] };
      const into = edit && this.edit.id === edit.id ? this.edit : this;
      into.text = [text, into.text].filter(Boolean).join("\n\n");
      into.pictures = [...pictures, ...into.pictures];
    }
    this.unsent = this.unsent.filter((each) => !messages.includes(each));
    this.keep();
  }
}
