// One memory from near: its value as JSON, to be changed only if nobody else has changed it meanwhile.

import { useEffect, useState } from "./vendor/hooks.js";
import { html } from "./html.js";
import { useDeck } from "./deck.js";
import { parseExact } from "./exact.js";
import { Dialog, reasonOf } from "./parts.js";
import { tell } from "./messages.js";

// Without an `entryKey` it makes a new entry.
export function MemoryEditor({ namespace, entryKey, off, onRestore, onClose }) {
  const deck = useDeck();
  const [key, setKey] = useState(entryKey ?? "");
  const [text, setText] = useState("");
  const [ttl, setTtl] = useState("");
  const [kept, setKept] = useState(entryKey === undefined ? { version: 0, expiresAt: null } : null);
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);

  async function load() {
    setProblem(null);
    try {
      const found = await deck.call("memory_usage", { action: "retrieve", namespace, key: entryKey }, { exact: true });
      if (!found.found) throw new Error("it is not there any more");
      setText(JSON.stringify(found.value, null, 2));
      setTtl(found.expiresAt === null ? "0" : String(Math.max(1, Math.round((Date.parse(found.expiresAt) - Date.parse(found.timestamp)) / 1000))));
      setKept({ version: Number(found.version), expiresAt: found.expiresAt });
    } catch (error) {
      setProblem(reasonOf(error));
    }
  }

  useEffect(() => {
    if (entryKey !== undefined) load();
  }, []);

  async function save(event) {
    event.preventDefault();
    if (busy || off) return;
    let value;
    try {
      value = parseExact(text);
    } catch (error) {
      setProblem(`The value is not JSON: ${error.message}. A text stands in "quotes".`);
      return;
    }
    setBusy(true);
    try {
      const stored = await deck.call("memory_usage", {
        action: "store", namespace, key, value, ifVersion: kept.version, ...(ttl === "" ? {} : { ttl: Number(ttl) }),
      });
      tell("done", "Stored", `${key}, version ${stored.version}`);
      deck.changed(["memory"]);
      onClose();
    } catch (error) {
      setProblem(reasonOf(error));
      setBusy(false);
    }
  }

  return html`
    <${Dialog} title=${entryKey ?? "New entry"} onClose=${onClose}>
      <form onSubmit=${save}>
        <div class="sheet-body">
          ${entryKey === undefined && html`
            <label>Key <input required value=${key} onInput=${(event) => setKey(event.target.value)} autofocus /></label>`}
          <label>Value, as JSON
            <textarea rows="12" spellcheck=${false} value=${text} readonly=${off} disabled=${kept === null}
              onInput=${(event) => setText(event.target.value)}></textarea>
          </label>
          <label>Seconds to live from now (0: for ever; empty: as the deck is set)
            <input type="number" min="0" step="any" value=${ttl} readonly=${off} disabled=${kept === null}
              onInput=${(event) => setTtl(event.target.value)} />
          </label>
          <p class="sub">${kept === null ? "Loading …" : kept.version === 0 ? `in ${namespace}` : `${namespace}, version ${kept.version}`}</p>
          <div aria-live="assertive">${problem && html`<p class="note bad">${problem}</p>`}</div>
        </div>
        <footer class="sheet-foot">
          ${entryKey !== undefined && !off && html`
            <button type="button" class="far" onClick=${() => { onClose(); onRestore(entryKey); }}>Restore the value before</button>`}
          ${entryKey !== undefined && problem && html`<button type="button" onClick=${load}>Load anew</button>`}
          <button type="button" onClick=${onClose}>${off ? "Close" : "Cancel"}</button>
          ${!off && html`<button type="submit" class="first" aria-disabled=${busy || kept === null} disabled=${kept === null}>Store</button>`}
        </footer>
      </form>
    <//>`;
}
