// Making elements. What a notification says goes in as text and never as markup: nothing here parses HTML.

const SVG = 'http://www.w3.org/2000/svg';

const ICONS = {
  bell: 'M6 9.5a6 6 0 0 1 12 0v4l1.8 3.5H4.2L6 13.5zM9.8 20a2.3 2.3 0 0 0 4.4 0',
  check: 'm5 12.5 4.5 4.5L19 7.5',
  checks: 'm2.5 12.5 4 4 8.5-9M12 16l.5.5L21.5 7.5',
  dot: 'M12 8.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 1 0 0-7z',
  archive: 'M4 5h16v4H4zM5.5 9v10h13V9M10 13h4',
  inbox: 'M4 13.5 6.5 5h11L20 13.5V19H4zM4 13.5h4.5l1.2 2.5h4.6l1.2-2.5H20',
  clock: 'M12 4a8 8 0 1 0 0 16 8 8 0 1 0 0-16zM12 8v4.5l3 1.5',
  sliders: 'M4 8h7M15 8h5M13 6v4M4 16h3M11 16h9M9 14v4',
  trash: 'M4.5 7h15M9.5 7V4.5h5V7M6.5 7l.8 12.5h9.4L17.5 7M10 11v5M14 11v5',
  close: 'm6.5 6.5 11 11M17.5 6.5l-11 11',
  alert: 'M12 4 2.8 19.5h18.4zM12 10v4.5M12 17v.2',
  cloud: 'M7 18.5h10a4 4 0 0 0 .8-7.9A6 6 0 0 0 6.3 9.3 4.7 4.7 0 0 0 7 18.5M4 4l16 16',
  lock: 'M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 7 0v3M12 14.5v2',
  more: 'M12 5.5v.01M12 12v.01M12 18.5v.01',
  chat: 'M4 5h16v11h-8l-4.5 4v-4H4z',
  box: 'm4 8 8-4 8 4v8.5l-8 4-8-4zM4 8l8 4 8-4M12 12v8.5',
  card: 'M3.5 6h17v12.5h-17zM3.5 10.5h17M7 15h3',
};

/**
 * Make an element. Names with a dash, and `role`, `part`, `slot` and `exportparts`, are attributes; functions listen to
 * the event of that name; all else are properties. A button submits no form, unless its type says so. Children that are nothing (null, undefined, false) are left out.
 * @param {string} tag
 * @param {Record<string, unknown>} [properties]
 * @param {...(Node | string | null | undefined | false)} children
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  if (tag === 'button') element.type = 'button';
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === 'function') element.addEventListener(name, value);
    else if (name.includes('-') || /^(role|part|slot|exportparts)$/.test(name)) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter(Boolean));
  return element;
}

/** Make an icon. It says nothing: what it stands beside, or its button, has the words. */
export function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  const path = document.createElementNS(SVG, 'path');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('aria-hidden', 'true');
  path.setAttribute('d', ICONS[name]);
  svg.append(path);
  return svg;
}

/** Make a button that shows an icon; its name is read out, and shown under the pointer. */
export function iconButton(name, label, properties) {
  const button = make('button', { className: 'icon', ...properties }, icon(name));
  return nameButton(button, label);
}

/** Name a button that shows no words. `about` is what it acts on, for those who hear the name alone. */
export function nameButton(button, label, about = '') {
  button.title = label;
  button.setAttribute('aria-label', about ? `${label}: ${about}` : label);
  return button;
}

/** Give an element these children. One that it has already stays where it is, and keeps the focus. */
export function place(parent, children) {
  for (const one of [...parent.childNodes]) children.includes(one) || one.remove();
  children.forEach((one, at) => one === parent.childNodes[at] || parent.insertBefore(one, parent.childNodes[at] ?? null));
}

/** Write a text only where it differs: a live region is read out whenever it is written. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A stylesheet for shadow roots: a page's policy need not allow inline styles. */
export function sheet(css) {
  if (typeof CSSStyleSheet === 'undefined') return null; // On a server that renders nothing is shown.
  const made = new CSSStyleSheet();
  made.replaceSync(css);
  return made;
}
