// The one connection of a user to the gateway: it is opened, resumed after whatever ends it, and given up only where
// trying again would help nobody (the close codes in docs/protocol.md).

import { Backoff } from './backoff.js';
import { Failed, SignedOut } from './gateway.js';
import { openSocket } from './socket.js';
/** @import { Gateway } from './gateway.js' */
/** @import { Replica } from './replica.js' */
/** @import { Ended, Message, Options, Platform, Status } from './types.d.ts' */

const FIRST_SILENCE = 15_000; // ms until the first message
const ANSWER_TIME = 5_000; // ms in which a connection that is asked something says anything at all
const BLOCKED_TIME = 300_000; // ms for which a network is taken to let no WebSocket through
const FLUSH_DELAY = 200; // ms; for this long, acknowledgements are gathered.
// Not a close code: the client itself ended it, to begin anew at once.
const AGAIN = 0;
// Nor is this: what getToken gave is never sent.
const API_KEY = 1;

// Of what is set up wrongly, in words for the user.
/** @type {Record<string, string>} */
export const WRONG = {
  not_a_gateway: 'There is no gateway at this address.',
  origin_not_allowed: 'The gateway does not allow pages of this address.',
};
const LOST = 'There is no connection. Nothing sent meanwhile is lost.';

/** @type {Record<number, [string, string]>} */
const STOPS = {
  [API_KEY]: ['api_key', 'The application gave an API key instead of a token.'],
  1000: ['closed', 'The gateway has ended the connection.'],
  4003: ['insufficient_scope', 'This account may not read an inbox.'],
  4009: ['too_many_sockets', 'This inbox is open in too many places: close one, then try again.'],
};

export class Connection {
  #gateway;
  #inbox;
  #platform;
  #options;
  #on;
  #backoff;
  #live = false;
  #wasLive = false;
  /** @type {{ send?: (command: object) => void, close: () => void } | null} */
  #carrier = null;
  /** End the connection. @type {(ended: Ended) => void} */
  #end = () => {};
  /** Expect to hear something within so many ms. @type {(ms?: number) => void} */
  #heed = () => {};
  // The commands that were sent and not answered, by `ref`.
  #asked = new Map();
  #refs = 0;
  #acked = 0;
  /** The last token that the gateway was given for this connection. @type {string | null} */
  #token = null;
  /** @type {unknown} */
  #flushing = null;
  #renewed = false;
  #stopped = false;
  #blockedUntil = 0;

  /**
   * @param {Gateway} gateway @param {Replica} inbox @param {Platform} platform
   * @param {Pick<Options, 'carrier' | 'encoding' | 'transport'>} options
   * @param {{
   *   load: (signal: AbortSignal) => Promise<void>,
   *   message: (message: Message, missed: boolean) => void,
   *   status: (status: Partial<Status>) => void,
   * }} on
   */
  constructor(gateway, inbox, platform, options, on) {
    this.#gateway = gateway;
    this.#inbox = inbox;
    this.#platform = platform;
    this.#options = options;
    this.#on = on;
    this.#backoff = new Backoff(platform);
  }

  /** Stay connected until the signal is aborted. Throws SignedOut. @param {AbortSignal} signal */
  async run(signal) {
    this.#on.status({ state: 'connecting' });
    while (!signal.aborted) {
      /** @type {Ended} */
      let ended;
      try {
        if (this.#inbox.epoch === null) await this.#on.load(signal);
        ended = signal.aborted ? {} : await this.#converse(signal);
        if (ended.code === 4001) {
          await this.#renewOnce(ended);
          ended = { code: AGAIN };
        }
      } catch (error) {
        ended = endOf(error);
      }
      if (!signal.aborted) await this.#recover(ended, signal);
    }
  }

  /** Get the first token, however long that takes. Throws SignedOut. @param {AbortSignal} signal */
  async identify(signal) {
    this.#renewed = false;
    this.#backoff.failures = 0;
    while (!signal.aborted) {
      try {
        await this.#gateway.ask('start');
        return;
      } catch (error) {
        await this.#recover(endOf(error), signal);
      }
    }
  }

  /** Hold one connection until it ends, and return how. @param {AbortSignal} signal @returns {Promise<Ended>} */
  async #converse(signal) {
    const gateway = this.#gateway;
    const platform = this.#platform;
    const byTicket = this.#options.carrier === 'ticket';
    const { ticket = '' } = byTicket ? await gateway.call('POST', 'v1/auth/ticket', { signal }) : {};
    const stream = this.#streams();
    // Few clients need these, so each is a file of its own. Without `packing`, the socket speaks JSON.
    const streaming = stream ? await import('./stream.js').catch(() => null) : null;
    const packing = !stream && this.#options.encoding === 'msgpack' ? await import('./packing.js').catch(() => null) : null;
    if (signal.aborted) return {};
    if (stream && !streaming) return { code: 1006, opened: true };
    const url = new URL(stream ? 'v1/stream' : 'v1/ws', gateway.url);
    url.search = new URLSearchParams({ since: String(this.#inbox.seq), epoch: this.#inbox.epoch ?? '' }).toString();
    this.#acked = 0;
    this.#token = gateway.token;
    return new Promise((resolve) => {
      let silence = FIRST_SILENCE;
      let watch;
      const stop = () => this.#end({ code: 1000 });
      this.#heed = (ms = silence) => {
        platform.clearTimeout(watch);
        watch = platform.setTimeout(() => this.#end({ code: 1006, opened: silence !== FIRST_SILENCE }), ms);
      };
      this.#end = (ended) => {
        this.#end = this.#heed = () => {};
        platform.clearTimeout(watch);
        signal.removeEventListener('abort', stop);
        this.#carrier?.close();
        this.#carrier = null;
        this.#live = false;
        for (const { resolve: answer } of this.#asked.values()) answer(false);
        this.#asked.clear();
        resolve({ ...ended, stream });
      };
      const onmessage = (message) => {
        if (message.heartbeat) silence = message.heartbeat * 1_500 + 5_000;
        this.#heed();
        this.#receive(message);
      };
      signal.addEventListener('abort', stop);
      this.#heed();
      const open = streaming?.openStream ?? openSocket;
      this.#carrier = open({
        platform, url, token: this.#token, ticket, packing, onmessage, onclose: (ended) => this.#end(ended),
      });
    });
  }

  #streams() {
    const { transport } = this.#options;
    if (transport !== 'auto') return transport === 'stream';
    return !this.#platform.WebSocket || this.#platform.now() < this.#blockedUntil;
  }

  /** @param {Message} message */
  #receive(message) {
    const missed = !this.#live;
    if (message.type === 'reset') {
      // Where it cannot be resumed from here, the loop reads the inbox, and connects from where that stands.
      this.#inbox.epoch = null;
      this.#end({ code: AGAIN });
      return;
    }
    this.#on.message(message, missed);
    // Whoever was told has ended it.
    if (!this.#carrier) return;
    this.#signals[message.type]?.(message);
    if (this.#live) this.#flushing ??= this.#platform.setTimeout(() => this.#flush(), FLUSH_DELAY);
  }

  // What the messages that are about the connection itself ask for.
  #signals = {
    live: () => this.#nowLive(),
    token_expiring: (message) => this.#renewLater(message),
    ok: (message) => this.#answer(message),
    error: (message) => this.#answer(message),
  };

  #nowLive() {
    this.#live = this.#wasLive = true;
    this.#renewed = false;
    this.#backoff.failures = 0;
    this.#on.status({ state: 'live' });
  }

  /** Tell what has been applied. */
  #flush() {
    this.#flushing = null;
    if (!this.#live || this.#inbox.seq <= this.#acked) return;
    this.#acked = this.#inbox.seq;
    this.#carrier?.send?.({ type: 'ack', seq: this.#acked });
  }

  /**
   * Half of what is left is soon enough, and keeps tokens that live for less than the notice from being renewed
   * without a pause. Where this fails the connection ends with 4001, and the loop says why.
   */
  #renewLater({ expires_at }) {
    const carrier = this.#carrier;
    const left = Date.parse(expires_at) - this.#platform.now();
    this.#platform.setTimeout(async () => {
      if (carrier !== this.#carrier) return;
      const token = await this.#gateway.ask('expiring').catch(() => null);
      if (!token || carrier !== this.#carrier) return;
      this.#token = token;
      if (carrier?.send) carrier.send({ type: 'auth', token });
      else this.#end({ code: AGAIN });
    }, Math.min(Math.max(left / 2, 1_000), 30_000));
  }

  #answer({ ref, code, detail }) {
    const asked = this.#asked.get(ref);
    this.#asked.delete(ref);
    if (code) asked?.reject(new Failed(code, detail));
    else asked?.resolve(true);
  }

  /**
   * Have a command carried out. Returns false where this is not known, or cannot be had here. Throws Failed.
   * @param {object} command @returns {Promise<boolean>}
   */
  async request(command) {
    const send = this.#live && this.#carrier?.send;
    if (!send) return false;
    const ref = String(this.#refs += 1);
    const answered = new Promise((resolve, reject) => { this.#asked.set(ref, { resolve, reject }); });
    this.#heed(ANSWER_TIME);
    send({ ...command, ref });
    return answered;
  }

  /** There is reason to look at once: the network has changed, or the user is back. */
  wake(force = false) {
    if (force || !this.#stopped) this.#backoff.wake();
    const send = this.#live && this.#carrier?.send;
    if (!send) return;
    this.#heed(ANSWER_TIME);
    send({ type: 'ping' });
  }

  /** A new token helps once. Throws SignedOut with the reason when it does not, and Failed. @param {Ended} ended */
  async #renewOnce({ reason = 'invalid_token' }) {
    if (this.#renewed) throw new SignedOut(reason);
    this.#on.status({ state: 'connecting' });
    await this.#gateway.renew(this.#token, reason);
    this.#renewed = true;
  }

  /** Wait until it is time for the next attempt. @param {Ended} ended @param {AbortSignal} signal */
  async #recover(ended, signal) {
    const { code = 1006, opened, stream, detail, retryAfter = 0, why = 'unreachable' } = ended;
    if (code === AGAIN) return;
    if (code in STOPS) {
      if (code === 4003) this.#gateway.advise('the token may not read an inbox: mint it for a user, with the scope inbox.');
      await this.#rest(STOPS[code], signal);
    } else if (!opened && !stream && this.#options.transport === 'auto' && await this.#gateway.answers()) {
      // It is only WebSockets that do not get through.
      this.#blockedUntil = this.#platform.now() + BLOCKED_TIME;
    } else if (!signal.aborted) {
      if (stream && !opened) this.#blockedUntil = 0;
      const first = this.#backoff.failures === 0 && !this.#platform.isOffline();
      const ms = Math.max(this.#backoff.next(), retryAfter);
      // Only what was never connected can be set up wrongly.
      const known = this.#wasLive ? why : await this.#gateway.explain(ended);
      const problem = { code: known, detail: WRONG[known] ?? detail ?? LOST };
      const retryAt = this.#platform.now() + ms;
      // A gateway that restarts is back at once, as a rule: the first failure is not worth an alarm.
      this.#on.status(first ? { state: 'connecting' } : { state: 'offline', problem, retryAt });
      await this.#backoff.wait(ms, signal);
    }
  }

  async #rest([code, detail], signal) {
    this.#stopped = true;
    this.#on.status({ state: 'stopped', problem: { code, detail } });
    await this.#backoff.wait(Infinity, signal);
    this.#stopped = false;
    if (!signal.aborted) this.#on.status({ state: 'connecting' });
  }
}

/**
 * Take a request that failed for an end of the connection. Throws what is no such failure.
 * @param {unknown} error @returns {Ended}
 */
function endOf(error) {
  if (!(error instanceof Failed) || error instanceof SignedOut) throw error;
  const { detail, status, retryAfter, code: why } = error;
  return { code: why === 'api_key' ? API_KEY : status === 403 ? 4003 : 1006, opened: true, detail, retryAfter, why, status };
}
