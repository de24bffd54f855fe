// The messages of the gateway by Server-Sent Events, where no WebSocket can be had. They are read with fetch, because
// EventSource sends no header and would need a ticket in the URL. Each event's data is the same message as a socket's.

import { failure } from './gateway.js';

const CODES = { 401: 4001, insufficient_scope: 4003, too_many_sockets: 4009 };

/** Split a stream of text into the data of its events (HTML Standard, section 9.2.6). */
export function eventParser(onevent) {
  let rest = '';
  let data = [];
  return (text) => {
    const lines = (rest + text).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop() ?? '';
    for (const line of lines) {
      if (line.startsWith('data:')) data.push(line.slice(5).replace(/^ /, ''));
      else if (line === '' && data.length) {
        onevent(data.join('\n'));
        data = [];
      }
    }
  };
}

/** Open a stream. `onclose` is called once at most, and not after `close`. It takes no commands. */
export function openStream({ platform, url, token, ticket, onmessage, onclose }) {
  const closing = new AbortController();
  let opened = false;
  const end = (ended) => {
    if (closing.signal.aborted) return;
    closing.abort();
    onclose({ opened, ...ended });
  };
  const take = eventParser((data) => {
    if (closing.signal.aborted) return;
    const message = JSON.parse(data);
    if (message.type === 'close') end(message);
    else onmessage(message);
  });

  async function read() {
    const address = new URL(url);
    const headers = { Accept: 'text/event-stream' };
    if (ticket) address.searchParams.set('ticket', ticket);
    else headers.Authorization = `Bearer ${token}`;
    const response = await platform.fetch(address, { headers, cache: 'no-store', signal: closing.signal });
    if (!response.ok) {
      const { code, detail, status, retryAfter } = await failure(response);
      end({ code: CODES[status] ?? CODES[code] ?? 1006, reason: code, detail, retryAfter });
      return;
    }
    opened = true;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) take(part.value);
  }
  read().catch(() => {}).then(() => end({ code: 1006 }));
  return { close: () => closing.abort() };
}
