// Queries: what works, how far it is, and the controls.

import { html } from "./html.js";
import { useAnswer, useNow } from "./deck.js";
import { ago, count, dollars, moment, shorten, UNKNOWN } from "./format.js";
import { Badge, Cell, Elapsed, Empty, FilterBar, Pager, Progress, Stale, Table, useFilter, Waiting } from "./parts.js";
import { isLive, QueryControls } from "./controls.js";
import { QueryDetail } from "./query_detail.js";

const CARDS = ["total", "running", "paused", "completed", "terminated", "failed"];
const FILTERS = ["all", "live", "queued", "running", "pausing", "paused", "completed", "terminated", "failed", "interrupted"];
const COLUMNS = [
  ["Query ID"], ["Status"], ["Model"], ["Duration", "number"], ["Progress"], ["Tokens", "number"], ["Cost", "number"],
  ["Last activity"], ["Actions"],
];

export function Queries({ id, open }) {
  const list = useFilter("all");
  const answer = useAnswer(["queries"], (deck) => deck.call("query_list", list.wanted), list.deps);
  const { data } = answer;
  return html`
    <div class="cards" role="group" aria-label="Queries by state">
      ${CARDS.map((card) => {
        const chosen = card === "total" ? "all" : card;
        return html`
          <button type="button" key=${card} class="card ${card}" aria-pressed=${list.filter === chosen}
            onClick=${() => list.choose(chosen)}>
            <span class="card-name">${card[0].toUpperCase() + card.slice(1)}</span>
            <span class="card-figure">${count(data?.stats[card])}</span>
          </button>`;
      })}
    </div>
    <${FilterBar} of=${list} filters=${FILTERS} what="queries" />
    <${Stale} answer=${answer} />
    ${!data ? html`<${Waiting} answer=${answer} what="queries" />`
      : data.queries.length === 0 ? html`<${NoQueries} filter=${list.filter} />`
      : html`
        <${Table} label="Queries" columns=${COLUMNS}>
          ${data.queries.map((query) => html`
            <${Row} key=${query.queryId} query=${query} at=${answer.at} skew=${Date.parse(data.timestamp) - answer.at}
              open=${open} />`)}
        <//>`}
    ${data && html`<${Pager} pages=${list.pages} next=${data.nextCursor} what="queries" />`}
    ${id && html`<${QueryDetail} key=${id} id=${id} onClose=${() => open(null)} />`}`;
}

function NoQueries({ filter }) {
  return filter === "all" || filter === "live"
    ? html`<${Empty} title=${filter === "all" ? "No queries yet." : "Nothing is at work."}>
        A client gives an agent work with <code>query_start</code>; it appears here at once.<//>`
    : html`<${Empty} title=${`No query is ${filter}.`}>The cards above count all states.<//>`;
}

function Row({ query, at, skew, open }) {
  const live = isLive(query.status);
  const { queryId: id, usage } = query;
  return html`
    <tr role="row">
      <${Cell} label="Query ID">
        <a href="#queries/${encodeURIComponent(id)}" class="id" title=${id}
          onClick=${(event) => { event.preventDefault(); open(id); }}>${id}</a>
        ${query.error && html`<span class="sub bad-text" title=${query.error}>${shorten(query.error, 80)}</span>`}
      <//>
      <${Cell} label="Status"><${Badge} status=${query.status} /><//>
      <${Cell} label="Model" kind="name"><span title=${query.model}>${query.model ?? UNKNOWN}</span><//>
      <${Cell} label="Duration" kind="number">
        <${Elapsed} ms=${query.duration} at=${at} running=${query.status === "running" || query.status === "pausing"} />
      <//>
      <${Cell} label="Progress"><${Progress} of=${query.progress} /><//>
      <${Cell} label="Tokens" kind="number">${count(usage?.tokens)}<//>
      <${Cell} label="Cost" kind="number">${dollars(usage?.usd)}<//>
      <${Cell} label="Last activity"><${LastActivity} at=${query.lastActivity} skew=${skew} live=${live} /><//>
      <${Cell} label="Actions" kind="last"><${QueryControls} query=${query} /><//>
    </tr>`;
}

function LastActivity({ at, skew, live }) {
  const now = useNow(live);
  const text = live ? ago(at, now + skew) : moment(at);
  return html`<time datetime=${new Date(at).toISOString()} title=${new Date(at).toString()}>${text}</time>`;
}
