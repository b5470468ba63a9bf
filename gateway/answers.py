"""Waiting for what is answered by a callback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from gateway.errors import GatewayError

T = TypeVar("T")


async def answer_of(ask: Callable[[Callable[[T | GatewayError], None]], None]) -> T:
    """Call `ask` with what is to be called back; return what that is told, raise an error.

    It may be called back before `ask` returns.
    """
    answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def done(result: T | GatewayError) -> None:
        # Whoever waited may have been cancelled.
        if answer.done():
            return
        if isinstance(result, GatewayError):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    ask(done)
    return await answer
