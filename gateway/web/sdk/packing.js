// MessagePack, as far as the gateway speaks it (docs/protocol.md): its messages read, and commands written. To the
// client both are what they are in JSON: the ids, 16 bytes on the wire, are text, and the times, milliseconds, RFC 3339.

const SIZES = ['Uint8', 'Uint16', 'Uint32'];
// By their first byte, from 0xca on.
const NUMBERS = ['Float32', 'Float64', ...SIZES, 'BigUint64', 'Int8', 'Int16', 'Int32', 'BigInt64'];
const TIMES = ['expires_at', 'created_at', 'edited_at', 'read_at', 'archived_at', 'deleted_at', 'snoozed_until', 'at', 'quiet_until'];
const ID = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i;

/** @param {Uint8Array} bytes */
const idOf = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
  .replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');

/** Read one value. Throws where it is cut off, or of a kind that the gateway never sends. @param {ArrayBuffer} buffer */
function unpack(buffer) {
  const data = new DataView(buffer);
  let at = 0;
  const number = (kind) => {
    const value = data[`get${kind}`](at);
    at += Number(kind.replace(/\D+/, '')) / 8;
    return Number(value);
  };
  const bytes = (size) => new Uint8Array(buffer, (at += size) - size, size);
  const text = (size) => new TextDecoder().decode(bytes(size));
  const list = (size) => Array.from({ length: size }, () => read());
  // Not by assignment: a name may be `__proto__`.
  const map = (size) => Object.fromEntries(Array.from({ length: size }, () => [read(), read()]));
  const read = () => {
    const first = number('Uint8');
    const sized = (make, from) => make(number(SIZES[first - from]));
    if (first < 0x80) return first;
    if (first < 0x90) return map(first & 15);
    if (first < 0xa0) return list(first & 15);
    if (first < 0xc0) return text(first & 31);
    if (first === 0xc0) return null;
    if (first < 0xc4) return first === 0xc3;
    if (first < 0xc7) return idOf(sized(bytes, 0xc4));
    if (first < 0xd9) return number(NUMBERS[first - 0xca]);
    if (first < 0xdc) return sized(text, 0xd9);
    if (first < 0xde) return sized(list, 0xdb);
    return first < 0xe0 ? sized(map, 0xdd) : first - 256;
  };
  return read();
}

/** Read a message, as its JSON twin would be. @param {ArrayBuffer} buffer */
export function unpackMessage(buffer) {
  const message = unpack(buffer);
  const items = [message.notification ?? {}, ...message.items ?? []];
  for (const holder of [message, message.preferences ?? {}, ...items, ...items.map(({ answer }) => answer ?? {})]) {
    for (const name of TIMES) {
      if (typeof holder[name] === 'number') holder[name] = new Date(holder[name]).toISOString();
    }
  }
  return message;
}

/** Write a number. One that is no count stays none, which the gateway refuses. */
function packNumber(value) {
  const data = new DataView(new ArrayBuffer(8));
  const isCount = Number.isInteger(value) && value >= 0 && value < 2 ** 64;
  if (isCount) data.setBigUint64(0, BigInt(value));
  else data.setFloat64(0, value);
  return [isCount ? 0xcf : 0xcb, ...new Uint8Array(data.buffer)];
}

function packText(value) {
  const bytes = new TextEncoder().encode(value);
  return [0xda, bytes.length >> 8, bytes.length & 255, ...bytes];
}

/** What is no id stays text, which the gateway refuses. */
const packId = (id) => (ID.test(id)
  ? [0xc4, 16, ...id.replaceAll('-', '').match(/../g).map((hex) => parseInt(hex, 16))]
  : packText(id));

const pack = (name, value) => {
  if (value === null) return [0xc0];
  if (name === 'id') return packId(value);
  if (name === 'until') return packNumber(Date.parse(value));
  if (Array.isArray(value)) return [0xdc, value.length >> 8, value.length & 255, ...value.flatMap(packId)];
  return typeof value === 'number' ? packNumber(value) : packText(value);
};

/** Write a command: texts, numbers, a time, ids, and lists of ids. @param {object} command */
export function packCommand(command) {
  const fields = Object.entries(command);
  return new Uint8Array([0x80 | fields.length, ...fields.flatMap(([name, value]) => [...packText(name), ...pack(name, value)])]);
}
