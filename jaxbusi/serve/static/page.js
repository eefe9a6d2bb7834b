/* Asks the server about images and shows its answers.

   Everything that comes from a file or the server enters the page as text, never as markup. Files
   stay in the browser, so that another frame of a clip, or pictures that were let go, can be asked
   for again. What is always there is in page.html and is only filled in here: what is focused or
   opened stays so while answers come in. */

const AT_ONCE = 3; // Requests at a time.
const KEPT = 20; // Files whose pictures are held in memory.
const PAUSE = 2; // Seconds before another try, where a busy server names none.
const SETTLE = 300; // Milliseconds without a change after which a frame is asked for.

const files = []; // What `add` makes, in the order of the list.
const pictured = []; // Those with pictures, the one that was longest not looked at first.
let model = null; // The answer of /api/model.
let selected = null;
let token = sessionStorage.getItem("jaxbusi-token");
let locked = false; // Until the server gets a token that it takes.
let heldUntil = 0; // Milliseconds, as of Date.now(), that a busy server wants to be left alone.
let frameTimer = 0;

const $ = (id) => document.getElementById(id);

function el(tag, properties = {}, ...children) {
  const { data = {}, ...rest } = properties;
  const made = Object.assign(document.createElement(tag), rest);
  Object.assign(made.dataset, data);
  made.append(...children);
  return made;
}

function say(words) {
  $("said").textContent = words;
}

/* Numbers in words. Nothing is rounded to certainty. */

function whole(share) {
  if (share > 0 && share < 0.005) return "<1";
  if (share < 1 && share >= 0.995) return ">99";
  return String(Math.round(100 * share));
}

const percent = (share) => `${whole(share)}\u00a0%`;
const exact = (share) => `${(100 * share).toFixed(1)}\u00a0%`;

function range(low, high) {
  const ends = [whole(low), whole(high)];
  return ends[0] === ends[1] ? `${ends[0]}\u00a0%` : `${ends.join("–")}\u00a0%`;
}

function points(value) {
  const text = Math.abs(100 * value).toFixed(1);
  if (text === "0.0") return text;
  return (value < 0 ? "\u2212" : "+") + text;
}

const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
const sentence = (text) => (/[.!?]$/.test(text) ? text : `${text}.`);
const upper = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const answer = (result) =>
  `${result.predicted}, ${percent(result.probabilities[result.predicted].value)}`;

/* Requests */

class Failed extends Error {
  constructor(words, status = 0, pause = PAUSE) {
    super(words);
    this.status = status; // 0: no answer came.
    this.pause = pause;
  }
}

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  if (options.body) headers["Content-Type"] = "application/octet-stream";
  let response, text;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failed("No answer: the server cannot be reached. See that it runs, and try again.");
  }
  let found = null;
  try {
    found = JSON.parse(text);
  } catch {
    // Said below, with the status.
  }
  if (response.ok && found) return found;
  const words = found?.error ?? `The server answered ${response.status} without saying why; see its log.`;
  const pause = Number.parseInt(response.headers.get("Retry-After"), 10);
  throw new Failed(upper(words), response.status, pause >= 0 ? pause : PAUSE);
}

async function readable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Failed("This cannot be read: it is a folder, or was moved or changed since it was chosen. Choose the file again.");
  }
}

async function start() {
  $("trouble").hidden = true;
  try {
    model = await ask("/api/model");
  } catch (error) {
    if (error.status === 401) return lock();
    if (error.status === 429 || error.status === 503) {
      setTimeout(start, 1000 * error.pause);
    }
    $("trouble-words").textContent = error.message;
    $("trouble").hidden = false;
    return;
  }
  locked = false;
  $("token-form").hidden = true;
  describe();
  pump();
}

function lock() {
  $("token-words").textContent = token
    ? "The server does not take this token. The right one was printed when the server was started."
    : "This server wants a token. It was printed when the server was started.";
  const shown = locked;
  locked = true;
  token = null;
  sessionStorage.removeItem("jaxbusi-token");
  $("token").value = "";
  $("token-form").hidden = false;
  if (!shown) say("The server wants a token.");
  $("token").focus();
}

function keepToken(text) {
  token = text;
  sessionStorage.setItem("jaxbusi-token", token);
}

/* A token in the address would stay in the history and be copied with it. */
function takeTokenFromAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return false;
  history.replaceState(null, "", location.pathname + location.search);
  keepToken(given);
  return true;
}

/* The files and their turn */

function add(chosen) {
  const fresh = [];
  for (const file of chosen) {
    const entry = {
      file, name: file.name, frame: 1, state: "waiting",
      result: null, pictures: null, error: "", request: null, row: null,
    };
    if (model && file.size > model.limits.bytes) {
      const limit = Math.floor(model.limits.bytes / 2 ** 20);
      fail(entry, `Too large: ${Math.ceil(file.size / 2 ** 20)} MiB, where the server takes ${limit} MiB.`);
    }
    entry.row = row(entry);
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

function next() {
  if (selected?.state === "waiting") return selected;
  return files.find((entry) => entry.state === "waiting");
}

function pump() {
  paintProgress();
  if (!model || locked || Date.now() < heldUntil) return;
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
  const wanted = entry === selected || files.indexOf(entry) < KEPT;
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
  if (entry === selected) announce(entry);
  pump();
  const open = files.some(({ state }) => state === "waiting" || state === "working");
  if (!open && files.length > 1) say(`${announcement(selected)} ${progress()}`);
}

function receive(entry, result) {
  if (result.weights_sha256 !== model.weights_sha256) {
    return fail(entry, "The server now runs another model than when this page was opened. Load the page again.");
  }
  const { image, ...rest } = result;
  entry.state = "done";
  entry.error = "";
  entry.result = rest;
  entry.pictures = null;
  if (!image) {
    // Chosen while only the answer was asked for.
    if (entry === selected) entry.state = "waiting";
    return;
  }
  entry.pictures = { image, maps: {}, neighbours: result.neighbours?.map(({ png }) => png ?? null) };
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
    const oldest = pictured[0] === selected ? 1 : 0;
    pictured.splice(oldest, 1)[0].pictures = null;
  }
}

function excuse(entry, error) {
  if (error.status === 401) {
    entry.state = "waiting";
    lock();
  } else if (error.status === 429 || error.status === 503) {
    entry.state = "waiting";
    heldUntil = Math.max(heldUntil, Date.now() + 1000 * error.pause);
    setTimeout(pump, heldUntil - Date.now() + 10);
  } else {
    fail(entry, error.message);
  }
}

function askAgain(entry) {
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
  if (entry === selected) select(near);
  (near ? near.row.querySelector(".pick") : $("files")).focus();
  say(`${entry.name} removed.`);
  pump();
}

function clear() {
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
  const before = selected;
  clearTimeout(frameTimer);
  frameTimer = 0;
  selected = entry;
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

/* Only the list is scrolled: whoever reads the result below it stays there. */
function bringIntoList({ offsetTop, offsetHeight }) {
  const list = $("list");
  if (offsetTop < list.scrollTop) list.scrollTop = offsetTop;
  const below = offsetTop + offsetHeight - list.clientHeight;
  if (below > list.scrollTop) list.scrollTop = below;
}

function move(step) {
  const entry = files[files.indexOf(selected) + step];
  if (!selected || !entry) return;
  const inList = $("list").contains(document.activeElement);
  select(entry);
  if (inList) entry.row.querySelector(".pick").focus();
  announce(entry);
  pump();
}

/* The list */

function row(entry) {
  const pick = el("button", { type: "button", className: "pick" },
    el("span", { textContent: entry.name }), el("span", { className: "state" }));
  pick.addEventListener("click", () => {
    select(entry);
    pump();
    // Side by side the result is in view; below the list it may not be.
    const { top } = $("result").getBoundingClientRect();
    if (top > 0.6 * innerHeight) $("result").scrollIntoView();
  });
  const again = el("button", { type: "button", className: "act again", textContent: "Try again", hidden: true });
  again.setAttribute("aria-label", `Try again: ${entry.name}`);
  again.addEventListener("click", () => {
    pick.focus();
    askAgain(entry);
  });
  const gone = el("button", { type: "button", className: "act", textContent: "✕", title: "Remove" });
  gone.setAttribute("aria-label", `Remove ${entry.name}`);
  gone.addEventListener("click", () => remove(entry));
  return el("li", {}, pick, again, gone);
}

function stateWords(entry) {
  const { state, result } = entry;
  if (state === "failed") return entry.error;
  if (result && result.frame === entry.frame) {
    const frame = result.frames > 1 ? `, frame ${result.frame}` : "";
    return `${answer(result)}${frame}${result.unfamiliar ? " – ⚠ unlike the training images" : ""}`;
  }
  return state;
}

function paint(entry) {
  if (!entry.row) return;
  const answered = entry.result?.frame === entry.frame;
  entry.row.dataset.state = entry.state === "waiting" && answered ? "done" : entry.state;
  const pick = entry.row.querySelector(".pick");
  pick.querySelector(".state").textContent = stateWords(entry);
  if (entry === selected) pick.setAttribute("aria-current", "true");
  else pick.removeAttribute("aria-current");
  entry.row.querySelector(".again").hidden = entry.state !== "failed";
  if (entry === selected) show();
}

function progress() {
  const failed = files.filter(({ state }) => state === "failed").length;
  const answered = files.filter(({ state, result }) => state !== "failed" && result).length;
  const wrong = failed ? `, ${failed} with an error` : "";
  return `${answered} of ${count(files.length, "file")} answered${wrong}.`;
}

function paintProgress() {
  const wait = Math.ceil((heldUntil - Date.now()) / 1000);
  const busy = wait > 0 && next() ? ` The server is busy; asked again in ${wait} s.` : "";
  $("progress").textContent = progress() + busy;
  $("listing").hidden = !files.length;
  $("csv").disabled = !files.some(({ state, result }) => result || state === "failed");
}

function announcement(entry) {
  return entry ? `${entry.name}: ${sentence(stateWords(entry))}` : "";
}

function announce(entry) {
  say(announcement(entry));
}

/* What is said of the model, once */

const MEANINGS = {
  grad_cam: (branch) =>
    `Bright is where ${branch}’s last feature map spoke for this answer (Grad-CAM). The map is coarse, and stretched to the size of the image.`,
  rollout: () =>
    "Bright is from where information may come through the layers of attention, the same whatever the answer. It tends to be even.",
  gradient_attention: () =>
    "Bright is where attention gathers what speaks for this answer: each layer’s attention, weighted by how much the answer depends on it.",
};

function describe() {
  document.title = `${model.run} – jaxbusi`;
  $("run").textContent = `– ${model.run}`;
  $("notice").textContent = model.notice;
  const limit = Math.floor(model.limits.bytes / 2 ** 20);
  $("limits").textContent = `${model.limits.types.join(", ")}; up to ${limit} MiB each.`;
  $("bars").replaceChildren(...model.classes.map((name) => bar(name)));
  const panels = Object.keys(model.maps).map((key) => panel(key));
  $("maps").replaceChildren(panel(null), ...panels);
  $("maps").dataset.panels = panels.length + 1;
  const { stops, ends, label } = model.scale;
  $("legend-colours").style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  $("legend-low").textContent = `${ends[0]} (transparent)`;
  $("legend-high").textContent = ends[1];
  $("legend-label").textContent = label;
  const told = [
    fingerprint("Weights", model.weights_sha256), fingerprint("Settings", model.config_sha256),
    `Step ${model.checkpoint_step}`, `Protocol ${model.protocol}`, `jaxbusi ${model.jaxbusi}`,
  ];
  $("fingerprints").replaceChildren(...told.map((part) => (part.nodeType ? part : el("span", {}, part))));
}

function fingerprint(name, sha) {
  return el("details", {},
    el("summary", { title: `SHA-256 ${sha}`, textContent: `${name} ${sha.slice(0, 8)}…` }),
    el("code", { textContent: sha }));
}

function bar(name) {
  const track = el("div", { className: "track" },
    el("i", { className: "fill" }), el("i", { className: "whisker" }));
  track.setAttribute("aria-hidden", "true");
  const figures = el("span", { className: "figures" },
    el("data", { className: "value" }), " ", el("span", { className: "range" }));
  return el("li", { data: { class: name } }, el("span", { textContent: name }), track, figures);
}

function panel(key) {
  const stack = el("div", { className: "stack" }, el("img", { className: "base", alt: "" }));
  const caption = el("figcaption", {}, el("strong", { textContent: key ? model.maps[key] : "The image" }));
  if (!key) {
    caption.append(el("span", { className: "soft", id: "size" }));
    return el("figure", {}, stack, caption);
  }
  stack.append(el("img", { className: "map", alt: "" }));
  const kind = Object.keys(MEANINGS).find((start) => key.startsWith(start));
  const branch = model.maps[key].split(", ").at(-1);
  caption.append(el("span", { className: "empty", hidden: true, textContent: "This map is empty: nothing here spoke for the answer." }));
  if (kind) {
    caption.append(el("details", {},
      el("summary", { textContent: "What is this?" }), el("p", { textContent: MEANINGS[kind](branch) })));
  }
  return el("figure", { data: { map: key } }, stack, caption);
}

/* The result */

function show() {
  const entry = selected;
  $("nothing").hidden = entry !== null;
  $("one").hidden = entry === null;
  if (!entry) return;
  const { result, state } = entry;
  const at = files.indexOf(entry);
  $("name").textContent = entry.name;
  $("moves").hidden = files.length === 1;
  $("place").textContent = `${at + 1} of ${files.length}`;
  // Not `disabled`, which would take the focus away at either end.
  $("previous").ariaDisabled = String(at === 0);
  $("next").ariaDisabled = String(at === files.length - 1);
  $("failure").hidden = state !== "failed";
  $("failure-words").textContent = entry.error;
  $("working").hidden = Boolean(result) || state === "failed";
  $("working").textContent = state === "waiting" ? "Waiting for its turn." : "Working on it.";
  $("frame-box").hidden = !(result?.frames > 1);
  // An answer to another frame than the chosen one must not be taken for its.
  $("found").hidden = !result || (state === "failed" && result.frame !== entry.frame);
  if (!result) return;
  $("found").setAttribute("aria-busy", String(result.frame !== entry.frame));
  showFrame(entry);
  showAnswer(result);
  showTrust(result);
  $("explained").hidden = !entry.pictures;
  if (entry.pictures) {
    showMaps(entry);
    showBranches(result);
    showNearest(entry);
  } else if (state !== "failed") {
    $("working").hidden = false;
    $("working").textContent = "The maps are being made.";
  }
}

function showFrame({ frame, result }) {
  for (const input of [$("frame-slider"), $("frame-number")]) {
    input.max = result.frames;
    if (input !== document.activeElement || !frameTimer) input.value = frame;
  }
  const asking = frame === result.frame ? "" : ` – below is frame ${result.frame}`;
  $("frame-count").textContent = `of ${result.frames}${asking}`;
}

function showAnswer(result) {
  $("answer").textContent = answer(result);
  for (const item of $("bars").children) {
    const name = item.dataset.class;
    const { value, low, high } = result.probabilities[name];
    item.classList.toggle("best", name === result.predicted);
    item.querySelector(".fill").style.width = `${100 * value}%`;
    const whisker = item.querySelector(".whisker").style;
    whisker.left = `${100 * low}%`;
    whisker.width = `${100 * (high - low)}%`;
    const data = item.querySelector(".value");
    data.value = value;
    data.textContent = percent(value);
    item.querySelector(".range").textContent = `(${range(low, high)})`;
  }
  $("views").textContent = result.views
    ? `In brackets, and as a thin line: smallest and largest over the image and ${result.views} slightly changed ${result.views === 1 ? "copy" : "copies"} of it.`
    : "";
}

function showTrust({ record, distance, unfamiliar }) {
  if (record) {
    const were = record.images === 1 ? "was" : "were";
    const right = record.correct === 1 ? "was" : "were";
    $("record").textContent =
      `Of the ${count(record.images, "image")} of the ${record.part} part that ${were} answered about as surely, ` +
      `${record.correct} ${right} right (${percent(record.value)}, ${range(record.low, record.high)}).`;
  } else {
    $("record").textContent = "How often answers as sure as this one were right is not known: the run has no record of it.";
  }
  $("unfamiliar").hidden = unfamiliar !== true;
  if (distance === null) {
    $("familiarity").textContent = `This run cannot tell whether the image is like those it was trained on: ${sentence(model.familiarity.about)}`;
  } else {
    const far = distance.toFixed(2);
    const limit = "1 is the limit, within which 95\u00a0% of the validation images lie";
    $("familiarity").textContent = unfamiliar
      ? `Unlike the training images: distance ${far}; ${limit}.`
      : `Like the training images: distance ${far}; ${limit}.`;
    $("unfamiliar-words").textContent =
      `To the model this image is further from those it was trained on (distance ${far}, limit 1) than nearly all it was checked on, so that its probabilities say little, however sure they look.`;
  }
  const { calibrated, about } = model.calibration;
  $("calibration").textContent = calibrated
    ? `The probabilities are calibrated: ${sentence(about)}`
    : `The probabilities are not calibrated: ${sentence(about)}`;
}

function showMaps({ result, pictures }) {
  for (const figure of $("maps").children) {
    const base = figure.querySelector(".base");
    if (base.src !== pictures.image) base.src = pictures.image;
    const key = figure.dataset.map;
    if (!key) {
      base.alt = `The image as it was read, ${result.width} by ${result.height} pixels`;
      $("size").textContent = `${result.width} × ${result.height}`;
      continue;
    }
    const map = figure.querySelector(".map");
    const empty = !pictures.maps[key] || result.maps[key].empty;
    figure.querySelector(".empty").hidden = !empty;
    map.hidden = empty;
    if (empty) base.alt = `The image; the map of ${model.maps[key]} is empty`;
    else if (map.src !== pictures.maps[key]) {
      map.src = pictures.maps[key];
      base.alt = `The image under the map of ${model.maps[key]}`;
      describeMap(map, base, model.maps[key]);
    }
  }
}

/* Where a map is strongest, for those who cannot see it: its opacity in nine fields. */
async function describeMap(map, base, name) {
  const source = map.src;
  await map.decode().catch(() => {}); // Another picture has taken its place.
  if (map.src !== source || !map.naturalWidth) return;
  const side = 48;
  const canvas = el("canvas", { width: side, height: side });
  const context = canvas.getContext("2d");
  context.drawImage(map, 0, 0, side, side);
  const { data } = context.getImageData(0, 0, side, side);
  const fields = Array(9).fill(0);
  for (let at = 0; at < side * side; at += 1) {
    const down = Math.floor((3 * Math.floor(at / side)) / side);
    fields[3 * down + Math.floor((3 * (at % side)) / side)] += data[4 * at + 3];
  }
  const most = Math.max(...fields);
  const mean = fields.reduce((sum, field) => sum + field) / 9;
  const best = fields.indexOf(most);
  const down = ["upper", "middle", "lower"][Math.floor(best / 3)];
  const across = ["left", "centre", "right"][best % 3];
  const where = most < 1.3 * mean ? "about even over the image" : `strongest at the ${down} ${across}`;
  base.alt = `The image under the map of ${name}, which is ${where}`;
}

function showBranches({ contributions, probabilities }) {
  const { baseline, shares } = contributions;
  const branches = Object.keys(contributions.points);
  const name = (branch) => model.branches[branch] ?? branch;
  $("shares").hidden = $("shares-list").hidden = !shares;
  $("shares-words").textContent = shares
    ? "Of all that moves the probabilities of this image, up or down, this share comes from each branch."
    : "Nothing moves: the branches do not change the probabilities of this image.";
  if (shares) {
    $("shares").replaceChildren(...branches.map((branch, at) => {
      const part = el("i", { data: { branch: at } });
      part.style.flex = `${shares[branch]} 0 0`;
      return part;
    }));
    $("shares-list").replaceChildren(...branches.map((branch, at) =>
      el("li", {}, el("span", { className: "swatch", data: { branch: at } }), `${name(branch)}: ${percent(shares[branch])}`)));
  }
  const line = (title, cell) => {
    const head = el("th", { scope: "row", textContent: title });
    return el("tr", {}, head, ...model.classes.map((label) => el("td", { textContent: cell(label) })));
  };
  const heads = model.classes.map((label) => el("th", { scope: "col", textContent: label }));
  $("points-head").replaceChildren(el("tr", {}, el("td"), ...heads));
  $("points").replaceChildren(
    line("Baseline", (label) => exact(baseline[label])),
    ...branches.map((branch) => line(name(branch), (label) => points(contributions.points[branch][label]))),
    line("Probability", (label) => exact(probabilities[label].value)),
  );
}

function showNearest({ result, pictures }) {
  const found = result.neighbours;
  $("nearest").hidden = !found;
  $("nearest-words").textContent = found
    ? "The images of the training part that look most alike to the model, by the features its answer is made from; 1 is the same. They may look different to an eye. The labels are those of the data set."
    : `Not known: ${sentence(model.neighbours.about)}`;
  if (!found) return;
  $("nearest").replaceChildren(...found.map((one, at) => {
    const words = [
      el("strong", { textContent: one.label }), `similarity ${one.similarity.toFixed(2)}`,
      el("br"), el("span", { className: "soft", textContent: one.image }),
    ];
    const png = pictures.neighbours[at];
    const alt = `Training image, ${one.label}, similarity ${one.similarity.toFixed(2)}`;
    const picture = png ? [el("img", { src: png, alt })] : [];
    return el("li", {}, el("figure", {}, ...picture, el("figcaption", {}, ...words)));
  }));
}

/* Files to take away */

function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

function saveResult() {
  const { name, result } = selected;
  save(`${name}.json`, "application/json", `${JSON.stringify({ file: name, ...result }, null, 2)}\n`);
}

function cell(value) {
  if (value === null || value === undefined) return "";
  // A name that begins like a formula would be worked out by a spreadsheet.
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function saveAll() {
  const ranges = model.classes.flatMap((name) => [`${name}_low`, `${name}_high`]);
  const lines = [["file", "frame", "predicted", ...model.classes, ...ranges, "distance", "unfamiliar", "error"]];
  for (const { name, frame, result, error } of files) {
    if (result?.frame !== frame) {
      const empty = Array(3 * model.classes.length + 3).fill("");
      lines.push([name, frame, ...empty, error || "not answered yet"]);
      continue;
    }
    const { predicted, probabilities: found, distance, unfamiliar } = result;
    const values = model.classes.map((label) => found[label].value);
    const ends = model.classes.flatMap((label) => [found[label].low, found[label].high]);
    lines.push([name, frame, predicted, ...values, ...ends, distance, unfamiliar, error]);
  }
  const text = lines.map((line) => line.map(cell).join(",")).join("\r\n");
  save(`${model.run}.csv`, "text/csv", `${text}\r\n`);
}

/* What the user does */

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
  const step = { ArrowLeft: -1, ArrowRight: 1, ...(inList && { ArrowUp: -1, ArrowDown: 1 }) }[event.key];
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
  askAgain(selected);
});
$("trouble-again").addEventListener("click", start);

$("opacity").addEventListener("input", () => {
  const { value } = $("opacity");
  $("opacity").ariaValueText = $("opacity-value").textContent = `${value}\u00a0%`;
  $("maps").style.setProperty("--opacity", value / 100);
});

for (const input of [$("frame-slider"), $("frame-number")]) {
  input.addEventListener("input", () => {
    const frame = Number(input.value);
    if (!(Number.isInteger(frame) && frame >= 1 && frame <= selected.result.frames)) return;
    for (const other of [$("frame-slider"), $("frame-number")]) if (other !== input) other.value = frame;
    clearTimeout(frameTimer);
    const entry = selected;
    frameTimer = setTimeout(() => {
      frameTimer = 0;
      entry.frame = frame;
      askAgain(entry);
    }, SETTLE);
  });
}

$("frame-number").addEventListener("change", () => {
  if (!$("frame-number").checkValidity()) showFrame(selected);
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
  if (Date.now() < heldUntil + 1000) paintProgress();
}, 500);
takeTokenFromAddress();
start();
