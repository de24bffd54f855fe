import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Replica } from '../../../gateway/web/sdk/replica.js';
import { Log, World, gate, liveTab, problem, settle } from './world.js';

// --- What comes while something is being read ------------------------------------------------------------------

test('what is archived, read or deleted while a page is being read stays so', async () => {
  const { world, tab, log } = await liveTab({ posts: ['one', 'two', 'three', 'four', 'five'], pageSize: 2 });
  const held = gate();
  const page = log.page({ limit: 4, cursor: '4' });
  world.answers['GET /v1/inbox'] = () => held.promise;
  const more = tab.client.loadMore();
  await settle();
  log.change('n3', { archived_at: '2026-01-01T00:00:09.000Z' });
  log.change('n2', { deleted_at: '2026-01-01T00:00:09.000Z' });
  log.readUpTo(1);
  held.resolve(Response.json(page));
  await more;
  assert.deepEqual(tab.titles, ['five', 'four', 'one']);
  assert.ok(tab.client.items.at(-1).read_at);
});

test('a filtered view is no older than what has been told', async () => {
  const { world, tab, log } = await liveTab({ posts: ['one', 'two'] });
  const held = gate();
  const page = log.page({ unread: 'true' });
  world.answers['GET /v1/inbox'] = () => held.promise;
  const asked = tab.client.query({ unread: true });
  await settle();
  log.change('n1', { read_at: '2026-01-01T00:00:09.000Z' });
  held.resolve(Response.json(page));
  const { items } = await asked;
  assert.deepEqual(items.map(({ title, read_at }) => [title, Boolean(read_at)]), [['two', false], ['one', true]]);
});

test('an answer that comes late does not bring back what was deleted since', async () => {
  const { world, tab, log } = await liveTab({ posts: ['one'] });
  const held = gate();
  world.answers['PATCH /v1/inbox/n1'] = () => held.promise;
  const asked = tab.client.archive('n1', false);
  await settle();
  const late = log.items.get('n1');
  log.change('n1', { deleted_at: '2026-01-01T00:00:09.000Z' });
  held.resolve(Response.json(late));
  await asked;
  assert.deepEqual(tab.titles, []);
});

test('a page that is ahead of what has been told stays so', async () => {
  const log = new Log();
  log.post('one');
  const replica = new Replica();
  replica.load(log.page());
  log.onmessage = (message) => message.type === 'read' && replica.apply(message);
  const { items } = await replica.reading(async () => {
    log.readUpTo(1);
    log.change('n1', { read_at: null });
    return log.page();
  });
  assert.equal(items[0].read_at, null);
});

test('everything older is loaded page by page, once', async () => {
  const { world, tab, log } = await liveTab({ posts: ['one', 'two', 'three', 'four', 'five'], pageSize: 2 });
  assert.deepEqual([tab.titles, tab.client.complete], [['five', 'four'], false]);
  await Promise.all([tab.client.loadMore(), tab.client.loadMore()]);
  assert.deepEqual(tab.titles, ['five', 'four', 'three', 'two']);
  log.post('six');
  await tab.client.loadMore();
  await tab.client.loadMore();
  assert.deepEqual([tab.titles, tab.client.complete], [['six', 'five', 'four', 'three', 'two', 'one'], true]);
  assert.equal(world.requests.length, 3);
  assert.deepEqual(tab.told, ['six']);
});

/** All titles of a tab, with pages loaded for as long as there are more. */
async function loadAll({ client }) {
  for (let page = 0; !client.complete; page += 1) {
    assert.ok(page < 9, 'nothing comes of it');
    await client.loadMore();
  }
  return client.items.map(({ title }) => title);
}

test('whoever loads everything before the first page is here waits for it', async () => {
  const world = new World().serve();
  for (const title of ['one', 'two', 'three']) world.log.post(title);
  const [leader, follower] = [world.tab({ pageSize: 2 }), world.tab({ pageSize: 2 })];
  const held = gate();
  world.answers['GET /v1/inbox'] = () => held.promise;
  leader.client.start();
  const all = loadAll(leader);
  await settle();
  await follower.start();
  const same = loadAll(follower);
  await settle();
  delete world.answers['GET /v1/inbox'];
  held.resolve(Response.json(world.log.page({ limit: 2 })));
  assert.deepEqual(await all, ['three', 'two', 'one']);
  assert.deepEqual(await same, ['three', 'two', 'one']);
});

test('whoever loads more while the connection is lost and the first page is not here waits on', async () => {
  const { world, tab, log } = await liveTab({ posts: ['one'] });
  world.answers['GET /v1/inbox'] = () => problem(503, 'unavailable');
  log.epoch = 'e2';
  world.socket.say({ type: 'reset', epoch: 'e2', seq: log.seq, oldest_seq: 1, ...log.counts });
  await world.clock.pass(10_000);
  assert.equal(tab.client.state, 'offline');
  const all = loadAll(tab);
  await world.clock.pass(10_000);
  delete world.answers['GET /v1/inbox'];
  await world.clock.pass(60_000);
  assert.deepEqual(await all, ['one']);
});

const ENDS = {
  stopped: ({ client }) => client.stop(),
  signed_out: ({ client }) => client.signOut(),
  insufficient_scope: ({ world }) => world.refuse(problem(403, 'insufficient_scope')),
  token_revoked: ({ world, tab }) => {
    tab.getToken = () => null;
    world.refuse(problem(401, 'token_revoked'));
  },
};

for (const [code, end] of Object.entries(ENDS)) {
  test(`whoever waits for the first page is told where it does not come: ${code}`, async () => {
    const world = new World().serve();
    const held = gate();
    world.answers['GET /v1/inbox'] = () => held.promise;
    world.refuse = held.resolve;
    const tab = await world.tab().start();
    const refused = assert.rejects(loadAll(tab), { code });
    await settle();
    end({ world, tab, client: tab.client });
    await refused;
    await assert.rejects(tab.client.loadMore(), { code });
  });
}

test('a client that does not run has no first page to wait for', async () => {
  await assert.rejects(loadAll(new World().serve().tab()), { code: 'stopped' });
});

test('a change of an item that is not loaded is told, and not shown', async () => {
  const { tab, log } = await liveTab({ posts: ['one', 'two', 'three'], pageSize: 1 });
  log.change('n1', { read_at: '2026-01-01T00:00:09.000Z' });
  assert.deepEqual(tab.titles, ['three']);
  assert.deepEqual(tab.of('items').at(-1).changed.map(({ id }) => id), ['n1']);
  log.readUpTo(2);
  assert.equal(tab.of('items').at(-1).readUpTo, 2);
  assert.equal(tab.client.unread, 1);
});

// --- What the user does ------------------------------------------------------------------------------------------

/** A live tab whose socket does not answer commands by itself. */
async function acting(options) {
  const made = await liveTab(options);
  const { world } = made;
  world.oncommand = () => {};
  world.command = () => world.socket.sent.filter(({ ref }) => ref).at(-1);
  return made;
}

test('a command is shown at once, and one that is refused is taken back', async () => {
  const { world, tab, client } = await acting({ posts: ['one', 'two'] });
  const asked = client.read('n2');
  assert.deepEqual([Boolean(client.items[0].read_at), client.unread, client.unseen], [true, 1, 1]);
  const { ref, ...command } = world.command();
  assert.deepEqual(command, { type: 'read', ids: ['n2'] });
  world.socket.say({ type: 'error', ref, code: 'unavailable', detail: 'Later.' });
  await assert.rejects(asked, { code: 'unavailable', detail: 'Later.' });
  assert.deepEqual([client.items[0].read_at, client.unread, client.unseen], [null, 2, 2]);
  assert.deepEqual(tab.of('error'), [{ type: 'error', code: 'unavailable', detail: 'Later.' }]);
});

test('a live message that overtakes a refusal stands', async () => {
  const { world, client, log } = await acting({ posts: ['one'] });
  const asked = client.unreadAgain('n1').catch(() => {});
  const { ref } = world.command();
  log.change('n1', { read_at: '2026-01-01T00:00:09.000Z' });
  world.socket.say({ type: 'error', ref, code: 'unavailable', detail: '' });
  await asked;
  assert.equal(client.items[0].read_at, '2026-01-01T00:00:09.000Z');
  assert.equal(client.unread, 0);
});

test('a refusal takes back its own command, and leaves another of the same item', async () => {
  const { world, client } = await acting({ posts: ['one', 'two'] });
  const read = client.read('n1').catch(() => {});
  const { ref } = world.command();
  client.archive('n1');
  world.socket.say({ type: 'error', ref, code: 'unavailable', detail: '' });
  await read;
  assert.deepEqual([client.items.map(({ id }) => id), client.unread], [['n2'], 1]);
});

for (const order of ['before', 'after']) {
  test(`an ok that comes ${order} the change shows nothing else in between`, async () => {
    const { world, tab, client, log } = await acting({ posts: ['one', 'two', 'three'] });
    const asked = client.archive(['n1', 'n3']);
    const { ref } = world.command();
    const change = () => log.change(['n1', 'n3'], { archived_at: '2026-01-01T00:00:09.000Z' });
    if (order === 'after') change();
    world.socket.say({ type: 'ok', ref });
    await asked;
    assert.deepEqual([tab.titles, client.unread], [['two'], 1]);
    if (order === 'before') change();
    assert.deepEqual([tab.titles, client.unread, client.unseen], [['two'], 1, 1]);
    assert.deepEqual(tab.of('counts').map(({ unread }) => unread), [3, 1]);
  });
}

test('what another device did after a command stands when the ok comes', async () => {
  const { world, client, log } = await acting({ posts: ['one'] });
  const asked = client.read('n1');
  log.change('n1', { read_at: '2026-01-01T00:00:09.000Z' });
  log.change('n1', { read_at: null });
  world.socket.say({ type: 'ok', ref: world.command().ref });
  await asked;
  assert.deepEqual([client.items[0].read_at, client.unread], [null, 1]);
});

test('marking all read leaves what comes later alone, and counts exactly', async () => {
  const { world, client, log } = await acting({ posts: ['one', 'two', 'three'], pageSize: 2 });
  const asked = client.read({ upTo: 3 });
  assert.deepEqual([client.unread, client.unseen], [0, 0]);
  log.post('four');
  assert.deepEqual([client.unread, client.unseen], [1, 1]);
  assert.deepEqual(client.items.map(({ read_at }) => Boolean(read_at)), [false, true, true]);
  log.readUpTo(3);
  world.socket.say({ type: 'ok', ref: world.command().ref });
  await asked;
  assert.deepEqual([client.unread, client.unseen], [1, 1]);
});

test('the seen mark moves at once, to all that is here', async () => {
  const { world, client, log } = await acting({ posts: ['one', 'two'] });
  const asked = client.seen();
  assert.deepEqual([client.unread, client.unseen], [2, 0]);
  assert.equal(world.command().up_to, 2);
  world.socket.say({ type: 'ok', ref: world.command().ref });
  await asked;
  log.see(2);
  log.post('three');
  assert.deepEqual([client.unread, client.unseen], [3, 1]);
});

test('a command whose socket ends before the answer is sent again as a request', async () => {
  const { world, tab, client } = await acting({ posts: ['one'] });
  const asked = client.read('n1');
  world.socket.end(1012, 'restart');
  await asked;
  assert.deepEqual(world.requests.at(-1).path, '/v1/inbox/read');
  assert.deepEqual(world.requests.at(-1).body, { ids: ['n1'] });
  assert.equal(client.unread, 0);
  assert.deepEqual(tab.of('error'), []);
});

test('without a socket, commands are requests', async () => {
  const { world, tab, client, log } = await liveTab({ posts: ['one', 'two', 'three'] });
  world.onsocket = () => {};
  world.socket.end();
  await settle();
  await client.read(['n1', 'n1']);
  await client.archive('n2');
  await client.delete('n3');
  await client.unreadAgain('n1');
  await client.seen();
  assert.deepEqual(world.requests.slice(1).map(({ method, path, body }) => [method, path, body]), [
    ['POST', '/v1/inbox/read', { ids: ['n1'] }],
    ['PATCH', '/v1/inbox/n2', { archived: true }],
    ['DELETE', '/v1/inbox/n3', undefined],
    ['PATCH', '/v1/inbox/n1', { read: false }],
    ['POST', '/v1/inbox/seen', { up_to: 3 }],
  ]);
  assert.deepEqual([tab.titles, client.unread], [['one'], 1]);
  world.onsocket = (socket) => setImmediate(() => socket.resume());
  await world.clock.pass(1_000);
  assert.deepEqual(client.items, log.page().items);
  assert.deepEqual([client.unread, client.unseen], [1, 0]);
});

test('a follower commands by requests, and takes back what is refused', async () => {
  const { world, tab } = await liveTab({ posts: ['one'] });
  const other = await world.tab().start();
  await other.client.read('n1');
  await settle();
  assert.deepEqual([tab.client.unread, other.client.unread], [0, 0]);
  world.answers['PATCH /v1/inbox/n1'] = () => problem(503, 'unavailable');
  await assert.rejects(other.client.unreadAgain('n1'), { code: 'unavailable' });
  assert.equal(other.client.unread, 0);
});

/** Refuse a request so many times because too much was asked for lately, then do it. */
function refuse(world, what, times, headers) {
  world.answers[what] = () => {
    times -= 1;
    if (times === 0) delete world.answers[what];
    return problem(429, 'rate_limited', headers);
  };
}

const sent = (world, path) => world.requests.filter((request) => request.path === path).length;

test('a command that comes too soon stays shown, and is sent again when the gateway wants it', async () => {
  const { world, client, log } = await liveTab({ posts: ['one'] });
  await client.archive('n1');
  refuse(world, 'PATCH /v1/inbox/n1', 2, { 'Retry-After': '3' });
  const asked = client.archive('n1', false);
  await world.clock.pass(2_900);
  assert.equal(sent(world, '/v1/inbox/n1'), 1);
  await world.clock.pass(6_200);
  assert.equal(sent(world, '/v1/inbox/n1'), 3);
  await asked;
  assert.equal(log.items.get('n1').archived_at, null);
});

test('a page that comes too soon is asked for again, and not at once where it is not said when', async () => {
  const { world, client } = await liveTab({ posts: ['one'] });
  refuse(world, 'GET /v1/inbox', 1);
  const asked = client.query({ unread: true });
  const before = sent(world, '/v1/inbox');
  await world.clock.pass(900);
  assert.equal(sent(world, '/v1/inbox'), before);
  await world.clock.pass(700);
  assert.equal((await asked).items.length, 1);
});

test('what has to wait for longer than a minute is taken back', async () => {
  const { world, tab, client } = await liveTab({ posts: ['one'] });
  await client.archive('n1');
  refuse(world, 'PATCH /v1/inbox/n1', Infinity, { 'Retry-After': '20' });
  const asked = assert.rejects(client.archive('n1', false), { code: 'rate_limited' });
  await world.clock.pass(90_000);
  await asked;
  assert.equal(sent(world, '/v1/inbox/n1'), 3);
  assert.equal(tab.of('error').length, 1);
});

test('what is gone already is deleted', async () => {
  const { world, client } = await liveTab();
  world.socket.end();
  await client.delete('n9');
  assert.equal(world.requests.at(-1).method, 'DELETE');
});

test('many ids go in several commands', async () => {
  const { world, client } = await acting();
  world.oncommand = (socket, { ref }) => ref && setImmediate(() => socket.say({ type: 'ok', ref }));
  await client.read(Array.from({ length: 450 }, (_, number) => `id-${number}`));
  assert.deepEqual(world.socket.sent.filter(({ ref }) => ref).map(({ ids }) => ids.length), [200, 200, 50]);
});

test('what was brought back from the archive is shown', async () => {
  const { tab, client } = await liveTab({ posts: ['one', 'two'] });
  await client.archive('n1');
  assert.deepEqual(tab.titles, ['two']);
  await client.archive('n1', false);
  assert.deepEqual(tab.titles, ['two', 'one']);
});

// --- The log, with what a replay leaves out --------------------------------------------------------------------

test('an item that comes under a later number than it entered is new once', () => {
  const log = new Log();
  const replica = new Replica();
  replica.load(log.page());
  const lived = [];
  log.onmessage = (message) => lived.push(message);
  log.post('one');
  log.change('n1', { read_at: '2026-01-01T00:00:09.000Z' });
  log.change('n1', { read_at: null });
  const hole = { type: 'changed', seq: 1, items: [], ...log.counts };
  const news = [hole, { ...hole, seq: 2 }, lived[2]].map((message) => replica.apply(message).news.map(({ id }) => id));
  assert.deepEqual(news, [[], [], ['n1']]);
  log.change('n1', { read_at: '2026-01-01T00:00:10.000Z' });
  assert.deepEqual(replica.apply(lived[3]).news, []);
});

test('after a replay nothing is kept of the numbers it has passed by', () => {
  const log = new Log();
  const replica = new Replica();
  replica.load(log.page());
  log.post('one');
  for (const read_at of ['2026-01-01T00:00:09.000Z', null, '2026-01-01T00:00:10.000Z']) log.change('n1', { read_at });
  for (const message of log.replay(0)) replica.apply(message);
  replica.apply(log.live());
  assert.deepEqual(replica.snapshot().untold, []);
});

test('old counts do not undo newer ones', () => {
  const log = new Log();
  log.post('one');
  const replica = new Replica();
  replica.load({ ...log.page(), seq: 9, unread: 5, unseen: 4 }, 0);
  replica.apply({ ...log.replay(0)[0], unread: 1, unseen: 1 });
  assert.deepEqual(replica.counts, { unread: 5, unseen: 4 });
});

test('a seen mark that was told before the counts that are known says nothing of them', () => {
  const log = new Log();
  for (const title of ['one', 'two', 'three']) log.post(title);
  const replica = new Replica();
  replica.load(log.page(), 2);
  replica.apply({ type: 'seen', up_to: 1, unseen: 1 });
  assert.deepEqual(replica.counts, { unread: 3, unseen: 3 });
  log.onmessage = (message) => replica.apply(message);
  log.post('four');
  log.see(2);
  assert.deepEqual(replica.counts, { unread: 4, unseen: 2 });
});

/** Numbers that look random and are the same each time (mulberry32). */
function dice(seed) {
  let state = seed;
  return (sides) => {
    state = (state + 0x6D2B79F5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % sides;
  };
}

test('whatever happens, the state and the messages are the inbox as read afresh, in every tab', async () => {
  for (let seed = 1; seed <= 30; seed += 1) {
    const roll = dice(seed);
    const world = new World().serve();
    const { log } = world;
    const tabs = [await world.tab({ pageSize: 5 }).start(), await world.tab({ pageSize: 5 }).start()];
    const some = () => `n${1 + roll(log.seq + 1)}`;
    const time = '2026-01-01T00:00:09.000Z';
    const acts = [
      () => log.post(), () => log.post(), () => log.post(),
      () => log.change(some(), { read_at: time }), () => log.change([some(), some()], { read_at: null }),
      () => log.change(some(), { archived_at: time }), () => log.change(some(), { archived_at: null }),
      () => log.change(some(), { deleted_at: time }),
      () => log.readUpTo(roll(log.seq + 1)), () => log.see(roll(log.seq + 1)),
      () => world.socket.end([1006, 1012, 4008][roll(3)]),
      () => world.clock.pass(roll(3_000)),
      () => void tabs[roll(2)].client.loadMore().catch(() => {}),
      () => void tabs[roll(2)].client.read(some()).catch(() => {}),
      () => void tabs[roll(2)].client.archive(some()).catch(() => {}),
      () => void tabs[roll(2)].client.seen(roll(log.seq + 1)).catch(() => {}),
      () => void tabs[0].freeze(), () => void tabs[0].thaw(),
    ];
    for (let step = 0; step < 120; step += 1) {
      await acts[roll(acts.length)]();
      for (let turns = roll(5); turns; turns -= 1) await new Promise((resolve) => { setImmediate(resolve); });
    }
    await tabs[0].thaw();
    await world.clock.pass(120_000);
    for (const tab of tabs) {
      for (let page = 0; page < 99 && !tab.client.complete; page += 1) await tab.client.loadMore();
      // The exact moment is not said by a message of type `read`.
      const plain = ({ read_at, ...item }) => ({ ...item, read: Boolean(read_at) });
      assert.deepEqual(tab.client.items.map(plain), log.page({ limit: 1_000 }).items.map(plain), `seed ${seed}`);
      assert.deepEqual({ unread: tab.client.unread, unseen: tab.client.unseen }, log.counts, `seed ${seed}`);
      assert.equal(tab.client.state, 'live');
      const told = tab.of('notification').map(({ item }) => item.id);
      assert.equal(new Set(told).size, told.length, `seed ${seed}: told twice`);
    }
  }
});
