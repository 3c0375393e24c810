"""Agents on Claude Code, through the Claude Agent SDK."""
