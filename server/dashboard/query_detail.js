// One query from near: what it was told, what it answered, and all that happened to it.

import { html } from "./html.js";
import { useAnswer } from "./deck.js";
import { bytes, count, dollars } from "./format.js";
import { Badge, Dialog, Elapsed, Facts, Json, Moment, Progress, Stale, Waiting } from "./parts.js";
import { observation, QueryControls } from "./controls.js";
import { eventEntry, Timeline } from "./timeline.js";

async function load(deck, id) {
  const query = await deck.transport.report("query", id);
  const agent = await deck.transport.report("agent", query.agentId).catch(() => null); // swept away, perhaps
  return { query, agent };
}

export function QueryDetail({ id, onClose }) {
  const answer = useAnswer(["queries"], (deck) => load(deck, id), [id]);
  return html`
    <${Dialog} title=${id} side onClose=${onClose}>
      <div class="sheet-body">
        <${Stale} answer=${answer} />
        ${answer.data ? html`<${Query} ...${answer.data} at=${answer.at} />` : html`<${Waiting} answer=${answer} what="the query" />`}
      </div>
    <//>`;
}

function Query({ query, agent, at }) {
  const running = query.status === "running" || query.status === "pausing";
  return html`
    <div class="lead"><${Badge} status=${query.status} /><${QueryControls} query=${query} /></div>
    ${query.error && html`<p class="note bad">${query.error}</p>`}
    <${Facts} of=${[
      ["Agent", agent ? `${agent.name} (${query.agentId})` : query.agentId],
      ["Type", agent?.type],
      ["Model", query.model],
      ["Permission mode", query.permissionMode],
      ["Created", html`<${Moment} at=${query.createdAt} />`],
      ["Worked for", html`<${Elapsed} ms=${query.duration} at=${at} running=${running} />`],
      ["Progress", query.progress && html`<${Progress} of=${query.progress} />`],
      ["Tokens", query.usage?.tokens === undefined ? null : count(query.usage.tokens)],
      ["Cost", query.usage?.usd === undefined || query.usage.usd === null ? null : dollars(query.usage.usd)],
      ["Result", query.resultBytes ? bytes(query.resultBytes) : null],
      ["Budget", Object.keys(query.budget).length ? JSON.stringify(query.budget) : null],
      ["Metadata", Object.keys(query.metadata).length ? JSON.stringify(query.metadata) : null],
    ]} />
    <h3>Prompt</h3>
    <${Json} value=${query.prompt} label="Prompt" />
    ${(query.result ?? query.part ?? null) !== null && html`
      <h3>Result${query.nextOffset ? " (its beginning)" : ""}</h3>
      <${Json} value=${query.result ?? query.part} label="Result" />`}
    <h3>Timeline</h3>
    <${Timeline} entries=${timeline(query, agent)} />`;
}

// Events of the agent that concern this query, and the audit of its controls, in the order of time.
function timeline(query, agent) {
  const events = (agent?.history ?? []).filter((event) => event.queryId === query.queryId).map(eventEntry);
  const audit = query.audit.map(({ at, actor, action, before, after, ...outcome }) => ({
    at,
    title: `${action.replace("_", " ")}: ${outcome.status ?? "not answered"}`,
    tone: outcome.status === "applied" ? "done" : ["pending", "queued"].includes(outcome.status) ? "hold" : "bad",
    text: [`by ${actor}`, before === after ? `it stayed ${after}` : `${before} → ${after}`, observation(outcome), outcome.reason]
      .filter(Boolean).join(" · "),
  }));
  return [{ at: new Date(query.createdAt).toISOString(), title: "created" }, ...events, ...audit].sort((one, other) =>
    one.at < other.at ? -1 : one.at > other.at ? 1 : 0,
  );
}
