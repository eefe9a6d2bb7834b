/* Numbers and answers in words. Nothing is rounded to certainty. */

function whole(share) {
  if (share > 0 && share < 0.005) return "<1";
  if (share < 1 && share >= 0.995) return ">99";
  return String(Math.round(100 * share));
}

export const percent = (share) => `${whole(share)}\u00a0%`;
export const exact = (share) => `${(100 * share).toFixed(1)}\u00a0%`;

export function range(low, high) {
  const ends = [whole(low), whole(high)];
  return ends[0] === ends[1] ? `${ends[0]}\u00a0%` : `${ends.join("–")}\u00a0%`;
}

export function points(value) {
  const text = Math.abs(100 * value).toFixed(1);
  if (text === "0.0") return text;
  return (value < 0 ? "\u2212" : "+") + text;
}

export const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
export const sentence = (text) => (/[.!?]$/.test(text) ? text : `${text}.`);
export const upper = (text) => text.charAt(0).toUpperCase() + text.slice(1);
export const answer = (result) =>
  `${result.predicted}, ${percent(result.probabilities[result.predicted].value)}`;

/* Of a file of the list, in a line. */
export function stateWords({ state, result, frame, error }) {
  if (state === "failed") return error;
  if (result?.frame !== frame) return state;
  const which = result.frames > 1 ? `, frame ${result.frame}` : "";
  const trained = result.trained_on ? " – ⚠ trained on" : "";
  const strange = result.unfamiliar ? " – ⚠ unlike the training images" : "";
  return answer(result) + which + trained + strange;
}

export const announcement = (entry) => `${entry.name}: ${sentence(stateWords(entry))}`;
