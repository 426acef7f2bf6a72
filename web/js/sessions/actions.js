// What can be done with a chat, as the entries of a menu.

import { call, session as sessionPath } from "../api.js";
import { ask, field } from "../dialog.js";
import { el } from "../dom.js";
import { attempt, toast } from "../toast.js";
import { exportChats } from "../transfer.js";

export function chatActions(app, session, { rename }) {
  const { sessionId, title, pinned, archived } = session;
  const change = (fields) => () => attempt(async () => {
    app.sessions.put(await call("PATCH", sessionPath(sessionId), fields));
    return true;
  });
  const archive = change({ archived: true });
  const restore = change({ archived: false });
  const putAway = async () => (await archive()) && toast("The chat is in the archive", { label: "Undo", run: restore });
  const own = [
    { label: "Rename", icon: "pencil", run: rename },
    { label: pinned ? "Unpin" : "Pin", icon: "pin", run: change({ pinned: !pinned }) },
    archived ? { label: "Take out of the archive", icon: "archive", run: restore } : { label: "Archive", icon: "archive", run: putAway },
    app.projects.list.length > 0 && { label: "Move to a project…", icon: "folder", run: () => move(app, session) },
    null,
    { label: "Export as Markdown", icon: "download", run: () => exportChats({ sessionId, format: "markdown" }, `${title}.md`) },
    { label: "Export as JSON", icon: "download", run: () => exportChats({ sessionId, format: "json" }, `${title}.json`) },
    null,
    { label: "Delete", icon: "trash", danger: true, run: () => app.sessions.remove(session) },
  ];
  if (app.owns(session)) return own.filter((item) => item !== false);
  // Who takes part in another's chat may say who answers in it.
  const to = (label, status) => ({ label, icon: "people", run: change({ status }) });
  if (session.status === "closed") return [to("Reopen", "active")];
  const answering = session.status === "agent_assigned" ? to("Hand back to the model", "active") : to("Take over from the model", "agent_assigned");
  return [answering, to("Close", "closed")];
}

async function move(app, session) {
  const options = app.projects.list.map(({ projectId, name }) => el("option", { value: projectId }, name));
  const select = el("select", { name: "project" }, el("option", { value: "" }, "None"), options);
  select.value = session.projectId ?? "";
  const answer = await ask("Move to a project", [field("Project", select)], { submit: "Move" });
  if (!answer) return;
  const projectId = answer.get("project") || null;
  await attempt(async () => app.sessions.put(await call("PATCH", sessionPath(session.sessionId), { projectId })));
}
