// Memory: namespaces, and the entries of one with the time that they have left.

import { useEffect, useState } from "./vendor/hooks.js";
import { html } from "./html.js";
import { useAnswer, useDeck, useNow } from "./deck.js";
import { bytes, count, duration, json, shorten } from "./format.js";
import { Cell, Confirm, Dialog, Empty, Moment, PAGE, Pager, reasonOf, Stale, Table, usePages, useSettled, Waiting } from "./parts.js";
import { MemoryEditor } from "./memory_editor.js";
import { tell } from "./messages.js";

const COLUMNS = [["Key"], ["Value"], ["Version", "number"], ["Size", "number"], ["Updated"], ["Time left", "number"], ["Actions"]];

export function Memory({ id, open }) {
  const deck = useDeck();
  const [words, setWords] = useState("");
  const [dialog, setDialog] = useState(null);
  const query = useSettled(words.trim());
  const spaces = useAnswer(["memory"], (deck) => deck.call("memory_usage", { action: "namespaces", limit: 500 }), []);
  const known = spaces.data?.namespaces ?? [];
  const [first, setFirst] = useState(null); // chosen once: it stays when its last entry goes
  useEffect(() => {
    if (spaces.data && first === null) {
      setFirst(known.some((space) => space.namespace === "default") ? "default" : (known[0]?.namespace ?? "default"));
    }
  }, [spaces.data]);
  const namespace = id ?? first ?? "default";
  const pages = usePages([namespace, query]);
  const entries = useAnswer(
    ["memory"],
    (deck) => deck.call("memory_usage", {
      action: query ? "search" : "list",
      namespace,
      limit: PAGE,
      ...(query ? { query } : {}),
      ...(pages.cursor ? { cursor: pages.cursor } : {}),
    }, { exact: true }),
    [namespace, query, pages.cursor],
  );
  const off = deck.readOnly || deck.phase !== "live";
  const rows = entries.data?.results ?? entries.data?.entries;
  const skew = entries.data ? Date.parse(entries.data.timestamp) - entries.at : 0;

  async function restore(key) {
    try {
      const { version } = await deck.call("memory_usage", { action: "restore", namespace, key });
      tell("done", "Restored", `${key} is there again, as version ${version}.`);
    } catch (error) {
      tell("bad", "Not restored", reasonOf(error));
    }
    deck.changed(["memory"]);
  }

  async function remove(entry) {
    try {
      await deck.call("memory_usage", { action: "delete", namespace, key: entry.key, ifVersion: entry.version });
      tell("done", "Deleted", entry.key, { label: "Undo", run: () => restore(entry.key) });
    } catch (error) {
      tell("bad", "Not deleted", reasonOf(error));
    }
    deck.changed(["memory"]);
  }

  return html`
    <div class="split">
      <nav class="list" aria-label="Namespaces">
        <h2>Namespaces</h2>
        ${!spaces.data ? html`<${Waiting} answer=${spaces} what="namespaces" />` : html`
          <ul>
            ${withChosen(known, namespace).map((space) => html`
              <li key=${space.namespace}>
                <a href="#memory/${encodeURIComponent(space.namespace)}" aria-current=${space.namespace === namespace ? "true" : null}
                  onClick=${(event) => { event.preventDefault(); open(space.namespace); }}>
                  <span>${space.namespace}</span>
                  <span class="sub">${count(space.count)} · ${bytes(space.bytes)}</span>
                </a>
              </li>`)}
          </ul>`}
      </nav>
      <section aria-label="Entries">
        <div class="bar">
          <h2>${namespace}</h2>
          <input type="search" aria-label="Search ${namespace}" placeholder="Search keys and values" value=${words}
            onInput=${(event) => setWords(event.target.value)} />
          <button type="button" aria-disabled=${off} onClick=${() => off || setDialog({ kind: "restore" })}>Restore …</button>
          <button type="button" class="first" aria-disabled=${off} onClick=${() => off || setDialog({ kind: "edit" })}>New entry</button>
        </div>
        <${Stale} answer=${entries} />
        ${!rows ? html`<${Waiting} answer=${entries} what="entries" />`
          : rows.length === 0 ? (query
            ? html`<${Empty} title="Nothing found.">No entry of ${namespace} has all of these words.<//>`
            : html`<${Empty} title="No entries.">Clients and agents store them with <code>memory_usage</code>.<//>`)
          : html`
            <${Table} label="Entries of ${namespace}" columns=${COLUMNS}>
              ${rows.map((entry) => html`
                <${Row} key=${entry.key} entry=${entry} skew=${skew} off=${off} reload=${entries.reload}
                  onEdit=${() => setDialog({ kind: "edit", key: entry.key })}
                  onDelete=${() => setDialog({ kind: "delete", entry })} />`)}
            <//>`}
        ${entries.data && html`<${Pager} pages=${pages} next=${entries.data.nextCursor} what="entries" />`}
      </section>
    </div>
    ${dialog?.kind === "edit" && html`
      <${MemoryEditor} namespace=${namespace} entryKey=${dialog.key} off=${off} onRestore=${restore}
        onClose=${() => setDialog(null)} />`}
    ${dialog?.kind === "delete" && html`
      <${Confirm} title="Delete this entry?" verb="Delete" onYes=${() => remove(dialog.entry)} onClose=${() => setDialog(null)}>
        <p><code>${dialog.entry.key}</code> in ${namespace}. It can be restored for a while.</p>
      <//>`}
    ${dialog?.kind === "restore" && html`
      <${Restore} namespace=${namespace} onRestore=${restore} onClose=${() => setDialog(null)} />`}`;
}

function withChosen(known, chosen) {
  return known.some((space) => space.namespace === chosen) ? known : [...known, { namespace: chosen, count: 0, bytes: 0 }];
}

function Row({ entry, skew, off, reload, onEdit, onDelete }) {
  return html`
    <tr role="row">
      <${Cell} label="Key">
        <button type="button" class="link id" title=${entry.key} onClick=${onEdit}>${entry.key}</button>
      <//>
      <${Cell} label="Value" kind="value">
        <span>${entry.value === undefined ? html`<span class="faint">too large for the list</span>` : shorten(json(entry.value))}</span>
      <//>
      <${Cell} label="Version" kind="number">${entry.version}<//>
      <${Cell} label="Size" kind="number">${bytes(entry.size)}<//>
      <${Cell} label="Updated"><${Moment} at=${entry.updatedAt} /><//>
      <${Cell} label="Time left" kind="number"><${TimeLeft} until=${entry.expiresAt} skew=${skew} onOver=${reload} /><//>
      <${Cell} label="Actions" kind="last">
        <span class="actions">
          <button type="button" aria-label="Edit ${entry.key}" onClick=${onEdit}>${off ? "Show" : "Edit"}</button>
          <button type="button" class="danger" aria-label="Delete ${entry.key}" aria-disabled=${off}
            onClick=${() => off || onDelete()}>Delete</button>
        </span>
      <//>
    </tr>`;
}

function TimeLeft({ until, skew, onOver }) {
  const now = useNow(until !== null) + skew;
  const left = until === null ? null : Date.parse(until) - now;
  const over = left !== null && left <= 0;
  useEffect(() => {
    if (over) onOver();
  }, [over]);
  if (left === null) return html`<span class="faint">for ever</span>`;
  return html`<time class=${left < 60_000 ? "hold-text" : ""} datetime=${until} title="until ${new Date(until).toString()}">${
    over ? "expired" : duration(Math.ceil(left / 1000) * 1000)}</time>`;
}

function Restore({ namespace, onRestore, onClose }) {
  const [key, setKey] = useState("");
  const submit = (event) => {
    event.preventDefault();
    if (!key) return;
    onClose();
    onRestore(key);
  };
  return html`
    <${Dialog} title="Restore an entry" onClose=${onClose}>
      <form onSubmit=${submit}>
        <div class="sheet-body">
          <p>Brings back what a key of ${namespace} held before it was last deleted, overwritten or expired.</p>
          <label>Key <input value=${key} onInput=${(event) => setKey(event.target.value)} autofocus /></label>
        </div>
        <footer class="sheet-foot">
          <button type="button" onClick=${onClose}>Cancel</button>
          <button type="submit" class="first">Restore</button>
        </footer>
      </form>
    <//>`;
}
