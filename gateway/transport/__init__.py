"""The edge: HTTP, Engine.IO and Socket.IO. Nothing outside imports tornado.websocket."""
