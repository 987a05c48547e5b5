/** Signs a browser in: with the key in the link that `akin up` prints, or with a typed one. */

import { signIn } from "./api.js";
import { find, unescaped, urlOf } from "./dom.js";

const form = find("signin");
const field = find("key");
const error = find("key-error");
const button = form.querySelector("button");

async function enter(key, hint = "") {
  error.textContent = "";
  field.removeAttribute("aria-invalid");
  button.disabled = true;
  button.textContent = "Signing in…";
  try {
    await signIn(key);
    location.replace(wanted());
  } catch (problem) {
    button.disabled = false;
    button.textContent = "Sign in";
    error.textContent = `Not signed in: ${problem.message}${hint}`;
    field.ariaInvalid = "true";
    field.focus();
  }
}

/** The page that was asked for, where there was one; never another site, whatever the address says. */
function wanted() {
  const next = new URLSearchParams(location.search).get("next") ?? "/";
  const address = urlOf(next, location.origin);
  return address?.origin === location.origin ? address.href : "/";
}

function enterByLink() {
  const key = unescaped(location.hash.slice(1));
  if (!key) return;
  // A key belongs neither in the history nor in a screenshot of the address bar.
  history.replaceState(null, "", location.pathname + location.search);
  enter(key, ". A link is good as long as the stack that printed it runs.");
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  enter(field.value.trim());
});
window.addEventListener("hashchange", enterByLink);
enterByLink();
