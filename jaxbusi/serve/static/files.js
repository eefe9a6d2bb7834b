/* The files and their turn.

   Files stay in the browser, so that another frame of a clip, or pictures that were let go, can be
   asked for again. */

import { $, say } from "./elements.js";
import { bringIntoList, paint, paintProgress, progress, row } from "./list.js";
import { ask, isBusy, readable } from "./requests.js";
import { show } from "./result.js";
import { files, page } from "./state.js";
import { lock } from "./token.js";
import { announcement, count, sentence } from "./words.js";

const AT_ONCE = 3; // Requests at a time.
const KEPT = 20; // Files whose pictures are held in memory.

const pictured = []; // Files with pictures, the one that was longest not looked at first.

export function add(chosen) {
  const fresh = [];
  for (const file of chosen) {
    const entry = {
      file, name: file.name, frame: 1, state: "waiting",
      result: null, pictures: null, error: "", request: null, row: null,
    };
    if (page.model && file.size > page.model.limits.bytes) {
      const limit = Math.floor(page.model.limits.bytes / 2 ** 20);
      const size = Math.ceil(file.size / 2 ** 20);
      fail(entry, `Too large: ${size} MiB, where the server takes ${limit} MiB.`);
    }
    entry.row = row(entry, { pick, again: askAgain, remove });
    files.push(entry);
    fresh.push(entry);
    $("list").append(entry.row);
  }
  if (!fresh.length) return;
  say(`${count(fresh.length, "file")} added.`);
  select(fresh[0]);
  pump();
}

function fail(entry, words) {
  entry.state = "failed";
  entry.error = sentence(words);
}

/* Whatever is looked at comes first. */
function next() {
  if (page.selected?.state === "waiting") return page.selected;
  return files.find((entry) => entry.state === "waiting");
}

export function pump() {
  paintProgress();
  if (!page.model || page.locked || Date.now() < page.heldUntil) return;
  let working = files.filter((entry) => entry.state === "working").length;
  for (let entry = next(); entry && working < AT_ONCE; entry = next()) {
    working += 1;
    send(entry);
  }
  paintProgress();
}

/* Pictures cost the server most, and only the last ones are kept: of many files, those that are
   not looked at get their answer alone. */
async function send(entry) {
  const wanted = entry === page.selected || files.indexOf(entry) < KEPT;
  const request = new AbortController();
  entry.request = request;
  entry.state = "working";
  paint(entry);
  try {
    await readable(entry.file);
    const path = `/api/${wanted ? "explain" : "classify"}?frame=${entry.frame}`;
    const result = await ask(path, { method: "POST", body: entry.file, signal: request.signal });
    if (entry.request !== request) return;
    receive(entry, result);
  } catch (error) {
    if (entry.request !== request) return;
    excuse(entry, error);
  }
  entry.request = null;
  paint(entry);
  if (entry === page.selected) say(announcement(entry));
  pump();
  const open = files.some(({ state }) => state === "waiting" || state === "working");
  if (!open && files.length > 1) say(`${announcement(page.selected)} ${progress()}`);
}

function receive(entry, result) {
  if (result.weights_sha256 !== page.model.weights_sha256) {
    return fail(entry, "The server now runs another model than when this page was opened. Load the page again.");
  }
  const { image, ...rest } = result;
  entry.state = "done";
  entry.error = "";
  entry.result = rest;
  entry.pictures = null;
  if (!image) {
    // Chosen while only the answer was asked for.
    if (entry === page.selected) entry.state = "waiting";
    return;
  }
  const neighbours = result.neighbours?.map(({ png }) => png ?? null);
  entry.pictures = { image, maps: {}, neighbours };
  entry.result.maps = {};
  for (const [key, map] of Object.entries(result.maps)) {
    entry.pictures.maps[key] = map.png;
    entry.result.maps[key] = { empty: map.empty };
  }
  entry.result.neighbours = result.neighbours?.map(({ png, ...words }) => words) ?? null;
  keepPictures(entry);
}

function keepPictures(entry) {
  const at = pictured.indexOf(entry);
  if (at >= 0) pictured.splice(at, 1);
  pictured.push(entry);
  while (pictured.length > KEPT) {
    const oldest = pictured[0] === page.selected ? 1 : 0;
    pictured.splice(oldest, 1)[0].pictures = null;
  }
}

function excuse(entry, error) {
  if (error.status === 401) {
    entry.state = "waiting";
    lock();
  } else if (isBusy(error)) {
    entry.state = "waiting";
    page.heldUntil = Math.max(page.heldUntil, Date.now() + 1000 * error.pause);
    setTimeout(pump, page.heldUntil - Date.now() + 10);
  } else {
    fail(entry, error.message);
  }
}

export function askAgain(entry) {
  entry.request?.abort();
  entry.request = null;
  entry.state = "waiting";
  entry.error = "";
  paint(entry);
  pump();
}

function remove(entry) {
  const at = files.indexOf(entry);
  entry.request?.abort();
  entry.request = null;
  files.splice(at, 1);
  if (pictured.includes(entry)) pictured.splice(pictured.indexOf(entry), 1);
  entry.row.remove();
  const near = files[at] ?? files[at - 1] ?? null;
  if (entry === page.selected) select(near);
  (near ? near.row.querySelector(".pick") : $("files")).focus();
  say(`${entry.name} removed.`);
  pump();
}

export function clear() {
  for (const entry of files) {
    entry.request?.abort();
    entry.request = null;
  }
  files.length = pictured.length = 0;
  $("list").replaceChildren();
  select(null);
  $("files").focus();
  say("All files removed.");
  pump();
}

function select(entry) {
  const before = page.selected;
  clearTimeout(page.frameTimer);
  page.frameTimer = 0;
  page.selected = entry;
  if (before && before !== entry) {
    // Pictures of what is no longer looked at need not be made.
    if (before.state === "waiting" && before.result?.frame === before.frame) before.state = "done";
    paint(before);
  }
  if (entry?.pictures) keepPictures(entry);
  if (entry?.state === "done" && !entry.pictures) entry.state = "waiting";
  if (entry) paint(entry);
  else show();
  if (entry) bringIntoList(entry.row);
}

function pick(entry) {
  select(entry);
  pump();
}

export function move(step) {
  const entry = files[files.indexOf(page.selected) + step];
  if (!page.selected || !entry) return;
  const inList = $("list").contains(document.activeElement);
  select(entry);
  if (inList) entry.row.querySelector(".pick").focus();
  say(announcement(entry));
  pump();
}
