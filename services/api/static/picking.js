/** Every way in which files reach a page: chosen, dropped anywhere, pasted. */

import { find } from "./dom.js";

const drop = find("drop");

const carriesFiles = (transfer) => transfer?.types.includes("Files");
const typing = (target) => target.closest?.("input:not([type=file]), textarea, [contenteditable]");

/**
 * Call `picked` with each non-empty list of files; `purpose` says what dropping so many files will do, and `pasted`
 * gets text that was pasted outside of any field.
 */
export function onFiles({ inputs, picked, purpose, pasted = () => false }) {
  const give = (files) => files?.length && (picked([...files]), true);

  for (const input of inputs) {
    input.addEventListener("change", () => {
      give(input.files);
      input.value = ""; // choosing the same file again is a change again
    });
  }

  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event.dataTransfer)) return;
    event.preventDefault();
    if (drop.hidden) drop.firstElementChild.textContent = purpose(event.dataTransfer.items.length);
    drop.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) drop.hidden = true;
  });
  document.addEventListener("drop", async (event) => {
    if (!carriesFiles(event.dataTransfer)) return;
    event.preventDefault();
    drop.hidden = true;
    give(await filesOf(event.dataTransfer));
  });
  document.addEventListener("paste", (event) => {
    if (typing(event.target)) return;
    const text = event.clipboardData?.getData("text/plain").trim();
    if (give(event.clipboardData?.files) || (text && pasted(text))) event.preventDefault();
  });
}

/** The files of a drop, those of folders among them, each named by its path. */
async function filesOf(transfer) {
  // Both lists are gone once this function waits for anything.
  const files = [...transfer.files];
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.());
  if (!entries.some((entry) => entry?.isDirectory)) return files;
  const found = [];
  for (const entry of entries.filter(Boolean)) await gather(entry, found);
  return found;
}

async function gather(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push(new File([file], entry.fullPath.slice(1), { type: file.type }));
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // A reader gives at most a hundred at a time.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return;
    for (const one of some) await gather(one, found);
  }
}
