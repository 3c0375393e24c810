"""The `optimizer` tool."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from typing_extensions import TypedDict

from quarterdeck.storage.clock import iso

from ..arguments import Arguments
from ..contract import Call, DeckTool, deck_tool
from .optimizer import DEFAULT_INTERVAL_MS, Action, Optimizer
from .rules import Rule


class OptimizerArguments(Arguments):
    action: Literal["status", "start", "stop"] = "status"
    interval_ms: int = Field(DEFAULT_INTERVAL_MS, ge=100, le=3_600_000)
    dry_run: bool = Field(False, description="start: show what the rules would do, do nothing")


class RuleEntry(TypedDict):
    name: str
    priority: int
    when: str
    action: str
    model: str | None


class ActionEntry(TypedDict):
    at: str
    queryId: str
    rule: str
    action: str
    evidence: dict[str, str]
    status: str | None
    reason: str | None


class OptimizerAnswer(TypedDict):
    success: bool
    isMonitoring: bool
    enabled: bool
    intervalMs: int
    dryRun: bool
    rulesCount: int
    rules: list[RuleEntry]
    lastActions: list[ActionEntry]


def optimizer_tools(optimizer: Optimizer) -> list[DeckTool]:
    async def handle(arguments: OptimizerArguments, _call: Call) -> OptimizerAnswer:
        if arguments.action == "start":
            optimizer.start(arguments.interval_ms, dry_run=arguments.dry_run)
        elif arguments.action == "stop":
            await optimizer.stop()
        return {
            "success": True,
            "isMonitoring": optimizer.is_monitoring,
            "enabled": optimizer.enabled,
            "intervalMs": optimizer.interval_ms,
            "dryRun": optimizer.dry_run,
            "rulesCount": len(optimizer.rules),
            "rules": [_rule_entry(rule) for rule in optimizer.rules],
            "lastActions": [_action_entry(action) for action in optimizer.actions],
        }

    return [
        deck_tool(
            "optimizer",
            "Show, start or stop the rules that watch running queries.",
            OptimizerArguments,
            OptimizerAnswer,
            handle,
            title="Adaptive optimizer",
            idempotent=True,
        )
    ]


def _rule_entry(rule: Rule) -> RuleEntry:
    return {
        "name": rule.name,
        "priority": rule.priority,
        "when": " and ".join(map(str, rule.when)),
        "action": rule.action,
        "model": rule.model,
    }


def _action_entry(action: Action) -> ActionEntry:
    return {
        "at": iso(action.at),
        "queryId": action.query_id,
        "rule": action.rule.name,
        "action": action.rule.action,
        "evidence": dict(action.evidence),
        "status": action.status,
        "reason": action.reason,
    }
