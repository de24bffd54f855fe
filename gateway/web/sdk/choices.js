// The actions of a notification: a button for each, a field for a reply, and the answer of the user.

import { make, write } from './dom.js';
import { safeLink } from './link.js';

const LONGEST_REPLY = 1_000; // characters of a reply

export class Choices {
  #words;
  #buttons = [];

  /** @param {import('./texts.js').Words} words */
  constructor(item, words) {
    this.#words = words;
    this.actions = item.actions;
    this.key = JSON.stringify(item.actions);
    this.answer = make('p', { className: 'answer', part: 'answer', dir: 'auto', role: 'status' });
    this.field = make('input', { maxLength: LONGEST_REPLY, required: true, enterKeyHint: 'send' });
    this.form = make('form', { className: 'reply', part: 'reply', hidden: true }, this.field,
      make('button', { className: 'strong', textContent: words.say('send') }));
    for (const { id, style = 'default', url } of item.actions) {
      const link = safeLink(url)?.href;
      const button = make(link ? 'a' : 'button', { ...(link ? { role: 'link', target: '_blank', rel: 'noopener noreferrer' } : { type: 'button' }),
        className: `choice ${style === 'primary' ? 'strong' : style}`, part: 'choice', 'data-action': 'answer', 'data-choice': id });
      button.link = link;
      this.#buttons.push(button);
    }
    this.element = make('div', { className: 'choices', part: 'choices', role: 'group', 'aria-label': words.say('actions') },
      ...this.#buttons, this.form, this.answer);
    this.ask(null);
  }

  find(id) { return this.actions.find((action) => action.id === id); }

  /** Show whether it is answered, and how, or can be. */
  paint({ answer, expires_at }) {
    this.isClosed = Boolean(answer) || Date.parse(expires_at) <= Date.now();
    for (const button of this.#buttons) {
      if (!button.link) button.disabled = this.isClosed;
      else if (this.isClosed) button.removeAttribute('href');
      else button.href = button.link;
      if (button.link) button.ariaDisabled = this.isClosed;
    }
    if (this.isClosed) this.form.hidden = true;
    const { action, text } = answer ?? {};
    const label = this.find(action)?.label ?? action;
    write(this.answer, answer ? this.#words.say(text ? 'repliedBy' : 'answeredBy', { label, text }) : '');
  }

  /** Ask whether this action is meant, or take the question back. */
  ask(id) {
    for (const [index, { id: own, label }] of this.actions.entries()) {
      const button = this.#buttons[index];
      button.classList.toggle('asked', own === id);
      write(button, own === id ? this.#words.say('confirm', { label }) : label);
    }
  }

  /** Show the field for a reply, or hide it. */
  open(id) {
    this.form.hidden = id === null;
    if (id === null) return;
    this.form.dataset.choice = id;
    this.field.ariaLabel = this.field.placeholder = this.find(id).label;
    this.field.focus();
  }
}
