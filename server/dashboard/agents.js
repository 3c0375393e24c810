// Agents: the processes that work, what they use, and what happened to each.

import { useMemo, useRef, useState } from "./vendor/hooks.js";
import { html } from "./html.js";
import { useAnswer, useDeck } from "./deck.js";
import { bytes, count, dollars, duration, percent, UNKNOWN } from "./format.js";
import {
  Badge, Cell, Confirm, Dialog, Elapsed, Empty, Facts, FilterBar, Moment, Pager, reasonOf, Stale, Table, useFilter,
  Waiting,
} from "./parts.js";
import { eventEntry, Timeline } from "./timeline.js";
import { tell } from "./messages.js";

const LIVE = ["queued", "starting", "idle", "busy", "stopping"];
const FILTERS = ["live", "all", "queued", "starting", "idle", "busy", "stopping", "stopped", "failed", "interrupted"];
const COLUMNS = [
  ["Agent ID"], ["Type"], ["Status"], ["Duration", "number"], ["Timestamp"], ["CPU", "number"], ["Memory", "number"],
  ["Actions"],
];
const LOOK_EVERY = 2500; // ms: what agents use changes without an event

export function Agents({ id, open }) {
  const list = useFilter("live");
  const answer = useAnswer(["agents"], (deck) => deck.call("agents_list", list.wanted), list.deps, LOOK_EVERY);
  const rates = useRates(answer);
  const { data } = answer;
  return html`
    <${FilterBar} of=${list} filters=${FILTERS} what="agents" />
    <${Stale} answer=${answer} />
    ${!data ? html`<${Waiting} answer=${answer} what="agents" />`
      : data.agents.length === 0 ? html`<${NoAgents} filter=${list.filter} />`
      : html`
        <${Table} label="Agents" columns=${COLUMNS}>
          ${data.agents.map((agent) => html`
            <${Row} key=${agent.agentId} agent=${agent} at=${answer.at} rate=${rates.get(agent.agentId)} open=${open} />`)}
        <//>`}
    ${data && html`<${Pager} pages=${list.pages} next=${data.nextCursor} what="agents" />`}
    ${id && html`<${AgentDetail} key=${id} id=${id} onClose=${() => open(null)} />`}`;
}

function NoAgents({ filter }) {
  return filter === "live" || filter === "all"
    ? html`<${Empty} title=${filter === "live" ? "No agent is alive." : "No agents yet."}>
        A client starts them with <code>agents_spawn_parallel</code>; they appear here at once.<//>`
    : html`<${Empty} title=${`No agent is ${filter}.`}>Choose another state above.<//>`;
}

// The share of one processor that each agent has used between the last two looks.
function useRates({ data, at }) {
  const before = useRef(new Map());
  return useMemo(() => {
    const rates = new Map();
    const seen = new Map();
    for (const { agentId, cpuSeconds } of data?.agents ?? []) {
      if (cpuSeconds === null) continue;
      seen.set(agentId, { cpuSeconds, at });
      const last = before.current.get(agentId);
      if (last) rates.set(agentId, Math.max(0, (cpuSeconds - last.cpuSeconds) / ((at - last.at) / 1000)));
    }
    before.current = seen;
    return rates;
  }, [at]);
}

function Row({ agent, at, rate, open }) {
  const { agentId: id } = agent;
  return html`
    <tr role="row">
      <${Cell} label="Agent ID">
        <a href="#agents/${encodeURIComponent(id)}" class="id" title=${id}
          onClick=${(event) => { event.preventDefault(); open(id); }}>${id}</a>
        <span class="sub">${agent.name}</span>
      <//>
      <${Cell} label="Type">${agent.type}<//>
      <${Cell} label="Status"><${Badge} status=${agent.status} />
        ${agent.error && html`<span class="sub bad-text">${agent.error}</span>`}<//>
      <${Cell} label="Duration" kind="number">
        <${Elapsed} ms=${agent.duration} at=${at} running=${LIVE.includes(agent.status)} />
      <//>
      <${Cell} label="Timestamp"><${Moment} at=${agent.createdAt} /><//>
      <${Cell} label="CPU" kind="number"><${Cpu} seconds=${agent.cpuSeconds} rate=${rate} /><//>
      <${Cell} label="Memory" kind="number">${bytes(agent.memoryBytes)}<//>
      <${Cell} label="Actions" kind="last">
        <span class="actions">
          <button type="button" aria-label="History of ${id}" onClick=${() => open(id)}>History</button>
          ${LIVE.includes(agent.status) && html`<${StopButton} agent=${agent} />`}
        </span>
      <//>
    </tr>`;
}

function Cpu({ seconds, rate }) {
  if (seconds === null) return html`<span class="faint">${UNKNOWN}</span>`;
  return html`${rate === undefined ? "" : `${percent(rate)} `}<span class="sub">${duration(seconds * 1000)}</span>`;
}

function StopButton({ agent }) {
  const deck = useDeck();
  const [asking, setAsking] = useState(false);
  const [busy, setBusy] = useState(false);
  const off = deck.readOnly || deck.phase !== "live" || busy;
  async function stop() {
    setBusy(true);
    try {
      const { agents } = await deck.call("agents_stop", { agentIds: [agent.agentId] });
      tell("done", `Stop: ${agents[0]?.status ?? "nothing to stop"}`, agent.agentId);
    } catch (error) {
      tell("bad", "Stop: refused", reasonOf(error));
    }
    setBusy(false);
    deck.changed(["agents"]);
  }
  return html`
    <button type="button" class="danger" aria-label="Stop ${agent.agentId}" aria-disabled=${off} aria-busy=${busy}
      onClick=${() => off || setAsking(true)}>Stop</button>
    ${asking && html`
      <${Confirm} title="Stop this agent?" verb="Stop" onYes=${stop} onClose=${() => setAsking(false)}>
        <p><strong>${agent.name}</strong> (<code>${agent.agentId}</code>) ends with everything that it started. Its
          running query is terminated.</p>
      <//>`}`;
}

async function load(deck, id) {
  const agent = await deck.transport.report("agent", id);
  const samples = await deck
    .call("memory_usage", { action: "list", namespace: "agent-metrics", prefix: `agent-${id}-metrics-`, limit: 500 })
    .catch(() => null); // a reader without memory still sees the rest
  return { agent, samples: samples?.entries.map((entry) => entry.value).filter(Boolean) ?? [] };
}

function AgentDetail({ id, onClose }) {
  const answer = useAnswer(["agents"], (deck) => load(deck, id), [id], LOOK_EVERY);
  return html`
    <${Dialog} title=${id} side onClose=${onClose}>
      <div class="sheet-body">
        <${Stale} answer=${answer} />
        ${answer.data ? html`<${Agent} ...${answer.data} at=${answer.at} />` : html`<${Waiting} answer=${answer} what="the agent" />`}
      </div>
    <//>`;
}

function Agent({ agent, samples, at }) {
  const { spent, budget } = agent;
  return html`
    <div class="lead"><${Badge} status=${agent.status} /></div>
    ${agent.error && html`<p class="note bad">${agent.error}</p>`}
    <${Facts} of=${[
      ["Name", agent.name],
      ["Type", agent.type],
      ["Runner", agent.runner],
      ["Model", agent.model],
      ["Priority", agent.priority],
      ["Permission mode", agent.permissionMode],
      ["Capabilities", agent.capabilities.join(", ") || null],
      ["Process", agent.pid],
      ["Query", agent.queryId],
      ["Started", html`<${Moment} at=${agent.createdAt} />`],
      ["Ready after", agent.spawnTime === null ? null : duration(agent.spawnTime)],
      ["Alive for", html`<${Elapsed} ms=${agent.duration} at=${at} running=${LIVE.includes(agent.status)} />`],
      ["CPU time", agent.cpuSeconds === null ? null : duration(agent.cpuSeconds * 1000)],
      ["Memory", agent.memoryBytes === null ? null : bytes(agent.memoryBytes)],
      ["Tokens spent", spent.tokens === undefined ? null : count(spent.tokens)],
      ["Cost", spent.usd === undefined ? null : dollars(spent.usd)],
      ["Budget", Object.keys(budget).length ? JSON.stringify(budget) : null],
    ]} />
    ${samples.length > 1 && html`
      <h3>Last hour</h3>
      <${Chart} name="Memory" values=${samples.map((sample) => sample.memory)} show=${bytes} />`}
    <h3>History</h3>
    <${Timeline} entries=${agent.history.map(eventEntry)} />`;
}

function Chart({ name, values, show }) {
  const known = values.filter((value) => typeof value === "number");
  if (known.length < 2) return null;
  const most = Math.max(...known) || 1;
  const points = known.map((value, index) => `${(index / (known.length - 1)) * 300},${38 - (value / most) * 36}`);
  return html`
    <figure class="chart">
      <svg viewBox="0 0 300 40" preserveAspectRatio="none" role="img"
        aria-label="${name}: at most ${show(most)}, last ${show(known.at(-1))}">
        <polyline points=${points.join(" ")} />
      </svg>
      <figcaption>${name}: at most ${show(most)}, last ${show(known.at(-1))}</figcaption>
    </figure>`;
}
