// Uploads: what was stored, and a place to drop files on.

import { useRef, useState } from "./vendor/hooks.js";
import { html } from "./html.js";
import { useAnswer, useDeck } from "./deck.js";
import { bytes, percent, plural, shorten } from "./format.js";
import { Cell, Confirm, Dialog, Empty, Json, Moment, PAGE, Pager, reasonOf, Stale, Table, usePages, Waiting } from "./parts.js";
import { tell } from "./messages.js";

const COLUMNS = [["Name"], ["Type"], ["Size", "number"], ["Uploaded"], ["SHA-256"], ["Actions"]];
const PREVIEW = 65_536; // bytes

export function Uploads() {
  const deck = useDeck();
  const [dialog, setDialog] = useState(null);
  const pages = usePages([]);
  const answer = useAnswer(
    ["uploads"],
    (deck) => deck.call("uploads", { action: "list", limit: PAGE, ...(pages.cursor ? { cursor: pages.cursor } : {}) }),
    [pages.cursor],
  );
  const { data } = answer;
  const off = deck.readOnly || deck.phase !== "live";

  async function remove(upload) {
    try {
      await deck.call("uploads", { action: "delete", key: upload.key });
      tell("done", "Deleted", upload.originalName);
    } catch (error) {
      tell("bad", "Not deleted", reasonOf(error));
    }
    deck.changed(["uploads"]);
  }

  return html`
    <${DropZone} off=${off} />
    <div class="bar"><h2>Stored files</h2></div>
    <${Stale} answer=${answer} />
    ${!data ? html`<${Waiting} answer=${answer} what="uploads" />`
      : data.uploads.length === 0 ? html`<${Empty} title="No uploads yet.">Drop files above, or let a client call <code>upload</code>.<//>`
      : html`
        <${Table} label="Uploads" columns=${COLUMNS}>
          ${data.uploads.map((upload) => html`
            <${Row} key=${upload.key} of=${upload} off=${off} onShow=${() => setDialog({ kind: "show", upload })}
              onDelete=${() => setDialog({ kind: "delete", upload })} />`)}
        <//>`}
    ${data && html`<${Pager} pages=${pages} next=${data.nextCursor} what="uploads" />`}
    ${dialog?.kind === "show" && html`<${Preview} of=${dialog.upload} onClose=${() => setDialog(null)} />`}
    ${dialog?.kind === "delete" && html`
      <${Confirm} title="Delete this file?" verb="Delete" onYes=${() => remove(dialog.upload)} onClose=${() => setDialog(null)}>
        <p><strong>${dialog.upload.originalName}</strong>, ${bytes(dialog.upload.size)}. This cannot be undone.</p>
      <//>`}`;
}

function DropZone({ off }) {
  const deck = useDeck();
  const input = useRef(null);
  const [over, setOver] = useState(false);
  const [sending, setSending] = useState(null);

  async function send(list) {
    const files = [...list];
    if (off || sending || files.length === 0) return;
    setSending({ files: files.length, share: 0 });
    try {
      const done = await deck.transport.upload(files, (sent, total) => setSending({ files: files.length, share: sent / total }));
      const text = [done.message, ...(done.warnings ?? [])].filter(Boolean).join(" ");
      tell(done.warnings ? "hold" : "done", `${plural(done.count, "file")} uploaded`, text || files.map((file) => file.name).join(", "));
    } catch (error) {
      tell("bad", "Nothing was uploaded", reasonOf(error));
    }
    setSending(null);
    deck.changed(["uploads"]);
  }

  return html`
    <div class="drop ${over ? "over" : ""}" role="group" aria-label="Upload files" aria-busy=${sending !== null}
      onDragOver=${(event) => { event.preventDefault(); setOver(!off); }}
      onDragLeave=${() => setOver(false)}
      onDrop=${(event) => { event.preventDefault(); setOver(false); send(event.dataTransfer.files); }}>
      ${sending ? html`
        <p>${plural(sending.files, "file")}: ${sending.share < 1 ? `${percent(sending.share)} sent` : "sent, being stored"}</p>
        <progress value=${sending.share} max="1" aria-label="Upload"></progress>`
      : html`
        <p><strong>Drop files here</strong></p>
        <p class="sub">${off ? "Not possible now: this page may only read, or is not connected." : "Up to 20 at once, 100 MB each. Nothing is overwritten."}</p>
        <button type="button" aria-disabled=${off} onClick=${() => off || input.current.click()}>Choose files …</button>`}
      <input ref=${input} type="file" multiple hidden aria-label="Files to upload"
        onChange=${(event) => { send(event.target.files); event.target.value = ""; }} />
    </div>`;
}

function Row({ of, off, onShow, onDelete }) {
  const deck = useDeck();
  return html`
    <tr role="row">
      <${Cell} label="Name"><button type="button" class="link" title=${of.key} onClick=${onShow}>${of.originalName}</button><//>
      <${Cell} label="Type">${of.type}<//>
      <${Cell} label="Size" kind="number">${bytes(of.size)}<//>
      <${Cell} label="Uploaded"><${Moment} at=${of.createdAt} /><//>
      <${Cell} label="SHA-256"><span class="id" title=${of.sha256}>${of.sha256 ? of.sha256.slice(0, 12) : "–"}</span><//>
      <${Cell} label="Actions" kind="last">
        <span class="actions">
          ${!deck.transport.embedded && html`
            <button type="button" aria-label="Download ${of.originalName}" onClick=${() => download(deck, of)}>Download</button>`}
          <button type="button" class="danger" aria-label="Delete ${of.originalName}" aria-disabled=${off}
            onClick=${() => off || onDelete()}>Delete</button>
        </span>
      <//>
    </tr>`;
}

function Preview({ of, onClose }) {
  const answer = useAnswer([], (deck) => deck.call("uploads", { action: "read", key: of.key, length: PREVIEW }), [of.key]);
  return html`
    <${Dialog} title=${of.originalName} side onClose=${onClose}>
      <div class="sheet-body">
        <p class="sub">${of.type}, ${bytes(of.size)}, <code>${of.key}</code></p>
        ${answer.data ? html`
          <${Json} value=${answer.data.content} label="Content" />
          ${answer.data.nextOffset !== undefined && html`<p class="sub">The first ${bytes(answer.data.length)}.</p>`}`
        : answer.error ? html`<p class="note">It cannot be shown as text: ${shorten(reasonOf(answer.error))}</p>`
        : html`<${Waiting} answer=${answer} what="the file" />`}
      </div>
    <//>`;
}

// By fetch and not by a link: the token goes with it.
async function download(deck, { key, originalName }) {
  let content;
  try {
    content = await deck.transport.download(key);
  } catch (error) {
    tell("bad", "Not downloaded", `${originalName}: ${reasonOf(error)}`);
    return;
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = originalName;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
