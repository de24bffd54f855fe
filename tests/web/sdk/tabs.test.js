import assert from 'node:assert/strict';
import { test } from 'node:test';

import { World, gate, liveTab, settle, tokenOf } from './world.js';

/** What a tab shows, to be compared with another. */
const shown = ({ client }) => ({
  items: client.items, seq: client.seq, epoch: client.epoch, unread: client.unread, unseen: client.unseen,
  state: client.state, sub: client.sub,
});

async function tabsOf(number, { posts = [], ...options } = {}) {
  const world = new World().serve();
  for (const title of posts) world.log.post(title);
  const tabs = [];
  for (let each = 0; each < number; each += 1) tabs.push(await world.tab(options).start());
  return { world, tabs, log: world.log };
}

const open = (world) => world.sockets.filter(({ closed, readyState }) => !closed && readyState === 1);

function assertSame(tabs) {
  for (const tab of tabs) assert.deepEqual(shown(tab), shown(tabs[0]));
}

test('the tabs of a user have one connection, and show the same', async () => {
  const { world, tabs, log } = await tabsOf(3, { posts: ['one', 'two'] });
  log.post('three');
  log.change('n1', { archived_at: '2026-01-01T00:00:09.000Z' });
  log.see(2);
  await settle();
  assert.equal(world.sockets.length, 1);
  assert.deepEqual(tabs.map(({ client }) => client.leader), [true, false, false]);
  assert.deepEqual(tabs[2].titles, ['three', 'two']);
  assert.deepEqual(tabs.map(({ told }) => told), [['three'], ['three'], ['three']]);
  assertSame(tabs);
  assert.equal(world.requests.length, 1, 'a tab that joins asks the leader, not the gateway');
});

test('an answer that comes after a later seen mark was told does not undo it', async () => {
  const { world, tabs: [, follower], log } = await tabsOf(2, { posts: ['one', 'two'] });
  const held = gate();
  world.answers['POST /v1/inbox/seen'] = () => held.promise;
  const asked = follower.client.seen(1);
  await settle();
  log.see(1);
  const late = { seq: log.seq, ...log.counts };
  log.see(2);
  await settle();
  assert.equal(follower.client.unseen, 0);
  held.resolve(Response.json(late));
  await asked;
  assert.equal(follower.client.unseen, 0);
});

test('the last words of a leader that is gone do not undo what the next one tells', async () => {
  const { world, tabs: [first, ...others], log } = await tabsOf(3, { posts: ['one'] });
  log.see(1);
  await settle();
  const [last] = world.channels.heard.filter(({ message }) => message?.type === 'seen');
  await first.die();
  await world.clock.pass(1_000);
  log.post('two');
  log.post('three');
  await settle();
  const follower = others.find(({ client }) => !client.leader);
  assert.deepEqual([follower.client.seq, follower.client.unseen], [3, 2]);
  const Channel = world.channels.of(first);
  new Channel('notify https://gateway.test/ gateway ada').postMessage(last);
  await settle();
  assert.deepEqual([follower.client.unread, follower.client.unseen], [3, 2]);
});

test('a tab that joins while the first one is still reading the inbox is told too', async () => {
  const world = new World();
  const { promise, resolve } = Promise.withResolvers();
  world.answers['GET /v1/inbox'] = () => promise;
  world.log.post('one');
  const [first, second] = [await world.tab().start(), await world.tab().start()];
  assert.equal(second.client.state, 'connecting');
  resolve(Response.json(world.log.page()));
  await settle();
  world.socket.resume();
  await settle();
  assert.deepEqual(second.titles, ['one']);
  assertSame([first, second]);
});

test('what is new is first in exactly one tab, and in one that is looked at where there is one', async () => {
  const { tabs, log } = await tabsOf(3);
  const firsts = () => tabs.map((tab) => tab.of('notification').at(-1).first);
  for (const [looked, expected] of [
    [[true, false, false], [true, false, false]],
    [[false, false, true], [false, false, true]],
    [[false, true, false], [false, true, false]],
    [[false, false, false], [true, false, false]],
  ]) {
    for (const [number, visible] of looked.entries()) await tabs[number].show(visible);
    log.post();
    await settle();
    assert.deepEqual(firsts(), expected);
  }
  await tabs[0].show(false);
  await tabs[1].show(true);
  tabs[1].client.stop();
  await settle();
  log.post();
  await settle();
  assert.deepEqual([tabs[0], tabs[2]].map((tab) => tab.of('notification').at(-1).first), [true, false]);
});

test('a new leader learns which tab is looked at', async () => {
  const { world, tabs, log } = await tabsOf(3);
  world.channels.deaf.add(tabs[0]);
  await tabs[2].show(true);
  await world.clock.pass(4_900);
  world.channels.deaf.clear();
  await world.clock.pass(200);
  // It came last, and has not heard the others say that they are here.
  assert.equal(tabs[2].client.leader, true);
  for (const hidden of [tabs[0], tabs[2]]) await hidden.show(false);
  log.post();
  await settle();
  assert.deepEqual(tabs.map((tab) => tab.of('notification').at(-1).first), [false, true, false]);
});

test('a leader that is gone in a burst is replaced, and nothing is lost or told twice', async () => {
  const { world, tabs, log } = await tabsOf(3);
  for (const title of ['one', 'two']) log.post(title);
  await settle();
  log.post('three');
  await tabs[0].die();
  world.sockets[0].readyState = 3;
  log.post('four');
  await settle();
  log.post('five');
  await settle();
  assert.equal(open(world).length, 1);
  for (const tab of tabs.slice(1)) assert.deepEqual(tab.told, ['one', 'two', 'three', 'four', 'five']);
  assertSame(tabs.slice(1));
  assert.deepEqual(tabs.map(({ client }) => client.leader).slice(1), [true, false]);
});

test('a leader that dies before the others have heard is replaced by one that resumes from its own', async () => {
  const { world, tabs, log } = await tabsOf(3);
  world.channels.deaf.add(tabs[1]).add(tabs[2]);
  log.post('one');
  assert.deepEqual(tabs[0].told, ['one']);
  await settle();
  world.channels.deaf.clear();
  world.sockets[0].readyState = 3;
  await tabs[0].die();
  assert.equal(world.socket.since, 0);
  for (const tab of tabs.slice(1)) assert.deepEqual(tab.told, ['one']);
  assertSame(tabs.slice(1));
});

test('a leader that is behind its followers tells them nothing twice', async () => {
  const { world, tabs, log } = await tabsOf(3);
  world.channels.deaf.add(tabs[1]);
  log.post('one');
  log.post('two');
  await settle();
  assert.deepEqual([tabs[1].told, tabs[2].told], [[], ['one', 'two']]);
  world.channels.deaf.clear();
  world.sockets[0].readyState = 3;
  await tabs[0].die();
  log.post('three');
  await settle();
  for (const tab of tabs.slice(1)) assert.deepEqual(tab.told, ['one', 'two', 'three']);
  assertSame(tabs.slice(1));
});

test('a follower that did not hear everything asks, and is told the rest as missed', async () => {
  const { world, tabs, log } = await tabsOf(2);
  world.channels.deaf.add(tabs[1]);
  log.post('one');
  await settle();
  world.channels.deaf.clear();
  log.post('two');
  await settle();
  assert.deepEqual(tabs[1].told, ['one', 'two']);
  assert.deepEqual(tabs[1].of('notification').map(({ first }) => first), [false, false]);
  assertSame(tabs);
});

test('a follower that did not hear of another log asks, once, and is told all of it', async () => {
  const { world, tabs, log } = await tabsOf(2, { posts: ['one'] });
  world.channels.deaf.add(tabs[1]);
  log.epoch = 'e2';
  world.socket.say({ type: 'reset', epoch: 'e2', seq: 1, oldest_seq: 1, ...log.counts });
  await settle();
  world.channels.deaf.clear();
  world.channels.heard.length = 0;
  for (const title of ['two', 'three', 'four']) log.post(title);
  await settle();
  assert.deepEqual(tabs[1].titles, ['four', 'three', 'two', 'one']);
  assertSame(tabs);
  assert.equal(world.channels.heard.filter(({ kind }) => kind === 'here').length, 1);
});

test('a follower that heard nothing of the last change catches up when it is looked at', async () => {
  const { world, tabs, log } = await tabsOf(2);
  await tabs[1].show(false);
  world.channels.deaf.add(tabs[1]);
  log.post('one');
  await settle();
  world.channels.deaf.clear();
  await tabs[1].show(true);
  assert.deepEqual(tabs[1].told, ['one']);
  const before = tabs[1].of('items').length;
  await tabs[1].show(true);
  assert.equal(tabs[1].of('items').length, before, 'one that lacks nothing is told nothing');
});

test('a tab that joins lets the others as they are', async () => {
  const { world, tabs } = await tabsOf(2, { posts: ['one'] });
  const before = tabs.map((tab) => tab.events.length);
  await world.tab().start();
  assert.deepEqual(tabs.map((tab) => tab.events.length), before);
});

test('each tab is told where the connection stands', async () => {
  const { world, tabs } = await tabsOf(2);
  world.onsocket = () => {};
  world.answers['GET /healthz'] = () => Promise.reject(new TypeError('away'));
  world.socket.end();
  await world.clock.pass(1_000);
  world.socket.end();
  await settle();
  assert.deepEqual(tabs.map(({ client }) => client.state), ['offline', 'offline']);
  assert.ok(tabs[1].client.retryAt);
  assert.equal(tabs[1].client.retryAt, tabs[0].client.retryAt);
});

test('a follower that is looked at, or told to, has the leader try at once', async () => {
  const { world, tabs } = await tabsOf(2);
  world.random = 0.99;
  world.socket.end();
  await settle();
  await tabs[1].show(true);
  assert.equal(world.sockets.length, 2);
  world.socket.end(4009, 'too_many_sockets');
  await settle();
  assert.equal(tabs[1].client.state, 'stopped');
  tabs[1].client.retry();
  await settle();
  assert.equal(world.sockets.length, 3);
});

test('after a reset every tab begins anew, and what is new is first in one', async () => {
  const { world, tabs, log } = await tabsOf(3);
  for (const tab of tabs) await tab.show(false);
  await tabs[1].show(true);
  world.log.onmessage = () => {};
  log.post('one');
  world.socket.say({ type: 'reset', epoch: 'e1', seq: 1, oldest_seq: 1, ...log.counts });
  await settle();
  for (const tab of tabs) assert.deepEqual([tab.titles, tab.told], [['one'], ['one']]);
  assert.deepEqual(tabs.map((tab) => tab.of('notification').map(({ first }) => first)), [[false], [true], [false]]);
  assertSame(tabs);
});

// --- Pages that sleep ----------------------------------------------------------------------------------------

for (const [asleep, awake] of [['freeze', 'resume'], ['pagehide', 'pageshow']]) {
  const send = async (tab, kind) => {
    (kind.startsWith('page') ? tab.window : tab.document).dispatchEvent(new Event(kind));
    await settle();
  };

  test(`a leader lets go on ${asleep}, and follows on ${awake}`, async () => {
    const { world, tabs, log } = await tabsOf(2);
    await send(tabs[0], asleep);
    assert.deepEqual(tabs.map(({ client }) => client.leader), [false, true]);
    assert.equal(open(world).length, 1);
    log.post('one');
    await settle();
    await send(tabs[0], awake);
    assert.deepEqual(tabs[0].told, ['one']);
    assert.deepEqual(tabs.map(({ client }) => client.leader), [false, true]);
    assertSame(tabs);
  });

  test(`a follower does not become the leader after ${asleep}`, async () => {
    const { tabs, log } = await tabsOf(3);
    await send(tabs[1], asleep);
    await tabs[0].die();
    assert.deepEqual(tabs.map(({ client }) => client.leader).slice(1), [false, true]);
    log.post('one');
    await settle();
    assert.deepEqual(tabs[2].told, ['one']);
  });

  test(`one tab alone is live again after ${asleep} and ${awake}`, async () => {
    const { world, tab, log } = await liveTab();
    await send(tab, asleep);
    assert.equal(open(world).length, 0);
    log.post('one');
    await send(tab, awake);
    assert.deepEqual([tab.client.state, tab.told], ['live', ['one']]);
  });
}

test('a leader that is frozen without having been told is replaced by a tab that is looked at', async () => {
  const { world, tabs, log } = await tabsOf(2);
  world.channels.deaf.add(tabs[0]);
  log.onmessage = () => {};
  await tabs[1].show(true);
  await world.clock.pass(4_900);
  world.channels.deaf.clear();
  await world.clock.pass(200);
  assert.equal(tabs[1].client.leader, true);
  assert.equal(tabs[1].client.state, 'live');
  assert.equal(tabs[0].client.leader, false);
  await world.clock.pass(60_000);
  assert.deepEqual(tabs.map(({ client }) => client.leader), [false, true]);
  assert.equal(open(world).length, 1);
});

test('a leader that answers is left alone', async () => {
  const { world, tabs } = await tabsOf(2);
  await tabs[1].show(true);
  await world.clock.pass(20_000);
  assert.deepEqual(tabs.map(({ client }) => client.leader), [true, false]);
  assert.equal(world.sockets.length, 1);
});

for (const [kind, ms] of Object.entries({ 'what came first': 0, 'a timer that is late': 3_000 })) {
  test(`a leader whose page hangs is replaced, and shows nothing twice when it wakes to ${kind}`, async () => {
    const { world, tabs, log } = await tabsOf(3);
    await tabs[2].show(false);
    tabs[0].hang();
    await world.clock.pass(ms);
    log.post('one');
    await world.clock.pass(17_000);
    assert.deepEqual(tabs.map(({ client }) => client.leader).slice(1), [true, false]);
    assert.deepEqual(tabs.slice(1).map(({ told, client }) => [told, client.state]), [[['one'], 'live'], [['one'], 'live']]);
    await tabs[0].wake();
    log.post('two');
    await settle();
    assert.deepEqual(tabs.map(({ client }) => client.leader), [false, true, false]);
    for (const tab of tabs) assert.deepEqual(tab.told, ['one', 'two']);
    const firsts = (title) => tabs.map((tab) => tab.of('notification').find(({ item }) => item.title === title).first);
    assert.deepEqual(firsts('one'), [false, true, false]);
    assert.equal(firsts('two').filter(Boolean).length, 1);
    assert.equal(open(world).length, 1);
    assertSame(tabs);
  });
}

test('a leader that has nothing to tell is asked, and goes on leading', async () => {
  const { world, tabs } = await tabsOf(2);
  const beats = () => {
    world.socket.say({ type: 'heartbeat', seq: 0, unread: 0, unseen: 0 });
    world.clock.set(beats, 30_000);
  };
  beats();
  await world.clock.pass(60_000);
  assert.deepEqual(tabs.map(({ client }) => client.leader), [true, false]);
  assert.equal(world.sockets.length, 1);
  const asked = world.channels.heard.filter(({ kind }) => kind === 'here').length;
  assert.ok(asked > 3 && asked < 12, String(asked));
});

// --- Users ---------------------------------------------------------------------------------------------------

test('who signs out in one tab is signed out in all, and the position is forgotten', async () => {
  const { world, tabs, log } = await tabsOf(3, { posts: ['one'] });
  tabs[1].client.signOut();
  log.post('told before the others have heard');
  await world.clock.pass(60_000);
  for (const tab of tabs) {
    assert.deepEqual([tab.client.state, tab.titles, tab.client.sub], ['signedout', [], null]);
    assert.deepEqual(tab.of('signedout'), [{ type: 'signedout', code: 'signed_out' }]);
  }
  assert.equal(open(world).length, 0);
  assert.equal(world.storage.kept.size, 0);
});

test('a tab whose own token is refused leaves the others to theirs', async () => {
  const { world, tabs } = await tabsOf(2);
  tabs[0].getToken = () => null;
  world.socket.end(4001, 'token_revoked');
  await settle();
  assert.deepEqual(tabs.map(({ client }) => client.state), ['signedout', 'live']);
  assert.equal(tabs[1].client.leader, true);
});

test('two users in two tabs do not mix', async () => {
  const world = new World().serve();
  const ada = await world.tab({ sub: 'ada' }).start();
  const log = world.log;
  log.onmessage = () => {};
  log.post('for ada');
  world.socket.say(log.replay(0)[0]);
  const bob = world.tab({ sub: 'bob' });
  world.log.items.clear();
  world.log.epoch = 'e2';
  await bob.start();
  assert.deepEqual([ada.client.leader, bob.client.leader], [true, true]);
  assert.deepEqual([ada.titles, bob.titles, bob.told], [['for ada'], [], []]);
  bob.client.signOut();
  await settle();
  assert.equal(ada.client.state, 'live');
});

test('the same user on two gateways has two connections', async () => {
  const world = new World().serve();
  await world.tab({ url: 'https://one.test' }).start();
  await world.tab({ url: 'https://two.test/behind/a/path' }).start();
  const opened = world.sockets.map(({ url }) => url.host + url.pathname);
  assert.deepEqual(opened, ['one.test/v1/ws', 'two.test/behind/a/path/v1/ws']);
});

// --- What is not there, and what is not right ------------------------------------------------------------------

for (const [name, options] of Object.entries({
  'without locks': { platform: { locks: undefined } },
  'without channels': { platform: { BroadcastChannel: undefined } },
  'where locks are forbidden': {
    platform: { locks: { request: () => Promise.reject(new DOMException('no', 'SecurityError')) } },
  },
  'where it is not wanted': { share: false },
  'with a token that does not tell whose it is': { getToken: () => 'opaque' },
})) {
  test(`${name} each tab is on its own`, async () => {
    const { world, tabs, log } = await tabsOf(2, options);
    log.post('one');
    await settle();
    assert.equal(open(world).length, 2);
    for (const tab of tabs) assert.deepEqual([tab.client.leader, tab.told], [true, ['one']]);
  });
}

test('what is not right on the channel is not taken', async () => {
  const { world, tabs, log } = await tabsOf(2, { posts: ['one'] });
  const stranger = new (world.channels.of(null))(`notify https://gateway.test/ gateway ada`);
  const before = tabs.map(shown);
  const status = { state: 'live', problem: null, retryAt: null };
  const snapshot = { epoch: 'e1', seq: 9, next: null, floor: 0, items: [], untold: [] };
  for (const odd of [
    null, 1, 'x', [], {}, { kind: 'constructor', from: 'x' }, { kind: 'message', from: 'x' },
    { kind: 'state', from: 'x', sub: null, status: {}, snapshot: null },
    { kind: 'state', from: 'x', sub: null, status, snapshot: { epoch: 'e1', seq: 9, items: [{}] } },
    { kind: 'state', from: 'x', sub: null, status, snapshot: { ...snapshot, counts: {} } },
    { kind: 'message', from: 'x', epoch: 'e1', prev: 1, message: { type: 'changed', seq: 2, items: 'none' } },
    { kind: 'message', from: 'x', epoch: 'e1', prev: 1, message: { type: 'notification', seq: 2, notification: null } },
    { kind: 'message', from: 'x', epoch: 'e1', prev: 1, message: { type: 'reset', seq: 2 } },
    { kind: 'status', from: 'x', sub: null, status: { state: 'great' } },
  ]) stranger.postMessage(odd);
  await settle();
  assert.deepEqual(tabs.map(shown), before);
  log.post('two');
  await settle();
  assertSame(tabs);
});

test('no tab says a token, whoever asks, renews or begins to lead', async () => {
  const { world, tabs, log } = await tabsOf(3, { posts: ['one'] });
  const stranger = new (world.channels.of(null))('notify https://gateway.test/ gateway ada');
  const heard = [];
  stranger.onmessage = ({ data }) => heard.push(data);
  stranger.postMessage({ kind: 'here', from: 'a stranger', visible: true, position: { epoch: 'x', seq: 0 } });
  await settle();
  assert.equal(heard.find(({ kind }) => kind === 'state').snapshot.items.length, 1);
  const expires_at = new Date(world.clock.now + 2_000).toISOString();
  world.socket.say({ type: 'token_expiring', expires_at });
  await world.clock.pass(1_500);
  world.socket.end(4001, 'token_expired');
  await settle();
  log.post('two');
  await tabs[0].die();
  await settle();
  tabs[1].client.signOut();
  await settle();
  const asked = tabs.flatMap((tab) => tab.asked);
  assert.ok(asked.includes('expiring') && asked.includes('rejected'), asked.join());
  assert.ok(heard.some(({ kind }) => kind === 'lead'));
  const secrets = [1, 2, 3, 4].map((turn) => tokenOf('ada', turn));
  for (const one of [...heard, ...world.channels.heard, ...world.storage.kept.values()]) {
    const text = JSON.stringify(one);
    assert.ok(!secrets.some((secret) => text.includes(secret)), text);
  }
});
