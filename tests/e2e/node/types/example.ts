/** A game as its author would type it: this only has to compile. */

import {
  connect,
  type GatewayClient,
  GatewayError,
  type Json,
  type Message,
  type Presence,
  type Receipt,
  type Room,
} from "../../../../gateway/static/client/gateway.js";

interface Move {
  from: string;
  to: string;
}

class Branch {
  constructor(readonly branches: Branch[] = [], readonly note?: string) {}
}

export async function play(opponent: string): Promise<void> {
  const game: GatewayClient = connect({
    url: "https://gateway.example",
    auth: async () => ({ username: "ada", password: "secret" }),
    storage: "local",
    persist: true,
    queue: 100,
    transports: ["websocket"],
  });
  const stopState = game.on("state", (state, reason) => console.log(state.toUpperCase(), reason));
  game.once("session", ({ outcome, gap, limits }) => {
    if (outcome === "trimmed") console.log(gap?.lost ?? 0, limits.message_bytes.toFixed());
  });
  game.on("refused", ({ code, retryAfter, final }) => console.log(code, retryAfter ?? 0, final));
  game.on("message", (message: Message<Move>) => console.log(message.data.from));
  game.off("message");

  const room: Room = await game.join("match-1");
  room.on("message", ({ from, data }) => console.log(from ?? "the game", data));
  room.on("rejoined", (members) => console.log("anew, with", members.toFixed()));
  room.on("joined", (trueId, members) => console.log(trueId.length, members.toFixed()));
  const receipt: Receipt = await room.publish({ move: "e4" }, { type: "move", echo: false });
  console.log(receipt.status, room.members ?? 0);
  // What a game has types of its own for is sent as it is.
  const move: Move = { from: "e2", to: "e4" };
  await room.publish(move);
  await room.publish({ moves: [move], by: null, tree: new Branch([new Branch()]) });
  void room.volatile("move", [move] as const);
  const json: Json = JSON.parse("[1]");
  await game.send(opponent, json);
  const forward = <T extends Json>(data: T): Promise<Receipt> => game.send(opponent, data);
  await forward(null);
  void room.volatile("position", [1, 2]);
  let cursor: string | undefined;
  do {
    const page = await room.players({ limit: 50, cursor });
    page.players.forEach(({ true_id, name }) => console.log(true_id, name ?? ""));
    cursor = page.cursor ?? undefined;
  } while (cursor);
  await room.leave();

  const stop = game.watch([opponent], ({ state, status }: Presence) => console.log(state, status));
  await game.setStatus("in a duel");
  try {
    await game.send(opponent, { hello: "world" } satisfies Json, { timeout: 5000 });
  } catch (error) {
    if (error instanceof GatewayError) console.log(error.code, error.retryAfter ?? 0);
  }
  stop();
  stopState();
  await game.logout({ everywhere: true });
}

export function mistakes(game: GatewayClient, room: Room): void {
  // @ts-expect-error no such event
  game.on("massage", () => {});
  // @ts-expect-error a player is a string
  void game.send(4711, "x");
  // @ts-expect-error functions are no JSON
  void game.send("p_x", () => {});
  // @ts-expect-error nor is what has one inside
  void room.publish({ at: [1, 2], look() {} });
  // @ts-expect-error nothing is no JSON, either
  void room.publish(undefined);
  // @ts-expect-error nobody knows what that is
  void room.publish(JSON.parse("1") as unknown);
  // @ts-expect-error a latest value is never stored
  void room.volatile("key", 1, { volatile: false });
  // @ts-expect-error what the client knows is not to be changed
  game.session = null;
  // @ts-expect-error `storage` is one of two, or an object
  connect({ storage: "cookie" });
}
