// What the address says is shown: `#/c/SESSION/MESSAGE`, `#/new/PROJECT`, `#/p/PROJECT`, `#/p`.

export function route() {
  const [kind = "", first = "", second = ""] = location.hash.replace(/^#\/?/, "").split("/").map(decode);
  if (kind === "c" && first) return { view: "chat", sessionId: first, messageId: second || null };
  if (kind === "p") return first ? { view: "project", projectId: first } : { view: "projects" };
  return { view: "new", projectId: kind === "new" && first ? first : null };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

const id = encodeURIComponent;
export const toChat = (sessionId, messageId) => `#/c/${id(sessionId)}${messageId ? `/${id(messageId)}` : ""}`;
export const toNew = (projectId) => (projectId ? `#/new/${id(projectId)}` : "#/new");
export const toProject = (projectId) => `#/p/${id(projectId)}`;
export const toProjects = "#/p";

export function go(address, isReplacing = false) {
  if (isReplacing) history.replaceState(null, "", address);
  else if (location.hash !== address) history.pushState(null, "", address);
  dispatchEvent(new Event("route"));
}

/** Loads the page for somebody else, who may not see what the address names. */
export function startAnew() {
  history.replaceState(null, "", toNew());
  location.reload();
}
