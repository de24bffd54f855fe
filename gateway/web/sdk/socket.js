// The messages of the gateway by WebSocket (docs/protocol.md).

const PROTOCOL = 'notify.v1';
const PACKED = 'notify.v1.msgpack';

/**
 * Open a socket. `onclose` is called once at most, and not after `close`.
 * A browser cannot send a header with a WebSocket: the token goes as a subprotocol, and so into no log.
 * `packing` is the module of MessagePack, or null. A gateway that does not know MessagePack chooses the other subprotocol, and the socket speaks JSON.
 */
export function openSocket({ platform, url, token, ticket, packing, onmessage, onclose }) {
  const address = new URL(url);
  address.protocol = address.protocol.replace('http', 'ws');
  if (ticket) address.searchParams.set('ticket', ticket);
  const protocols = packing ? [PACKED, PROTOCOL] : [PROTOCOL];
  let socket;
  let opened = false;
  try {
    socket = new platform.WebSocket(address, ticket ? protocols : [...protocols, `bearer.${token}`]);
  } catch (error) {
    // What cannot be a subprotocol is no token. The error is not passed on: its text holds the token.
    const { name } = /** @type {Error} */ (error);
    const end = name === 'SyntaxError' ? { code: 4001, reason: 'invalid_token' } : { code: 1006 };
    queueMicrotask(() => onclose({ opened: true, ...end }));
    return { close() {} };
  }
  socket.binaryType = 'arraybuffer';
  socket.onopen = () => { opened = true; };
  socket.onmessage = ({ data }) => onmessage(typeof data === 'string' ? JSON.parse(data) : packing.unpackMessage(data));
  socket.onclose = ({ code, reason }) => onclose({ code, reason, opened });
  return {
    /** Send a command; one that comes too late is not sent. */
    send(command) {
      if (socket.readyState === 1) socket.send(socket.protocol === PACKED ? packing.packCommand(command) : JSON.stringify(command));
    },
    close() {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close(1000);
    },
  };
}
