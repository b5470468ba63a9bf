import { io } from "/vendor/socket.io.esm.min.js";

const socket = io({
  auth(present) {
    const { token, offset } = sessionStorage;
    present(token ? { token, offset } : { guest: true, name: "Bare" });
  },
});

socket.on("session", (session) => {
  sessionStorage.token = session.token;
  document.getElementById("true-id").textContent = session.true_id;
});

socket.on("message", ({ id, data }) => {
  const row = document.createElement("li");
  row.textContent = data;
  document.getElementById("messages").append(row);
  if (id) sessionStorage.offset = id;
});
