"""`python -m gateway` is `game-gateway`."""

from gateway.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
