// One notification in a list.

import { icon, iconButton, make, nameButton, write } from './dom.js';
import { safeLink } from './link.js';

let made = 0;

/** Return the sign of a notification: the first letter of its category, in a colour of its own. */
export function glyph({ category, priority }) {
  const plain = category === 'default';
  const letter = [...category].find((one) => /[a-z0-9]/.test(one)) ?? '·';
  const sign = make('span', { className: 'glyph', part: 'glyph', 'aria-hidden': 'true' },
    priority === 'urgent' ? icon('alert') : plain ? icon('bell') : letter);
  const hue = [...category].reduce((sum, one) => (sum * 31 + one.codePointAt(0)) % 360, 7);
  if (!plain) sign.style.setProperty('--_hue', hue);
  return sign;
}

/** Return a text of somebody else's: its direction is its own. */
export const quote = (tag, className, text, ...children) =>
  text && make(tag, { className, part: className, dir: 'auto' }, text, ...children);

/** Return a title, which is a link where the notification leads somewhere. */
export function title(item, tag, before) {
  const target = safeLink(item.url);
  const text = make('bdi', { dir: 'auto', textContent: item.title });
  return make(tag, { className: 'title', part: 'title' }, before,
    target ? make('a', { href: target.href, target: '_blank', rel: 'noopener noreferrer' }, text) : text);
}

/** Return what marks a priority that is not the normal one. */
export const priorityChip = ({ priority }, words) =>
  priority !== 'normal'
  && make('span', { className: 'chip', part: 'priority', 'data-priority': priority }, words.say(priority));

/** A notification as an article of a feed. What was sent never changes; its state does. */
export class Row {
  /** @param {any} item @param {import('./texts.js').Words} words @param {boolean} showsData */
  constructor(item, words, showsData) {
    const id = `item-${(made += 1)}`;
    this.words = words;
    this.state = make('span', { className: 'unseen' });
    const created = words.dateTime(Date.parse(item.created_at));
    this.time = make('time', { part: 'time', dir: 'auto', dateTime: item.created_at, title: created });
    this.buttons = {
      read: iconButton('check', '', { 'data-action': 'read' }),
      archive: iconButton('archive', '', { 'data-action': 'archive' }),
      delete: iconButton('trash', '', { 'data-action': 'delete' }),
    };
    this.buttons.delete.classList.add('danger');
    this.body = quote('p', 'body', item.body);
    this.whole = make('button',
      { type: 'button', className: 'link whole', part: 'more', hidden: true, 'data-action': 'unfold' });
    const heading = title(item, 'h3', this.state);
    heading.id = id;
    this.element = make('article',
      { className: 'item', part: 'item', 'aria-labelledby': id, 'data-id': item.id, 'data-priority': item.priority },
      glyph(item),
      make('div', { className: 'main' },
        make('div', { className: 'top' }, heading, this.time),
        this.body,
        this.body && this.whole,
        this.#meta(item, showsData)),
      make('div', { className: 'actions', part: 'actions' }, ...Object.values(this.buttons)));
    this.element.row = this;
    this.setCurrent(false);
    this.paint(item);
    this.unfold(false);
  }

  #meta(item, showsData) {
    const { category, url } = item;
    return make('div', { className: 'meta', part: 'meta' },
      priorityChip(item, this.words),
      category !== 'default' && make('span', { className: 'chip', part: 'category', textContent: category }),
      url && make('span', { className: 'address', part: 'address', dir: 'ltr', textContent: url }),
      showsData && item.data && make('details', {},
        make('summary', { textContent: this.words.say('data') }),
        make('pre', { part: 'data', dir: 'ltr', tabIndex: 0, textContent: JSON.stringify(item.data, null, 2) })));
  }

  /** Show the item in this state. */
  paint(item) {
    const { words, buttons } = this;
    this.item = item;
    this.element.classList.toggle('new', !item.read_at);
    this.element.part.toggle('unread', !item.read_at);
    write(this.state, item.read_at ? '' : `${words.say('unread')}: `);
    nameButton(buttons.read, words.say(item.read_at ? 'markUnread' : 'markRead'), item.title);
    buttons.read.replaceChildren(icon(item.read_at ? 'dot' : 'check'));
    nameButton(buttons.archive, words.say(item.archived_at ? 'unarchive' : 'archive'), item.title);
    buttons.archive.replaceChildren(icon(item.archived_at ? 'inbox' : 'archive'));
    this.ask(false);
    this.tick();
  }

  /** Deleting cannot be undone, so it takes a second press while the question stands. */
  ask(asked) {
    const { words, buttons } = this;
    this.asked = asked;
    buttons.delete.classList.toggle('asked', asked);
    nameButton(buttons.delete, words.say(asked ? 'deleteNow' : 'delete'), this.item.title);
    buttons.delete.replaceChildren(icon('trash'), ...(asked ? [words.say('deleteShort')] : []));
  }

  /** Show the whole body, or its first lines. */
  unfold(isUnfolded) {
    this.isUnfolded = isUnfolded;
    this.element.classList.toggle('unfolded', isUnfolded);
    this.whole.setAttribute('aria-expanded', isUnfolded);
    const label = this.words.say(isUnfolded ? 'showLess' : 'showMore');
    write(nameButton(this.whole, label, this.item.title), label);
  }

  /** Offer the rest of a body that is cut off. */
  measure() {
    const { body, whole } = this;
    whole.hidden = !this.isUnfolded && body.scrollHeight <= body.clientHeight + 1;
  }

  /** Say anew how long ago it was. */
  tick() { write(this.time, this.words.ago(Date.parse(this.item.created_at))); }

  /** Let the Tab key go to this item and into it, or past it. */
  setCurrent(isCurrent) {
    this.element.tabIndex = isCurrent ? 0 : -1;
    for (const inner of this.element.querySelectorAll('a, button, summary, pre')) inner.tabIndex = isCurrent ? 0 : -1;
  }
}
