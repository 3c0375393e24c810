// The page: which view is shown, whether the deck is reached, and in which light.

import { render } from "./vendor/preact.js";
import { useEffect, useLayoutEffect, useState } from "./vendor/hooks.js";
import { html } from "./html.js";
import { Deck, DeckContext, useDeck, useNow } from "./deck.js";
import { HostTransport } from "./host.js";
import { WebTransport } from "./web.js";
import { Messages } from "./messages.js";
import { Dialog } from "./parts.js";
import { Queries } from "./queries.js";
import { Agents } from "./agents.js";
import { Memory } from "./memory.js";
import { Vectors } from "./vectors.js";
import { Uploads } from "./uploads.js";

const VIEWS = { queries: Queries, agents: Agents, memory: Memory, vectors: Vectors, uploads: Uploads };
const OPENED_BY = { agents_list: "agents" }; // which view a tool of a chat shows first
const embedded = window.parent !== window;

function readRoute() {
  const [view, id] = location.hash.slice(1).split("/");
  try {
    return { view: Object.hasOwn(VIEWS, view) ? view : "queries", id: id ? decodeURIComponent(id) : null };
  } catch { // no such encoding
    return { view: "queries", id: null };
  }
}

function useRoute() {
  const [route, setRoute] = useState(embedded ? { view: "queries", id: null } : readRoute);
  useEffect(() => {
    if (embedded) return undefined;
    const follow = () => setRoute(readRoute());
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  const go = (view, id = null) => {
    if (embedded) setRoute({ view, id });
    else location.hash = id === null ? view : `${view}/${encodeURIComponent(id)}`;
  };
  return [route, go];
}

function App() {
  const deck = useDeck();
  const [{ view, id }, go] = useRoute();
  const tool = deck.context.toolInfo?.tool.name;
  useEffect(() => {
    if (OPENED_BY[tool]) go(OPENED_BY[tool]);
  }, [tool]);
  useEffect(() => {
    document.title = `${view[0].toUpperCase()}${view.slice(1)} · Quarterdeck`;
  }, [view]);
  const View = VIEWS[view];
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById("main").focus(); }}>
      To the content</a>
    <header class="top">
      <h1><${Mark} /> Quarterdeck</h1>
      <nav aria-label="Views">
        ${Object.keys(VIEWS).map((name) => html`
          <a key=${name} href="#${name}" aria-current=${name === view ? "page" : null}
            onClick=${(event) => { event.preventDefault(); go(name); }}>${name[0].toUpperCase()}${name.slice(1)}</a>`)}
      </nav>
      <${Connection} />
      <${Light} />
    </header>
    <${Banner} />
    <main id="main" tabindex="-1" aria-label=${view}>
      <${View} key=${view} id=${id} open=${(next) => go(view, next)} />
    </main>
    <${Messages} />
    ${deck.phase === "locked" && html`<${Unlock} />`}`;
}

function Mark() {
  return html`
    <svg class="mark" viewBox="0 0 24 24" aria-hidden="true">
      <circle cx="12" cy="12" r="7" /><circle cx="12" cy="12" r="2" />
      <path d="M12 1v22M1 12h22M4.2 4.2l15.6 15.6M19.8 4.2L4.2 19.8" />
    </svg>`;
}

const PHASES = { connecting: ["quiet", "Connecting"], live: ["done", "Live"], lost: ["bad", "Disconnected"], locked: ["hold", "Locked"] };

function Connection() {
  const deck = useDeck();
  const [tone, text] = PHASES[deck.phase];
  return html`
    <p class="connection badge ${tone}" role="status" title=${deck.version ? `Quarterdeck ${deck.version}` : null}>
      <span class="dot" aria-hidden="true"></span>${text}${deck.phase === "live" && deck.readOnly ? ", read only" : ""}
    </p>`;
}

function Banner() {
  const deck = useDeck();
  const now = useNow(deck.phase === "lost");
  if (deck.phase !== "lost") return null;
  const seconds = deck.retryAt === null ? null : Math.max(0, Math.ceil((deck.retryAt - now) / 1000));
  return html`
    <div class="banner" role="alert">
      <p><strong>Disconnected.</strong> What is shown may be old: ${deck.reason}.</p>
      ${seconds !== null && html`<p aria-live="off">${seconds > 0 ? `Trying again in ${seconds} s.` : "Trying again …"}</p>`}
      <button type="button" onClick=${() => deck.transport.retry()}>Try now</button>
    </div>`;
}

function Unlock() {
  const deck = useDeck();
  const [token, setToken] = useState("");
  const submit = (event) => {
    event.preventDefault();
    if (token.trim()) deck.transport.retry(token.trim());
  };
  return html`
    <${Dialog} title="This deck needs a token">
      <form onSubmit=${submit}>
        <div class="sheet-body">
          <p>It is the one that the server was started with, or one of its configuration. It stays in this tab.</p>
          <label>Token
            <input type="password" autocomplete="off" value=${token} autofocus onInput=${(event) => setToken(event.target.value)} />
          </label>
          <div aria-live="assertive">${deck.rejected && html`<p class="note bad">The server does not take this token.</p>`}</div>
        </div>
        <footer class="sheet-foot"><button type="submit" class="first">Open</button></footer>
      </form>
    <//>`;
}

// Light or dark: as the system or the chat has it, until a person chooses.
const CHOICE = "quarterdeck-theme";

function chosenTheme() {
  try {
    return localStorage.getItem(CHOICE);
  } catch {
    return null; // a page inside a chat has no storage
  }
}

function Light() {
  const { context } = useDeck();
  const [choice, setChoice] = useState(chosenTheme);
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const theme = choice ?? context.theme ?? system;
  useLayoutEffect(() => { // before anybody sees the button that says so
    const forced = choice ?? context.theme;
    if (forced) document.documentElement.dataset.theme = forced;
  }, [choice, context.theme]);
  const other = theme === "dark" ? "light" : "dark";
  function turn() {
    setChoice(other);
    try {
      localStorage.setItem(CHOICE, other);
    } catch {
      // it lasts as long as the page
    }
  }
  return html`
    <button type="button" class="quiet light" aria-label="Switch to ${other} colours" onClick=${turn}>
      <svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="8" /><path class="half" d="M12 4a8 8 0 0 1 0 16z" /></svg>
    </button>`;
}

const deck = new Deck(embedded ? new HostTransport() : new WebTransport());
const root = document.getElementById("app");
root.replaceChildren();
render(html`<${DeckContext.Provider} value=${deck}><${App} /><//>`, root);
deck.start();
