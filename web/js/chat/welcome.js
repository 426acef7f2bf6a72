// The start page of a new chat.

import { el } from "../dom.js";

const STARTERS = [
  "Explain how a hash map grows",
  "Write a haiku about the sea in winter",
  "Plan a weekend in Lisbon",
  "What should a good bug report say?",
];

/**
 * @param {string | undefined} project the name of the project of the chat
 * @param {(text: string) => void} suggest puts a starter into the message field
 */
export function renderWelcome(project, suggest) {
  const hint = project
    ? `Chats here use the instructions and files of “${project}”.`
    : "You can close this tab while a reply is being written; it will be here when you come back.";
  const starters = STARTERS.map((text) => el("button.button.small", { type: "button", onclick: () => suggest(text) }, text));
  return [el("img", { src: "/assets/icon.svg", alt: "" }), el("h1", {}, "What can I help with?"), el("p", {}, hint), el("div.starters", {}, starters)];
}
