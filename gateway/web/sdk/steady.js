// A list that changes while somebody points at it: the row under the pointer stays where it is, so that a press lands on
// what was aimed at. What comes above it is out of sight until the pointer leaves, or rests; what comes while the list is
// scrolled down, until its top is in sight again. A button tells how many.

import { make, write } from './dom.js';

const REST_TIME = 4_000; // ms without a move, after which a pointer is taken to aim at nothing
const LIFT_TIME = 400; // ms from the end of a touch to its click

const topOf = (element) => element?.getBoundingClientRect().top ?? 0;

export class Steady {
  #panel;
  #words;
  #feed = null;
  #released;
  #pressed = null;
  #shift = 0; // px by which the list is moved
  #news = []; // rows out of sight that were never here before
  #newest = 0; // created_seq
  #resting;
  #lifting;

  /** @param {HTMLElement} panel @param {import('./texts.js').Words} words @param {() => void} released */
  constructor(panel, words, released) {
    this.#panel = panel;
    this.#words = words;
    this.#released = released;
    this.button = make('button', { className: 'strong', part: 'newer', click: () => this.#goToTop() });
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
  get holds() { return this.#shift !== 0 || this.#news.length > 0; }

  /** Watch what scrolls: the list itself, or the page around it. @param {AbortSignal} signal */
  watch(signal) {
    addEventListener('scroll', () => {
      if (this.#shift > 0 && !this.#isAway()) this.release();
      else if (this.#news.length && !this.#shift && !this.#isAway()) this.#settle();
    }, { signal, passive: true, capture: true });
  }

  /** Whether the top of the list is out of sight, or behind a header of the page. A list that is not drawn has no top. */
  #isAway() {
    if (!this.#feed.element.getClientRects().length) return false;
    const inset = parseFloat(getComputedStyle(this.#feed.element).scrollMarginTop);
    return topOf(this.#feed.element) < Math.max(topOf(this.#panel), inset) - 1 + this.#shift;
  }

  /** Hold another list. */
  take(feed) {
    this.#news = [];
    this.#newest = 0;
    this.element.hidden = true;
    this.#leave();
    this.#feed = feed;
  }

  /**
   * Change the list. `act` returns the rows that are made; `isOwn` tells whether the user removes a row, whose place the
   * next one takes, or has it back, in sight; `mine` whether the user has removed any.
   */
  change(act, isOwn, mine) {
    const row = this.#pressed ?? this.#feed.pointed;
    const next = row?.nextElementSibling;
    const tops = new Map([row, next].map((one) => [one, topOf(one)]));
    const first = this.#feed.first;
    const isAway = this.#isAway();
    this.#newest = Math.max(this.#newest, first?.row.item.created_seq ?? 0);
    const made = act();
    const isBack = made.some(({ element }) => isOwn(element));
    const kept = isBack ? null : row?.isConnected ? row : next?.isConnected && !isOwn(row) ? next : null;
    const isAbove = (one) => ({ element }) => element.compareDocumentPosition(one) & Node.DOCUMENT_POSITION_FOLLOWING;
    const news = made.filter(({ item }) => item.created_seq > this.#newest);
    this.#tell(isAway && first?.isConnected ? news.filter(isAbove(first)) : []);
    if (!kept) return;
    const above = made.filter(isAbove(kept));
    // Until a row is drawn, its height is only estimated.
    for (const { element } of above) element.classList.add('held');
    const moved = tops.get(kept) - topOf(kept);
    if (!moved) return;
    this.#shift += moved;
    // At the top nothing can be shown in the place of what the user has removed.
    if (mine && !isAway && this.#shift > 0) this.#shift = 0;
    this.#feed.element.style.setProperty('margin-block-start', `${this.#shift}px`);
    if (!isAway && this.#shift) this.#tell(news.filter(isAbove(kept)));
    else if (!isAway) this.#settle();
    if (!this.#resting) this.#rest();
  }

  #tell(more) {
    this.#news = [...this.#news, ...more].filter(({ element }) => element.isConnected);
    const { length: count } = this.#news;
    this.element.hidden = !count;
    write(this.button, this.#words.say('newer', { count }));
  }

  /** Show the newest row below the heading and the tabs, and focus it: the button that had the focus goes. */
  #goToTop() {
    this.release();
    this.#panel.scrollTop = 0;
    if (this.#isAway()) this.#panel.getRootNode().host.scrollIntoView();
    this.#settle();
    this.#feed.first?.focus({ preventScroll: true });
  }

  /** All of it is in sight. */
  #settle() {
    this.#news = [];
    this.#tell([]);
    this.#released();
  }

  /** Let each row be where it belongs. */
  release() {
    clearTimeout(this.#resting);
    this.#resting = null;
    if (!this.#shift) return;
    this.#shift = 0;
    for (const element of this.#feed.element.querySelectorAll('.held')) element.classList.remove('held');
    this.#feed.element.style.removeProperty('margin-block-start');
    if (!this.#isAway()) this.#settle();
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
