import { io } from "/vendor/socket.io.esm.min.js";
import { sawMessage, sawSession } from "./witness.js";

const keepsOffset = !location.search.includes("token-only");

const socket = io({
  auth(present) {
    const { token, offset } = sessionStorage;
    const known = keepsOffset ? { token, offset } : { token };
    present(token ? known : { guest: true, name: "Bare" });
  },
});

socket.on("session", (session) => {
  sessionStorage.token = session.token;
  sawSession(session, socket);
});

socket.on("message", (message) => {
  sawMessage(message);
  if (message.id && keepsOffset) sessionStorage.offset = message.id;
});
