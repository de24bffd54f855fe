// When a notification is to come back: the times that most people mean, and any other.

import { make, write } from './dom.js';
import { MINUTE } from './texts.js';

const DAY_BEGINS = 9; // o'clock
const LATER = 3; // hours
const SOONEST = 2 * MINUTE;
const LATEST = 365 * 24 * 60 * MINUTE;

/** A moment as a field of a form has it, in the time of this device. @param {number} ms */
export const localTime = (ms) => new Date(ms - new Date(ms).getTimezoneOffset() * MINUTE).toISOString().slice(0, 16);

/** Return the times to choose from, by the names of their texts. */
export function times(now = new Date()) {
  const at = (days, hours) => new Date(now.getFullYear(), now.getMonth(), now.getDate() + days, hours);
  const weekday = now.getDay();
  return [
    now.getHours() + LATER < 24 && ['laterToday', at(0, now.getHours() + LATER)],
    ['tomorrow', at(1, DAY_BEGINS)],
    // On a Sunday, that is tomorrow.
    weekday > 0 && ['nextWeek', at(8 - weekday, DAY_BEGINS)],
  ].filter(Boolean);
}

/** Return what a menu has; `choose` is given the time. @param {import('./texts.js').Words} words */
export function choices(words, choose) {
  const field = make('input', { type: 'datetime-local', required: true, 'aria-label': words.say('pickTime') });
  const said = make('p', { role: 'alert' });
  const limit = () => Object.assign(field, { min: localTime(Date.now() + SOONEST), max: localTime(Date.now() + LATEST) });
  limit();
  return [
    ...times().map(([name, time]) => make('button', { className: 'time', click: () => choose(time) },
      words.say(name), make('span', { textContent: words.moment(time) }))),
    make('form', { className: 'reply', noValidate: true, submit: (event) => {
      event.preventDefault();
      // The gateway's words would come after this has closed, and the browser's are in another language.
      if (limit().checkValidity()) choose(new Date(field.value));
      else write(said, words.say('wrongTime'));
    } }, field, make('button', { type: 'submit', className: 'strong', textContent: words.say('snooze') }), said),
  ];
}
