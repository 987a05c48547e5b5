/** Every way in which files reach the page: chosen, dropped anywhere, pasted. */

import { find } from "./dom.js";

const drop = find("drop");

const carriesFiles = (transfer) => transfer?.types.includes("Files");

/** Call `picked` with each non-empty list of files; `purpose` says what dropping so many files will do. */
export function onFiles({ picked, purpose }) {
  const give = (files) => files?.length && picked([...files]);

  for (const input of document.querySelectorAll("[data-search]")) {
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
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event.dataTransfer)) return;
    event.preventDefault();
    drop.hidden = true;
    give(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => {
    if (give(event.clipboardData?.files)) event.preventDefault();
  });
}
