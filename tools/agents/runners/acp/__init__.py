"""Agents that speak the Agent Client Protocol (https://agentclientprotocol.com)."""
