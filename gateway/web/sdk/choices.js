// The actions of a notification: a button for each, a field for a reply, and the answer of the user.

import { make, write } from './dom.js';
import { safeLink } from './link.js';

const LONGEST_REPLY = 1_000; // characters of a reply
const QUESTION_TIME = 4_000; // ms
const AHEAD = 60_000; // ms to an expiry that is waited for; lists look again by themselves

/**
 * Take a question back after a while, but not from under a pointer: its button becomes a smaller one.
 * @param {{ element: HTMLElement, ask(asked: null): void, asking?: ReturnType<typeof setTimeout> }} asker
 */
export function askNoMore(asker) {
  clearTimeout(asker.asking);
  asker.asking = setTimeout(() => {
    const asked = asker.element.querySelector('.asked');
    // A finger leaves what it touched last `:hover`, and is not there any more.
    const isAimedAt = matchMedia('(hover: hover)').matches && asked?.matches(':hover');
    if (isAimedAt || asked?.matches(':active')) askNoMore(asker);
    else asker.ask(null);
  }, QUESTION_TIME);
}

/**
 * Say why a reply cannot be sent any more, and what was written: what the event `lapse` has.
 * @param {import('./texts.js').Words} words
 */
export function lapsed(words, { item, text }) {
  const why = Date.parse(item.expires_at) <= Date.now() ? 'expired' : item.answer ? 'answered' : item.deleted_reason;
  return words.say('replyLost', { why }) + (text && ` ${words.say('youWrote', { text })}`);
}

export class Choices {
  #words;
  #buttons = [];
  #replying; // the id of an action

  /** @param {import('./texts.js').Words} words */
  constructor(item, words) {
    this.#words = words;
    this.actions = item.actions;
    this.key = JSON.stringify(item.actions);
    this.answer = make('p', { className: 'answer', part: 'answer', dir: 'auto', role: 'status' });
    this.field = make('input', { maxLength: LONGEST_REPLY, required: true, enterKeyHint: 'send' });
    this.form = make('form', { className: 'reply', part: 'reply', hidden: true }, this.field,
      make('button', { type: 'submit', className: 'strong', textContent: words.say('send') }));
    for (const { id, style = 'default', url, reply } of item.actions) {
      const link = !reply && safeLink(url)?.href;
      const button = make(link ? 'a' : 'button', { ...(link ? { role: 'link', target: '_blank', rel: 'noopener noreferrer' } : {}),
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
    const left = Date.parse(expires_at) - Date.now();
    this.isClosed = Boolean(answer) || left <= 0;
    clearTimeout(this.expiring);
    if (!this.isClosed && left < AHEAD) this.expiring = setTimeout(() => this.paint({ answer, expires_at }), left);
    for (const button of this.#buttons) {
      if (!button.link) button.disabled = this.isClosed;
      else if (this.isClosed) button.removeAttribute('href');
      else button.href = button.link;
      if (button.link) button.ariaDisabled = this.isClosed;
    }
    if (this.isClosed) this.leave({ answer, expires_at });
    const { action, text } = answer ?? {};
    const label = this.find(action)?.label ?? action;
    write(this.answer, answer ? this.#words.say(text ? 'repliedBy' : 'answeredBy', { label, text }) : '');
  }

  /** Close the field for a reply: what this item is now takes none. What was written in it is told by the event `lapse`. */
  leave(item) {
    const { form, field } = this;
    if (form.hidden) return;
    const text = field.value.trim();
    const isWanted = form.matches(':focus-within') || text;
    if (form.matches(':focus-within')) this.element.closest('article')?.focus();
    form.hidden = true;
    if (isWanted && item.answer?.text !== text) form.dispatchEvent(Object.assign(new Event('lapse', { bubbles: true }), { item, text }));
  }

  /**
   * Take a click on a button: it answers at once, after a second press, or with a text. `asker` asks for that press.
   * @param {{ ask(id: string): void }} asker @param {(id: string) => void} answer
   */
  press(event, asker, answer) {
    const { choice: id } = event.target.closest('[data-choice]').dataset;
    const { style, reply } = this.find(id);
    const isDanger = style === 'danger';
    const asks = isDanger && this.asked !== id;
    // The second click of two is none that confirms.
    const answers = !this.isClosed && !reply && (!isDanger || (!asks && event.detail < 2));
    if (!answers) event.preventDefault();
    if (this.isClosed) return;
    if (asks) {
      asker.ask(id);
      askNoMore(asker);
    } else if (reply) this.open(id);
    // A link that is disabled at once leads nowhere.
    else if (answers) setTimeout(() => answer(id));
  }

  /** Take what was typed. @param {(id: string, text: string) => void} answer */
  submit(event, answer) {
    event.preventDefault();
    const text = this.field.value.trim();
    if (text) answer(this.#replying, text);
  }

  /** Ask whether this action is meant, or take the question back. */
  ask(id) {
    this.asked = id;
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
    this.#replying = id;
    this.field.ariaLabel = this.field.placeholder = this.find(id).label;
    this.field.focus();
  }
}
