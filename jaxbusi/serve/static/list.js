/* The list of files: a row each, and how many are answered. */

import { $, el } from "./elements.js";
import { show } from "./result.js";
import { files, page } from "./state.js";
import { count, stateWords } from "./words.js";

/* What its buttons do is given. */
export function row(entry, acts) {
  const pick = el("button", { type: "button", className: "pick" },
    el("span", { textContent: entry.name }), el("span", { className: "state" }));
  pick.addEventListener("click", () => {
    acts.pick(entry);
    // Side by side the result is in view; below the list it may not be.
    const { top } = $("result").getBoundingClientRect();
    if (top > 0.6 * innerHeight) $("result").scrollIntoView();
  });
  const again = el("button", { type: "button", className: "act again", hidden: true });
  again.textContent = "Try again";
  again.setAttribute("aria-label", `Try again: ${entry.name}`);
  again.addEventListener("click", () => {
    pick.focus();
    acts.again(entry);
  });
  const gone = el("button", { type: "button", className: "act", title: "Remove" });
  gone.textContent = "✕";
  gone.setAttribute("aria-label", `Remove ${entry.name}`);
  gone.addEventListener("click", () => acts.remove(entry));
  return el("li", {}, pick, again, gone);
}

export function paint(entry) {
  if (!entry.row) return;
  const answered = entry.result?.frame === entry.frame;
  entry.row.dataset.state = entry.state === "waiting" && answered ? "done" : entry.state;
  const pick = entry.row.querySelector(".pick");
  pick.querySelector(".state").textContent = stateWords(entry);
  if (entry === page.selected) pick.setAttribute("aria-current", "true");
  else pick.removeAttribute("aria-current");
  entry.row.querySelector(".again").hidden = entry.state !== "failed";
  if (entry === page.selected) show();
}

export function progress() {
  const failed = files.filter(({ state }) => state === "failed").length;
  const answered = files.filter(({ state, result }) => state !== "failed" && result).length;
  const wrong = failed ? `, ${failed} with an error` : "";
  return `${answered} of ${count(files.length, "file")} answered${wrong}.`;
}

export function paintProgress() {
  const wait = Math.ceil((page.heldUntil - Date.now()) / 1000);
  const held = wait > 0 && files.some(({ state }) => state === "waiting");
  const busy = held ? ` The server is busy; asked again in ${wait} s.` : "";
  $("progress").textContent = progress() + busy;
  $("listing").hidden = !files.length;
  $("csv").disabled = !files.some(({ state, result }) => result || state === "failed");
}

/* Only the list is scrolled: whoever reads the result below it stays there. */
export function bringIntoList({ offsetTop, offsetHeight }) {
  const list = $("list");
  if (offsetTop < list.scrollTop) list.scrollTop = offsetTop;
  const below = offsetTop + offsetHeight - list.clientHeight;
  if (below > list.scrollTop) list.scrollTop = below;
}
