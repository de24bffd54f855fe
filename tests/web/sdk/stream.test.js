import assert from 'node:assert/strict';
import { test } from 'node:test';

import { eventParser, openStream } from '../../../gateway/web/sdk/stream.js';
import { World, gate, problem, settle, tokenOf } from './world.js';

test('events are found however the text is cut', () => {
  const text = ': hello\n\nevent: hello\nid: e1.1\ndata: {"a":1}\n\n'
    + 'data:{"b":\r\ndata: 2}\r\n\r\nevent: nothing\n\ndata: 3\r\r';
  for (let size = 1; size <= text.length; size += 1) {
    const events = [];
    const take = eventParser((data) => events.push(data));
    for (let from = 0; from < text.length; from += size) take(text.slice(from, from + size));
    take('\n');
    assert.deepEqual(events, ['{"a":1}', '{"b":\n2}', '3'], `in pieces of ${size}`);
  }
});

test('a stream that was closed says no more', async () => {
  const ends = [];
  const fetch = (_url, { signal }) => new Promise((resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason));
  });
  const url = 'https://gateway.test/v1/stream';
  const stream = openStream({ platform: { fetch }, url, onclose: (ended) => ends.push(ended) });
  stream.close();
  await settle();
  assert.deepEqual(ends, []);
});

/** Streams, as the gateway has them. */
class Streams {
  opened = [];

  constructor(world) {
    world.answers['GET /v1/stream'] = (request) => this.open(request);
    this.log = world.log;
  }

  open({ query, headers, signal }) {
    const stream = { query, headers, signal };
    const body = new ReadableStream({ start: (controller) => { stream.controller = controller; } });
    signal.addEventListener('abort', () => {
      stream.closed = true;
      stream.controller.error(signal.reason);
    });
    this.opened.push(stream);
    this.onopen(stream);
    return new Response(body, { headers: { 'Content-Type': 'text/event-stream' } });
  }

  onopen = (stream) => {
    this.say(this.log.hello(), stream);
    for (const message of this.log.replay(Number(stream.query.since))) this.say(message, stream);
    this.say(this.log.live(), stream);
  };

  say(message, stream = this.opened.at(-1)) {
    const event = `event: ${message.type}\nid: e1.1\ndata: ${JSON.stringify(message)}\n\n`;
    stream.controller.enqueue(new TextEncoder().encode(event));
  }

  /** The gateway ends it, and says why. */
  end(code, reason) {
    this.say({ type: 'close', code, reason });
    this.opened.at(-1).controller.close();
  }
}

/** A network that lets no WebSocket through. */
async function blocked(options) {
  const world = new World();
  world.log.post('one');
  world.onsocket = (socket) => setImmediate(() => socket.end());
  const streams = new Streams(world);
  const tab = await world.tab(options).start();
  return { world, streams, tab, log: world.log };
}

test('where no WebSocket can be opened and the gateway answers, it reads the stream', async () => {
  const { world, streams, tab, log } = await blocked();
  assert.equal(world.sockets.length, 1);
  assert.deepEqual(streams.opened[0].query, { since: '1', epoch: 'e1' });
  assert.equal(streams.opened[0].headers.Authorization, `Bearer ${tokenOf('ada')}`);
  assert.equal(tab.client.state, 'live');
  log.post('two');
  streams.say(log.replay(1)[0]);
  await settle();
  assert.deepEqual([tab.titles, tab.told], [['two', 'one'], ['two']]);
});

test('where the gateway does not answer either, it goes on with WebSockets', async () => {
  const world = new World();
  const streams = new Streams(world);
  const tab = await world.tab().start();
  world.answers['GET /healthz'] = () => Promise.reject(new TypeError('away'));
  world.socket.end();
  await world.clock.pass(1_000);
  assert.deepEqual([world.sockets.length, streams.opened.length], [2, 0]);
  world.socket.resume();
  assert.equal(tab.client.state, 'live');
});

test('a socket that was open is no reason to read the stream', async () => {
  const world = new World();
  const streams = new Streams(world);
  await world.tab().start();
  world.socket.resume().end();
  await world.clock.pass(1_000);
  assert.deepEqual([world.sockets.length, streams.opened.length], [2, 0]);
});

test('a stream that ends is resumed as one, and after a while a WebSocket is tried again', async () => {
  const { world, streams, tab, log } = await blocked();
  log.post('two');
  streams.end(1012, 'restart');
  await world.clock.pass(1_000);
  assert.equal(streams.opened.length, 2);
  assert.deepEqual(tab.told, ['two']);
  await world.clock.pass(20_000);
  streams.opened.at(-1).controller.close();
  await world.clock.pass(1_000);
  assert.deepEqual([streams.opened.length, world.sockets.length], [3, 1]);
  for (let minute = 0; minute < 10; minute += 1) {
    streams.say({ type: 'heartbeat', seq: 2, ...log.counts });
    await world.clock.pass(30_000);
  }
  world.onsocket = (socket) => setImmediate(() => socket.resume());
  streams.end(1012, 'restart');
  await world.clock.pass(1_000);
  assert.deepEqual([streams.opened.length, world.sockets.length], [3, 2]);
  assert.equal(tab.client.state, 'live');
});

test('a stream that cannot be had lets WebSockets be tried again', async () => {
  const { world, streams, tab } = await blocked();
  world.answers['GET /v1/stream'] = () => problem(503, 'draining', { 'Retry-After': '5' });
  streams.end(1012, 'restart');
  await world.clock.pass(1_000);
  assert.equal(world.sockets.length, 1);
  await world.clock.pass(5_000);
  world.onsocket = (socket) => setImmediate(() => socket.resume());
  assert.equal(world.sockets.length, 2);
  await world.clock.pass(10_000);
  assert.equal(tab.client.state, 'live');
});

for (const [name, end] of Object.entries({
  'is refused': (world) => { world.answers['GET /v1/stream'] = () => problem(401, 'token_revoked'); },
  'says 4001 at once': (world, streams) => {
    streams.onopen = () => setImmediate(() => streams.end(4001, 'token_revoked'));
  },
})) {
  test(`a stream whose token ${name} gets a fresh token once, and is signed out then`, async () => {
    const { world, streams, tab } = await blocked();
    end(world, streams);
    streams.end(4001, 'token_expired');
    await world.clock.pass(60_000);
    assert.deepEqual(tab.asked, ['start', 'rejected']);
    assert.deepEqual(tab.of('signedout'), [{ type: 'signedout', code: 'token_revoked' }]);
    assert.equal(world.sockets.length, 1);
  });
}

for (const [status, word] of [[403, 'insufficient_scope'], [429, 'too_many_sockets']]) {
  test(`a stream that is refused with ${word} is stopped`, async () => {
    const { world, streams, tab } = await blocked();
    world.answers['GET /v1/stream'] = () => problem(status, word);
    streams.end(1012, 'restart');
    await world.clock.pass(60_000);
    assert.deepEqual([tab.client.state, tab.client.problem.code], ['stopped', word]);
  });
}

test('a stream has its token replaced by being opened again', async () => {
  const { world, streams, tab, log } = await blocked();
  streams.say({ type: 'token_expiring', expires_at: new Date(world.clock.now + 20_000).toISOString() });
  await world.clock.pass(11_000);
  assert.deepEqual(tab.asked, ['start', 'expiring']);
  assert.ok(streams.opened[0].closed);
  assert.equal(streams.opened[1].headers.Authorization, `Bearer ${tokenOf('ada', 2)}`);
  log.post('two');
  streams.say(log.replay(1)[0]);
  await settle();
  assert.deepEqual(tab.told, ['two']);
});

test('a token that comes when its stream has ended does not end the next one', async () => {
  const { world, streams, tab } = await blocked();
  const held = gate();
  tab.getToken = () => held.promise;
  streams.say({ type: 'token_expiring', expires_at: new Date(world.clock.now + 2_000).toISOString() });
  await world.clock.pass(1_500);
  streams.end(1012, 'restart');
  await world.clock.pass(1_000);
  held.resolve(tokenOf('ada', 'new'));
  await settle();
  assert.deepEqual([streams.opened.length, tab.client.state], [2, 'live']);
});

test('with a stream, commands are requests', async () => {
  const { world, streams, tab, log } = await blocked();
  await tab.client.read('n1');
  await tab.client.seen();
  const posts = world.requests.filter(({ method }) => method === 'POST');
  assert.deepEqual(posts.map(({ path }) => path), ['/v1/inbox/read']);
  assert.equal(tab.client.unread, 0);
  streams.say(log.replay(1)[0]);
  await settle();
  assert.deepEqual(tab.client.items, log.page().items);
});

test('a silent stream is given up, and stop closes it', async () => {
  const { world, streams, tab } = await blocked();
  await world.clock.pass(52_000);
  assert.ok(streams.opened[0].closed);
  assert.equal(streams.opened.length, 2);
  tab.client.stop();
  await settle();
  assert.ok(streams.opened[1].closed);
  await world.clock.pass(60_000);
  assert.equal(streams.opened.length, 2);
});

test('without WebSocket there is the stream, and who asks for one carrier gets no other', async () => {
  const { world: none, streams } = await blocked({ platform: { WebSocket: undefined } });
  assert.deepEqual([none.sockets.length, streams.opened.length], [0, 1]);
  const { world, streams: unused } = await blocked({ transport: 'websocket' });
  await world.clock.pass(60_000);
  assert.ok(world.sockets.length > 2);
  assert.equal(unused.opened.length, 0);
  const { world: third, streams: only } = await blocked({ transport: 'stream' });
  assert.deepEqual([third.sockets.length, only.opened.length], [0, 1]);
});

test('with tickets a stream has the ticket', async () => {
  const { streams } = await blocked({ carrier: 'ticket', transport: 'stream' });
  assert.equal(streams.opened[0].query.ticket, 'ticket-1');
  assert.equal(streams.opened[0].headers.Authorization, undefined);
});
