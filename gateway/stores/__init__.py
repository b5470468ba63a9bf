"""Stores: where mailboxes and sessions are kept. All answer to the same protocols."""
