/* Asks the server about images and shows its answers: what the user does, and the start. */

import { $ } from "./elements.js";
import { add, askAgain, clear, move, pump } from "./files.js";
import { paintProgress } from "./list.js";
import { describe } from "./model.js";
import { ask, isBusy } from "./requests.js";
import { showFrame } from "./result.js";
import { saveAll, saveResult } from "./saving.js";
import { files, page } from "./state.js";
import { keepToken, lock, takeTokenFromAddress, unlock } from "./token.js";

const SETTLE = 300; // Milliseconds without a change after which a frame is asked for.

async function start() {
  $("trouble").hidden = true;
  try {
    page.model = await ask("/api/model");
  } catch (error) {
    if (error.status === 401) return lock();
    if (isBusy(error)) setTimeout(start, 1000 * error.pause);
    $("trouble-words").textContent = error.message;
    $("trouble").hidden = false;
    return;
  }
  unlock();
  describe(page.model);
  pump();
}

$("files").addEventListener("change", (event) => {
  add([...event.target.files]);
  event.target.value = ""; // So that the same file can be chosen again.
});

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");

addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  $("veil").hidden = false;
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("veil").hidden = true;
});
addEventListener("drop", (event) => {
  $("veil").hidden = true;
  if (!carriesFiles(event)) return;
  event.preventDefault();
  add([...event.dataTransfer.files]);
});
addEventListener("paste", (event) => {
  const pasted = [...(event.clipboardData?.files ?? [])];
  if (!pasted.length) return;
  event.preventDefault();
  add(pasted);
});

addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (event.target.matches("input, .scroll")) return;
  const inList = $("list").contains(event.target);
  const steps = { ArrowLeft: -1, ArrowRight: 1, ...(inList && { ArrowUp: -1, ArrowDown: 1 }) };
  const step = steps[event.key];
  if (!step || !files.length) return;
  event.preventDefault();
  move(step);
});
$("previous").addEventListener("click", () => move(-1));
$("next").addEventListener("click", () => move(1));
$("clear").addEventListener("click", clear);
$("csv").addEventListener("click", saveAll);
$("json").addEventListener("click", saveResult);
$("failure-again").addEventListener("click", () => {
  $("result").focus({ preventScroll: true });
  askAgain(page.selected);
});
$("trouble-again").addEventListener("click", start);

$("opacity").addEventListener("input", () => {
  const { value } = $("opacity");
  $("opacity").ariaValueText = $("opacity-value").textContent = `${value}\u00a0%`;
  $("maps").style.setProperty("--opacity", value / 100);
});

const inputs = [$("frame-slider"), $("frame-number")];
for (const input of inputs) {
  input.addEventListener("input", () => {
    const frame = Number(input.value);
    if (!(Number.isInteger(frame) && frame >= 1 && frame <= page.selected.result.frames)) return;
    for (const other of inputs) if (other !== input) other.value = frame;
    clearTimeout(page.frameTimer);
    const entry = page.selected;
    page.frameTimer = setTimeout(() => {
      page.frameTimer = 0;
      entry.frame = frame;
      askAgain(entry);
    }, SETTLE);
  });
}

$("frame-number").addEventListener("change", () => {
  if (!$("frame-number").checkValidity()) showFrame(page.selected);
});

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken($("token").value.trim());
  start();
});
addEventListener("hashchange", () => {
  if (takeTokenFromAddress()) start();
});

setInterval(() => {
  if (Date.now() < page.heldUntil + 1000) paintProgress();
}, 500);
takeTokenFromAddress();
start();
