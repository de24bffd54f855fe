import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Position } from '../../../gateway/web/sdk/position.js';
import { World, gate, liveTab, problem, settle, tokenOf } from './world.js';

// --- Connecting and resuming ---------------------------------------------------------------------------------

test('it reads the inbox, then goes on from where that stands', async () => {
  const { world, tab, client } = await liveTab({ posts: ['one', 'two'] });
  assert.equal(world.socket.url.href, 'wss://gateway.test/v1/ws?since=2&epoch=e1');
  assert.deepEqual(world.socket.protocols, ['notify.v1', `bearer.${tokenOf('ada', 1)}`]);
  assert.deepEqual([client.state, client.sub, client.epoch], ['live', 'ada', 'e1']);
  assert.deepEqual([client.seq, client.unread, client.unseen], [2, 2, 2]);
  assert.deepEqual(tab.titles, ['two', 'one']);
  assert.deepEqual(tab.told, []);
  assert.deepEqual(tab.of('state').map(({ state }) => state), ['connecting', 'live']);
});

test('what comes is told once and in order, and a message that was applied is dropped', async () => {
  const { world, tab, client, log } = await liveTab();
  log.post('one');
  log.post('two');
  const [first, second] = log.replay(0);
  world.socket.say(second).say(first).say(second);
  await settle();
  assert.deepEqual(tab.told, ['one', 'two']);
  assert.deepEqual(tab.titles, ['two', 'one']);
  const flags = tab.of('notification').map(({ missed, first: here }) => [missed, here]);
  assert.deepEqual(flags, [[false, true], [false, true]]);
  assert.equal(client.seq, 2);
});

test('after a lost connection it resumes, and what was missed is told once', async () => {
  const { world, tab, log } = await liveTab({ posts: ['one'] });
  log.post('two');
  world.socket.end();
  log.post('three');
  log.post('four');
  await world.clock.pass(1_000);
  assert.equal(world.sockets.length, 2);
  assert.equal(world.socket.since, 2);
  assert.deepEqual(tab.told, ['two', 'three', 'four']);
  assert.deepEqual(tab.of('notification').map(({ missed }) => missed), [false, true, true]);
  assert.equal(tab.client.state, 'live');
});

test('a replay that is cut off is resumed from the last message that was applied', async () => {
  const { world, tab, log } = await liveTab();
  world.onsocket = () => {};
  world.socket.end();
  for (const title of ['one', 'two', 'three']) log.post(title);
  await world.clock.pass(1_000);
  world.socket.say(log.hello()).say(log.replay(0)[0]).end();
  await world.clock.pass(2_000);
  assert.equal(world.socket.since, 1);
  world.socket.resume();
  assert.deepEqual(tab.told, ['one', 'two', 'three']);
});

test('a page that is opened again goes on from the position that was kept', async () => {
  const { world, tab, log } = await liveTab({ posts: ['one'] });
  log.post('two');
  tab.client.stop();
  await settle();
  log.post('three');
  log.change('n2', { read_at: '2026-01-01T00:00:09.000Z' });
  const again = await world.tab().start();
  assert.equal(world.socket.since, 2);
  assert.deepEqual(again.titles, ['three', 'two', 'one']);
  assert.deepEqual(again.told, ['three']);
  assert.deepEqual(again.of('notification').map(({ missed }) => missed), [true]);
});

test('a position of another log is not gone on from', async () => {
  const { world, tab, log } = await liveTab({ posts: ['one'] });
  tab.client.stop();
  log.epoch = 'e2';
  log.post('two');
  const again = await world.tab().start();
  assert.equal(world.socket.url.search, '?since=2&epoch=e2');
  assert.deepEqual(again.told, []);
});

test('a position that is spoilt, and a storage that throws, are as none', async () => {
  for (const spoilt of ['{"epoch": 1, "seq": 1}', '{"epoch": "e1", "seq": "x"}', '{', 'null', '[]']) {
    const world = new World();
    world.storage.getItem = () => spoilt;
    world.storage.setItem = () => { throw new Error('full'); };
    const { client } = await liveTab({ world, posts: ['one'] });
    assert.equal(client.state, 'live');
    assert.equal(world.socket.since, 1);
  }
});

test('a position that several tabs keep only moves forward, but for another log', () => {
  const position = new Position(new World().storage, 'ada');
  position.keep('e1', 5);
  position.keep('e1', 3);
  assert.deepEqual(position.read(), { epoch: 'e1', seq: 5 });
  position.keep('e2', 1);
  assert.deepEqual(position.read(), { epoch: 'e2', seq: 1 });
});

// --- Reset -----------------------------------------------------------------------------------------------------

test('after a reset the inbox is read afresh, and what is new in it is told as missed', async () => {
  const { world, tab, client, log } = await liveTab({ posts: ['one'] });
  world.onsocket = () => {};
  world.socket.end();
  log.post('two');
  await world.clock.pass(1_000);
  world.socket.say(log.hello()).say({ type: 'reset', epoch: 'e1', seq: 2, oldest_seq: 1, ...log.counts });
  await settle();
  assert.equal(world.socket.since, 2);
  world.socket.resume();
  assert.deepEqual(tab.titles, ['two', 'one']);
  assert.deepEqual(tab.told, ['two']);
  assert.equal(tab.of('items').filter(({ reset }) => reset).length, 2);
  assert.equal(client.state, 'live');
});

test('a reset in the middle of a load leaves nothing of the log that was', async () => {
  const { world, tab, log } = await liveTab({ posts: ['one', 'two', 'three'], pageSize: 2 });
  const held = gate();
  const before = log.page({ limit: 2, cursor: '2' });
  world.answers['GET /v1/inbox'] = ({ query }) => (query.cursor ? held.promise : Response.json(log.page(query)));
  const more = tab.client.loadMore();
  await settle();
  log.epoch = 'e2';
  log.items.clear();
  log.post('other');
  world.onsocket = (socket) => setImmediate(() => socket.resume());
  world.socket.say({ type: 'reset', epoch: 'e2', seq: log.seq, oldest_seq: 1, ...log.counts });
  await settle();
  held.resolve(Response.json(before));
  await more;
  assert.deepEqual(tab.titles, ['other']);
  assert.equal(tab.client.epoch, 'e2');
});

// --- Backing off -------------------------------------------------------------------------------------------------

test('it waits a random part of a time that doubles up to 30 s, and begins anew once it is live', async () => {
  const { world, tab } = await liveTab({ share: false });
  await world.clock.pass(1_000);
  world.onsocket = () => {};
  world.answers['GET /healthz'] = () => Promise.reject(new TypeError('away'));
  const waits = [];
  world.socket.end();
  for (let attempt = 0; attempt < 8; attempt += 1) {
    await settle();
    waits.push(world.clock.next - world.clock.now);
    await world.clock.pass(world.clock.next - world.clock.now);
    world.socket.end();
  }
  await settle();
  assert.deepEqual(waits, [500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 15_000]);
  assert.equal(tab.client.state, 'offline');
  assert.equal(tab.client.retryAt, world.clock.next);
  world.random = 0.25;
  await world.clock.pass(15_000);
  world.socket.resume();
  assert.equal(tab.client.retryAt, null);
  await world.clock.pass(1_000);
  world.socket.end();
  await settle();
  assert.equal(world.clock.next - world.clock.now, 250);
});

for (const [name, act] of Object.entries({
  'the network is back': (tab) => tab.window.dispatchEvent(new Event('online')),
  'the tab is looked at': (tab) => tab.document.dispatchEvent(new Event('visibilitychange')),
  'it is told to': (tab) => tab.client.retry(),
})) {
  test(`it tries at once when ${name}`, async () => {
    const { world, tab } = await liveTab();
    world.random = 0.99;
    world.socket.end();
    await settle();
    assert.equal(world.sockets.length, 1);
    act(tab);
    await settle();
    assert.equal(world.sockets.length, 2);
  });
}

test('a connection that falls silent is given up, as the hello has said', async () => {
  const { world, tab } = await liveTab();
  await world.clock.pass(40_000);
  world.socket.say({ type: 'heartbeat', seq: 0, unread: 0, unseen: 0 });
  await world.clock.pass(49_000);
  assert.equal(world.sockets.length, 1);
  await world.clock.pass(2_000);
  assert.equal(world.sockets.length, 2);
  assert.ok(world.sockets[0].closed);
  assert.equal(tab.client.state, 'live');
});

test('a connection that never says anything is given up', async () => {
  const world = new World();
  const tab = await world.tab().start();
  world.socket.open();
  await world.clock.pass(16_000);
  assert.equal(world.sockets.length, 2);
  assert.equal(tab.client.state, 'connecting');
});

test('when the network has changed, a connection that does not answer is given up soon', async () => {
  const { world, tab } = await liveTab();
  world.oncommand = () => {};
  tab.window.dispatchEvent(new Event('online'));
  assert.deepEqual(world.socket.sent.at(-1), { type: 'ping' });
  await world.clock.pass(6_000);
  assert.equal(world.sockets.length, 2);
});

for (const code of [1006, 1011, 1012, 1013, 4008, 4029]) {
  test(`after ${code} it resumes`, async () => {
    const { world, tab, log } = await liveTab({ posts: ['one'] });
    log.post('two');
    world.socket.end(code, 'restart');
    await settle();
    assert.equal(world.sockets.length, 1, 'not without a pause');
    await world.clock.pass(1_000);
    assert.equal(world.socket.since, 2);
    assert.equal(tab.client.state, 'live');
  });
}

for (const [code, word] of [[1000, 'closed'], [4003, 'insufficient_scope'], [4009, 'too_many_sockets']]) {
  test(`after ${code} it stops, until it is told to try again`, async () => {
    const { world, tab } = await liveTab();
    world.socket.end(code, word);
    await world.clock.pass(600_000);
    tab.window.dispatchEvent(new Event('online'));
    await world.clock.pass(1_000);
    assert.equal(world.sockets.length, 1);
    assert.equal(tab.client.state, 'stopped');
    assert.equal(tab.client.problem.code, word);
    tab.client.retry();
    await settle();
    assert.equal(world.sockets.length, 2);
    assert.deepEqual([tab.client.state, tab.client.problem], ['live', null]);
  });
}

test('a page that cannot be read is tried again, and not before the gateway wants it', async () => {
  const world = new World().serve();
  world.answers['GET /v1/inbox'] = () => problem(503, 'overloaded', { 'Retry-After': '7' });
  const tab = await world.tab().start();
  await world.clock.pass(6_900);
  assert.equal(world.requests.length, 1);
  delete world.answers['GET /v1/inbox'];
  await world.clock.pass(200);
  assert.equal(tab.client.state, 'live');
});

test('whoever may not read the inbox is stopped', async () => {
  const world = new World().serve();
  world.answers['GET /v1/inbox'] = () => problem(403, 'insufficient_scope');
  const tab = await world.tab().start();
  assert.equal(tab.client.state, 'stopped');
});

// --- Tokens --------------------------------------------------------------------------------------------------------

test('after 4001 it gets a fresh token once, and goes on', async () => {
  const { world, tab } = await liveTab();
  world.socket.end(4001, 'token_expired');
  await settle();
  assert.deepEqual(tab.asked, ['start', 'rejected']);
  assert.equal(world.socket.token, tokenOf('ada', 2));
  assert.equal(tab.client.state, 'live');
});

test('after a second 4001 it is signed out, and connects no more', async () => {
  const { world, tab } = await liveTab({ posts: ['one'] });
  world.onsocket = (socket) => setImmediate(() => socket.end(4001, 'token_revoked'));
  world.socket.end(4001, 'token_revoked');
  await world.clock.pass(600_000);
  assert.equal(world.sockets.length, 2);
  assert.deepEqual(tab.asked, ['start', 'rejected']);
  assert.equal(tab.client.state, 'signedout');
  assert.equal(tab.client.problem.code, 'token_revoked');
  assert.deepEqual(tab.of('signedout'), [{ type: 'signedout', code: 'token_revoked' }]);
  assert.deepEqual([tab.titles, tab.client.unread], [[], 0]);
});

test('a token that was refused is not tried a second time', async () => {
  const { world, tab } = await liveTab({ getToken: () => tokenOf('ada') });
  world.socket.end(4001, 'token_revoked');
  await world.clock.pass(60_000);
  assert.equal(world.sockets.length, 1);
  assert.equal(tab.client.state, 'signedout');
});

test('each connection that was live may have its token replaced', async () => {
  const { world, tab } = await liveTab();
  for (let round = 0; round < 3; round += 1) {
    world.socket.end(4001, 'token_expired');
    await settle();
  }
  assert.equal(tab.client.state, 'live');
  assert.equal(world.sockets.length, 4);
});

test('without a token it is signed out, and start begins anew', async () => {
  const world = new World().serve();
  const tab = world.tab();
  tab.getToken = () => null;
  await tab.start();
  assert.equal(tab.client.state, 'signedout');
  assert.deepEqual([world.sockets.length, world.requests.length], [0, 0]);
  tab.getToken = () => tokenOf('ada');
  await tab.start();
  assert.equal(tab.client.state, 'live');
});

test('a token that cannot be got now is asked for again', async () => {
  const world = new World().serve();
  const tab = world.tab();
  tab.getToken = () => Promise.reject(new Error('secret'));
  await tab.start();
  await world.clock.pass(3_000);
  assert.equal(tab.client.state, 'offline');
  assert.doesNotMatch(JSON.stringify(tab.client.problem), /secret/);
  tab.getToken = () => tokenOf('ada');
  tab.client.retry();
  await settle();
  assert.equal(tab.client.state, 'live');
});

test('a token about to end is replaced in band, at half of the time that is left', async () => {
  const { world, tab } = await liveTab();
  const expires_at = new Date(world.clock.now + 40_000).toISOString();
  world.socket.say({ type: 'token_expiring', expires_at });
  await world.clock.pass(19_000);
  assert.deepEqual(tab.asked, ['start']);
  await world.clock.pass(2_000);
  assert.deepEqual(tab.asked, ['start', 'expiring']);
  const sent = world.socket.sent.filter(({ type }) => type === 'auth');
  assert.deepEqual(sent, [{ type: 'auth', token: tokenOf('ada', 2) }]);
  assert.equal(world.sockets.length, 1);
});

test('a token that came in band and is refused later is not tried a second time', async () => {
  const { world, tab } = await liveTab();
  world.socket.say({ type: 'token_expiring', expires_at: new Date(world.clock.now + 2_000).toISOString() });
  await world.clock.pass(1_500);
  world.socket.end(4001, 'token_expired');
  await settle();
  assert.deepEqual(tab.asked, ['start', 'expiring', 'rejected']);
  assert.equal(world.socket.token, tokenOf('ada', 3));
  assert.equal(tab.client.state, 'live');
});

test('a socket that closes during auth is followed by one with the new token, which gets no auth', async () => {
  const { world, tab } = await liveTab();
  const held = gate();
  tab.getToken = () => held.promise;
  world.socket.say({ type: 'token_expiring', expires_at: new Date(world.clock.now + 2_000).toISOString() });
  await world.clock.pass(1_500);
  assert.deepEqual(tab.asked, ['start', 'expiring']);
  world.socket.end(1006);
  await world.clock.pass(1_000);
  held.resolve(tokenOf('ada', 'new'));
  await settle();
  assert.equal(world.sockets.length, 2);
  assert.equal(tab.client.state, 'live');
  assert.deepEqual(world.sockets.flatMap(({ sent }) => sent).filter(({ type }) => type === 'auth'), []);
  world.socket.end(1006);
  await world.clock.pass(1_000);
  assert.equal(world.socket.token, tokenOf('ada', 'new'));
});

test('a 4001 while a token is being fetched takes that token', async () => {
  const { world, tab } = await liveTab();
  const held = gate();
  tab.getToken = () => held.promise;
  world.socket.say({ type: 'token_expiring', expires_at: new Date(world.clock.now + 2_000).toISOString() });
  await world.clock.pass(1_500);
  world.socket.end(4001, 'token_expired');
  await settle();
  held.resolve(tokenOf('ada', 'new'));
  await settle();
  assert.deepEqual(tab.asked, ['start', 'expiring']);
  assert.equal(world.socket.token, tokenOf('ada', 'new'));
  assert.equal(tab.client.state, 'live');
});

test('a request whose token is refused gets a fresh one once', async () => {
  const { world, tab } = await liveTab();
  let refused = 0;
  world.answers['GET /v1/inbox'] = () => { refused += 1; return problem(401, 'token_expired'); };
  await assert.rejects(tab.client.query({ unread: true }), { code: 'token_expired' });
  assert.equal(refused, 2);
  assert.equal(tab.client.state, 'signedout');
});

test('two requests whose token is refused get one fresh token', async () => {
  const { world, tab } = await liveTab();
  const held = gate();
  const refusals = [() => problem(401, 'token_expired'), () => held.promise];
  world.answers['GET /v1/inbox'] = () => (refusals.shift() ?? (() => Response.json(world.log.page())))();
  const asked = [tab.client.query({}), tab.client.query({})];
  await settle();
  held.resolve(problem(401, 'token_expired'));
  await Promise.all(asked);
  assert.deepEqual(tab.asked, ['start', 'rejected']);
});

test('a token of another user ends it, and start begins with that user', async () => {
  const { world, tab } = await liveTab({ posts: ['one'] });
  tab.getToken = () => tokenOf('bob');
  world.socket.end(4001, 'token_expired');
  await settle();
  assert.equal(tab.client.problem.code, 'user_changed');
  assert.deepEqual(tab.titles, []);
  assert.equal(world.sockets.length, 1);
});

test('nothing of one user is shown to the next one', async () => {
  const { world, tab } = await liveTab({ posts: ['one'] });
  tab.client.stop();
  assert.deepEqual(tab.titles, ['one']);
  tab.getToken = () => tokenOf('bob');
  world.answers['GET /v1/inbox'] = () => new Promise(() => {});
  await tab.start();
  assert.deepEqual([tab.titles, tab.client.unread, tab.client.epoch], [[], 0, null]);
});

test('who signs in after another user goes on from their own position', async () => {
  const { world, tab: before, log } = await liveTab({ sub: 'bob', posts: ['one'] });
  before.client.stop();
  const tab = await world.tab({ sub: 'ada' }).start();
  tab.getToken = () => null;
  world.socket.end(4001, 'token_revoked');
  await settle();
  log.post('two');
  tab.getToken = () => tokenOf('bob');
  await tab.start();
  assert.deepEqual([tab.client.state, tab.told], ['live', ['two']]);
});

test('a token is in no address, storage, message between tabs or event', async () => {
  const world = new World();
  const secret = tokenOf('ada', 'secret');
  const tab = await world.tab({ getToken: () => secret }).start();
  const other = await world.tab({ getToken: () => secret }).start();
  world.socket.resume().say({ type: 'token_expiring', expires_at: '2026-01-01T00:00:30.000Z' });
  await world.clock.pass(60_000);
  world.socket.end(4001, 'invalid_token');
  await settle();
  const said = JSON.stringify([
    world.sockets.map(({ url }) => url), world.requests.map(({ path, query, body }) => [path, query, body]),
    [...world.storage.kept], world.channels.heard, tab.events, other.events,
  ]);
  assert.ok(world.channels.heard.length > 3 && world.storage.kept.size > 0);
  assert.ok(!said.includes('.signature'), said);
});

test('what cannot be a subprotocol is refused without its text', async () => {
  const world = new World().serve();
  class WebSocket { constructor() { throw new DOMException('bearer.a/b is no subprotocol', 'SyntaxError'); } }
  const tab = await world.tab({ getToken: () => 'a/b', platform: { WebSocket } }).start();
  await world.clock.pass(60_000);
  assert.equal(tab.client.state, 'signedout');
  assert.doesNotMatch(JSON.stringify(tab.events), /a\/b/);
});

for (const [name, wrap] of Object.entries({
  'with a line break': (token) => `\r\n ${token}\n`,
  'as a field token': (token) => ({ token: `${token}\n`, token_type: 'Bearer' }),
  'as a field access_token': (access_token) => ({ access_token }),
})) {
  test(`a token ${name} is taken`, async () => {
    const console = { warn: assert.fail };
    const { world, client } = await liveTab({ getToken: async () => wrap(tokenOf('ada')), platform: { console } });
    assert.deepEqual([client.state, world.socket.token], ['live', tokenOf('ada')]);
  });
}

const at = (url, status) => Object.defineProperty(new Response('secret', { status }), 'url', { value: url });

for (const [given, said] of [
  ['<!doctype html><title>secret</title>', /an HTML page/], ['{"token": "secret"}', /JSON as a string.*response\.json\(\)/],
  ['"secret"', /JSON as a string/], ['Internal secret Error', /another string/], [' \n', /an empty string/],
  ['Bearer eyJ.secret', /a token with "Bearer", a space or a line break in it, not a token: return the token alone/],
  ['eyJ.sec\nret', /a token with "Bearer", a space or a line break in it, not a token: return the token alone/],
  [{ data: { token: 'secret' }, error: 0, 'eyJ.secret.secret.secret': 1 }, /an object without a token, but \{data,error\}: return/],
  [new Response('secret', { status: 502 }), /getToken: the address that it fetches returned 502: look at the response/],
  [at('https://shop.test/token?key=secret', 404), /getToken: \/token returned 404: look at the response/],
  [{ jwt: 'secret' }, /getToken returned an object without a token, but \{jwt\}: return .* check that response/],
  [{ token: { access: 'secret' } }, /getToken returned an object without a token, but \{token\}: return/],
  [true, /getToken returned a boolean: return/],
]) {
  test(`${said} is said once of what is no token, and the user is not signed out`, async () => {
    const texts = [];
    const console = { warn: (text) => texts.push(text) };
    const tab = await new World().serve().tab({ getToken: () => given, platform: { console } }).start();
    await tab.world.clock.pass(60_000);
    assert.deepEqual([tab.client.state, tab.client.problem.code], ['offline', 'no_token']);
    assert.ok(tab.asked.length > 2);
    assert.equal(texts.length, 1);
    assert.match(texts[0], said);
    assert.doesNotMatch(JSON.stringify([texts, tab.events]), /secret/);
  });
}

for (const [kind, wrap] of Object.entries({
  'the token': (token) => token, 'JSON of the token': JSON.stringify, 'JSON of an object': (token) => JSON.stringify({ access_token: token }),
})) {
  test(`getToken may return the response of its path, with ${kind}`, async () => {
    const getToken = async () => new Response(wrap(tokenOf('ada')));
    const { world, client } = await liveTab({ getToken, platform: { console: { warn: assert.fail } } });
    assert.deepEqual([client.state, world.socket.token], ['live', tokenOf('ada')]);
  });
}

test('a response with 401 means that nobody is signed in', async () => {
  const getToken = () => new Response('{"detail": "secret"}', { status: 401 });
  const tab = await new World().serve().tab({ getToken, platform: { console: { warn: assert.fail } } }).start();
  assert.deepEqual([tab.client.state, tab.client.problem.code], ['signedout', 'missing_token']);
});

test('an HTML page as a response is named as one', async () => {
  const texts = [];
  const console = { warn: (text) => texts.push(text) };
  await new World().serve().tab({ getToken: () => new Response('<!doctype html>'), platform: { console } }).start();
  assert.match(texts.join(), /an HTML page/);
});

for (const [failed, said] of [
  [new SyntaxError('secret'), /the response is not JSON, but perhaps an HTML page: .*address that it fetches, and response\.ok/],
  [new TypeError('secret'), /the address that it fetches could not be reached/],
  [new RangeError('secret'), /failed: RangeError\. The client tries again/], ['secret', /failed: it threw/], [null, /failed: it threw/],
  [Object.assign(new Error('secret'), { name: 'eyJ.secret.x' }), /failed: it threw/],
]) {
  test(`of a getToken that fails with ${failed?.name ?? failed} the console has ${said}`, async () => {
    const texts = [];
    const console = { warn: (text) => texts.push(text) };
    const tab = await new World().serve().tab({ getToken: () => Promise.reject(failed), platform: { console } }).start();
    await tab.world.clock.pass(60_000);
    assert.deepEqual([tab.client.state, tab.client.problem.code, texts.length], ['offline', 'no_token', 1]);
    assert.match(texts[0], said);
    assert.doesNotMatch(JSON.stringify([texts, tab.events]), /secret/);
  });
}

for (const give of [(key) => key, (key) => ({ token: ` ${key}\n` })]) {
  test(`an API key is never sent, and stops the client until it is told to try again: ${give}`, async () => {
    const texts = [];
    const console = { warn: (text) => texts.push(text) };
    const tab = await new World().serve().tab({ getToken: () => give('ngk_secret'), platform: { console } }).start();
    await tab.world.clock.pass(60_000);
    assert.deepEqual([tab.client.state, tab.client.problem.code, tab.asked.length], ['stopped', 'api_key', 1]);
    assert.deepEqual([tab.world.requests.length, tab.world.sockets.length], [0, 0]);
    assert.deepEqual(texts, [
      'Notifications: getToken returned an API key: it must never reach a browser. Mint a token for the user.']);
    assert.doesNotMatch(JSON.stringify([texts, tab.events]), /ngk_/);
    tab.getToken = () => tokenOf('ada');
    tab.client.retry();
    await settle();
    assert.equal(tab.client.state, 'live');
  });
}

test('an API key in the place of a token that was refused is never sent', async () => {
  const { world, tab } = await liveTab();
  tab.getToken = () => 'ngk_secret';
  world.socket.end(4001, 'token_expired');
  await world.clock.pass(60_000);
  assert.deepEqual([tab.client.state, tab.client.problem.code, world.sockets.length], ['stopped', 'api_key', 1]);
});

test('a client without getToken is told that it is required', () => {
  const { constructor: Client } = new World().tab().client;
  for (const options of [[], [{}], [{ getToken: 'token' }]]) {
    assert.throws(() => new Client(...options), { name: 'TypeError', message: /^getToken: .* is required$/ });
  }
});

for (const url of ['localhost:8800', '127.0.0.1:8800', 'ws://gateway.test', 'wss://gateway.test/v1/ws', 'file:///sdk']) {
  test(`the address ${url} is refused with its name, for what it has to begin with`, () => {
    const { constructor: Client } = new World().tab().client;
    const { location } = globalThis;
    globalThis.location = { href: 'http://shop.test/', origin: 'http://shop.test' };
    try {
      assert.throws(() => new Client({ getToken() {}, url }), {
        name: 'TypeError', message: `url: ${url} does not begin with http:// or https://` });
      assert.equal(new Client({ getToken() {}, url: '/notify' }).state, 'idle');
    } finally {
      globalThis.location = location;
    }
  });
}

test('nobody being signed in at the start is a piece of information', async () => {
  for (const given of [null, new Response('secret', { status: 401 })]) {
    const said = [];
    const console = { warn: assert.fail, info: (text) => said.push(text) };
    const tab = await new World().serve().tab({ getToken: () => given, platform: { console } }).start();
    tab.client.retry();
    await settle();
    assert.deepEqual([tab.client.state, said], [
      'signedout', ['Notifications: getToken returned null or a 401: no user is signed in.']]);
  }
});

test('a client that is given nothing is signed out, and the developer is told where that may be a mistake', async () => {
  for (const [given, expected] of [[null, 0], [undefined, 1]]) {
    const texts = [];
    const console = { warn: (text) => texts.push(text) };
    const tab = await new World().serve().tab({ getToken: () => given, platform: { console } }).start();
    assert.deepEqual([tab.client.state, texts.length], ['signedout', expected]);
  }
});

for (const [what, answer] of Object.entries({
  'a page': () => new Response('<html>'), 'an empty inbox': () => Response.json({}),
  'a page of 404': () => new Response('<html>', { status: 404 }),
  'a 404 of another API': () => Response.json({ detail: 'Not Found' }, { status: 404 }),
  'a 404 of the gateway at another path': () => problem(404, 'not_found'),
})) {
  test(`${what} is told from a gateway that is away, each time`, async () => {
    const world = new World().serve();
    const texts = [];
    world.answers['GET /v1/inbox'] = answer;
    const tab = await world.tab({ platform: { console: { warn: (text) => texts.push(text) } } }).start();
    await world.clock.pass(60_000);
    tab.client.retry();
    await world.clock.pass(60_000);
    assert.equal(tab.client.state, 'offline');
    for (const { problem: told } of tab.of('state').filter(({ state }) => state === 'offline')) {
      assert.deepEqual(told, { code: 'not_a_gateway', detail: 'There is no gateway at this address.' });
    }
    assert.deepEqual(texts, ['Notifications: https://gateway.test/ is not a gateway: set url to the address of one.']);
  });
}

test('an address that goes on with /v1 is told where it ends', async () => {
  const texts = [];
  const console = { warn: (text) => texts.push(text) };
  const world = new World().serve();
  world.answers['GET /v1/inbox'] = () => problem(404, 'not_found');
  await world.tab({ url: 'https://gateway.test/v1', platform: { console } }).start();
  await world.clock.pass(60_000);
  assert.deepEqual(texts, ['Notifications: https://gateway.test/v1/ is not a gateway: url ends before /v1.']);
});

for (const [what, answer] of Object.entries({
  'a list of FastAPI': () => Response.json({ detail: [{ msg: 'Other words' }] }, { status: 422 }),
  'a number': () => Response.json({ code: 7, detail: 'Other words' }, { status: 422 }),
  nothing: () => Response.json(null, { status: 422 }),
})) {
  test(`${what} in an answer of another server is not taken for an error of the gateway`, async () => {
    const { world, client } = await liveTab();
    world.answers['GET /v1/inbox'] = answer;
    await assert.rejects(client.query({ unread: true }), { code: 'failed', detail: 'The gateway answered 422.' });
  });
}

test('with tickets the token is in a header only', async () => {
  const { world, tab } = await liveTab({ carrier: 'ticket' });
  assert.equal(world.socket.url.searchParams.get('ticket'), 'ticket-1');
  assert.deepEqual(world.socket.protocols, ['notify.v1']);
  assert.equal(tab.client.state, 'live');
});

// --- Stopping ------------------------------------------------------------------------------------------------------

test('stop while a token is being fetched: nothing is opened', async () => {
  const world = new World().serve();
  const held = gate();
  const tab = await world.tab({ getToken: () => held.promise }).start();
  tab.client.stop();
  held.resolve(tokenOf('ada'));
  await world.clock.pass(60_000);
  assert.deepEqual([world.requests.length, world.sockets.length], [0, 0]);
  assert.equal(tab.client.state, 'idle');
});

test('stop while the inbox is being read: nothing is shown or opened, and start does both', async () => {
  const world = new World().serve();
  const held = gate();
  world.log.post('one');
  world.answers['GET /v1/inbox'] = () => held.promise;
  const tab = await world.tab().start();
  tab.client.stop();
  held.resolve(Response.json(world.log.page()));
  await world.clock.pass(60_000);
  assert.deepEqual([world.sockets.length, tab.titles], [0, []]);
  delete world.answers['GET /v1/inbox'];
  await tab.start();
  assert.deepEqual([tab.client.state, tab.titles], ['live', ['one']]);
});

test('stop while a ticket is being fetched: nothing is opened', async () => {
  const world = new World().serve();
  const held = gate();
  world.answers['POST /v1/auth/ticket'] = () => held.promise;
  const tab = await world.tab({ carrier: 'ticket' }).start();
  tab.client.stop();
  held.resolve(Response.json({ ticket: 'late' }));
  await world.clock.pass(60_000);
  assert.equal(world.sockets.length, 0);
});

test('a page that stops it on what live tells has it stopped', async () => {
  const world = new World();
  const tab = await world.tab().start();
  tab.client.addEventListener('counts', () => tab.client.stop());
  world.socket.say({ ...world.log.live(), unread: 1 });
  await world.clock.pass(60_000);
  assert.deepEqual(tab.of('state').map(({ state }) => state), ['connecting', 'idle']);
});

test('stop while a socket is being opened closes it, and what it says is not heard', async () => {
  const world = new World();
  const tab = await world.tab().start();
  tab.client.stop();
  world.log.post('one');
  world.socket.resume();
  await world.clock.pass(60_000);
  assert.ok(world.socket.closed);
  assert.deepEqual([world.sockets.length, tab.client.state, tab.told], [1, 'idle', []]);
});

test('stop during the wait for the next attempt ends it', async () => {
  const { world, tab } = await liveTab();
  world.socket.end();
  await settle();
  tab.client.stop();
  await world.clock.pass(60_000);
  assert.deepEqual([world.sockets.length, tab.client.state], [1, 'idle']);
});

test('stop and start at once leave one connection', async () => {
  const { world, tab, log } = await liveTab();
  tab.client.stop();
  tab.client.start();
  tab.client.start();
  await world.clock.pass(1_000);
  assert.equal(world.sockets.filter(({ closed }) => !closed).length, 1);
  log.post('one');
  assert.deepEqual(tab.told, ['one']);
});

test('a page that signs out while it is told something is told no more', async () => {
  const { world, tab, log } = await liveTab();
  tab.client.addEventListener('notification', () => tab.client.signOut());
  log.post('one');
  log.post('two');
  await world.clock.pass(60_000);
  assert.deepEqual(tab.told, ['one']);
  assert.deepEqual([tab.client.state, tab.titles, world.sockets.length], ['signedout', [], 1]);
  assert.equal(world.storage.kept.size, 0);
});

// --- Acknowledgements ----------------------------------------------------------------------------------------------

test('what was applied is acknowledged, once for a burst', async () => {
  const { world, log } = await liveTab();
  await world.clock.pass(1_000);
  for (let number = 0; number < 30; number += 1) log.post();
  await world.clock.pass(1_000);
  log.post();
  await world.clock.pass(1_000);
  assert.deepEqual(world.socket.sent, [{ type: 'ack', seq: 30 }, { type: 'ack', seq: 31 }]);
});
