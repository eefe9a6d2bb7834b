/* What is said of the model, once; what answers fill in later is made here. */

import { $, el } from "./elements.js";

const MEANINGS = {
  grad_cam: (branch) =>
    `Bright is where ${branch}’s last feature map spoke for this answer (Grad-CAM). The map is coarse, and stretched to the size of the image.`,
  rollout: () =>
    "Bright is from where information may come through the layers of attention, the same whatever the answer. It tends to be even.",
  gradient_attention: () =>
    "Bright is where attention gathers what speaks for this answer: each layer’s attention, weighted by how much the answer depends on it.",
};

const EMPTY = { // Rollout knows of no answer.
  grad_cam: "This map is empty: nothing here spoke for the answer.",
  gradient_attention: "This map is empty: nothing here spoke for the answer.",
};

/* The answer of /api/model. */
export function describe(model) {
  document.title = `${model.run} – jaxbusi`;
  $("run").textContent = `– ${model.run}`;
  $("notice").textContent = model.notice;
  const limit = Math.floor(model.limits.bytes / 2 ** 20);
  $("limits").textContent = `${model.limits.types.join(", ")}; up to ${limit} MiB each.`;
  $("bars").replaceChildren(...model.classes.map((name) => bar(name)));
  const panels = Object.keys(model.maps).map((key) => panel(model, key));
  $("maps").replaceChildren(panel(model, null), ...panels);
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
  const parts = told.map((part) => (part.nodeType ? part : el("span", {}, part)));
  $("fingerprints").replaceChildren(...parts);
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

function panel(model, key) {
  const stack = el("div", { className: "stack" }, el("img", { className: "base", alt: "" }));
  const title = el("strong", { textContent: key ? model.maps[key] : "The image" });
  const caption = el("figcaption", {}, title);
  if (!key) {
    caption.append(el("span", { className: "soft", id: "size" }));
    return el("figure", {}, stack, caption);
  }
  stack.append(el("img", { className: "map", alt: "" }));
  const kind = Object.keys(MEANINGS).find((start) => key.startsWith(start));
  const branch = model.maps[key].split(", ").at(-1);
  const empty = EMPTY[kind] ?? "This map is empty.";
  caption.append(el("span", { className: "empty", hidden: true, textContent: empty }));
  if (kind) {
    caption.append(el("details", {},
      el("summary", { textContent: "What is this?" }),
      el("p", { textContent: MEANINGS[kind](branch) })));
  }
  return el("figure", { data: { map: key } }, stack, caption);
}
