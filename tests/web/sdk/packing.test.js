import assert from 'node:assert/strict';
import { test } from 'node:test';

import * as packing from '../../../gateway/web/sdk/packing.js';
import { openSocket } from '../../../gateway/web/sdk/socket.js';
import { liveTab, tokenOf } from './world.js';

const { packCommand, unpackMessage } = packing;

// What a library makes of each, `tests/web/test_sdk_packing.py` looks at.
const bytes = (hex) => Uint8Array.from(hex.replaceAll(' ', '').match(/../g), (two) => parseInt(two, 16));
const unpacked = (hex) => unpackMessage(bytes(hex).buffer);
const OK = '82 a4 74 79 70 65 a2 6f 6b a3 72 65 66 a2 72 31';

/** Open a socket, as a gateway that chooses `protocol` sees it. */
function opened(protocol, options = {}) {
  const seen = { sent: [], said: [] };
  class WebSocket {
    readyState = 1;
    protocol = protocol;
    constructor(_url, protocols) { Object.assign(seen, { socket: this, protocols }); }
    send(frame) { seen.sent.push(frame); }
    close() {}
  }
  const connection = openSocket({
    platform: { WebSocket }, url: 'https://gateway.test/v1/ws', token: 'a.b.c', onmessage: (message) => seen.said.push(message),
    ...options,
  });
  return { ...seen, connection };
}

test('it offers MessagePack first where the page wants it, and JSON alone else', () => {
  assert.deepEqual(opened('notify.v1').protocols, ['notify.v1', 'bearer.a.b.c']);
  assert.deepEqual(opened('', { packing: null }).protocols, ['notify.v1', 'bearer.a.b.c']);
  const { protocols, socket } = opened('', { packing });
  assert.deepEqual(protocols, ['notify.v1.msgpack', 'notify.v1', 'bearer.a.b.c']);
  assert.equal(socket.binaryType, 'arraybuffer');
  assert.deepEqual(opened('', { packing, ticket: 't' }).protocols, ['notify.v1.msgpack', 'notify.v1']);
});

test('the option of the client reaches its socket', async () => {
  const { world } = await liveTab({ encoding: 'msgpack' });
  assert.deepEqual(world.socket.protocols, ['notify.v1.msgpack', 'notify.v1', `bearer.${tokenOf('ada', 1)}`]);
});

test('where the gateway chooses MessagePack, it reads and writes it', () => {
  const { connection, socket, sent, said } = opened('notify.v1.msgpack', { packing });
  socket.onmessage({ data: bytes(OK).buffer });
  assert.deepEqual(said, [{ type: 'ok', ref: 'r1' }]);
  connection.send({ type: 'ping' });
  assert.ok(sent[0] instanceof Uint8Array);
});

test('where the gateway chooses JSON, it reads and writes that', () => {
  const { connection, socket, sent, said } = opened('notify.v1', { packing });
  socket.onmessage({ data: '{"type":"ok","ref":"r1"}' });
  assert.deepEqual(said, [{ type: 'ok', ref: 'r1' }]);
  connection.send({ type: 'ping' });
  assert.deepEqual(sent, ['{"type":"ping"}']);
});

test('a message that is cut off, or has an extension, is an error and no message', () => {
  assert.throws(() => unpacked('82 a4 74 79 70 65'));
  assert.throws(() => unpacked('81 a4 74 79 70 65 a9 6f 6b'));
  assert.throws(() => unpacked('81 a4 74 79 70 65 d4 05 01'));
  assert.throws(() => unpacked('81 a4 74 79 70 65 c7 01 05 01'));
  assert.throws(() => unpackMessage(new ArrayBuffer(0)));
});

test('a name that is a prototype is a name', () => {
  const { data } = unpacked('81 a4 64 61 74 61 81 a9 5f 5f 70 72 6f 74 6f 5f 5f 81 a1 78 01');
  assert.deepEqual(Object.keys(data), ['__proto__']);
  assert.equal(data.x, undefined);
});

test('a time is read where an item and a message have one, and nowhere else', () => {
  const ms = 'cf 00 00 01 a2 2c 54 c6 6f';
  assert.deepEqual(unpacked(`81 aa 65 78 70 69 72 65 73 5f 61 74 ${ms}`), { expires_at: '2026-11-30T12:01:23.055Z' });
  assert.deepEqual(unpacked(`81 a4 64 61 74 61 81 a7 72 65 61 64 5f 61 74 ${ms}`), { data: { read_at: 1796040083055 } });
});

test('what JSON would not take for a number or an id is none for the gateway either', () => {
  const last = (command, from) => [...packCommand(command)].slice(from);
  assert.equal(last({ seq: 5 }, 7)[0], 0xcf);
  for (const seq of [-1, 1.5, NaN, Infinity, 2 ** 64]) assert.equal(last({ seq }, 7)[0], 0xcb, seq);
  assert.equal(last({ ids: ['x'] }, 10)[0], 0xda);
});
