"""What holds users with passwords: a file of lines, or a database."""

from __future__ import annotations

import builtins
from typing import Protocol

from gateway.auth.users_format import User
from gateway.messages import TrueId


class Users(Protocol):
    """Users that commands change while a gateway reads them.

    All methods block and may be called from any thread.
    """

    def load(self) -> None:
        """Look now. Raises UsersError, which names file and fault, if it cannot be used."""

    def lookup(self, username: str) -> User | None:
        """Return a user by exact name, as changed last. Raises UsersError if nobody can tell."""

    def true_ids(self) -> frozenset[TrueId]:
        """Return the ids of all users; the last ones known when it cannot be read now."""

    def has(self, true_id: TrueId) -> bool:
        """Return whether a user has this id, as `true_ids` does."""

    def verify(self, user: User | None, password: str) -> bool:
        """Return whether a cleaned password is the user's; for None take as long, return False.

        Raises UsersError if argon2 cannot tell, such as for lack of memory.
        """

    def rehash(self, user: User, password: str) -> bool:
        """Hash a cleaned, just verified password again if its parameters are outdated.

        Return whether anything was changed; a password that somebody else has changed since is
        left alone. Raises UsersError if it cannot be written.
        """

    def add(self, username: str, password: str) -> User:
        """Add a user with a new id and return it.

        Raises UsersError if there is one already, the name or password is not acceptable, or it
        cannot be written.
        """

    def set_password(self, username: str, password: str) -> User:
        """Change a user's password, keep the id, and return the user.

        Raises UsersError if there is no such user, or as `add` does.
        """

    def remove(self, username: str) -> None:
        """Remove a user. Raises UsersError if there is none, or it cannot be written."""

    def list(self) -> builtins.list[User]:
        """Return all users in the order in which they were added. Raises UsersError."""
