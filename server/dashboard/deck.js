// What the page knows of its deck: whether it is reached, what may be done, and when to look again.

import { createContext } from "./vendor/preact.js";
import { useContext, useEffect, useReducer, useRef, useState } from "./vendor/hooks.js";

const LOOK_AFTER = 400; // ms between two looks of one view at the same thing: what changes meanwhile is one look
const ALL = ["agents", "queries", "memory", "uploads", "vectors"];

export class Deck {
  phase = "connecting"; // live | lost | locked
  version = null;
  readOnly = false;
  reason = null; // why it is lost
  retryAt = null; // when it is tried again
  rejected = false; // the token was wrong
  context = {}; // what a chat's host says of itself
  #watchers = new Set();
  #listeners = new Set();
  #unseen = new Set();

  constructor(transport) {
    this.transport = transport;
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.changed([]);
    });
  }

  start() {
    this.transport.start(this);
  }

  // What the transport tells.

  hello({ version, readOnly }) {
    const back = this.phase !== "connecting";
    this.#become({ phase: "live", version, readOnly, reason: null, retryAt: null, rejected: false });
    if (back) this.changed(ALL);
  }

  lost(reason, wait) {
    this.#become({ phase: "lost", reason, retryAt: wait === null ? null : Date.now() + wait });
  }

  locked(rejected) {
    this.#become({ phase: "locked", rejected });
  }

  hostContext(context) {
    this.#become({ context: { ...this.context, ...context } });
  }

  changed(what) {
    for (const topic of what) this.#unseen.add(topic);
    if (document.hidden) return;
    const topics = this.#unseen;
    this.#unseen = new Set();
    for (const listener of this.#listeners) {
      if (listener.topics.some((topic) => topics.has(topic))) listener.look();
    }
  }

  // What the views ask.

  call(tool, args, options) {
    return this.transport.call(tool, args, options);
  }

  listen(topics, look) {
    const listener = { topics, look };
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  watch(watcher) {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }

  #become(state) {
    Object.assign(this, state);
    for (const watcher of this.#watchers) watcher();
  }
}

export const DeckContext = createContext(null);

// The deck; the component is drawn again when its connection or rights change.
export function useDeck() {
  const deck = useContext(DeckContext);
  const [, redraw] = useReducer((n) => n + 1, 0);
  useEffect(() => deck.watch(redraw), [deck]);
  return deck;
}

// What `load(deck)` answers, asked again whenever one of `topics` changes, and every `every` ms if that is given.
// While it is asked again, and if that fails, the old answer stays: {data, at, error, loading, reload}.
export function useAnswer(topics, load, deps, every = null) {
  const deck = useContext(DeckContext);
  const [state, setState] = useState({ loading: true });
  const look = useRef(() => {});
  useEffect(() => {
    let gone = false;
    let busy = false;
    let again = false;
    let last = 0;
    let timer = null;

    async function run() {
      timer = null;
      busy = true;
      try {
        const data = await load(deck);
        if (!gone) setState({ data, at: Date.now(), loading: false });
      } catch (error) {
        if (!gone) setState((before) => ({ data: before.data, at: before.at, error, loading: false }));
      }
      last = performance.now();
      busy = false;
      if (again) soon();
    }

    function soon() {
      again = busy;
      if (gone || busy || timer !== null) return;
      timer = setTimeout(run, Math.max(0, last + LOOK_AFTER - performance.now()));
    }

    look.current = soon;
    setState((before) => ({ ...before, loading: true }));
    run();
    const stop = deck.listen(topics, soon);
    const beat = every === null ? null : setInterval(() => document.hidden || soon(), every);
    return () => {
      gone = true;
      stop();
      clearTimeout(timer);
      clearInterval(beat);
    };
  }, [deck, every, ...deps]);
  return { ...state, reload: () => look.current() };
}

// The present moment, anew each second: one timer for all that count.
const counting = new Set();
setInterval(() => document.hidden || counting.forEach((tick) => tick()), 1000);

export function useNow(active = true) {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (!active) return undefined;
    const tick = () => setNow(Date.now());
    tick();
    counting.add(tick);
    return () => counting.delete(tick);
  }, [active]);
  return now;
}
