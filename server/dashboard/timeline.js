// What happened, in the order of time.

import { html } from "./html.js";
import { details } from "./format.js";
import { Moment } from "./parts.js";

export function eventEntry({ at, event, queryId, ...data }) {
  return { at, title: event.replaceAll("_", " "), text: details(data, " · "), queryId };
}

export function Timeline({ entries }) {
  if (entries.length === 0) return html`<p class="faint">Nothing has happened yet.</p>`;
  return html`
    <ol class="timeline">
      ${entries.map((entry, index) => html`
        <li key=${index} class=${entry.tone ?? ""}>
          <${Moment} at=${entry.at} />
          <div><strong>${entry.title}</strong>${entry.text && html`<p>${entry.text}</p>`}</div>
        </li>`)}
    </ol>`;
}
