// What the page of `gateway serve --demo` has besides: the signed-in user posts to themselves.

import { HOME, call } from './session.js';

const $ = (id) => document.getElementById(id);

const BUTTONS = {
  choice: [{ id: 'approve', label: 'Approve', style: 'primary' }, { id: 'decline', label: 'Decline', style: 'danger' }],
  reply: [{ id: 'reply', label: 'Reply', reply: true }],
};

const SAMPLES = [
  {
    title: 'Ada Lovelace mentioned you in “Q4 planning”', category: 'mentions', url: 'https://example.com/docs/q4',
    body: 'Could you look at the numbers in section 3 before the meeting tomorrow?', buttons: 'reply',
  },
  {
    title: 'Your parcel is on its way', body: 'It arrives on Monday between 9 and 12.', category: 'orders',
    url: `${HOME}#orders-7`, data: { order: 7 },
  },
  {
    title: 'Deploy to production failed', category: 'ci', priority: 'urgent', url: 'https://example.com/runs/4211',
    body: 'Step 4 of 7: the health check of web-3 did not answer within 30 s.',
  },
  {
    title: 'Invoice 2026-1107 waits for your approval', body: 'It is due in three days.', category: 'billing', priority: 'high',
    buttons: 'choice',
  },
  {
    title: 'New sign-in from Chromium on Linux', category: 'security',
    body: 'Vienna, Austria. If this was not you, change your password.',
  },
  { title: 'Weekly summary', body: '14 issues closed, 3 opened, and nobody was paged.', priority: 'low' },
];
let next = 0;

const sample = () => SAMPLES[next++ % SAMPLES.length];

/** Post what a form or a sample has. `delay` is in seconds, `buttons` a name of `BUTTONS`. */
function post({ delay, buttons, ...fields }) {
  const scheduled = delay && { deliver_at: new Date(Date.now() + delay * 1_000).toISOString() };
  return call('POST', '/demo/notifications', { to: 'demo', ...fields, ...scheduled, ...(buttons && { actions: BUTTONS[buttons] }) });
}

function fill(form, fields) {
  clearAll(form);
  form.reset();
  for (const [name, value] of Object.entries(fields)) if (form.elements[name]) form.elements[name].value = value;
}

/** Say what became of it. */
function say(text, isWrong = false) {
  $('sent').textContent = text;
  $('sent').classList.toggle('wrong', isWrong);
}

/** Take back what is said of a field. */
function clear(input) {
  if (!input.hasAttribute('aria-invalid')) return;
  input.removeAttribute('aria-invalid');
  input.removeAttribute('aria-describedby');
  $(`${input.id}-wrong`).remove();
}

function clearAll(form) {
  for (const input of form.elements) clear(input);
  say('');
}

/** Say at a field what is wrong with it, by its label. Return the field, or nothing where the form has none of the name. */
function mark(form, { field, message }) {
  const input = form.elements.namedItem(field);
  if (!input || input.hasAttribute('aria-invalid')) return input;
  const id = `${input.id}-wrong`;
  const textContent = `${input.labels[0].firstChild.textContent.trim()}: ${message}`;
  input.after(Object.assign(document.createElement('p'), { id, className: 'wrong', textContent }));
  input.setAttribute('aria-invalid', 'true');
  input.setAttribute('aria-describedby', id);
  return input;
}

async function onSend(event) {
  event.preventDefault();
  const form = event.target;
  const given = [...new FormData(form)].filter(([, value]) => value);
  clearAll(form);
  try {
    await post(Object.fromEntries(given));
    const { delay } = form.elements;
    say(delay.value ? `Scheduled: it comes ${delay.selectedOptions[0].text.toLowerCase()}.` : 'Sent.');
    // Above the toasts that come.
    $('fill').parentElement.scrollIntoView({ block: 'nearest' });
  } catch (error) {
    const marked = error.errors?.map((one) => mark(form, one)) ?? [];
    say(marked.length && marked.every(Boolean) ? 'Not sent.' : error.message, true);
    marked.find(Boolean)?.focus();
  }
}

/** Show what only a demo has. */
export function beginDemo() {
  const offered = [...document.querySelectorAll('.demo'), $('send-link'), $('sign-in-hint')];
  for (const element of offered) element.hidden = false;
  document.querySelector('[data-account]').hidden = true;
  $('username').value = 'demo';
  const offer = document.createElement('button');
  Object.assign(offer, { textContent: 'Send a sample', slot: 'empty-action' });
  offer.dataset.sample = '';
  $('list').append(offer);
  $('send-form').addEventListener('submit', onSend);
  $('send-form').addEventListener('input', ({ target }) => {
    clear(target);
    say('');
  });
  $('fill').addEventListener('click', () => fill($('send-form'), sample()));
  for (const button of document.querySelectorAll('[data-sample]')) {
    button.addEventListener('click', () => post(sample()).catch((error) => console.warn(error.message)));
  }
}
