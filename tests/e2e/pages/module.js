import { connect } from "/client/gateway.js";
import { io } from "/vendor/socket.io.esm.min.js";
import { sawMessage, sawRejoin, sawSession } from "./witness.js";

const client = connect({ io, name: "Module" });
client.on("session", (session) => sawSession(session, client.socket));
client.on("message", sawMessage);

const name = new URLSearchParams(location.search).get("room");
if (name) {
  const room = await client.join(name);
  room.on("rejoined", sawRejoin);
}
