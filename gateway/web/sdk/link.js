// Which addresses a notification may lead to. The gateway checks them too; a component trusts nobody.

/**
 * Return where a notification leads, or null where following it could do more than open a page.
 *
 * Only an absolute http(s) URL, and a path of this host that begins with one slash, lead anywhere. The parser, not the
 * text, tells whether a path stays here: it takes "/\evil" and "/<tab>/evil" for hosts.
 * @param {string | null | undefined} url
 * @returns {URL | null}
 */
export function safeLink(url) {
  const target = typeof url === 'string' && URL.canParse(url, location.href) ? new URL(url, location.href) : null;
  const absolute = /^https?:\/\//i.test(url) && /^https?:$/.test(target?.protocol);
  const path = target && url.startsWith('/') && target.origin === location.origin;
  return absolute || path ? target : null;
}

/** Whether an address belongs to this page's own site, where it opens in the same tab. @param {URL} target */
export const isOwn = (target) => target.origin === location.origin;
