/* Results as files to take away. */

import { el } from "./elements.js";
import { files, page } from "./state.js";

function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export function saveResult() {
  const { name, result } = page.selected;
  const text = JSON.stringify({ file: name, ...result }, null, 2);
  save(`${name}.json`, "application/json", `${text}\n`);
}

function cell(value) {
  if (value === null || value === undefined) return "";
  // A name that begins like a formula would be worked out by a spreadsheet.
  const formula = typeof value === "string" && /^[=+\-@\t\r]/.test(value);
  const text = formula ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function saveAll() {
  const { classes, run } = page.model;
  const ranges = classes.flatMap((name) => [`${name}_low`, `${name}_high`]);
  const trust = ["distance", "unfamiliar", "trained_on"];
  const lines = [["file", "frame", "predicted", ...classes, ...ranges, ...trust, "error"]];
  for (const { name, frame, result, error } of files) {
    if (result?.frame !== frame) {
      const empty = Array(1 + classes.length + ranges.length + trust.length).fill("");
      lines.push([name, frame, ...empty, error || "not answered yet"]);
      continue;
    }
    const { predicted, probabilities: found } = result;
    const values = classes.map((label) => found[label].value);
    const ends = classes.flatMap((label) => [found[label].low, found[label].high]);
    const told = trust.map((key) => result[key]);
    lines.push([name, frame, predicted, ...values, ...ends, ...told, error]);
  }
  const text = lines.map((line) => line.map(cell).join(",")).join("\r\n");
  save(`${run}.csv`, "text/csv", `${text}\r\n`);
}
