"""python-socketio as it comes, on Tornado, with the same job as the gateway's `message`."""

import asyncio
import itertools

import socketio
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

server = socketio.AsyncServer(async_mode="tornado", ping_interval=25, ping_timeout=20)
numbers = itertools.count(1)


@server.on("connect")
async def on_connect(sid, environ, auth):
    player = (auth or {}).get("player") or f"p{next(numbers)}"
    await server.save_session(sid, {"player": player})
    await server.enter_room(sid, player)
    server.start_background_task(
        server.emit, "session", {"true_id": player, "token": player}, to=sid
    )


@server.on("message")
async def on_message(sid, message):
    player = (await server.get_session(sid))["player"]
    await server.emit("message", {"from": player, "data": message["data"]}, to=message["target_id"])
    return {"ok": True}


@server.on("join")
async def on_join(sid, request):
    await server.enter_room(sid, f"room {request['room']}")
    return {"ok": True}


@server.on("publish")
async def on_publish(sid, request):
    player = (await server.get_session(sid))["player"]
    message = {"from": player, "room": request["room"], "data": request["data"]}
    await server.emit("message", message, to=f"room {request['room']}")
    return {"ok": True}


async def main():
    app = Application([("/socket.io/", socketio.get_tornado_handler(server))])
    sockets = bind_sockets(0, "127.0.0.1", backlog=4096)
    HTTPServer(app).add_sockets(sockets)
    print(f"Serving http://127.0.0.1:{sockets[0].getsockname()[1]}/", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
