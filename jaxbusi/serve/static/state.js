/* What the modules of the page share. */

export const files = []; // What `add` of files.js makes, in the order of the list.

export const page = {
  model: null, // The answer of /api/model.
  selected: null, // One of `files`.
  locked: false, // Until the server gets a token that it takes.
  heldUntil: 0, // Milliseconds, as of Date.now(), that a busy server wants to be left alone.
  frameTimer: 0, // While a frame is being chosen.
};
