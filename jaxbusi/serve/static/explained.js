/* What an answer comes from: maps, branches and the nearest training images. */

import { $, el } from "./elements.js";
import { page } from "./state.js";
import { exact, percent, points, sentence } from "./words.js";

export function showMaps({ result, pictures }) {
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
    if (empty) base.alt = `The image; the map of ${page.model.maps[key]} is empty`;
    else if (map.src !== pictures.maps[key]) {
      map.src = pictures.maps[key];
      base.alt = `The image under the map of ${page.model.maps[key]}`;
      describeMap(map, base, page.model.maps[key]);
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
  const even = most < 1.3 * mean;
  const where = even ? "about even over the image" : `strongest at the ${down} ${across}`;
  base.alt = `The image under the map of ${name}, which is ${where}`;
}

export function showBranches({ contributions, probabilities }) {
  const { baseline, shares } = contributions;
  const branches = Object.keys(contributions.points);
  const name = (branch) => page.model.branches[branch] ?? branch;
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
      el("li", {}, el("span", { className: "swatch", data: { branch: at } }),
        `${name(branch)}: ${percent(shares[branch])}`)));
  }
  const line = (title, cell) => {
    const head = el("th", { scope: "row", textContent: title });
    const cells = page.model.classes.map((label) => el("td", { textContent: cell(label) }));
    return el("tr", {}, head, ...cells);
  };
  const heads = page.model.classes.map((label) =>
    el("th", { scope: "col", textContent: label }));
  $("points-head").replaceChildren(el("tr", {}, el("td"), ...heads));
  $("points").replaceChildren(
    line("Baseline", (label) => exact(baseline[label])),
    ...branches.map((branch) => line(name(branch), (label) => points(contributions.points[branch][label]))),
    line("Probability", (label) => exact(probabilities[label].value)),
  );
}

export function showNearest({ result, pictures }) {
  const found = result.neighbours;
  $("nearest").hidden = !found;
  $("nearest-words").textContent = found
    ? "The images of the training part that look most alike to the model, by the features its answer is made from; 1 is the same. They may look different to an eye. The labels are those of the data set."
    : `Not known: ${sentence(page.model.neighbours.about)}`;
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
