/** The ways to ask: with a picture of one's own, chosen, taken, dropped, pasted or by its address, or with words. */

import { hasCameras, takePicture } from "./camera.js";
import { find } from "./dom.js";
import { onFiles } from "./picking.js";
import { MOST_PARTS, part } from "./query.js";
import { calm, may, report } from "./shell.js";
import { handOver, keep } from "./uploads.js";
import { isEmpty } from "./wall.js";

const WEB = /^https?:\/\/\S+$/i;

/** `search` gets the parts of a new query, `add` those that go with the one that is shown. */
export function onAsked({ search, add }) {
  const picked = async (files) => {
    if (meansAdding(files.length)) await toCatalog(files);
    else search(await uploaded(files.slice(0, MOST_PARTS)));
  };
  const byAddress = (text) => WEB.test(text) && (search([part({ url: text })]), true);

  onFiles({
    inputs: document.querySelectorAll("[data-search]"),
    purpose: (number) => (meansAdding(number) ? "Drop to add to the catalog" : "Drop to find look-alikes"),
    picked,
    pasted: byAddress,
  });
  onTaken(picked);
  find("add-part").addEventListener("change", async ({ target }) => {
    const files = [...target.files];
    target.value = "";
    add(await uploaded(files));
  });
  find("by-address").addEventListener("submit", (event) => {
    event.preventDefault();
    byAddress(find("address").value.trim());
  });
  onWords("by-words", search);
  onWords("add-words", add);
}

/** The button is there only where the browser has cameras to give; for touch there is an input that opens one. */
function onTaken(picked) {
  const button = find("take");
  button.hidden = !hasCameras();
  button.addEventListener("click", async () => {
    calm();
    button.disabled = true;
    try {
      const file = await takePicture();
      if (file) await picked([file]);
    } catch (problem) {
      report(problem);
    } finally {
      button.disabled = false;
    }
  });
}

/** The form is there only where the catalog's encoder embeds text. */
function onWords(id, ask) {
  const form = find(id);
  form?.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = form.querySelector("input").value.trim();
    form.reset();
    if (text) ask([part({ text })]);
  });
}

async function uploaded(files) {
  const parts = [];
  for (const file of files) parts.push(part({ upload: await keep(file) }));
  return parts;
}

/** In an empty catalog there is nothing to find, and nobody searches with so many: they are meant for the catalog. */
function meansAdding(number) {
  return may("ingest") && (number > MOST_PARTS || isEmpty());
}

async function toCatalog(files) {
  await handOver(files);
  location.assign("/upload");
}
