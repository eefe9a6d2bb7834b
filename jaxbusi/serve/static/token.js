/* The token: in the tab's memory, and asked for where the server wants one. */

import { $, say } from "./elements.js";
import { page } from "./state.js";

const KEY = "jaxbusi-token";
const SOURCE = "It is what JAXBUSI_TOKEN was set to where the server was started; whoever started it knows it.";

let token = sessionStorage.getItem(KEY);

export const authorization = () => (token ? { Authorization: `Bearer ${token}` } : {});

export function keepToken(text) {
  token = text;
  sessionStorage.setItem(KEY, token);
}

/* A token in the address would stay in the history and be copied with it. */
export function takeTokenFromAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return false;
  history.replaceState(null, "", location.pathname + location.search);
  keepToken(given);
  return true;
}

export function lock() {
  $("token-words").textContent = token
    ? `The server does not take this token. ${SOURCE}`
    : `This server wants a token. ${SOURCE}`;
  const shown = page.locked;
  page.locked = true;
  token = null;
  sessionStorage.removeItem(KEY);
  $("token").value = "";
  $("token-form").hidden = false;
  if (!shown) say("The server wants a token.");
  $("token").focus();
}

export function unlock() {
  page.locked = false;
  $("token-form").hidden = true;
}
