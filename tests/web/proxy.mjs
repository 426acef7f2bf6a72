// A TCP proxy between page and server that a test can cut.

import { once } from "node:events";
import { connect, createServer } from "node:net";

/** @param {string} targetUrl */
export async function startProxy(targetUrl) {
  const target = new URL(targetUrl);
  /** @type {Set<import("node:net").Socket>} */
  const sockets = new Set();
  let isCut = false;
  const server = createServer((client) => {
    if (isCut) {
      client.destroy();
      return;
    }
    const upstream = connect(Number(target.port), target.hostname);
    for (const [source, sink] of [[client, upstream], [upstream, client]]) {
      sockets.add(source);
      source.on("error", () => sink.destroy());
      source.on("close", () => sockets.delete(source) && sink.destroy());
      source.pipe(sink);
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  return {
    url: `http://127.0.0.1:${port}`,
    /** Closes all connections and refuses new ones. */
    cut() {
      isCut = true;
      sockets.forEach((socket) => socket.destroy());
    },
    /** Accepts connections again. */
    restore() {
      isCut = false;
    },
    stop() {
      sockets.forEach((socket) => socket.destroy());
      server.close();
    },
  };
}
