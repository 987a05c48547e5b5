/**
 * What is asked for, and its two other forms: the page's address, and the body of a request to the API.
 *
 * A query has `parts`, each one of { item, image } (an item, and which of its pictures is shown), { image }, { url },
 * { upload } (a number of uploads.js) and { text }, with a weight from -1 to 1 and, but for text, a crop or null;
 * `where`, rows of a field, an operator and a value; `diversity`; and `explain`.
 */

import { urlOf } from "./dom.js";

export const NOTHING = { parts: [], where: [], diversity: 0, explain: false };
export const MOST_PARTS = 8;
const MOST_TEXT = 1000;

/** Operators of a filter row: what they are called, and the condition that they make of a field and a value. */
export const OPERATORS = {
  eq: ["is", (field, value) => ({ field, eq: value })],
  ne: ["is not", (field, value) => ({ not: { field, eq: value } })],
  lt: ["is less than", (field, value) => ({ field, lt: value })],
  lte: ["is at most", (field, value) => ({ field, lte: value })],
  gt: ["is more than", (field, value) => ({ field, gt: value })],
  gte: ["is at least", (field, value) => ({ field, gte: value })],
  exists: ["is known", (field) => ({ field, exists: true })],
  missing: ["is not known", (field) => ({ field, exists: false })],
};
export const needsValue = (operator) => !["exists", "missing"].includes(operator);

// Stands for the picture that a form has as a file.
const FILE = {};

export const part = (subject) => ({ weight: 1, crop: null, ...subject });

/** The query of an address; what somebody broke in it is left out. */
export function fromAddress(search) {
  const parameters = new URLSearchParams(search);
  const diversity = Number(parameters.get("diversity") ?? 0);
  return {
    parts: parameters.has("item")
      ? [part({ item: parameters.get("item"), image: Number(parameters.get("image")) || null })]
      : parameters.getAll("part").map(parsed).filter(isPart).slice(0, MOST_PARTS).map(part),
    where: parameters.getAll("where").map(parsed).filter(isRow),
    diversity: diversity >= 0 && diversity <= 1 ? diversity : 0,
    explain: parameters.has("explain"),
  };
}

/** The address of a query. */
export function toAddress({ parts, where, diversity, explain }) {
  const parameters = new URLSearchParams();
  const [only] = parts;
  if (parts.length === 1 && only.item !== undefined && only.weight === 1 && !only.crop) {
    parameters.set("item", only.item);
    if (only.image) parameters.set("image", only.image);
  } else {
    for (const one of parts) parameters.append("part", JSON.stringify(brief(one)));
  }
  for (const row of where) parameters.append("where", JSON.stringify(row));
  if (diversity) parameters.set("diversity", diversity);
  if (explain) parameters.set("explain", 1);
  const text = parameters.toString();
  return text ? `/?${text}` : "/";
}

/** A part without what goes without saying. */
const brief = ({ weight, crop, ...subject }) => ({ ...subject, ...about(weight, crop) });
const about = (weight, crop) => ({ ...(weight === 1 ? {} : { weight }), ...(crop ? { crop } : {}) });

/** The body that asks for a query; `pictureOf` gives what is sent for the number of an upload. */
export function toBody({ parts, where, diversity, explain }, limit, pictureOf) {
  const counting = parts.filter(({ weight }) => weight !== 0);
  // Regions are those of one picture: of an item, of the one that is shown.
  const exact = explain && counting.length === 1;
  const body = { query: counting.map((one) => toPart(one, pictureOf, exact)) };
  const conditions = where.map(([field, operator, value]) => OPERATORS[operator][1](field, value));
  if (conditions.length) body.filter = conditions.length === 1 ? conditions[0] : { and: conditions };
  if (diversity) body.diversity = diversity;
  if (explain) body.explain = true;
  return { ...body, limit, paged: true };
}

/**
 * A query with one upload as a form: { upload, fields }, so that the picture goes as it is; null for other queries.
 */
export function toForm(query, limit) {
  const uploads = query.parts.filter((one) => one.upload !== undefined && one.weight !== 0);
  if (uploads.length !== 1) return null;
  const [{ upload, weight, crop }] = uploads;
  const { query: all, ...rest } = toBody(query, limit, () => FILE);
  const others = all.filter((one) => one.image !== FILE);
  return { upload, fields: { ...about(weight, crop), ...(others.length ? { query: others } : {}), ...rest } };
}

function toPart({ item, image, url, upload, text, weight, crop }, pictureOf, exact) {
  const further = about(weight, crop);
  if (upload !== undefined) return { image: pictureOf(upload), ...further };
  if (url !== undefined) return { url, ...further };
  if (text !== undefined) return { text, ...further };
  // Only a picture can be cropped, so of an item it is the one that is shown.
  if (item !== undefined && !(image && (crop || exact))) return { item_id: item, ...further };
  return { image_id: image, ...further };
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

const isWeb = (url) => typeof url === "string" && /^https?:$/.test(urlOf(url)?.protocol);
const isSentence = (text) => typeof text === "string" && text.trim() !== "" && text.length <= MOST_TEXT;
const isShare = (value) => typeof value === "number" && value >= 0 && value <= 1;

function isPart(one) {
  if (typeof one !== "object" || one === null) return false;
  const { item, image, url, upload, text, weight = 1, crop = null } = one;
  if (text !== undefined && crop !== null) return false;
  return (
    [typeof item === "string", Number.isInteger(image), isWeb(url), Number.isInteger(upload), isSentence(text)].some(Boolean) &&
    typeof weight === "number" &&
    Math.abs(weight) <= 1 &&
    (crop === null || ["x", "y", "width", "height"].every((side) => isShare(crop[side])))
  );
}

function isRow(row) {
  return Array.isArray(row) && typeof row[0] === "string" && row[0] !== "" && Object.hasOwn(OPERATORS, row[1]);
}
