// The deck inside a chat: the page is an MCP App and talks JSON-RPC with its host, which passes calls on to the server.
// No events come this way: what is shown is asked for again while it can be seen.

import { Refusal, Unreachable } from "./errors.js";
import { parseExact, parseReport, plainCopy } from "./exact.js";

const PROTOCOL = "2026-01-26";
const BUSY = 2500; // ms between two looks at agents and queries ...
const CALM = 10_000; // ... and at the rest
const INLINE = 1 << 20; // bytes of a file that the tool `upload` takes as content

export class HostTransport {
  embedded = true;
  #sink = null;
  #next = 1;
  #waiting = new Map();
  #initialized = false;
  #looking = false;

  async start(sink) {
    this.#sink = sink;
    addEventListener("message", (event) => event.source === parent && this.#take(event.data));
    await this.#connect();
  }

  // Try to connect now.
  retry() {
    this.#connect();
  }

  async #connect() {
    const sink = this.#sink;
    try {
      if (!this.#initialized) {
        const { hostContext } = await this.#request("ui/initialize", {
          appInfo: { name: "quarterdeck", title: "Quarterdeck", version: "1" },
          appCapabilities: {},
          protocolVersion: PROTOCOL,
        });
        this.#initialized = true;
        sink.hostContext(hostContext ?? {});
        this.#send({ method: "ui/notifications/initialized", params: {} });
        this.#reportSize();
      }
      const { version, flags } = await this.call("server_status");
      sink.hello({ version, flags, readOnly: flags.FEATURE_QUERY_CONTROL === false });
    } catch (error) {
      sink.lost(error.message, null);
      return;
    }
    if (this.#looking) return;
    this.#looking = true;
    setInterval(() => sink.changed(["queries", "agents"]), BUSY);
    setInterval(() => sink.changed(["memory", "uploads", "vectors"]), CALM);
  }

  async call(tool, args = {}, { exact = false } = {}) {
    const plain = plainCopy(args);
    if (plain === null) throw new Refusal({ error: "a number in it is too long or too exact to pass through this chat" });
    const result = await this.#request("tools/call", { name: tool, arguments: plain });
    const text = result.content?.find((part) => part.type === "text")?.text;
    let answer = result.structuredContent;
    if (exact || answer === undefined) {
      try {
        answer = parseExact(text);
      } catch {
        answer ??= { error: text };
      }
    }
    if (result.isError) throw new Refusal(answer);
    return answer;
  }

  async report(kind, id) {
    const { contents } = await this.#request("resources/read", { uri: `${kind}://${id}` });
    return parseReport(contents[0].text);
  }

  async upload(files, onProgress) {
    const large = files.find((file) => file.size > INLINE);
    if (large) {
      throw new Refusal({ error: `${large.name}: inside a chat, files have at most 1 MB; open the dashboard in a browser` });
    }
    const total = files.reduce((sum, file) => sum + file.size, 0);
    const inline = [];
    for (const file of files) inline.push({ name: file.name, content: await base64(file), encoding: "base64" });
    onProgress(total, total);
    return this.call("upload", { files: inline });
  }

  #request(method, params) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#send({ id, method, params });
    });
  }

  #send(message) {
    parent.postMessage({ jsonrpc: "2.0", ...message }, "*");
  }

  #take(message) {
    if (message?.jsonrpc !== "2.0") return;
    if (message.method === undefined) {
      const call = this.#waiting.get(message.id);
      this.#waiting.delete(message.id);
      if (message.error) call?.reject(new Unreachable(message.error.message));
      else call?.resolve(message.result);
    } else if (message.method === "ui/notifications/host-context-changed") {
      this.#sink.hostContext(message.params);
    } else if (message.id !== undefined) {
      const known = message.method === "ping" || message.method === "ui/resource-teardown";
      const unknown = { code: -32601, message: `no method ${message.method}` };
      this.#send(known ? { id: message.id, result: {} } : { id: message.id, error: unknown });
    }
  }

  #reportSize() {
    const tell = () => {
      const { width, height } = document.documentElement.getBoundingClientRect();
      this.#send({
        method: "ui/notifications/size-changed",
        params: { width: Math.ceil(width), height: Math.ceil(height) },
      });
    };
    new ResizeObserver(tell).observe(document.documentElement);
  }
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Unreachable(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
}
