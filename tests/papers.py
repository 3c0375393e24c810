"""Real documents in the formats that need a library to be read."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any, cast

from docx import Document
from fpdf import FPDF


def pdf(pages: Sequence[str], *, title: str = "", password: str = "", owner_password: str = "") -> bytes:
    """A PDF with a text on each page; whoever has no `password` cannot open it."""
    made = FPDF()
    if title:
        made.set_title(title)
    if password or owner_password:
        made.set_encryption(owner_password or "owner", password or None)
    made.set_font("helvetica", size=12)
    for text in pages:
        made.add_page()
        made.multi_cell(0, text=text)
    return bytes(made.output())


def docx() -> bytes:
    """A report with a title, headings, a list, a table, a link's text and a picture."""
    made = Document()
    made.add_heading("Fleet report", 0)
    made.add_heading("Ships", 1)
    made.add_paragraph("Whales follow the snake_case ship. It is naïve — 漢字.")
    for name in ("Argo", "Beagle"):
        made.add_paragraph(name, style="List Bullet")
    made.add_heading("Crews", 2)
    table = made.add_table(2, 2)
    for number, text in enumerate(("ship", "crew", "Argo", "fifty")):
        table.cell(number // 2, number % 2).text = text
    made.add_picture(BytesIO(_png()))
    out = BytesIO()
    made.save(out)
    return out.getvalue()


def _png() -> bytes:
    from PIL import Image

    out = BytesIO()
    cast("Any", Image).new("RGB", (2, 2)).save(out, "PNG")
    return out.getvalue()


HTML = """<!DOCTYPE html>
<html><head><title>Sailing &amp; more</title><style>p { color: red }</style></head>
<body><nav><a href="/">Home</a> menu</nav>
<main><h1>Sailing</h1><p>Whales and <a href="https://one.example/x">ships</a>.</p>
<img src="data:image/png;base64,AAAA" alt="a sail">
<pre><code class="language-python">print("a &lt; b")
x = 1</code></pre>
<p hidden>secret</p><script>alert("no")</script></main><footer>imprint</footer></body></html>
"""
