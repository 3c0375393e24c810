"""The agent types that come with the deck, and the crews that they form. A capability is listed only if it is built."""

from __future__ import annotations

from types import MappingProxyType

from .base import AgentType, Capability, Choice, CrewMember, Field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_SOURCE = {
    "upload": Field("text"),
    "uploads": Field("list of texts"),
    "text": Field("text"),
    "title": Field("text"),
}
_QUERY = {"query": Field("text", needed=True), "limit": Field("number from 1")}
_SEARCH = {**_QUERY, "collection": Field("text")}
_WINDOW = {"hours": Field("number from 1")}
_STORES = {"namespaces": Field("list of texts"), "collections": Field("list of texts")}
_MERGE = {
    "key": Field("text", needed=True),
    "base": Field("object", needed=True),
    "value": Field("object", needed=True),
    "namespace": Field("text"),
    "prefer": Field("text"),
}

_CLUSTERED = {"collection": Field("text"), "k": Field("number from 1")}

_DOCUMENTS = frozenset({"documents"})
_FINDINGS = frozenset({"findings"})
_DECISIONS = frozenset({"decisions"})
_SYNC = frozenset({"sync"})  # what two stores had in common
_ANALYTICS = frozenset({"analytics"})  # hourly samples of how much is kept

_TYPES = (
    AgentType(
        "researcher",
        "Document Analyzer",
        "Figures, key terms and summaries of documents; indexes them and finds what they share.",
        {
            "analyze_document": Capability("researcher.analyze_document", _SOURCE),
            "index_document": Capability("researcher.index_document", _SOURCE),
            "compare_documents": Capability(
                "researcher.compare_documents", {"uploads": Field("list of texts", needed=True)}
            ),
        },
        owns=_DOCUMENTS,
    ),
    AgentType(
        "coder",
        "Code Extractor",
        "The code blocks of documents, their languages, whether Python parses, and the shell commands.",
        {"extract_code": Capability("coder.extract_code", _SOURCE)},
        owns=_DOCUMENTS,
    ),
    AgentType(
        "tester",
        "Quality Validator",
        "Concrete defects of documents with line numbers, and a verdict.",
        {"validate_document": Capability("tester.validate_document", _SOURCE)},
        owns=_DOCUMENTS,
    ),
    AgentType(
        "reviewer",
        "Content Reviewer",
        "Readability of documents and comments on their wording.",
        {"review_document": Capability("reviewer.review_document", _SOURCE)},
        owns=_DOCUMENTS,
    ),
    AgentType(
        "system-architect",
        "Structure Analyzer",
        "Section trees and link maps of documents, and their references to each other.",
        {"map_structure": Capability("architect.map_structure", _SOURCE)},
        owns=_DOCUMENTS,
    ),
    AgentType(
        "query_specialist",
        "qdrant_query_agent",
        "Searches over one or several vector collections.",
        {
            "semantic_search": Capability("retrieval.semantic_search", {**_SEARCH, "filter": Field("object")}),
            "multi_collection_query": Capability(
                "retrieval.multi_collection_query",
                {**_QUERY, "collections": Field("list of texts"), "filter": Field("object")},
            ),
            "context_expansion": Capability(
                "retrieval.context_expansion", {**_SEARCH, "radius": Field("number from 1")}
            ),
            "wave_filtering": Capability(
                "retrieval.wave_filtering",
                {
                    "query": Field("text", needed=True),
                    "filter": Field("object", needed=True),
                    "enough": Field("number from 1"),
                    "collection": Field("text"),
                },
            ),
        },
        priority="high",
        plain="query",
    ),
    AgentType(
        "memory_coordinator",
        "qdrant_memory_agent",
        "Keeps what agents have found out, finds it again, and merges where they disagree.",
        {
            "finding_storage": Capability(
                "findings.finding_storage",
                {"finding": Field("text", needed=True), "topic": Field("text"), "evidence": Field("text")},
            ),
            "experience_retrieval": Capability("findings.experience_retrieval", {**_QUERY, "topic": Field("text")}),
            "conflict_resolution": Capability("findings.conflict_resolution", _MERGE),
            "cross_agent_learning": Capability("findings.cross_agent_learning", {"topic": Field("text")}),
        },
        owns=_FINDINGS,
        priority="high",
        plain="finding",
    ),
    AgentType(
        "pattern_discovery",
        "qdrant_pattern_agent",
        "Clusters of a vector collection, what their points share, text templates, and what does not fit in.",
        {
            "pattern_extraction": Capability("patterns.pattern_extraction", _CLUSTERED),
            "clustering_analysis": Capability("patterns.clustering_analysis", _CLUSTERED),
            "template_generation": Capability("patterns.template_generation", _CLUSTERED),
            "anti_pattern_detection": Capability(
                "patterns.anti_pattern_detection",
                {**_CLUSTERED, "neighbours": Field("number from 1"), "limit": Field("number from 1")},
            ),
        },
        owns=frozenset({"patterns"}),
        plain="collection",
    ),
    AgentType(
        "decision_tracker",
        "qdrant_decision_agent",
        "Keeps decisions and what they rest on; shows what a change would touch and where they contradict.",
        {
            "decision_storage": Capability(
                "decisions.decision_storage",
                {
                    "decision": Field("text"),
                    "title": Field("text"),
                    "subject": Field("text"),
                    "choice": Field("text"),
                    "rationale": Field("text"),
                    "alternatives": Field("list of texts"),
                    "status": Choice("proposed", "accepted", "rejected", "deprecated", "superseded"),
                    "dependsOn": Field("list of texts"),
                    "tags": Field("list of texts"),
                    "version": Field("number from 1"),
                },
            ),
            "impact_analysis": Capability("decisions.impact_analysis", {"decision": Field("text", needed=True)}),
            "consistency_validation": Capability("decisions.consistency_validation", {}),
            "dependency_tracking": Capability(
                "decisions.dependency_tracking",
                {
                    "action": Choice("add", "remove", "list", "order"),
                    "decision": Field("text"),
                    "dependsOn": Field("list of texts"),
                },
            ),
        },
        owns=_DECISIONS,
        plain="title",
    ),
    AgentType(
        "synchronization",
        "qdrant_sync_agent",
        "Makes two stores equal, merges conflicts, commits exports to git, takes and restores snapshots.",
        {
            "bidirectional_sync": Capability(
                "sync.bidirectional_sync",
                {
                    "left": Field("text", needed=True),
                    "right": Field("text", needed=True),
                    "rule": Choice("newer", "left", "right", "report"),
                    "kind": Choice("memory", "vectors"),
                },
            ),
            "conflict_resolution": Capability(
                "findings.conflict_resolution", {**_MERGE, "namespace": Field("text", needed=True)}
            ),
            "git_integration": Capability("repository.git_integration", {**_STORES, "message": Field("text")}),
            "disaster_recovery": Capability(
                "snapshots.disaster_recovery",
                {**_STORES, "action": Choice("snapshot", "restore", "list"), "name": Field("text")},
            ),
        },
        owns=_SYNC,
        priority="low",
        plain=None,
    ),
    AgentType(
        "analytics",
        "qdrant_analytics_agent",
        "Performance, usage and cost of agents and queries from their records, and what to do about them.",
        {
            "performance_monitoring": Capability("analytics.performance_monitoring", _WINDOW),
            "usage_analytics": Capability("usage.usage_analytics", _WINDOW),
            "cost_tracking": Capability("analytics.cost_tracking", _WINDOW),
            "optimization_recommendations": Capability("advice.optimization_recommendations", _WINDOW),
        },
        owns=_ANALYTICS,
        priority="low",
        plain=None,
    ),
)

TYPES: Mapping[str, AgentType] = MappingProxyType({agent_type.name: agent_type for agent_type in _TYPES})

_CREWS = {
    "documents": ("researcher", "coder", "tester", "reviewer", "system-architect"),
    "qdrant": (
        "query_specialist",
        "memory_coordinator",
        "pattern_discovery",
        "decision_tracker",
        "synchronization",
        "analytics",
    ),
}

CREWS: Mapping[str, tuple[CrewMember, ...]] = MappingProxyType(
    {
        crew: tuple(CrewMember(name, TYPES[name].title, TYPES[name].priority) for name in members)
        for crew, members in _CREWS.items()
    }
)
"""Crew -> its members."""
