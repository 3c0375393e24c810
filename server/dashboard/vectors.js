// Vectors: collections, what serves their searches, how often the cache did, and a search.

import { useState } from "./vendor/hooks.js";
import { html } from "./html.js";
import { useAnswer, useDeck } from "./deck.js";
import { bytes, count, json, percent, shorten, UNKNOWN } from "./format.js";
import { Cell, Empty, Pager, reasonOf, Stale, Table, usePages, Waiting } from "./parts.js";

const COLUMNS = [
  ["Collection"], ["Points", "number"], ["Dimension", "number"], ["Metric"], ["Index"], ["Quantisation"], ["Embedder"],
  ["Memory", "number"], ["On disk", "number"], ["Cache hits", "number"],
];
const PAGE = 20; // each one is looked at from near

async function load(deck, cursor) {
  const page = await deck.call("vector_collections", { action: "list", limit: PAGE, ...(cursor ? { cursor } : {}) });
  const [status, ...near] = await Promise.all([
    deck.call("server_status"),
    ...page.collections.map(({ collection }) =>
      deck.call("vector_collections", { action: "describe", collection }).then(
        (answer) => answer.collections[0],
        () => null, // dropped in this moment
      ),
    ),
  ]);
  const collections = page.collections.map((one, index) => near[index] ?? one);
  return { collections, nextCursor: page.nextCursor, cache: status.caches.vectors };
}

export function Vectors({ id, open }) {
  const pages = usePages([]);
  const answer = useAnswer(["vectors"], (deck) => load(deck, pages.cursor), [pages.cursor]);
  const { data } = answer;
  if (!data) return html`<${Waiting} answer=${answer} what="collections" />`;
  if (data.collections.length === 0 && pages.number === 1) {
    return html`<${Empty} title="No collections yet.">
      <code>vector_upsert</code> creates one, and <code>upload</code> with <code>index</code> fills one with the text of files.<//>`;
  }
  const chosen = id ?? data.collections[0]?.collection;
  return html`
    <${Stale} answer=${answer} />
    <${Search} collection=${chosen} names=${data.collections.map((one) => one.collection)} onCollection=${open} />
    <div class="bar"><h2>Collections</h2><${CacheFigures} cache=${data.cache} /></div>
    <${Table} label="Collections" columns=${COLUMNS}>
      ${data.collections.map((one) => html`<${Row} key=${one.collection} of=${one} cache=${data.cache.collections[one.collection]} open=${open} />`)}
    <//>
    <${Pager} pages=${pages} next=${data.nextCursor} what="collections" />`;
}

function CacheFigures({ cache }) {
  return html`
    <p class="sub">Cache: ${bytes(cache.cache_bytes)}, ${
      cache.cache_hit_rate === null ? "no search yet" : `${percent(cache.cache_hit_rate)} of searches answered by it`}</p>`;
}

function Row({ of, cache, open }) {
  const { collection, state } = of;
  const kind = (now, wished) => (now && now !== wished ? `${now} (${wished})` : wished);
  return html`
    <tr role="row">
      <${Cell} label="Collection">
        <a href="#vectors/${encodeURIComponent(collection)}" class="id" onClick=${(event) => { event.preventDefault(); open(collection); }}>${collection}</a>
        ${state?.building && html`<span class="sub">the index is being built</span>`}
        ${state?.note && html`<span class="sub">${state.note}</span>`}
      <//>
      <${Cell} label="Points" kind="number">${count(of.count)}<//>
      <${Cell} label="Dimension" kind="number">${of.dimension}<//>
      <${Cell} label="Metric">${of.metric}<//>
      <${Cell} label="Index">${kind(state?.index, of.index)}<//>
      <${Cell} label="Quantisation">${kind(state?.quantization, of.quantization)}<//>
      <${Cell} label="Embedder">${of.embedder ?? html`<span class="faint">own vectors</span>`}<//>
      <${Cell} label="Memory" kind="number">${bytes(state?.ramBytes)}<//>
      <${Cell} label="On disk" kind="number">${bytes(state?.diskBytes)}<//>
      <${Cell} label="Cache hits" kind="number">${percent(cache?.cache_hit_rate)}<//>
    </tr>`;
}

function Search({ collection, names, onCollection }) {
  const deck = useDeck();
  const [words, setWords] = useState("");
  const [mode, setMode] = useState("vector");
  const [found, setFound] = useState(null);
  const all = names.includes(collection) ? names : [...names, collection];

  async function search(event) {
    event.preventDefault();
    if (!words.trim()) return;
    setFound({ busy: true });
    const began = performance.now();
    try {
      const { results } = await deck.call("vector_search", { collection, query: words, mode, limit: 10 });
      setFound({ hits: results[0], ms: performance.now() - began });
      deck.changed(["vectors"]); // the figures of the cache
    } catch (error) {
      setFound({ error });
    }
  }

  return html`
    <form class="bar search" role="search" aria-label="Search vectors" onSubmit=${search}>
      <input type="search" aria-label="What to search for" placeholder="Search ${collection}" value=${words}
        onInput=${(event) => setWords(event.target.value)} />
      <select aria-label="Collection" value=${collection} onChange=${(event) => onCollection(event.target.value)}>
        ${all.map((name) => html`<option value=${name}>${name}</option>`)}
      </select>
      <select aria-label="Mode" value=${mode} onChange=${(event) => setMode(event.target.value)}>
        <option value="vector">by vector</option>
        <option value="text">by words</option>
        <option value="hybrid">both</option>
      </select>
      <button type="submit" class="first">Search</button>
    </form>
    <div aria-live="polite">
      ${found?.busy && html`<p class="note"><span class="spinner" aria-hidden="true"></span>Searching …</p>`}
      ${found?.error && html`<p class="note bad">${reasonOf(found.error)}</p>`}
      ${found?.hits && html`<${Hits} of=${found.hits} ms=${found.ms} />`}
    </div>`;
}

function Hits({ of, ms }) {
  if (of.length === 0) return html`<${Empty} title="Nothing found.">No point of the collection fits.<//>`;
  return html`
    <ol class="hits" aria-label="Found">
      ${of.map(({ id, score, payload }) => html`
        <li key=${id}>
          <span class="score">${score.toFixed(3)}</span>
          <div><strong class="id">${id}</strong><p>${shorten(payload?.text ?? (payload ? json(payload) : UNKNOWN), 320)}</p></div>
        </li>`)}
    </ol>
    <p class="sub">${of.length} found in ${ms.toFixed(0)} ms, the way there and back included</p>`;
}
