// A chat's host, reduced to what it does for an app: the official bridge, whose calls go to the test's MCP client.

import { AppBridge, PostMessageTransport } from "@modelcontextprotocol/ext-apps/app-bridge";

window.show = async (html, hostContext) => {
  const frame = document.querySelector("iframe");
  frame.sandbox = "allow-scripts";
  const bridge = new AppBridge(null, { name: "host", version: "1" }, { serverTools: {}, serverResources: {} }, { hostContext });
  bridge.oncalltool = (params) => window.callTool(params.name, params.arguments ?? {});
  bridge.onreadresource = (params) => window.readResource(params.uri);
  bridge.onsizechange = ({ height }) => {
    frame.style.height = `${height}px`;
  };
  const ready = new Promise((resolve) => {
    bridge.oninitialized = resolve;
  });
  await bridge.connect(new PostMessageTransport(frame.contentWindow, frame.contentWindow));
  frame.srcdoc = html;
  await ready;
  window.bridge = bridge;
};
