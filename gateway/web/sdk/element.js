// What the elements have in common: a client, the texts of a locale, and a shadow root with the theme.

import { TOKENS } from './theme.js';
import { Words } from './texts.js';

const GRACE = 2_000; // ms in which a page gives an element its client, and starts it
const said = new Set();
/** What is typed into. */
export const FIELDS = 'input, textarea, select, [contenteditable]';
// Whether the user writes in a field of an element. Keys that come after the field has gone are meant for nothing else.
let isWriting = false;
let field = null; // where, as far as is known
let spot = null; // where the focus is since it has gone

/**
 * Ignore the keys that come next: they are meant for what has just gone. Tab, an arrow or a press ends that. So does a
 * `from` that is still there, or a focus that is not `at` any more: the user has moved it.
 */
export function holdKeys(from = null, at = null) {
  isWriting = true;
  field = from;
  spot = at;
}

/** @param {any} event */
function onInput(event) {
  const { type, key } = event;
  const path = event.composedPath();
  const isOurs = path.some((one) => one instanceof NotificationElement);
  if (path[0].closest?.(FIELDS)) isWriting = isOurs && !/^(Tab|Escape|Enter)$/.test(key);
  else if (type !== 'keydown' || /^(Tab|Escape|Arrow)/.test(key) || field?.getClientRects().length
    || (spot && spot !== path[0])) isWriting = false;
  else if (isWriting && isOurs) {
    event.stopImmediatePropagation();
    if ((key.length < 2 || key === 'Enter') && !event.ctrlKey && !event.metaKey && !event.altKey) event.preventDefault();
  }
}
for (const type of ['keydown', 'pointerdown']) globalThis.window?.addEventListener(type, onInput, true);

/** Return the object that an attribute holds as JSON; nothing of one that is not right. */
function parsed(json) {
  try {
    return JSON.parse(json) ?? {};
  } catch {
    console.warn('category-labels: not JSON, such as {"ci": "Builds"}');
    return {};
  }
}

// A server that renders has no DOM: there the elements can be imported, and are not defined.
const Base = globalThis.HTMLElement ?? class {};

/** Inboxes in view, each with what tells whether it shows an item of a user: that needs no toast. @type {Map<object, (sub: string, item?: any) => boolean>} */
export const inView = new Map();
/** Fires `change` when an inbox has come into view. */
export const views = new EventTarget();
/** Bells and inboxes of the page, each with what shows its list and focuses it. @type {Map<any, () => void>} */
export const lists = new Map();

/** The base of the elements. A subclass has `build()` and `refresh()`, and `handlers` of the client's events. */
export class NotificationElement extends Base {
  static observedAttributes = ['locale', 'theme'];
  static sheets = [];
  /** What is done with the events of the client, by their types. @type {Record<string, (detail: any) => void>} */
  handlers = {};
  // Undefined until the page has given one, or null for nobody.
  #client;
  #texts = {};
  #labels = null;
  #words = null;
  #listening = null;

  constructor() {
    super();
    this.attachShadow({ mode: 'open' }).adoptedStyleSheets = [TOKENS, ...this.constructor.sheets];
    this.shadowRoot.addEventListener('focusin', ({ target }) => target.matches(FIELDS) && holdKeys(target));
  }

  /** The client whose notifications are shown. @type {import('./notifications.js').NotificationClient | null} */
  get client() { return this.#client ?? null; }

  set client(client) {
    if (client === this.#client) return;
    const isClient = !client || typeof client.addEventListener === 'function';
    if (!isClient) {
      console.error(`Notifications: the client of <${this.localName}> is no NotificationClient: `
        + 'set it to new NotificationClient({ getToken }).');
    }
    this.#client = isClient ? client : null;
    if (this.isConnected) this.#begin();
  }

  /** Texts that replace those of `texts.js`, by their names. */
  get texts() { return this.#texts; }

  set texts(texts) {
    this.#texts = texts ?? {};
    this.#reword();
  }

  /** Labels of categories, by their names; default: those of the attribute. */
  get categoryLabels() { return this.#labels ?? parsed(this.getAttribute('category-labels')); }

  set categoryLabels(labels) {
    this.#labels = labels ?? null;
    this.#reword();
  }

  /** The language: that of the attribute, else of the nearest `lang`, else English. */
  get locale() {
    const near = this.closest('[lang]') ?? document.documentElement;
    return this.getAttribute('locale') || near.lang || 'en';
  }

  /** The texts and formats of the locale. */
  get words() { return (this.#words ??= new Words(this.locale, this.#texts, this.categoryLabels)); }

  connectedCallback() {
    // A framework may have set these before the element was defined; then they hide the accessors above.
    for (const name of ['client', 'texts', 'categoryLabels']) {
      if (!Object.hasOwn(this, name)) continue;
      const value = this[name];
      delete this[name];
      this[name] = value;
    }
    this.#begin();
  }

  disconnectedCallback() {
    this.#listening?.abort();
    this.#listening = null;
  }

  attributeChangedCallback(name, before, now) {
    if ((name === 'locale' || name === 'category-labels') && before !== now) this.#reword();
  }

  /** Ask whoever is around what opening an item means; return whether nobody has taken it on. */
  announceOpening(item) {
    return this.dispatchEvent(
      new CustomEvent('notification-open', { detail: { item }, bubbles: true, composed: true, cancelable: true }));
  }

  #begin() {
    this.#listening?.abort();
    const { signal } = (this.#listening = new AbortController());
    for (const [type, handler] of Object.entries(this.handlers)) {
      this.#client?.addEventListener(type, ({ detail }) => handler(detail), { signal });
    }
    setTimeout(() => signal.aborted || this.#advise(), GRACE);
    this.begin?.(signal);
    this.#show();
  }

  /** Tell the developer, once, why nothing comes. */
  #advise() {
    const client = this.#client;
    const text = client === undefined ? `<${this.localName}> has no client: set its property client.`
      : client?.state === 'idle' && !client.epoch && 'the client was never started: call client.start().';
    if (text && !said.has(text)) console.warn(`Notifications: ${text}`);
    said.add(text);
  }

  #reword() {
    this.#words = null;
    if (this.#listening) this.#show();
  }

  #show() {
    this.shadowRoot.replaceChildren(...this.build());
    this.refresh();
  }
}
