// Plays the same calls at a double and at the real thing: `node conformance.js BASE TOKEN (client|gateway)` prints what
// each of the two answered, as JSON. It needs an inbox that nobody else changes meanwhile.

import { NotificationClient } from '../../../gateway/web/sdk/notifications.js';
import { FakeClient } from '../../support/fake_client.js';
import { World } from './world.js';

const [, , base, token, what] = process.argv;
const headers = { Authorization: `Bearer ${token}` };

const essence = ({ id, title, created_seq, seq, category, actions, answer, deleted_reason, ...moments }) => ({
  id, title, created_seq, seq, category, actions, answer: answer && [answer.action, answer.text], reason: deleted_reason,
  snoozed: Boolean(moments.snoozed_until), read: Boolean(moments.read_at), archived: Boolean(moments.archived_at),
  deleted: Boolean(moments.deleted_at),
});

async function everything() {
  const pages = [false, true].map((archived) => fetch(`${base}/v1/inbox?limit=200&archived=${archived}`, { headers }));
  const [inbox, archive] = await Promise.all(pages.map(async (one) => (await one).json()));
  return { ...inbox, items: [...inbox.items, ...archive.items] };
}

// --- A client, and the one that the elements are tested with -----------------------------------------------

const CATEGORIES = [undefined, 'ci', 'orders', 'nothing', ''];
const LATER = new Date(Date.now() + 86_400_000).toISOString();
const SOON = new Date(Date.now() + 3_600_000).toISOString();
const SNOOZED = [{}, { unread: true }, { archived: true }, { archived: false }, { category: 'ci' }];
const FILTERS = [undefined, true, false].flatMap((unread) => [undefined, true, false].flatMap((archived) => (
  CATEGORIES.map((category) => Object.fromEntries(
    Object.entries({ unread, archived, category }).filter(([, value]) => value !== undefined)))
))).concat(SNOOZED.map((filter) => ({ ...filter, snoozed: true })));

const COMMANDS = [
  (client, [one]) => client.read(one),
  (client, [one, two]) => client.read([one, two]),
  (client, [, two]) => client.unreadAgain([two]),
  (client, [, , three]) => client.archive(three),
  (client, [, , three]) => client.archive([three], false),
  (client, [, , , four]) => client.delete(four),
  (client, [one]) => client.act(one, 'no'),
  (client, [one]) => client.act(one, 'yes', 'Thanks'),
  (client, [one]) => client.act(one, 'say'),
  (client, [one]) => client.act(one, 'say', 'Thanks'),
  (client, [one]) => client.act(one, 'yes'),
  (client, [one, two]) => client.snooze([one, two], LATER),
  (client, [, two]) => client.snooze(two, SOON),
  (client, [, two]) => client.act(two, 'yes'),
  (client) => client.read({ upTo: 2 }),
  (client, [one]) => client.snooze(one, null),
  (client, [, two]) => client.archive(two),
  (client) => client.seen(),
];

const settled = (promise) => promise.then((value) => value, ({ code }) => ({ code: code ?? 'failed' }));
const counts = ({ items, unread, unseen, complete }) => (
  { titles: items.map(({ title }) => title), answers: items.map(({ answer }) => answer && [answer.action, answer.text]), read: items.map((item) => Boolean(item.read_at)), unread, unseen, complete }
);

const PATIENCE = 5_000; // ms

/** Wait until the counts are those: a client has them a moment after the answer to its command. */
async function soon(client, expected) {
  const last = Date.now() + PATIENCE;
  while (Date.now() < last && JSON.stringify(counts(client)) !== JSON.stringify(expected)) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

async function play(client, expected = null) {
  const answers = [];
  const ask = async () => {
    for (const filter of FILTERS) {
      const { code, items } = await settled(client.query(filter));
      answers.push({ filter, code, titles: items?.map(({ title }) => title) });
    }
  };
  const ids = client.items.map(({ id }) => id);
  await ask();
  for (const command of COMMANDS) {
    const refused = (await settled(command(client, ids)))?.code;
    if (expected) await soon(client, { ...expected[answers.length], refused: undefined });
    answers.push({ ...counts(client), refused });
  }
  await ask();
  return answers;
}

async function playClients() {
  const { items } = await everything();
  const real = new NotificationClient({ url: base, getToken: () => token, share: false });
  const live = new Promise((resolve) => {
    real.addEventListener('state', ({ detail }) => detail.state === 'live' && resolve());
  });
  real.start();
  await live;
  const double = await play(new FakeClient(items));
  const answers = { double, real: await play(real, double) };
  real.stop();
  return answers;
}

// --- A gateway, and the one in memory ----------------------------------------------------------------------

const QUERIES = [
  '', 'limit=2', 'limit=0', 'limit=201', 'limit=x', 'unread=true', 'unread=false', 'unread=', 'unread=perhaps',
  'archived=true', 'archived=false', 'archived=', 'archived=true&unread=false', 'category=ci', 'category=',
  'snoozed=true', 'snoozed=false', 'snoozed=', 'snoozed=true&archived=true', 'snoozed=true&unread=false',
  'snoozed=true&archived=false', 'snoozed=true&category=ci', 'category=nothing', 'category=ci&unread=true', 'cursor=', 'cursor=nonsense', `category=${'x'.repeat(65)}`,
];

const calls = ([one, two, three, four]) => [
  ...QUERIES.map((query) => ['GET', `/v1/inbox?${query}`]),
  ['PATCH', `/v1/inbox/${one}`, { read: true }], ['PATCH', `/v1/inbox/${one}`, { read: false }],
  ['PATCH', `/v1/inbox/${two}`, { archived: true }], ['PATCH', `/v1/inbox/${two}`, { archived: false }],
  ['POST', '/v1/inbox/read', { ids: [one, two] }], ['POST', '/v1/inbox/read', { up_to: 2 }],
  ['POST', '/v1/inbox/seen', { up_to: 3 }], ['DELETE', `/v1/inbox/${three}`],
  ['PATCH', `/v1/inbox/${three}`, { read: true }], ['DELETE', `/v1/inbox/${three}`],
  ['PATCH', '/v1/inbox/00000000-0000-7000-8000-000000000000', { read: true }],
  ['PATCH', `/v1/inbox/${four}`, { read: true, archived: true }],
  ['PATCH', `/v1/inbox/${one}`, { snoozed_until: LATER }], ['PATCH', `/v1/inbox/${two}`, { snoozed_until: SOON }],
  ['PATCH', `/v1/inbox/${two}`, { snoozed_until: SOON }], ['PATCH', `/v1/inbox/${two}`, { snoozed_until: LATER, read: true }],
  ['PATCH', `/v1/inbox/${two}`, { snoozed_until: LATER, archived: true }], ['PATCH', `/v1/inbox/${two}`, {}],
  ['PATCH', `/v1/inbox/${two}`, { snoozed_until: '2020-01-01T00:00:00Z' }],
  ['PATCH', `/v1/inbox/${three}`, { snoozed_until: LATER }], ['PATCH', `/v1/inbox/${four}`, { snoozed_until: LATER }],
  ...QUERIES.map((query) => ['GET', `/v1/inbox?${query}`]),
  ['POST', `/v1/inbox/${one}/actions/no`, {}], ['POST', `/v1/inbox/${one}/actions/say`, {}],
  ['POST', `/v1/inbox/${one}/actions/yes`, { text: 'Thanks' }], ['POST', `/v1/inbox/${one}/actions/say`, { text: 'Thanks' }],
  ['POST', `/v1/inbox/${one}/actions/say`, { text: 'Thanks' }], ['POST', `/v1/inbox/${one}/actions/no`, {}],
  ['POST', `/v1/inbox/${three}/actions/yes`, {}], ['POST', `/v1/inbox/${two}/actions/yes`, {}],
  ['PATCH', `/v1/inbox/${two}`, { archived: true }], ['PATCH', `/v1/inbox/${one}`, { snoozed_until: null }],
  ...QUERIES.map((query) => ['GET', `/v1/inbox?${query}`]),
];

async function answered(answer) {
  const body = await answer.json().catch(() => null);
  const { code, items, seq, unread, unseen, next } = body ?? {};
  if (items) return { status: answer.status, seq, unread, unseen, more: next !== null, items: items.map(essence) };
  if (body?.id) return { status: answer.status, item: essence(body) };
  return { status: answer.status, code, seq, unread, unseen };
}

async function playGateways() {
  const { items, seq, epoch } = await everything();
  const world = new World();
  Object.assign(world.log, { seq, epoch, items: new Map(items.map((item) => [item.id, item])) });
  const play = async (send) => {
    const answers = [];
    for (const [method, path, body] of calls(items.map(({ id }) => id))) {
      const init = { method, headers: { ...headers, 'Content-Type': 'application/json' }, body: JSON.stringify(body) };
      answers.push({ call: `${method} ${path}`, ...await answered(await send(new URL(path, base), init)) });
    }
    return answers;
  };
  return { double: await play((url, init) => world.fetch(url, init)), real: await play(fetch) };
}

console.log(JSON.stringify(await (what === 'client' ? playClients() : playGateways())));
