// A Socket.IO server with the same job as the gateway's event `message`: a player's message goes
// to every connection of its target.
// Usage: node server.mjs plain|recovery|uws, or classic|streams|streams-recovery REDIS_URL: one of
// several nodes, by the adapter of that name.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { Server } from "socket.io";

const kind = process.argv[2];
const options = { serveClient: false, pingInterval: 25000, pingTimeout: 20000 };
if (kind.endsWith("recovery")) options.connectionStateRecovery = { maxDisconnectionDuration: 120000 };
if (kind === "classic" || kind.startsWith("streams")) {
  const { createClient } = await import("redis");
  const client = createClient({ url: process.argv[3] });
  await client.connect();
  if (kind === "classic") {
    const { createAdapter } = await import("@socket.io/redis-adapter");
    const subscriber = client.duplicate();
    await subscriber.connect();
    options.adapter = createAdapter(client, subscriber);
  } else {
    const { createAdapter } = await import("@socket.io/redis-streams-adapter");
    options.adapter = createAdapter(client);
  }
}

const io = new Server(options);
let next = 1;
io.on("connection", (socket) => {
  const player = socket.handshake.auth.player ?? `p${process.pid}-${next++}`;
  socket.join(player);
  socket.emit("session", { true_id: player, token: player });
  socket.on("message", (message, ack) => {
    io.to(message.target_id).emit("message", { from: player, data: message.data });
    ack?.({ ok: true });
  });
  socket.on("join", ({ room }, ack) => {
    socket.join(`room ${room}`);
    ack?.({ ok: true });
  });
  socket.on("publish", ({ room, data, volatile }, ack) => {
    const to = volatile ? io.volatile.to(`room ${room}`) : io.to(`room ${room}`);
    to.emit("message", { from: player, room, data });
    ack?.({ ok: true });
  });
});

if (kind === "uws") {
  const { App } = createRequire(import.meta.url)("@trufflesuite/uws-js-unofficial");
  const app = App();
  io.attachApp(app);
  app.listen("127.0.0.1", 0, (listening) => {
    const { us_socket_local_port } = createRequire(import.meta.url)(
      "@trufflesuite/uws-js-unofficial",
    );
    console.log(`Serving http://127.0.0.1:${us_socket_local_port(listening)}/`);
  });
} else {
  const http = createServer();
  io.attach(http);
  http.listen(0, "127.0.0.1", 4096, () => {
    console.log(`Serving http://127.0.0.1:${http.address().port}/`);
  });
}
