// A list that changes while somebody points at it: the row under the pointer stays where it is, so that a press lands on
// what was aimed at. What comes above it is out of sight until the pointer leaves, or rests; a button tells how many.

import { make, write } from './dom.js';

const REST_TIME = 4_000; // ms without a move, after which a pointer is taken to aim at nothing
const LIFT_TIME = 400; // ms from the end of a touch to its click

const topOf = (element) => element?.getBoundingClientRect().top ?? 0;

export class Steady {
  #words;
  #feed = null;
  #released;
  #pressed = null;
  #shift = 0; // px by which the list is moved
  #count = 0; // rows out of sight
  #resting;
  #lifting;

  /** @param {HTMLElement} panel @param {import('./texts.js').Words} words @param {() => void} released */
  constructor(panel, words, released) {
    this.#words = words;
    this.#released = released;
    this.button = make('button', { type: 'button', part: 'newer', click: () => this.release() });
    this.element = make('div', { className: 'newer', hidden: true }, this.button);
    const on = (type, act) => panel.addEventListener(type, act, { passive: true });
    on('pointerdown', ({ target }) => {
      clearTimeout(this.#lifting);
      this.#pressed = target.closest('article');
    });
    on('pointerup', () => this.#lift());
    on('pointercancel', () => this.#lift());
    on('pointermove', () => this.holds && this.#rest());
    on('pointerleave', ({ pointerType }) => pointerType === 'mouse' && this.#leave());
    on('wheel', () => this.release());
  }

  /** Whether rows are out of sight, or not where they belong. */
  get holds() { return this.#shift !== 0 || this.#count > 0; }

  /** Hold another list. */
  take(feed) {
    this.#leave();
    this.#feed = feed;
  }

  /**
   * Change the list. `act` returns the rows that are new; `isOwn` tells whether the user removes the row that is
   * pointed at: then the next one takes its place.
   */
  change(act, isOwn) {
    const row = this.#pressed ?? this.#feed.pointed;
    const next = row?.nextElementSibling;
    const tops = new Map([row, next].map((one) => [one, topOf(one)]));
    const made = act();
    const kept = row?.isConnected ? row : next?.isConnected && !isOwn(row) ? next : null;
    if (!kept) return;
    const isAbove = ({ element }) => element.compareDocumentPosition(kept) & Node.DOCUMENT_POSITION_FOLLOWING;
    const above = made.filter(isAbove);
    // Until a row is drawn, its height is only estimated.
    for (const { element } of above) element.classList.add('held');
    const moved = tops.get(kept) - topOf(kept);
    if (!moved) return;
    this.#shift += moved;
    this.#feed.element.style.setProperty('margin-block-start', `${this.#shift}px`);
    this.#count += above.length;
    this.element.hidden = !this.#count;
    write(this.button, this.#words.say('newer', { count: this.#count }));
    if (!this.#resting) this.#rest();
  }

  /** Let each row be where it belongs. */
  release() {
    clearTimeout(this.#resting);
    this.#resting = null;
    if (!this.holds) return;
    this.#shift = this.#count = 0;
    for (const element of this.#feed.element.querySelectorAll('.held')) element.classList.remove('held');
    this.#feed.element.style.removeProperty('margin-block-start');
    this.element.hidden = true;
    this.#released();
  }

  #leave() {
    clearTimeout(this.#lifting);
    this.#pressed = null;
    this.release();
  }

  #lift() {
    clearTimeout(this.#lifting);
    this.#lifting = setTimeout(() => {
      this.#pressed = null;
      if (!this.#feed.pointed) this.release();
    }, LIFT_TIME);
  }

  #rest() {
    clearTimeout(this.#resting);
    this.#resting = setTimeout(() => (this.#pressed ? this.#rest() : this.release()), REST_TIME);
  }
}
