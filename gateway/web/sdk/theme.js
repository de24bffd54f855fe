// How the components look. Every colour and measure that a page may want to set is a custom property with a default.
// Texts have a contrast of 4.5 or more on their grounds, in light and in dark; directions are logical, so that they
// follow `dir`.

import { sheet } from './dom.js';

/** What all elements share: the tokens, and the controls. */
export const TOKENS = sheet(`
:host {
  --_accent: var(--notification-accent, light-dark(#4250e6, #a2aeff));
  --_on-accent: var(--notification-on-accent, light-dark(#fff, #10132a));
  --_surface: var(--notification-surface, light-dark(#fff, #16181d));
  --_raised: var(--notification-raised, light-dark(#fff, #1e2128));
  --_sunken: var(--notification-sunken, light-dark(#f1f2f6, #262a33));
  --_unread: var(--notification-unread, light-dark(#f6f7ff, #1c1f2e));
  --_text: var(--notification-text, light-dark(#15171e, #eceef4));
  --_muted: var(--notification-muted, light-dark(#5a6072, #a4abbd));
  --_line: var(--notification-line, light-dark(#e7e8ee, #2b2f39));
  --_edge: var(--notification-edge, light-dark(#868c9c, #777e90));
  --_danger: var(--notification-danger, light-dark(#c2262e, #ff9a9a));
  --_warning: var(--notification-warning, light-dark(#8f5200, #ffc766));
  --_badge: var(--notification-badge, light-dark(#d6293a, #ff7b84));
  --_on-badge: var(--notification-on-badge, light-dark(#fff, #2a0508));
  --_radius: var(--notification-radius, 14px);
  --_shadow: var(--notification-shadow, 0 1px 2px light-dark(#10142014, #0008), 0 12px 40px light-dark(#1014202e, #000a));
  --_font: var(--notification-font, 15px/1.45 Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif);
  color: var(--_text);
  font: var(--_font);
  text-align: start;
}
:host([theme="system"]) { color-scheme: light dark; }
:host([theme="light"]) { color-scheme: light; }
:host([theme="dark"]) { color-scheme: dark; }
:host([hidden]), [hidden] { display: none !important; }
*, ::before, ::after { box-sizing: border-box; }
h2, h3, p, pre, dl, dd { margin: 0; font-size: inherit; font-weight: inherit; }
:focus-visible { outline: 2px solid var(--_accent); outline-offset: 2px; }
button svg { pointer-events: none; }
svg { display: block; width: 20px; height: 20px; fill: none; stroke: currentcolor; stroke-width: 1.7; stroke-linecap: round; stroke-linejoin: round; }
button, select, input, .choice, .all {
  min-height: 32px; padding: 0 10px; border: 0; border-radius: 8px; background: none; color: var(--_text);
  font: inherit; font-size: .875em; font-weight: 550; white-space: nowrap; cursor: pointer;
  transition: background-color .12s, color .12s;
}
button:hover:not(:disabled), select:hover, a.choice:hover { background: var(--_sunken); }
button:disabled { color: var(--_muted); opacity: .65; cursor: default; }
button.icon { display: inline-grid; grid-auto-flow: column; gap: 6px; place-content: center; align-items: center; min-width: 32px; padding: 0 6px; color: var(--_muted); }
button.icon:hover { color: var(--_text); }
input { min-width: 0; font-weight: 400; cursor: text; }
input, .choice { border: 1px solid var(--_edge); }
.strong { border-color: transparent; background: var(--_accent); color: var(--_on-accent); }
.strong:hover:not(:disabled) { background: color-mix(in oklab, var(--_accent) 86%, var(--_text)); }
button.link:not(:disabled) { color: var(--_accent); }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@media (pointer: coarse) { button, select, input, .choice, .all { min-height: 44px; } input { font-size: 16px; } button.icon { min-width: 44px; } }
@media (prefers-reduced-motion: reduce) { *, ::before, ::after { animation: none !important; transition: none !important; scroll-behavior: auto !important; } }
`);

/** One notification, in a list and as a toast. */
export const ITEM = sheet(`
.glyph {
  display: grid; place-items: center; width: 36px; height: 36px; border-radius: 10px; 
  background: light-dark(oklch(.945 .035 var(--_hue, 275)), oklch(.31 .05 var(--_hue, 275)));
  color: light-dark(oklch(.44 .14 var(--_hue, 275)), oklch(.87 .08 var(--_hue, 275)));
}
.glyph > * { grid-area: 1 / 1; }
.glyph img { border-radius: inherit; object-fit: cover; }
.glyph.shown { background: none !important; }
.shown svg { display: none; }
.title, .body { display: -webkit-box; min-width: 0; overflow: hidden; overflow-wrap: anywhere; -webkit-box-orient: vertical; -webkit-line-clamp: 2; }
.title { font-weight: 550; line-height: 1.35; }
.title a { outline-offset: -2px; color: inherit; text-decoration: none; }
.title a:hover { text-decoration: underline; text-underline-offset: 3px; }
.body { margin-block-start: 2px; text-align: -webkit-match-parent; text-align: match-parent; color: var(--_muted); font-size: .9333em; white-space: pre-line; }
.chip { padding: 0 7px; border-radius: 6px; background: var(--_sunken); color: var(--_muted); font-size: .8em; font-weight: 550; line-height: 1.6; overflow-wrap: anywhere; }
.chip[data-priority="high"] { background: color-mix(in srgb, var(--_warning) 12%, var(--_surface)); color: var(--_warning); }
[data-priority="urgent"] .glyph, .chip[data-priority="urgent"] { background: color-mix(in srgb, var(--_danger) 11%, var(--_surface)); color: var(--_danger); }
.choices, .reply { display: flex; flex-wrap: wrap; align-items: center; gap: 6px; margin-block-start: 8px; cursor: default; }
.choice { display: inline-flex; align-items: center; max-width: 100%; text-decoration: none; white-space: normal; overflow-wrap: anywhere; }
.choice[aria-disabled="true"] { color: var(--_muted); opacity: .65; cursor: default; }
.strong:is(:disabled, [aria-disabled="true"]) { background: var(--_sunken) !important; color: var(--_muted) !important; }
.reply { flex: 1 0 100%; margin: 0; }
.reply input { flex: 1 12em; }
.answer { flex-basis: 100%; color: var(--_muted); font-size: .9em; overflow-wrap: anywhere; }
.answer:empty { display: none; }
.choice.danger { color: var(--_danger); }
.danger:hover, .danger.asked { background: color-mix(in oklab, var(--_danger) 12%, transparent) !important; color: var(--_danger) !important; }
`);

export const INBOX = sheet(`
:host, .frame { display: flex; flex-direction: column; min-height: 0; }
:host { position: relative; border-radius: var(--_radius); background: var(--_surface); overflow: clip; }
.frame { flex: 1; height: 100%; max-height: inherit; }
.head { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 8px; padding-block: 14px 4px; padding-inline: 20px 12px; }
.heading:focus-visible, .help:focus-visible { outline: none; }
.heading { flex: 1; font-size: 1.1333em; font-weight: 680; letter-spacing: -.012em; }
.bar { display: flex; flex-wrap: wrap; align-items: center; gap: 4px; padding: 0 12px; border-block-end: 1px solid var(--_line); }
[role="tablist"] { display: flex; flex: 1 0 auto; max-width: calc(100% + 10px); margin-block-end: -1px; margin-inline-end: -10px; padding-block-end: 1px; overflow-x: auto; scrollbar-width: none; }
[role="tab"] { position: relative; flex: none; min-height: 42px; padding-inline: 8px; color: var(--_muted); }
[role="tab"]:is(:hover, [aria-selected="true"]) { background: none !important; color: var(--_text); }
[role="tab"][aria-selected="true"]::after { position: absolute; inset: auto 8px -1px; height: 2px; border-radius: 2px; background: var(--_accent); content: ""; }
[role="tab"]:focus-visible { outline-offset: -4px; }
.count { display: inline-block; margin-inline-start: 4px; padding: 1px 6px; border-radius: 9px; background: var(--_sunken); color: var(--_muted); font-size: .86em; font-variant-numeric: tabular-nums; }
[aria-selected="true"] .count { background: var(--_accent); color: var(--_on-accent); }
select { field-sizing: content; max-width: 100%; margin-inline-start: auto; color: var(--_muted); background: var(--_surface); text-overflow: ellipsis; }
.banner { display: flex; align-items: center; gap: 12px; padding-block: 10px; padding-inline: 20px 12px; border-block-end: 1px solid var(--_line); background: color-mix(in oklab, var(--_warning) 9%, var(--_surface)); font-size: .9em; }
.banner svg { flex: none; color: var(--_warning); }
.banner p { flex: 1; }
.panel { display: flex; flex: 1; flex-direction: column; min-height: 0; overflow: auto; overscroll-behavior: var(--_overscroll, auto); scrollbar-width: thin; scrollbar-color: var(--_edge) transparent; }
.item {
  display: grid; grid-template-columns: 36px minmax(0, 1fr); column-gap: 12px; position: relative; padding-block: 14px; padding-inline: 24px 20px;
  cursor: pointer; content-visibility: auto; contain-intrinsic-size: auto 88px;
  transition: background-color .12s;
}
article + article { border-block-start: 1px solid var(--_line); }
.day { padding-block: 16px 6px; padding-inline: 24px 20px; color: var(--_muted); font-size: .8667em; font-weight: 600; }
.item.held { content-visibility: visible; }
:host, [role="feed"], .item, .item * { scroll-margin-block-start: var(--notification-scroll-inset, 0px); }
.item:hover { background: color-mix(in oklab, var(--_sunken) 55%, transparent); }
.item:focus-visible { outline-offset: -3px; border-radius: 10px; }
.item.new { background: var(--_unread); }
.item.new::before { position: absolute; inset-block-start: 28px; inset-inline-start: 9px; width: 8px; height: 8px; border-radius: 50%; background: var(--_accent); content: ""; }
.item.new .title { font-weight: 660; }
.item.new .body { color: color-mix(in oklab, var(--_text) 82%, var(--_muted)); }
.item.fresh { animation: arrive 1.6s ease-out; }
@keyframes arrive { from { background: color-mix(in oklab, var(--_accent) 22%, var(--_surface)); } }
.top { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 12px; }
.top .title { flex: 1 14em; }
time, .edited { flex: none; color: var(--_muted); font-size: .8333em; white-space: nowrap; font-variant-numeric: tabular-nums; }
.item .body { -webkit-line-clamp: var(--notification-lines, 3); }
.item.unfolded .title, .item.unfolded .body { -webkit-line-clamp: none; }
.whole { margin-inline-start: -10px; }
.newer { position: sticky; z-index: 1; inset-block-start: var(--notification-scroll-inset, 0px); height: 0; text-align: center; }
.newer button { margin-block-start: 8px; box-shadow: var(--_shadow); }
.meta { display: flex; flex-wrap: wrap; align-items: center; line-height: 1.6; gap: 4px 8px; margin-block-start: 6px; }
.meta:not(:has(> :not([hidden]))) { display: none; }
.address { max-width: 100%; overflow: hidden; color: var(--_muted); font-size: .8333em; text-overflow: ellipsis; white-space: nowrap; }
details { flex-basis: 100%; font-size: .8333em; }
summary { width: max-content; min-height: 24px; border-radius: 4px; color: var(--_muted); }
pre { max-height: 14em; margin-block-start: 4px; padding: 8px 10px; border-radius: 8px; overflow: auto; background: var(--_sunken); font: 12px/1.5 ui-monospace, "SF Mono", Menlo, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.actions { display: flex; position: absolute; inset-block-start: 5px; inset-inline-end: 14px; padding: 1px; border-radius: 10px; background: var(--_raised); box-shadow: 0 0 0 1px var(--_line), 0 2px 8px #0001; opacity: 0; transition: opacity .12s; }
.item:hover .actions, .actions:focus-within, [role="feed"]:not(:has(.item:hover)) .item:focus-within .actions { opacity: 1; }
.actions button { min-height: 28px; }
.item .menu { display: none; }
@media (hover: none) {
  .item { padding-inline-end: 48px; }
  .item .menu { display: inline-grid; position: absolute; inset-block-start: 2px; inset-inline-end: 2px; }
  .menu svg { stroke-width: 3; }
  .actions:not(:popover-open) { display: none; }
}
.actions:popover-open { position: fixed; inset: auto 0 0; flex-direction: column; width: min(100%, 480px); margin-inline: auto; padding: 8px 8px max(8px, env(safe-area-inset-bottom)); border: 0; border-radius: 16px 16px 0 0; opacity: 1; cursor: default; }
.actions:popover-open button { display: flex; justify-content: start; gap: 14px; min-height: 52px; padding: 0 14px; color: var(--_text); font-size: 1em; }
.actions:popover-open button::after { content: attr(title); }
.actions:popover-open span { display: none; }
.actions::backdrop { background: #0006; }
.actions:popover-open::before { position: fixed; z-index: -1; inset: 0; touch-action: none; content: ""; }
.help { width: min(360px, 100vw - 16px); padding: 18px 20px; border: 0; border-radius: var(--_radius); background: var(--_raised); color: var(--_text); box-shadow: 0 0 0 1px var(--_line), var(--_shadow); }
h3 { font-weight: 650; }
.help h3 { margin-block-end: 12px; }
.time { display: flex; align-items: center; justify-content: space-between; gap: 16px; width: 100%; }
dl { display: grid; gap: 6px; }
dl div { display: flex; gap: 14px; }
dt { flex: none; width: 7em; text-align: end; }
.help .icon { position: absolute; inset-block-start: 10px; inset-inline-end: 10px; }
kbd { padding: 1px 7px; border-radius: 6px; background: var(--_sunken); box-shadow: 0 0 0 1px var(--_line); font: 600 .8667em ui-monospace, monospace; }
.state { display: grid; justify-items: center; min-height: 240px; align-content: center; padding: 32px 24px; text-align: center; }
.state .art { display: grid; place-items: center; width: 56px; height: 56px; margin-block-end: 14px; border-radius: 18px; background: var(--_sunken); color: var(--_muted); }
.art svg { width: 26px; height: 26px; stroke-width: 1.5; }
.state p { max-width: 34ch; margin-block-start: 4px; color: var(--_muted); font-size: .9333em; text-wrap: balance; }
.state button, .more button, .state slot { margin-block-start: 14px; }
.state slot { display: block; }
.state slot button { margin: 0; }
.state button, .more button, .banner button { background: var(--_surface); box-shadow: inset 0 0 0 1px var(--_edge); }
.rest { display: grid; flex: 1; align-content: start; }
.rest:has(.state) { align-content: center; }
.rest:empty { display: none; }
.more { padding: 14px; color: var(--_muted); font-size: .9em; text-align: center; }
.bone { display: grid; grid-template-columns: 36px 1fr; gap: 8px 12px; padding: 16px 24px; }
.bone i { height: 10px; border-radius: 5px; background: var(--_sunken); animation: breathe 1.3s ease-in-out infinite alternate; }
.bone i:first-child { grid-row: span 2; height: 36px; border-radius: 10px; }
.bone i:last-child { width: 60%; }
@keyframes breathe { to { opacity: .4; } }
.tail { min-height: 1px; }
.foot { position: sticky; z-index: 2; inset-block-end: 0; height: 0; }
.snack { display: flex; position: absolute; inset: auto 12px 12px; align-items: center; gap: 8px; width: fit-content; max-width: calc(100% - 24px); min-height: 44px; margin-inline: auto; padding-block: 4px; padding-inline: 16px 6px; border-radius: 12px; background: light-dark(#1c1f28, #eceef4); color: light-dark(#fff, #15171e); box-shadow: var(--_shadow); font-size: .9em; animation: rise .18s ease-out; }
.snack:not(:has(.said:not(:empty))) { opacity: 0; pointer-events: none; }
.snack .said { flex: 1; max-height: 10em; padding-block: 6px; overflow: auto; overflow-wrap: anywhere; }
.snack button { color: light-dark(#c3caff, #3038b8); }
.snack button:hover { background: color-mix(in srgb, currentcolor 16%, transparent) !important; }
@keyframes rise { from { opacity: 0; transform: translateY(8px); } }
@media (forced-colors: active) { .item.new::before { border: 4px solid; } [aria-selected="true"]::after { border: 1px solid; } .snack, .actions, .count { border: 1px solid; } }
`);

export const PREFERENCES = sheet(`
:host { display: block; padding: 14px 20px; border-radius: var(--_radius); overflow: auto; background: var(--_surface); }
.head { display: flex; align-items: center; justify-content: space-between; }
h2 { font-weight: 650; }
fieldset { min-width: 0; margin: 16px 0 0; padding: 0; border: 0; }
legend { padding: 0; font-weight: 600; }
p { color: var(--_muted); font-size: .9em; }
label { display: flex; flex-wrap: wrap; gap: 4px 10px; align-items: center; min-height: 36px; overflow-wrap: anywhere; }
[type="checkbox"] { width: 18px; min-height: 18px; margin: 0; accent-color: var(--_accent); cursor: pointer; }
input, select { background: var(--_surface); }
select { max-width: 100%; border: 1px solid var(--_edge); }
.window { display: flex; flex-wrap: wrap; gap: 8px 12px; align-items: center; padding-block: 6px; border-block-end: 1px solid var(--_line); }
fieldset > button { margin-block: 6px; margin-inline-start: -10px; color: var(--_accent); }
`);

// The bell stands on the ground of the page, so it has the colour of the page's own texts.
export const BELL = sheet(`
:host { display: inline-block; color: var(--notification-text, inherit); }
.bell { display: grid; position: relative; place-items: center; width: var(--notification-bell-size, 40px); height: var(--notification-bell-size, 40px); min-height: 0; padding: 0; border-radius: 12px; color: inherit; transition: background-color .12s; }
.bell svg, ::slotted(svg) { width: 22px; height: 22px; }
button.bell:hover, .bell[aria-expanded="true"] { background: color-mix(in srgb, currentcolor 12%, transparent); }
.bell:focus-visible { outline-color: currentcolor; }
.badge { position: absolute; inset-block-start: 2px; inset-inline-start: calc(50% + 1px); min-width: 18px; padding: 0 5px; border-radius: 9px; background: var(--_badge); color: var(--_on-badge); box-shadow: 0 0 0 2px var(--_surface); font-size: 11px; font-weight: 700; line-height: 18px; text-align: center; font-variant-numeric: tabular-nums; animation: pop .22s cubic-bezier(.2, .9, .3, 1.1); }
@keyframes pop { from { transform: scale(.4); opacity: 0; } }
.popover { position: fixed; inset: auto; width: min(var(--notification-width, 420px), 100vw - 16px); height: var(--notification-height, 600px); margin: 0; padding: 0; border: 0; border-radius: var(--_radius); background: var(--_raised); color: var(--_text); box-shadow: 0 0 0 1px var(--_line), var(--_shadow); overflow: clip; }
.popover:popover-open { display: flex; flex-direction: column; animation: drop .16s ease-out; }
.popover:focus-visible { outline: none; }
@keyframes drop { from { opacity: 0; transform: translateY(-6px) scale(.985); } }
notification-inbox, notification-preferences { flex: 1; min-height: 0; border-radius: 0; --notification-surface: var(--_raised); --_overscroll: contain; }
.settings { display: flex; align-items: center; gap: 8px; min-height: 46px; padding-block: 5px; padding-inline: 20px 12px; border-block-start: 1px solid var(--_line); color: var(--_muted); font-size: .8667em; }
.settings span { flex: 1; }
.settings button { margin-inline-start: auto; }
.all { display: inline-flex; align-items: center; color: var(--_accent); text-decoration: none; }
@media (max-width: 520px) { .popover { inset-inline: 8px !important; width: auto; height: 100dvh; } }
@media (forced-colors: active) { .badge, .popover { border: 1px solid; } }
`);

export const TOASTS = sheet(`
:host { display: contents; }
.stack { display: flex; position: fixed; z-index: var(--notification-z, 1000); inset: var(--notification-toasts-inset, auto 20px 20px auto); flex-direction: column; gap: 10px; width: min(var(--notification-toast-width, 380px), 100vw - 24px); pointer-events: none; }
:host(:dir(rtl)) .stack { inset: var(--notification-toasts-inset, auto auto 20px 20px); }
.toast { display: grid; grid-template-columns: 36px minmax(0, 1fr) auto; gap: 0 12px; align-items: start; position: relative; padding-block: 14px; padding-inline: 16px 8px; border-radius: var(--_radius); background: var(--_raised); box-shadow: 0 0 0 1px var(--_line), var(--_shadow); overflow: clip; pointer-events: auto; animation: enter .24s cubic-bezier(.3, 1.6, .6, 1); }
.toast[data-priority="urgent"] { box-shadow: 0 0 0 1px var(--_danger), var(--_shadow); }
.toast.link { cursor: pointer; }
.toast .title { padding-block-start: 1px; }
.toast .icon { margin-block: -4px; }
.toast .chip { display: inline-block; margin-block-end: 4px; }
.sum { grid-template-columns: minmax(0, 1fr) auto; align-items: center; padding-block: 8px; color: var(--_muted); font-size: .9333em; }
.sum .icon { margin: 0; }
.sum .link { margin-inline: -8px; text-align: start; }
.timer { position: absolute; inset: auto auto 0 0; width: 100%; height: 2px; background: var(--_accent); opacity: .55; transform-origin: left; animation: spend var(--_time) linear forwards; }
:host(:dir(rtl)) .timer { transform-origin: right; }
.paused .timer { animation-play-state: paused; }
@keyframes spend { to { transform: scaleX(0); } }
@keyframes enter { from { opacity: 0; transform: translateY(12px) scale(.97); } }
@media (max-width: 520px) { .stack, :host(:dir(rtl)) .stack { inset: var(--notification-toasts-inset, auto 12px max(12px, env(safe-area-inset-bottom))); width: auto; } }
@media (prefers-reduced-motion: reduce) { .timer { display: none; } }
@media (forced-colors: active) { .toast { border: 1px solid; } }
`);
