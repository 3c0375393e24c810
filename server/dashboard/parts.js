// What all views are made of.

import { useEffect, useId, useLayoutEffect, useRef, useState } from "./vendor/hooks.js";
import { html } from "./html.js";
import { count, duration, moment, shorten, UNKNOWN } from "./format.js";
import { useNow } from "./deck.js";
import { Unreachable } from "./errors.js";

const TONES = {
  running: "run", busy: "run", starting: "run", uploading: "run",
  pausing: "hold", paused: "hold", stopping: "hold",
  completed: "done", idle: "done", uploaded: "done",
  failed: "bad", interrupted: "bad",
}; // all others are quiet

export function Badge({ status }) {
  return html`<span class="badge ${TONES[status] ?? "quiet"}"><span class="dot" aria-hidden="true"></span>${status}</span>`;
}

export function Moment({ at }) {
  if (at === null || at === undefined) return UNKNOWN;
  return html`<time datetime=${new Date(at).toISOString()} title=${new Date(at).toString()}>${moment(at)}</time>`;
}

// A duration as it was at `at`, which goes on while `running`.
export function Elapsed({ ms, at, running }) {
  const now = useNow(running);
  if (ms === null || ms === undefined) return UNKNOWN;
  return duration(running ? ms + Math.max(0, now - at) : ms);
}

// A modal dialog: the browser keeps the focus inside and gives it back afterwards. `side` makes it a panel; without
// `onClose` it cannot be left.
export function Dialog({ title, onClose = null, side = false, children }) {
  const ref = useRef(null);
  const open = useRef(true);
  const id = useId();
  useLayoutEffect(() => {
    ref.current.showModal();
    const element = ref.current;
    return () => {
      open.current = false;
      element.close();
    };
  }, []);
  const close = () => open.current && onClose?.();
  function closed() { // by the Escape key
    close();
    if (onClose === null && open.current) ref.current.showModal();
  }
  return html`
    <dialog ref=${ref} class=${side ? "side" : "box"} aria-labelledby=${id} onClose=${closed}
      onMouseDown=${(event) => event.target === ref.current && close()}>
      <div class="sheet">
        <header class="sheet-head">
          <h2 id=${id}>${title}</h2>
          ${onClose && html`<button type="button" class="quiet" onClick=${close} aria-label="Close">✕</button>`}
        </header>
        ${children}
      </div>
    </dialog>`;
}

export function Confirm({ title, children, verb, onYes, onClose }) {
  return html`
    <${Dialog} title=${title} onClose=${onClose}>
      <div class="sheet-body">${children}</div>
      <footer class="sheet-foot">
        <button type="button" onClick=${onClose}>Cancel</button>
        <button type="button" class="danger" onClick=${() => { onClose(); onYes(); }}>${verb}</button>
      </footer>
    <//>`;
}

// What came of an answer that is not there (yet): loading, failed, or nothing to show.
export function Waiting({ answer, what }) {
  if (answer.error && !answer.data) {
    return html`
      <div class="note bad" role="alert">
        <p><strong>${what} could not be loaded.</strong> ${reasonOf(answer.error)}</p>
        <button type="button" onClick=${answer.reload}>Try again</button>
      </div>`;
  }
  return html`<p class="note" role="status"><span class="spinner" aria-hidden="true"></span>Loading ${what} …</p>`;
}

// The old answer is shown, the last look failed. A lost connection is told once, above.
export function Stale({ answer }) {
  if (!answer.error || !answer.data || answer.error instanceof Unreachable) return null;
  return html`<p class="note bad" role="alert">These are older figures: ${reasonOf(answer.error)}</p>`;
}

export function Empty({ title, children }) {
  return html`<div class="note empty"><p><strong>${title}</strong></p><p>${children}</p></div>`;
}

export function reasonOf(error) {
  return error.message || "for an unknown reason";
}

// A table that becomes a list of cards where it is narrow. `columns` are [heading, class]; the rows are `children`.
export function Table({ label, columns, children }) {
  return html`
    <div class="table-box">
      <table role="table" aria-label=${label}>
        <thead role="rowgroup">
          <tr role="row">
            ${columns.map(([heading, kind]) => html`<th role="columnheader" scope="col" class=${kind}>${heading}</th>`)}
          </tr>
        </thead>
        <tbody role="rowgroup">${children}</tbody>
      </table>
    </div>`;
}

export function Cell({ label, kind = "", children }) {
  return html`<td role="cell" class=${kind} data-label=${label}>${children}</td>`;
}

export const PAGE = 25; // rows: more are no easier to read, and slower to draw

// The pages of a list: the cursors of those before, so that one can go back.
export function usePages(deps) {
  const key = JSON.stringify(deps);
  const [state, setState] = useState({ key, cursors: [] });
  const cursors = state.key === key ? state.cursors : [];
  return {
    cursor: cursors.at(-1),
    number: cursors.length + 1,
    next: (cursor) => setState({ key, cursors: [...cursors, cursor] }),
    back: () => setState({ key, cursors: cursors.slice(0, -1) }),
  };
}

export function Pager({ pages, next, what }) {
  if (pages.number === 1 && !next) return null;
  return html`
    <nav class="pager" aria-label="Pages of ${what}">
      <button type="button" disabled=${pages.number === 1} onClick=${pages.back}>Newer</button>
      <span>Page ${pages.number}</span>
      <button type="button" disabled=${!next} onClick=${() => next && pages.next(next)}>Older</button>
    </nav>`;
}

// A list by state: what is shown of it, `wanted` as arguments, with what these depend on.
export function useFilter(first) {
  const [filter, choose] = useState(first);
  const pages = usePages([filter]);
  const wanted = {
    limit: PAGE,
    ...(filter === "all" ? { includeHistory: true } : filter === "live" ? {} : { status: filter }),
    ...(pages.cursor ? { cursor: pages.cursor } : {}),
  };
  return { filter, choose, pages, wanted, deps: [filter, pages.cursor] };
}

export function FilterBar({ of: { filter, choose }, filters, what }) {
  const title = filter === "all" || filter === "live" ? `${filter} ${what}` : `${what}: ${filter}`;
  return html`
    <div class="bar">
      <h2>${title[0].toUpperCase() + title.slice(1)}</h2>
      <label class="inline">Show
        <select value=${filter} onChange=${(event) => choose(event.target.value)}>
          ${filters.map((name) => html`<option value=${name}>${name}</option>`)}
        </select>
      </label>
    </div>`;
}

// A value that settles `ms` after the last change: what a person types is not asked for letter by letter.
export function useSettled(value, ms = 250) {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), ms);
    return () => clearTimeout(timer);
  }, [value, ms]);
  return settled;
}

export function Json({ value, label }) {
  const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  return html`<pre class="json" tabindex="0" role="region" aria-label=${label}>${text}</pre>`;
}

// [name, value] pairs; those without a value are left out.
export function Facts({ of }) {
  return html`
    <dl class="facts">
      ${of.filter(([, value]) => value !== null && value !== undefined).map(
        ([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`,
      )}
    </dl>`;
}

export function Progress({ of }) {
  if (!of) return html`<span class="faint">${UNKNOWN}</span>`;
  const { done, total, message } = of;
  const known = typeof done === "number" && typeof total === "number" && total > 0;
  return html`
    <span class="progress">
      ${known && html`<progress value=${Math.min(done, total)} max=${total} aria-label="Progress"></progress>`}
      <span class="sub">${known ? `${count(done)} of ${count(total)}` : ""}${known && message ? ", " : ""}${shorten(message ?? "", 60)}</span>
    </span>`;
}
