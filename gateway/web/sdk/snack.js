// What has just been done, with a button to undo it.

import { make, write } from './dom.js';

const SNACK_TIME = 8_000; // ms

/** One line at the foot of a list, or of the window where the list goes on below it. It stays while it is pointed at, or has the focus. */
export class Snack {
  #timer;
  #undo = null;

  /** @param {import('./texts.js').Words} words */
  constructor(words) {
    this.said = make('span', { className: 'said', role: 'status', dir: 'auto' });
    this.button = make('button',
      { textContent: words.say('undo'), hidden: true, click: () => this.takeBack() });
    this.element = make('div', { className: 'foot' }, make('div', { className: 'snack', part: 'snack',
      pointerenter: () => this.#hold(), pointerleave: () => this.#release(),
      focusin: () => this.#hold(), focusout: () => this.#release() }, this.said, this.button));
  }

  /** Say it for a moment. `undo` is called when the user wants it undone. */
  say(text, undo = null) {
    this.#undo = undo;
    write(this.said, text);
    this.button.hidden = !undo;
    this.#release();
  }

  /** Undo what has just been done, and return whether that can be. `undo` is told whether the button, which goes, has the focus. */
  takeBack() {
    const undo = this.#undo;
    const isLeft = this.button.matches(':focus');
    this.say('');
    undo?.(isLeft);
    return Boolean(undo);
  }

  #hold() { clearTimeout(this.#timer); }

  #release() {
    this.#hold();
    if (this.said.textContent) this.#timer = setTimeout(() => this.say(''), SNACK_TIME);
  }
}
