/* Finding, making and announcing. All text is set as text, never as markup. */

export const $ = (id) => document.getElementById(id);

export function el(tag, properties = {}, ...children) {
  const { data = {}, ...rest } = properties;
  const made = Object.assign(document.createElement(tag), rest);
  Object.assign(made.dataset, data);
  made.append(...children);
  return made;
}

/* To those who listen to the page. */
export function say(words) {
  $("said").textContent = words;
}
