/**
 * <akin-similar item="SKU-1" key="pk_…"></akin-similar>: items that look like that of a product page.
 *
 * item, key      your id of the item, and a publishable key of its catalog; filter, fill-by and in-stock may name
 *                attributes that the key shows
 * limit          how many at most (8)
 * heading        a text above them, and the row's name
 * in-stock       only items whose attribute in_stock is true
 * filter         a filter as JSON, as /v1/search takes it
 * fill-by        an attribute, such as category: where too few look alike, the newest with the same value follow
 * min-score      the lowest cosine of a look-alike, from -1 to 1 (-1)
 * collapse       which pictures count as one: identical, near or none (identical)
 * diversity      how unlike each other they are to be, from 0 to 1 (0)
 * link           an address with {item} for the id, where the items' own urls are not to be gone to
 * target         of the links, such as _blank
 * server         where Akin is, unless this script comes from there
 *
 * Style: --akin-tile, --akin-gap, --akin-ratio, --akin-fit, --akin-radius, --akin-color, --akin-price-color,
 * --akin-accent, --akin-tile-color, and ::part(heading), ::part(list), ::part(item), ::part(card), ::part(picture),
 * ::part(image), ::part(title), ::part(price). Language and direction are those of the page.
 *
 * The row is as high while it loads as it is with items. Until this script is there the element has no height: give it
 * `style="display: block; min-height: …"` where something stands below; the page /widget of the server says how much.
 *
 * Events: akin-load { hits, others }; akin-click { item, rank }, which may be prevented. Where nothing is found, and
 * where nobody answers, the element is hidden.
 */
(() => {
  const NAME = "akin-similar";
  if (customElements.get(NAME)) return;
  const script = document.currentScript ?? document.querySelector('script[src$="/widget.js"]');
  const SIZES = [128, 256, 512];
  const PASSED_ON = ["filter", "fill-by", "min-score", "collapse", "diversity"];
  const SEEN_MS = 1000;
  const GATHER_MS = 1000;
  // The server takes no more at once, nor longer ones.
  const MOST_EVENTS = 50;
  const MOST_TEXT = 8192;

  const sheet = new CSSStyleSheet();
  // Nothing but the width of a tile decides the height, so that the page stays still when the items come; and the row
  // makes no column of the page wider.
  sheet.replaceSync(`
    :host { display: block; color: var(--akin-color, inherit); }
    :host([hidden]) { display: none !important; }
    h2 { margin: 0 0 .6em; font-size: 1.25em; line-height: 1.3; }
    ul {
      display: grid; grid-auto-flow: column; grid-auto-columns: var(--akin-tile, 170px); gap: var(--akin-gap, 16px);
      width: 0; min-width: 100%; box-sizing: border-box; margin: 0; padding: 4px; list-style: none; overflow-x: scroll;
      scroll-snap-type: inline proximity; scrollbar-width: thin; scrollbar-color: color-mix(in srgb, currentcolor 30%, transparent) transparent;
    }
    li { scroll-snap-align: start; min-width: 0; }
    [part=card] { display: block; font-size: .92em; line-height: 1.35; color: inherit; text-decoration: none; }
    [part=picture] {
      display: block; overflow: hidden; aspect-ratio: var(--akin-ratio, 1); border-radius: var(--akin-radius, 10px);
      background: var(--akin-tile-color, color-mix(in srgb, currentcolor 7%, transparent));
    }
    img { display: block; width: 100%; height: 100%; object-fit: var(--akin-fit, cover); }
    [part=title], [part=price] { display: block; overflow: hidden; overflow-wrap: anywhere; }
    [part=title] { height: 2.7em; margin-block: .5em .15em; }
    [part=price] { height: 1.35em; font-weight: 600; color: var(--akin-price-color, inherit); }
    a:hover [part=title] { text-decoration: underline; }
    :is(a, ul):focus-visible { outline: 2px solid var(--akin-accent, currentcolor); outline-offset: 2px; border-radius: 4px; }
    @media (prefers-reduced-motion: no-preference) {
      ul[aria-busy=true] [part=picture] { animation: breathe 1.4s ease-in-out infinite; }
      @keyframes breathe { 50% { opacity: .5; } }
    }
  `);

  /** A new element. Data becomes attributes and text, never markup. */
  function make(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  /** For example "12,95 €"; empty where the item has no price. */
  function priceOf({ price, currency }, language) {
    if (!Number.isFinite(price)) return typeof price === "string" ? price : "";
    try {
      return new Intl.NumberFormat(language, currency ? { style: "currency", currency } : {}).format(price);
    } catch {
      return String(price);
    }
  }

  // By the address that they go to: what all widgets of the page have to report, as JSON.
  const events = new Map();
  let timer;

  function report(address, event) {
    const text = JSON.stringify(event);
    let held = events.get(address) ?? [];
    if (held.length === MOST_EVENTS || [...held, text].join().length > MOST_TEXT) {
      flush();
      held = [];
    }
    events.set(address, [...held, text]);
    timer ??= setTimeout(flush, GATHER_MS);
  }

  function flush() {
    clearTimeout(timer);
    timer = null;
    for (const [address, texts] of events) {
      const body = `{"events":[${texts}]}`;
      // Of pages with a strict Referrer-Policy a beacon tells no origin. Text, so that nobody asks first.
      if ("keepalive" in Request.prototype) {
        fetch(address, { method: "POST", mode: "cors", credentials: "omit", keepalive: true, body }).catch(() => {});
      } else navigator.sendBeacon(address, body);
    }
    events.clear();
  }

  // The page's last moments.
  addEventListener("pagehide", flush);
  document.addEventListener("visibilitychange", () => document.hidden && flush());

  class AkinSimilar extends HTMLElement {
    static observedAttributes = [
      "item", "key", "limit", "heading", "in-stock", ...PASSED_ON, "link", "target", "server",
    ];

    #root = this.attachShadow({ mode: "open" });
    #asked = null; // aborts what this element waits for
    #queued = false;
    #index = null;

    connectedCallback() {
      this.#root.adoptedStyleSheets = [sheet];
      this.#queue();
    }

    disconnectedCallback() {
      this.#asked?.abort();
    }

    attributeChangedCallback(_name, before, after) {
      if (before !== after) this.#queue();
    }

    /** Load once, however many attributes change together. */
    #queue() {
      if (this.#queued) return;
      this.#queued = true;
      queueMicrotask(() => {
        this.#queued = false;
        if (this.isConnected) this.#load();
      });
    }

    get #server() {
      return (this.getAttribute("server") ?? new URL(script?.src ?? location).origin).replace(/\/$/, "");
    }

    get #limit() {
      return Math.min(50, Math.max(1, Number.parseInt(this.getAttribute("limit"), 10) || 8));
    }

    async #load() {
      this.#asked?.abort();
      const asked = (this.#asked = new AbortController());
      const [item, key] = [this.getAttribute("item"), this.getAttribute("key")];
      this.hidden = !(item && key);
      if (this.hidden) return;
      const places = Array.from({ length: this.#limit }, () => this.#place(make("div", { part: "card" })));
      this.#show(places, true);
      let found = { hits: [], others: [] };
      try {
        const response = await fetch(this.#question(item, key), { signal: asked.signal, credentials: "omit" });
        const answer = response.ok ? await response.json() : found;
        if (asked.signal.aborted) return;
        this.#fill(answer, key, asked.signal);
        found = answer;
      } catch {
        // The page of a shop goes on without.
      }
      if (asked.signal.aborted) return;
      const { hits, others } = found;
      this.hidden = hits.length + others.length === 0;
      this.#tell("akin-load", { hits, others });
    }

    #fill({ hits, others, index }, key, signal) {
      const shown = [...hits, ...others];
      this.#index = index;
      this.#show(shown.map((found, at) => this.#place(this.#card(found, at + 1, key))), false);
      if (shown.length) this.#watch(shown.map((found) => found.item.item_id), signal);
    }

    #question(item, key) {
      const asked = new URLSearchParams({ key, limit: this.#limit });
      if (this.hasAttribute("in-stock")) asked.set("in_stock", "true");
      for (const name of PASSED_ON) {
        if (this.getAttribute(name)) asked.set(name.replace("-", "_"), this.getAttribute(name));
      }
      return `${this.#server}/v1/items/${encodeURIComponent(item)}/similar?${asked}`;
    }

    #show(places, busy) {
      const heading = this.getAttribute("heading");
      const list = make("ul", { part: "list", role: "list", "aria-busy": busy }, ...places);
      if (heading) list.setAttribute("aria-labelledby", "heading");
      // Without links the keyboard scrolls the row itself.
      if (!busy && !list.querySelector("a")) {
        list.tabIndex = 0;
        if (!heading) list.setAttribute("aria-label", "Similar items");
      }
      this.#root.replaceChildren(...(heading ? [make("h2", { part: "heading", id: "heading" }, heading)] : []), list);
    }

    /** A place of the list, as large with an item as without. */
    #place(card) {
      if (!card.childElementCount) {
        card.append(...["picture", "title", "price"].map((part) => make("span", { part })));
        card.setAttribute("aria-hidden", "true");
      }
      return make("li", { part: "item" }, card);
    }

    #card({ image, item }, rank, key) {
      const name = item.title || item.item_id;
      const address = this.#address(item);
      const card = make(
        address ? "a" : "div",
        { part: "card" },
        make("span", { part: "picture" }, this.#picture(image, name, key)),
        // The picture's alternative says it already.
        make("span", { part: "title", "aria-hidden": "true" }, name),
        make("span", { part: "price" }, priceOf(item.attributes, this.closest("[lang]")?.lang || undefined)),
      );
      if (address) {
        card.href = address;
        card.rel = "noopener";
        if (this.getAttribute("target")) card.target = this.getAttribute("target");
        // A middle click opens a new tab; the Enter key is a click, too.
        for (const kind of ["click", "auxclick"]) {
          card.addEventListener(kind, (event) => event.button < 2 && this.#go(event, item, rank));
        }
      }
      return card;
    }

    /** Where an item's link leads: to the web only, whatever the catalog says. */
    #address(item) {
      const written = this.getAttribute("link")?.replace("{item}", () => encodeURIComponent(item.item_id)) ?? item.url;
      if (!written) return null;
      const { href, protocol } = make("a", { href: written });
      return /^https?:$/.test(protocol) ? href : null;
    }

    #picture({ id }, name, key) {
      const address = (size) => `${this.#server}/v1/images/${id}/thumbnail?size=${size}&key=${encodeURIComponent(key)}`;
      const picture = make("img", { part: "image", alt: name, width: 256, height: 256, loading: "lazy" });
      picture.decoding = "async";
      // With its origin asked for, a picture is given on pages of plain http, too.
      if (this.#server !== location.origin) picture.crossOrigin = "anonymous";
      picture.sizes = "auto, 170px";
      picture.srcset = SIZES.map((size) => `${address(size)} ${size}w`).join();
      picture.src = address(256);
      return picture;
    }

    /** Report once that the items were seen: half of them in view, for a second. */
    #watch(shown, signal) {
      let timer;
      const observer = new IntersectionObserver(
        (entries) => {
          clearTimeout(timer);
          if (entries.at(-1).intersectionRatio < 0.5) return;
          timer = setTimeout(() => {
            observer.disconnect();
            this.#report({ kind: "impression", shown });
          }, SEEN_MS);
        },
        { threshold: 0.5 },
      );
      observer.observe(this);
      signal.addEventListener("abort", () => {
        clearTimeout(timer);
        observer.disconnect();
      });
    }

    #go(event, item, rank) {
      if (!this.#tell("akin-click", { item, rank })) event.preventDefault();
      this.#report({ kind: "click", shown: [item.item_id], rank });
    }

    #tell(name, detail) {
      return this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true, cancelable: true }));
    }

    #report(event) {
      const address = `${this.#server}/v1/events?key=${encodeURIComponent(this.getAttribute("key"))}`;
      report(address, { ...event, item_id: this.getAttribute("item"), index: this.#index });
    }
  }

  customElements.define(NAME, AkinSimilar);
})();
