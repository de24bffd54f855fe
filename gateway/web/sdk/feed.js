// The rows of a list and the keyboard on them: a feed as the ARIA Authoring Practices have it.
//
// Each change touches the rows it names and no other; the browser skips the layout and the painting of those that are
// out of sight (`content-visibility`), so that a thousand rows cost what a screenful does.

import { make, write } from './dom.js';
import { Row } from './row.js';

/** Return the row that follows an element, or precedes it: between two of them the heading of a day may stand. */
function beside(element, way) {
  const other = element?.[way];
  return other && !other.row ? other[way] : other;
}
const after = (element) => beside(element, 'nextElementSibling');
const before = (element) => beside(element, 'previousElementSibling');

const STEPS = { ArrowDown: 1, ArrowUp: -1, PageDown: 1, PageUp: -1 };

/** The rows, newest first. One of them is where the Tab key goes; the arrows, Home and End choose which. */
export class Feed {
  #rows = new Map();
  #current = null;
  #numbering = 0;
  // Tells of bodies that come into sight, or are as wide as they were no longer.
  #sizes = new ResizeObserver((entries) => {
    for (const { target } of entries) target.closest('article')?.row.measure();
  });

  /**
   * @param {import('./texts.js').Words} words
   * @param {{ label: string, showsData: boolean, unfolded: Set<string> }} options `unfolded`: by their ids
   */
  constructor(words, { label, showsData, unfolded }) {
    this.words = words;
    this.showsData = showsData;
    this.unfolded = unfolded;
    this.element = make('div', { role: 'feed', part: 'list', 'aria-label': label,
      keydown: (event) => this.#onKey(event),
      focusin: ({ target }) => this.#choose(target.closest('article')?.row) });
  }

  get size() { return this.#rows.size; }

  get(id) { return this.#rows.get(id); }

  /** The newest row. */
  get first() { return this.element.querySelector('article'); }

  /** The row that has the focus. */
  get focused() { return this.element.querySelector('article:focus-within')?.row; }

  /** The row under the pointer. A finger leaves the row that it touched last `:hover`, and is not there any more. */
  get pointed() { return matchMedia('(hover: hover)').matches ? this.element.querySelector('article:hover') : null; }

  /** Show these items, in their places among `all`, which is newest first. Return the rows that are new. */
  put(items, all) {
    const fresh = [];
    for (const item of items) {
      const known = this.#rows.get(item.id);
      if (known && known.item.created_seq === item.created_seq && known.item.snoozed_until === item.snoozed_until) {
        if (known.paint(item)) this.#observe(known);
      } else {
        // It has entered again, at another place.
        if (known) this.drop([item]);
        fresh.push(item);
      }
    }
    return this.#insert(fresh, all);
  }

  #insert(fresh, all) {
    const wanted = new Set(fresh.map(({ id }) => id));
    const made = [];
    // From the oldest on: each is put before the next older one, which has its row already.
    for (let index = all.length - 1, next = null; index >= 0 && wanted.size > 0; index -= 1) {
      const item = all[index];
      if (wanted.delete(item.id)) {
        const row = new Row(item, this.words, this.showsData);
        this.#rows.set(item.id, row);
        if (this.unfolded.has(item.id)) row.unfold(true);
        this.#observe(row);
        this.element.insertBefore(row.element, next);
        this.#head(row.element);
        this.#head(next);
        made.push(row);
      }
      next = this.#rows.get(item.id)?.element ?? next;
    }
    if (made.length) this.#renumber();
    this.#orderDays();
    return made;
  }

  #observe(row) { for (const text of row.texts) this.#sizes.observe(text); }

  /** Remove rows; the items are as they are now. Whoever works through the list by keyboard stays in it: return false where nothing is left. */
  drop(items) {
    for (const item of items) {
      const { id } = item;
      const row = this.#rows.get(id);
      if (!row) continue;
      const { element } = row;
      const following = after(element);
      const next = (following ?? before(element))?.row ?? null;
      const isFocused = element.matches(':focus-within');
      row.choices?.leave(item);
      if (this.#current === row) this.#choose(next);
      for (const text of row.texts) this.#sizes.unobserve(text);
      if (!element.previousElementSibling?.row) element.previousElementSibling?.remove();
      element.remove();
      this.#head(following);
      this.#rows.delete(id);
      if (isFocused) next?.element.focus();
      if (isFocused && !next) return false;
    }
    this.#renumber();
    this.#orderDays();
    return true;
  }

  /** Close the fields for a reply of all rows. */
  leave() { for (const { choices, item } of this.#rows.values()) choices?.leave(item); }

  tick() {
    for (const row of this.#rows.values()) row.tick();
    for (const heading of this.element.querySelectorAll('.day')) this.#name(heading);
  }

  /** Put the day above the first row of it. It is not read out: each row has its own time. */
  #head(element) {
    if (!element) return;
    const { previousElementSibling: above } = element;
    const isFirst = before(element)?.row.day !== element.row.day;
    const heading = above && !above.row ? above : null;
    if (!isFirst) heading?.remove();
    else if (heading?.day !== element.row.day) {
      this.#name(heading ?? element.insertAdjacentElement('beforebegin', make('div',
        { className: 'day', part: 'day', 'aria-hidden': 'true' })));
    }
  }

  /** What has entered again is older than what it stands above: put no row below an older day than the row beneath it. */
  #orderDays() {
    const moved = [];
    for (let element = this.element.lastElementChild, under = 0; element; element = before(element)) {
      const { row } = element;
      under = row.item.snoozed_until ? row.at : Math.max(row.at, under);
      if (row.under !== under) moved.push(element);
      row.under = under;
    }
    for (const element of moved) {
      this.#head(element);
      this.#head(after(element));
    }
  }

  #name(heading) {
    const { row } = heading.nextElementSibling;
    heading.day = row.day;
    write(heading, this.words.day(row.under));
  }

  #choose(row) {
    if (row === undefined || row === this.#current) return;
    this.#current?.setCurrent(false);
    row?.setCurrent(true);
    this.#current = row;
  }

  /** Tell which one of how many each is, once for all the changes of a frame. */
  #renumber() {
    this.#numbering ||= requestAnimationFrame(() => {
      this.#numbering = 0;
      let position = 0;
      for (const element of this.element.children) {
        if (!element.row) continue;
        element.setAttribute('aria-posinset', (position += 1));
        element.setAttribute('aria-setsize', this.isComplete ? this.#rows.size : -1);
      }
      if (!this.#current) this.#choose(this.first?.row);
    });
  }

  #onKey(event) {
    const { key, target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || target.closest('pre, input')) return;
    const to = key === 'Home' ? this.first : key === 'End' ? this.element.lastElementChild : null;
    if (to) to.focus();
    if (to || this.step(STEPS[key], target.closest('article'))) event.preventDefault();
  }

  /** Go to the next row (1), or the one before (-1). Return whether there is one. */
  step(way, from = this.focused?.element) {
    const to = way > 0 ? after(from) : way < 0 ? before(from) : null;
    to?.focus();
    return Boolean(to);
  }
}
