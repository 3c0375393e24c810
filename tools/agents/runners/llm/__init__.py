"""Agents on any model provider, or on a local server that speaks its protocol."""
