// What came of the things that a person did: shown, and read out by screen readers.

import { useEffect, useLayoutEffect, useRef, useState } from "./vendor/hooks.js";
import { html } from "./html.js";

const LEAVES_AFTER = 7000; // ms; what failed stays until it is dismissed

let shown = [];
let next = 1;
let redraw = () => {};

// `tone` is done, hold (accepted, not yet true) or bad; `action` is {label, run}, something to do about it.
export function tell(tone, title, text = "", action = null) {
  const message = { id: next++, tone, title, text, action };
  shown = [...shown.slice(-3), message];
  redraw(shown);
  if (tone !== "bad") setTimeout(dismiss, LEAVES_AFTER, message.id);
}

function dismiss(id) {
  shown = shown.filter((message) => message.id !== id);
  redraw(shown);
}

export function Messages() {
  const [messages, setMessages] = useState(shown);
  const ref = useRef(null);
  useEffect(() => {
    redraw = setMessages;
  }, []);
  useLayoutEffect(() => { // above a dialog, too, that was opened meanwhile
    ref.current.hidePopover();
    ref.current.showPopover();
  }, [messages]);
  return html`
    <section ref=${ref} popover="manual" class="messages" aria-label="Messages" aria-live="polite">
      ${messages.map((message) => html`
        <div key=${message.id} class="message ${message.tone}">
          <div>
            <strong>${message.title}</strong>
            ${message.text && html`<p>${message.text}</p>`}
          </div>
          ${message.action && html`
            <button type="button" onClick=${() => { dismiss(message.id); message.action.run(); }}>
              ${message.action.label}
            </button>`}
          <button type="button" class="quiet" aria-label="Dismiss" onClick=${() => dismiss(message.id)}>✕</button>
        </div>`)}
    </section>`;
}
