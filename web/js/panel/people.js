// The "People" tab: who replies, and who takes part in the chat.

import { createIconButton, el, setChildren } from "../dom.js";
import { formatNumber, formatTime } from "../format.js";
import { attempt, showToast } from "../toast.js";

const CLOSE = { label: "Close chat", status: "closed" };

/** @type {Record<string, { text: string, actions: { label: string, status: SessionStatus }[] }>} */
const STATUSES = {
  active: { text: "The model is replying.", actions: [{ label: "Take over", status: "agent_assigned" }, CLOSE] },
  agent_assigned: {
    text: "A person is replying. The model is paused; messages are delivered at once.",
    actions: [{ label: "Return to model", status: "active" }, CLOSE],
  },
  closed: { text: "No messages can be added.", actions: [{ label: "Reopen", status: "active" }] },
};

export class PeopleTab {
  /**
   * @param {HTMLElement} body
   * @param {ChatView} chat
   */
  show(body, chat) {
    const { session } = chat;
    // Rendering would take away what the user is typing.
    if (body.contains(document.activeElement) && document.activeElement?.matches("input")) return;
    if (session) setChildren(body, renderStatus(chat, session), renderParticipants(chat, session), renderDetails(session));
    else setChildren(body, el("p.muted", {}, "After you start the chat, you can invite people, and a person can take over from the model."));
  }
}

/**
 * @param {ChatView} chat
 * @param {Session} session
 */
function renderStatus(chat, { status }) {
  const { text, actions } = STATUSES[status] ?? { text: `Status “${status}”: the model is replying.`, actions: STATUSES.active.actions };
  const buttons = actions.map((action, index) => {
    const onclick = () => attempt(() => chat.change({ status: action.status }));
    return el(index === 0 ? "button.button.primary.small" : "button.button.small", { type: "button", onclick }, action.label);
  });
  return el("section.stack", {}, el("h3", {}, "Responder"), el("p.muted", {}, text), el("div.inline-form", {}, buttons));
}

/**
 * @param {ChatView} chat
 * @param {Session} session
 */
function renderParticipants(chat, session) {
  const canManage = chat.app.canManage(session);
  const change = (/** @type {string[]} */ participants) => attempt(() => chat.change({ participants }));
  const members = [...session.participants, ...session.invited];
  const rows = members.map((user) => {
    const isOwner = user === session.userId;
    const remove = () => change(members.filter((each) => each !== user));
    const removeButton = canManage && !isOwner && createIconButton("close", `Remove ${user}`, remove, { small: true });
    const note = [user === chat.userId && "you", isOwner && "owner", session.invited.includes(user) && "invited"].filter(Boolean).join(", ");
    return el("li", {}, el("span.avatar", { "aria-hidden": "true" }, [...user][0].toUpperCase()), el("span.name", {}, user), el("span.muted", {}, note), removeButton);
  });
  const input = el("input.input", { placeholder: "User ID", "aria-label": "User to add", required: true, autocomplete: "off" });
  const onsubmit = async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const user = input.value.trim();
    if (members.includes(user)) {
      showToast(`${user} is already ${session.invited.includes(user) ? "invited" : "a participant"}`);
      return;
    }
    input.blur();
    await change([...members, user]);
  };
  const form = canManage && el("form.inline-form", { onsubmit }, input, el("button.button", { type: "submit" }, "Add"));
  return el("section.stack", {}, el("h3", {}, "Participants"), el("ul.people", {}, rows), form);
}

/** @param {Session} session */
function renderDetails({ lastSeen, messagesCount, createdAt, sessionId }) {
  const details = [
    ["Messages", formatNumber(messagesCount)],
    ["Last message from owner", lastSeen ? formatTime(lastSeen) : "–"],
    ["Created", formatTime(createdAt)],
    ["ID", sessionId],
  ];
  const rows = details.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
  return el("section.stack", {}, el("h3", {}, "Details"), el("dl.details", {}, rows));
}
