/** Choosing a part of a picture: a rectangle that the pointer draws, moves and resizes, and the arrow keys too. */

import { element, find } from "./dom.js";
import { report } from "./shell.js";

const MOST_WIDTH = 720; // of the picture on the screen, in CSS pixels
const MOST_HEIGHT = 560;
const MOST_SCALE = 3;
const SMALLEST = 0.05;
const STEP = 0.02;
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const WHOLE = { x: 0, y: 0, width: 1, height: 1 };
const UNSEEN =
  "This browser cannot show the picture, so no part of it can be chosen: it may be of a format that browsers do not " +
  "know, such as TIFF or HEIC, or no longer be at its address.";

const dialog = find("crop");
const stage = find("crop-stage");
const frame = find("crop-frame");
const said = find("crop-said");

let rectangle = WHOLE;
let drag = null;

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const rounded = (value) => Math.round(value * 1000) / 1000;
const share = (value) => `${Math.round(value * 100)}%`;

/**
 * Let the visitor choose a part of the picture at an address.
 *
 * Resolves to the rectangle in shares of the picture, null for the whole picture, undefined where nothing was chosen.
 */
export async function chooseCrop(address, before) {
  const image = element("img", { src: address, alt: "The picture to choose a part of", draggable: false });
  try {
    await image.decode();
  } catch {
    report(new Error(UNSEEN));
    return undefined;
  }
  fit(image);
  stage.querySelector("img")?.remove();
  stage.prepend(image);
  set(before ?? { x: 0.15, y: 0.15, width: 0.7, height: 0.7 });
  dialog.returnValue = "";
  dialog.showModal();
  frame.focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(chosen()), { once: true });
  });
}

/** As large as there is room for beside the dialog's words; small pictures are not blown up without end. */
function fit(image) {
  const { naturalWidth, naturalHeight } = image;
  const [width, height] = [Math.min(MOST_WIDTH, innerWidth - 80), Math.min(MOST_HEIGHT, innerHeight * 0.56)];
  const scale = Math.min(width / naturalWidth, height / naturalHeight, MOST_SCALE);
  image.width = Math.max(1, Math.round(naturalWidth * scale));
  image.height = Math.max(1, Math.round(naturalHeight * scale));
}

function chosen() {
  if (dialog.returnValue === "whole") return null;
  if (dialog.returnValue !== "part") return undefined;
  const { x, y, width, height } = rectangle;
  if (width > 0.995 && height > 0.995) return null;
  // Rounded so that the sums stay within the picture.
  const [left, top] = [rounded(x), rounded(y)];
  return {
    x: left,
    y: top,
    width: Math.min(rounded(width), rounded(1 - left)),
    height: Math.min(rounded(height), rounded(1 - top)),
  };
}

function set({ x, y, width, height }) {
  const [w, h] = [clamp(width, SMALLEST, 1), clamp(height, SMALLEST, 1)];
  rectangle = { x: clamp(x, 0, 1 - w), y: clamp(y, 0, 1 - h), width: w, height: h };
  for (const [side, value] of [["left", rectangle.x], ["top", rectangle.y], ["width", w], ["height", h]]) {
    frame.style[side] = `${value * 100}%`;
  }
}

function say() {
  const { x, y, width, height } = rectangle;
  said.textContent =
    `${share(width)} wide and ${share(height)} high, ${share(x)} from the left, ${share(y)} from the top`;
}

function placeOf(event) {
  const box = stage.getBoundingClientRect();
  return [clamp((event.clientX - box.left) / box.width, 0, 1), clamp((event.clientY - box.top) / box.height, 0, 1)];
}

/** The rectangle between two points. */
function between([x1, y1], [x2, y2]) {
  return { x: Math.min(x1, x2), y: Math.min(y1, y2), width: Math.abs(x1 - x2), height: Math.abs(y1 - y2) };
}

stage.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  event.preventDefault();
  frame.focus();
  stage.setPointerCapture(event.pointerId);
  const at = placeOf(event);
  const { x, y, width, height } = rectangle;
  const corner = event.target.dataset.corner;
  // A corner is dragged away from the one across it; elsewhere a new rectangle begins.
  if (corner) drag = { fixed: [corner.includes("w") ? x + width : x, corner.includes("n") ? y + height : y] };
  else if (event.target === frame) drag = { grip: [at[0] - x, at[1] - y] };
  else drag = { fixed: at };
});
stage.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const at = placeOf(event);
  if (drag.grip) set({ ...rectangle, x: at[0] - drag.grip[0], y: at[1] - drag.grip[1] });
  else set(between(drag.fixed, at));
});
for (const name of ["pointerup", "pointercancel"]) {
  stage.addEventListener(name, () => {
    drag = null;
    say();
  });
}
frame.addEventListener("keydown", (event) => {
  if (event.key === "Enter") {
    event.preventDefault();
    dialog.close("part");
  }
  if (!(event.key in MOVES)) return;
  event.preventDefault();
  const [across, down] = MOVES[event.key].map((direction) => direction * STEP);
  const { x, y, width, height } = rectangle;
  if (event.shiftKey) {
    set({ x, y, width: clamp(width + across, SMALLEST, 1 - x), height: clamp(height + down, SMALLEST, 1 - y) });
  } else {
    set({ x: x + across, y: y + down, width, height });
  }
  say();
});
