// The deck over HTTP: calls by fetch, changes by server-sent events.

import { Refusal, Unreachable } from "./errors.js";
import { parseExact, parseReport } from "./exact.js";

const TOKEN = "quarterdeck-token";
const SILENCE = 40_000; // ms without even the server's ping: the connection is dead
const RETRY = [500, 1000, 2000, 4000, 8000]; // ms

export class WebTransport {
  embedded = false;
  #sink = null;
  #wake = () => {};

  constructor() {
    const given = /^#token=(.+)$/.exec(location.hash);
    if (given) {
      sessionStorage.setItem(TOKEN, decodeURIComponent(given[1]));
      history.replaceState(null, "", location.pathname + location.search);
    }
  }

  // Runs for as long as the page. `sink` is told: hello(info), changed(what), lost(reason, ms), locked(wrong).
  async start(sink) {
    this.#sink = sink;
    for (let failures = 0; ; failures += 1) {
      let wait = RETRY[Math.min(failures, RETRY.length - 1)];
      try {
        await this.#listen(() => {
          failures = -1;
        });
        sink.lost("the server ended the connection", wait);
      } catch (error) {
        if (error instanceof Refusal && error.status === 401) {
          sink.locked(this.#token() !== null);
          wait = null;
        } else {
          sink.lost(error.message, wait);
        }
      }
      await this.#pause(wait);
    }
  }

  // Try to connect now; with the token that a person has typed, if there is one.
  retry(token = null) {
    if (token !== null) sessionStorage.setItem(TOKEN, token);
    this.#wake();
  }

  async call(tool, args = {}, { exact = false } = {}) {
    const response = await this.#fetch(`api/tools/${encodeURIComponent(tool)}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(args),
    });
    return this.#answer(response, exact ? parseExact : JSON.parse);
  }

  // All that is known of one agent or query.
  async report(kind, id) {
    const folder = kind === "agent" ? "agents" : "queries";
    return this.#answer(await this.#fetch(`api/${folder}/${encodeURIComponent(id)}`, {}), parseReport);
  }

  async download(key) {
    const response = await this.#fetch(`api/upload/${key.split("/").map(encodeURIComponent).join("/")}`, {});
    return response.ok ? response.blob() : this.#answer(response, JSON.parse);
  }

  // fetch tells nothing of an upload's progress: XMLHttpRequest does.
  upload(files, onProgress) {
    return new Promise((resolve, reject) => {
      const form = new FormData();
      for (const file of files) form.append("files", file, file.name);
      const request = new XMLHttpRequest();
      request.open("POST", "api/upload");
      const token = this.#token();
      if (token !== null) request.setRequestHeader("Authorization", `Bearer ${token}`);
      request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded, event.total);
      request.onerror = () => reject(new Unreachable("the connection broke in the middle of the upload"));
      request.onload = () => {
        try {
          resolve(this.#judge(request.status, JSON.parse(request.responseText)));
        } catch (error) {
          reject(error instanceof SyntaxError ? new Refusal({}, request.status) : error);
        }
      };
      request.send(form);
    });
  }

  #token() {
    return sessionStorage.getItem(TOKEN);
  }

  async #fetch(path, options) {
    const token = this.#token();
    const headers = token === null ? options.headers : { ...options.headers, Authorization: `Bearer ${token}` };
    try {
      return await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Unreachable("the server cannot be reached");
    }
  }

  async #answer(response, parse) {
    let answer;
    try {
      answer = parse(await response.text());
    } catch {
      throw new Refusal({}, response.status);
    }
    return this.#judge(response.status, answer);
  }

  #judge(status, answer) {
    if (status === 401) this.#sink?.locked(this.#token() !== null);
    if (status >= 400) throw new Refusal(answer, status);
    return answer;
  }

  async #listen(onHello) {
    const abort = new AbortController();
    let timer = setTimeout(() => abort.abort(), SILENCE);
    try {
      const response = await this.#fetch("api/events", { signal: abort.signal });
      if (!response.ok) await this.#answer(response, JSON.parse);
      for await (const { event, data } of events(response.body)) {
        clearTimeout(timer);
        timer = setTimeout(() => abort.abort(), SILENCE);
        if (event === "hello") {
          onHello();
          this.#sink.hello(JSON.parse(data));
        } else if (event === "changed") {
          this.#sink.changed(JSON.parse(data).what);
        }
      }
    } catch (error) {
      throw error.name === "AbortError" ? new Unreachable("the server is silent") : error;
    } finally {
      clearTimeout(timer);
      abort.abort();
    }
  }

  #pause(ms) {
    return new Promise((resolve) => {
      const timer = ms === null ? null : setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

// The events of a stream; its comments, which only show that it lives, are events without a name.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      throw error.name === "AbortError" ? error : new Unreachable("the connection broke");
    }
    if (part.done) return;
    const blocks = (rest + part.value.replaceAll("\r", "")).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const found = { event: null, data: "" };
      for (const line of block.split("\n")) {
        const [, name, text] = /^(event|data): ?(.*)$/.exec(line) ?? [];
        if (name === "event") found.event = text;
        if (name === "data") found.data += text;
      }
      yield found;
    }
  }
}
