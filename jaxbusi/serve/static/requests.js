/* One request to the server, and what went wrong with it in words. */

import { authorization } from "./token.js";
import { upper } from "./words.js";

const PAUSE = 2; // Seconds before another try, where a busy server names none.

export class Failed extends Error {
  constructor(words, status = 0, pause = PAUSE) {
    super(words);
    this.status = status; // 0: no answer came.
    this.pause = pause;
  }
}

export async function ask(path, options = {}) {
  const headers = authorization();
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

export async function readable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Failed("This cannot be read: it is a folder, or was moved or changed since it was chosen. Choose the file again.");
  }
}

export const isBusy = ({ status }) => status === 429 || status === 503;
