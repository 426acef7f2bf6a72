// Times and numbers as people read them.

const DAY = 86_400_000;
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const year = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric" });
const small = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 });
const plain = new Intl.NumberFormat();

export const number = (value) => plain.format(value);

/** The time of today, the day of before. */
export function when(text) {
  const date = new Date(text);
  if (date.toDateString() === new Date().toDateString()) return clock.format(date);
  const isThisYear = date.getFullYear() === new Date().getFullYear();
  return `${(isThisYear ? day : year).format(date)}, ${clock.format(date)}`;
}

export const exactly = (text) => full.format(new Date(text));

/** The heading under which a chat stands. */
export function span(text) {
  const today = new Date().setHours(0, 0, 0, 0);
  const then = new Date(text).getTime();
  if (then >= today) return "Today";
  if (then >= today - DAY) return "Yesterday";
  if (then >= today - 7 * DAY) return "Previous 7 days";
  if (then >= today - 30 * DAY) return "Previous 30 days";
  return "Older";
}

export function bytes(count) {
  if (count < 1024) return `${count} B`;
  if (count < 1 << 20) return `${(count / 1024).toFixed(1)} KiB`;
  return `${(count / (1 << 20)).toFixed(1)} MiB`;
}

export function tokens(count) {
  return count < 10_000 ? number(count) : `${(count / 1000).toFixed(count < 100_000 ? 1 : 0)} k`;
}

export function duration(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

/** In the money of the server's price table, which does not say its name. */
export const money = (amount) => small.format(amount);

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

export const many = (count, one, more = `${one}s`) => `${number(count)} ${count === 1 ? one : more}`;
