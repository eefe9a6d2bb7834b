/* The result: the answer of the page.selected file, and how far to trust it.

   What is always there is in page.html and is only filled in here: what is focused or opened stays
   so while answers come in. */

import { $ } from "./elements.js";
import { showBranches, showMaps, showNearest } from "./explained.js";
import { files, page } from "./state.js";
import { answer, count, percent, range, sentence } from "./words.js";

export function show() {
  const entry = page.selected;
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

export function showFrame({ frame, result }) {
  for (const input of [$("frame-slider"), $("frame-number")]) {
    input.max = result.frames;
    if (input !== document.activeElement || !page.frameTimer) input.value = frame;
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

function showTrust({ record, distance, unfamiliar, trained_on: trained }) {
  $("remembered").hidden = !trained;
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
    $("familiarity").textContent = `This run cannot tell whether the image is like those it was trained on: ${sentence(page.model.familiarity.about)}`;
  } else {
    const far = distance.toFixed(2);
    const limit = "1 is the limit, within which 95\u00a0% of the validation images lie";
    $("familiarity").textContent = unfamiliar
      ? `Unlike the training images: distance ${far}; ${limit}.`
      : `Like the training images: distance ${far}; ${limit}.`;
    $("unfamiliar-words").textContent =
      `To the model this image is further from those it was trained on (distance ${far}, limit 1) than nearly all it was checked on, so that its probabilities say little, however sure they look.`;
  }
  const { calibrated, about } = page.model.calibration;
  $("calibration").textContent = calibrated
    ? `The probabilities are calibrated: ${sentence(about)}`
    : `The probabilities are not calibrated: ${sentence(about)}`;
}
