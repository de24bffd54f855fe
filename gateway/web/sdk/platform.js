// What the client asks of the browser. Tests give it something else.

/** @returns {import('./types.d.ts').Platform} */
export function browser() {
  const { document, navigator } = globalThis;
  return {
    WebSocket: globalThis.WebSocket,
    fetch: (...all) => globalThis.fetch(...all),
    storage: storage(),
    locks: navigator?.locks,
    BroadcastChannel: globalThis.BroadcastChannel,
    setTimeout: (act, ms) => globalThis.setTimeout(act, ms),
    clearTimeout: (timer) => globalThis.clearTimeout(/** @type {number} */ (timer)),
    now: () => Date.now(),
    random: () => Math.random(),
    isVisible: () => !document || document.visibilityState === 'visible',
    isOffline: () => navigator?.onLine === false,
    console: globalThis.console,
    window: globalThis.window,
    document,
  };
}

/** Where a browser forbids it, already asking for it throws. */
function storage() {
  try {
    return globalThis.localStorage ?? null;
  } catch {
    return null;
  }
}

/** The gateway is where this module came from: above `/sdk/`. */
export function home() {
  const found = /^(.*\/)sdk\/(?:[^/]+\/)?[^/]+$/.exec(import.meta.url);
  if (!found) throw new TypeError('NotificationClient: set url to the address of the gateway; without a bundler it is known');
  return found[1];
}
