// Drafts: text, images and edits that the server does not have yet, per chat. The page holds all of
// a draft; the tab's storage keeps its text across a reload.

/** @type {Map<string, Draft>} */
const drafts = new Map();
/** Images are too large for the tab's storage, and no request survives a reload. */
const TRANSIENT_FIELDS = ["images", "isSending"];

export class Draft {
  text = "";
  /** @type {ImagePart[]} */
  images = [];
  /** @type {Edit | null} The message being edited. `text` stays as it is meanwhile. */
  edit = null;
  /** @type {UnsentMessage[]} Messages in flight, and those that failed to send. */
  unsent = [];
  #storageKey;

  /** @param {string} chat */
  static forChat(chat) {
    const draft = drafts.get(chat) ?? new Draft(chat);
    drafts.set(chat, draft);
    return draft;
  }

  /** @param {string} chat */
  constructor(chat) {
    this.#storageKey = `echoic.draft.${chat}`;
    const { edit, unsent, text } = JSON.parse(sessionStorage.getItem(this.#storageKey) ?? "{}");
    if (text) this.text = text;
    if (edit) this.edit = { ...edit, images: [] };
    if (unsent) this.unsent = unsent.map((/** @type {UnsentMessage} */ message) => ({ ...message, images: [] }));
  }


  save() {
    const isEmpty = this.text === "" && !this.edit && this.unsent.length === 0;
    sessionStorage.removeItem(this.#storageKey);
    if (isEmpty) return;
    try {
      const { text, edit, unsent } = this;
      const json = JSON.stringify({ text, edit, unsent }, (name, value) => (TRANSIENT_FIELDS.includes(name) ? undefined : value));
      sessionStorage.setItem(this.#storageKey, json);
    } catch {
      // Over the quota of the tab's storage. The page still holds the draft.
    }
  }

  /**
   * Moves the draft of a new chat to the id that the chat was given.
   *
   * @param {string} chat
   */
  moveTo(chat) {
    for (const [name, draft] of drafts) if (draft === this) drafts.delete(name);
    drafts.set(chat, this);
    sessionStorage.removeItem(this.#storageKey);
    this.#storageKey = `echoic.draft.${chat}`;
    this.save();
  }

  /** @param {UnsentMessage} message */
  markSending(message) {
    message.isSending = true;
    if (!this.unsent.includes(message)) this.unsent.push(message);
    this.save();
  }

  /** @param {UnsentMessage} message */
  markSent(message) {
    this.unsent = this.unsent.filter((each) => each !== message);
    this.save();
  }

  /** Puts messages that failed to send back into the draft, before what was written since. */
  restoreUnsent(messages = this.unsent.filter(({ isSending }) => !isSending)) {
    for (const { text, images, edit } of messages.toReversed()) {
      if (edit) this.edit ??= { ...edit, text: "", images: [] };
      const target = edit && this.edit?.id === edit.id ? this.edit : this;
      target.text = [text, target.text].filter(Boolean).join("\n\n");
      target.images = [...images, ...target.images];
    }
    this.unsent = this.unsent.filter((each) => !messages.includes(each));
    this.save();
  }
}
