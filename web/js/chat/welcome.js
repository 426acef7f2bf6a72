// What stands where no conversation is yet.

import { el } from "../dom.js";

const STARTERS = [
  "Explain how a hash map grows",
  "Write a haiku about the sea in winter",
  "Plan a weekend in Lisbon",
  "What should a good bug report say?",
];

/** `start` puts a suggestion into the field. */
export function welcome(project, start) {
  const text = project
    ? `What you say here knows the instructions and files of “${project}”.`
    : "The reply streams in and is kept, even if you close this tab. Nothing is stored before you send.";
  const buttons = STARTERS.map((text) => el("button.button.small", { type: "button", onclick: () => start(text) }, text));
  return [el("img", { src: "/assets/icon.svg", alt: "" }), el("h1", {}, "What is on your mind?"), el("p", {}, text), el("div.starters", {}, buttons)];
}
