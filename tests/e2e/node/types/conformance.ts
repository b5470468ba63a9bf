/**
 * The implementation is what gateway.d.ts declares. The test that runs this puts a copy of
 * gateway.js, which has no declarations beside it, where it is imported from here.
 */

import type * as Declared from "../../../../gateway/static/client/gateway.js";
import * as Implemented from "./implementation/gateway.js";

type Members<T> = { [Name in keyof T]: unknown };
type Same<One, Other> = [One, Other] extends [Other, One] ? true : false;

export const connect: typeof Declared.connect = Implemented.connect;
export const exports: Same<keyof typeof Declared, keyof typeof Implemented> = true;

type Client = ReturnType<typeof Implemented.connect>;
type Room = Awaited<ReturnType<Client["join"]>>;
export const client: Same<Members<Declared.GatewayClient>, Members<Client>> = true;
export const room: Same<Members<Declared.Room>, Members<Room>> = true;
