// What the page of `gateway serve --demo` has besides: the signed-in user posts to themselves.

import { HOME, call } from './session.js';

const $ = (id) => document.getElementById(id);

const SAMPLES = [
  {
    title: 'Ada Lovelace mentioned you in “Q4 planning”', category: 'mentions', url: 'https://example.com/docs/q4',
    body: 'Could you look at the numbers in section 3 before the meeting tomorrow?',
  },
  {
    title: 'Your parcel is on its way', body: 'It arrives on Monday between 9 and 12.', category: 'orders',
    url: `${HOME}#orders-7`, data: { order: 7 },
  },
  {
    title: 'Deploy to production failed', category: 'ci', priority: 'urgent', url: 'https://example.com/runs/4211',
    body: 'Step 4 of 7: the health check of web-3 did not answer within 30 s.',
  },
  { title: 'Invoice 2026-1107 is due in three days', category: 'billing', priority: 'high' },
  {
    title: 'New sign-in from Chromium on Linux', category: 'security',
    body: 'Vienna, Austria. If this was not you, change your password.',
  },
  { title: 'Weekly summary', body: '14 issues closed, 3 opened, and nobody was paged.', priority: 'low' },
];
let next = 0;

const sample = () => SAMPLES[next++ % SAMPLES.length];

const post = (fields) => call('POST', '/demo/notifications', { to: 'demo', ...fields });

function fill(form, fields) {
  form.reset();
  for (const [name, value] of Object.entries(fields)) if (form.elements[name]) form.elements[name].value = value;
}

async function onSend(event) {
  event.preventDefault();
  const form = event.target;
  const given = [...new FormData(form)].filter(([, value]) => value);
  $('sent').textContent = '';
  try {
    await post(Object.fromEntries(given));
    $('sent').textContent = 'Sent.';
  } catch (error) {
    $('sent').textContent = error.message;
  }
}

/** Show what only a demo has. */
export function beginDemo() {
  const offered = [...document.querySelectorAll('.demo'), $('send-link'), $('sign-in-hint')];
  for (const element of offered) element.hidden = false;
  $('username').value = 'demo';
  const offer = document.createElement('button');
  Object.assign(offer, { textContent: 'Send a sample', slot: 'empty-action' });
  offer.dataset.sample = '';
  $('list').append(offer);
  $('send-form').addEventListener('submit', onSend);
  $('fill').addEventListener('click', () => fill($('send-form'), sample()));
  for (const button of document.querySelectorAll('[data-sample]')) {
    button.addEventListener('click', () => post(sample()).catch((error) => console.warn(error.message)));
  }
}
