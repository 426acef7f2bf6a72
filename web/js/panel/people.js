// Who takes part, who answers, and what was read: chats that people answer, too.

import { el, fill, iconButton } from "../dom.js";
import { number, when } from "../format.js";
import { attempt, toast } from "../toast.js";

const STATUS = {
  active: ["The model answers.", [["Take over", "agent_assigned"], ["Close", "closed"]]],
  agent_assigned: ["A person answers. The model is silent; what is written is delivered at once.", [["Hand back to the model", "active"], ["Close", "closed"]]],
  closed: ["Nothing can be added.", [["Reopen", "active"]]],
};

export class PeopleTab {
  show(body, view) {
    const { session } = view;
    if (body.contains(document.activeElement) && document.activeElement.matches("input")) return;
    if (!session) return fill(body, el("p.quiet-text", {}, "Once the chat exists, others can be asked in, and a person can take over from the model."));
    fill(body, status(view), participants(view), facts(session));
  }
}

function status(view) {
  const { status } = view.session;
  const [told, steps] = STATUS[status] ?? [`Status “${status}”: the model answers.`, STATUS.active[1]];
  const to = (next) => () => attempt(() => view.change({ status: next }));
  const buttons = steps.map(([label, next], index) => el(index === 0 ? "button.button.primary.small" : "button.button.small", { type: "button", onclick: to(next) }, label));
  return el("section.stack", {}, el("h3", {}, "Who answers"), el("p.quiet-text", {}, told), el("div.inline-form", {}, buttons));
}

function participants(view) {
  const { session } = view;
  const isOwner = view.app.owns(session);
  const change = (participants) => attempt(() => view.change({ participants }));
  const rows = session.participants.map((user) => {
    const isItsOwner = user === session.userId;
    const away = isOwner && !isItsOwner && iconButton("close", `Remove ${user}`, () => change(session.participants.filter((each) => each !== user)), { small: true });
    const note = [user === view.me && "you", isItsOwner && "owner"].filter(Boolean).join(", ");
    return el("li", {}, el("span.avatar", { "aria-hidden": "true" }, [...user][0].toUpperCase()), el("span.name", {}, user), el("span.quiet-text", {}, note), away);
  });
  const input = el("input.input", { placeholder: "User id", "aria-label": "User to add", required: true, autocomplete: "off" });
  const onsubmit = async (event) => {
    event.preventDefault();
    const user = input.value.trim();
    if (session.participants.includes(user)) return toast(`${user} takes part already`);
    input.blur();
    await change([...session.participants, user]);
  };
  const form = isOwner && el("form.inline-form", { onsubmit }, input, el("button.button", { type: "submit" }, "Add"));
  return el("section.stack", {}, el("h3", {}, "Participants"), el("ul.people", {}, rows), form);
}

function facts(session) {
  const { lastSeen, messagesCount, createdAt, sessionId } = session;
  const told = [
    ["Messages", number(messagesCount)],
    ["Owner last wrote", lastSeen ? when(lastSeen) : "–"],
    ["Begun", when(createdAt)],
    ["Id", sessionId],
  ];
  return el("section.stack", {}, el("h3", {}, "Facts"), el("dl.facts", {}, told.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])));
}
