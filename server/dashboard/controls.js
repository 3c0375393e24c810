// Controls of a query, and what came of them: as it is, not as one would wish.

import { useEffect, useRef, useState } from "./vendor/hooks.js";
import { html } from "./html.js";
import { useDeck } from "./deck.js";
import { Confirm, Dialog } from "./parts.js";
import { details, plural, shorten } from "./format.js";
import { tell } from "./messages.js";

const MODELS = ["small", "medium", "large"];
const ENDED = ["completed", "failed", "terminated"];
const NAMES = { pause: "Pause", resume: "Resume", terminate: "Terminate", change_model: "Change of model" };

export function isLive(status) {
  return !ENDED.includes(status) && status !== "interrupted";
}

// What was seen, in few words.
export function observation(outcome) {
  const { observed, level, lossless, effectiveAt } = outcome;
  const parts = [];
  if (level) parts.push(level);
  if (level && lossless === false) parts.push("what was at work is lost");
  if (observed?.pids) parts.push(`${plural(observed.pids.length, "process", "processes")} ${observed.state}`);
  else if (observed) parts.push(shorten(details(observed), 120));
  if (effectiveAt && effectiveAt !== "now") parts.push(`takes effect at the ${effectiveAt.replace("_", " ")}`);
  return parts.join(", ");
}

function tellOutcome(action, id, outcome) {
  const what = `${NAMES[action]}: ${outcome.status}`;
  const seen = observation(outcome);
  tell(outcome.status === "applied" ? "done" : "hold", what, seen ? `${id}: ${seen}` : id);
}

function tellRefusal(action, id, error) {
  const { status, reason, alternatives } = error.answer ?? {};
  const instead = alternatives?.length ? ` Possible instead: ${alternatives.join(", ")}.` : "";
  tell("bad", `${NAMES[action]}: ${status ?? "refused"}`, `${id}: ${reason ?? error.message}.${instead}`.replace("..", "."));
}

// The controls of one query. They stay the same elements while it changes, so that the focus stays too.
export function QueryControls({ query }) {
  const deck = useDeck();
  const [asked, setAsked] = useState(null);
  const [dialog, setDialog] = useState(null);
  const id = query.queryId;

  async function control(action, more = {}) {
    if (asked) return;
    setAsked(action);
    try {
      tellOutcome(action, id, await deck.call("query_control", { action, queryId: id, ...more }));
    } catch (error) {
      tellRefusal(action, id, error);
    }
    setAsked(null);
    deck.changed(["queries"]);
  }

  const stands = query.status === "paused" || query.status === "pausing" || query.status === "interrupted";
  const first = stands ? "resume" : "pause";
  const box = useFocusKept(ENDED.includes(query.status));
  if (ENDED.includes(query.status)) return html`<span class="actions" ref=${box} tabindex="-1" role="group" aria-label="No actions: it has ended"></span>`;
  const off = deck.readOnly || deck.phase !== "live";
  const button = (action, label, kind, run) => html`
    <button type="button" key=${kind} class=${kind} aria-disabled=${off || asked !== null} aria-busy=${asked === action}
      title=${deck.readOnly ? "This page may only read" : null} aria-label="${label} ${id}"
      onClick=${() => off || asked || run()}>${label}</button>`;
  return html`
    <span class="actions" ref=${box}>
      ${button(first, NAMES[first], "first", () => control(first))}
      ${query.status !== "interrupted" && button("terminate", "Terminate", "danger", () => setDialog("terminate"))}
      ${query.status !== "interrupted" && html`
        <select aria-label="Change the model of ${id}" aria-busy=${asked === "change_model"} disabled=${off} value=""
          onChange=${(event) => {
            const model = event.target.value;
            event.target.value = "";
            if (model === "other") setDialog("model");
            else if (model) control("change_model", { model });
          }}>
          <option value="">Model</option>
          ${MODELS.map((model) => html`<option value=${model}>${model}</option>`)}
          <option value="other">another …</option>
        </select>`}
    </span>
    ${dialog === "terminate" && html`
      <${Confirm} title="Terminate this query?" verb="Terminate" onYes=${() => control("terminate")}
        onClose=${() => setDialog(null)}>
        <p><code>${id}</code> ends at once. What it has not finished is lost and cannot be resumed.</p>
      <//>`}
    ${dialog === "model" && html`
      <${OtherModel} id=${id} onModel=${(model) => control("change_model", { model })} onClose=${() => setDialog(null)} />`}`;
}

// When the controls go because the query has ended, a person who was on one of them is not thrown to the page's top.
function useFocusKept(ended) {
  const box = useRef(null);
  const inside = useRef(false);
  useEffect(() => {
    const note = () => {
      if (document.activeElement !== document.body) inside.current = Boolean(box.current?.contains(document.activeElement));
    };
    document.addEventListener("focusin", note);
    return () => document.removeEventListener("focusin", note);
  }, []);
  useEffect(() => {
    if (ended && inside.current && document.activeElement === document.body) box.current?.focus();
  }, [ended]);
  return box;
}

function OtherModel({ id, onModel, onClose }) {
  const [model, setModel] = useState("");
  const submit = (event) => {
    event.preventDefault();
    if (!model.trim()) return;
    onClose();
    onModel(model.trim());
  };
  return html`
    <${Dialog} title="Another model" onClose=${onClose}>
      <form onSubmit=${submit}>
        <div class="sheet-body">
          <label>Model for <code>${id}</code>
            <input value=${model} onInput=${(event) => setModel(event.target.value)} autofocus
              placeholder="a name of the type's configuration" />
          </label>
        </div>
        <footer class="sheet-foot">
          <button type="button" onClick=${onClose}>Cancel</button>
          <button type="submit" class="first">Change</button>
        </footer>
      </form>
    <//>`;
}
