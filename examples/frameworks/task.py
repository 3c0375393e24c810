"""What the agents of all these examples are asked to do, and the command that starts the deck."""

import sys

SERVER = {"command": "quarterdeck", "args": ["serve"]}

TASK = """Answer this question from the document {document}: {question}

Use the tools of quarterdeck. Look into the memory namespace "examples" for what is known. Upload the document, spawn
two agents of type researcher, and give each a query with that upload: {{"do": "index_document", "upload": KEY}} and
{{"do": "analyze_document", "upload": KEY}}. Wait for both, then search the collection "documents". Store your answer
in the memory namespace "examples"."""


def task() -> str:
    """The task for the document and the question of the command line."""
    if len(sys.argv) != 3:
        raise SystemExit(f"usage: uv run {sys.argv[0]} DOCUMENT QUESTION")
    document, question = sys.argv[1:]
    return TASK.format(document=document, question=question)
