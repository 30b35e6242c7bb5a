"""The house's words: docstrings begin with a verb or a noun, one word stands for one thing, and links lead somewhere."""

import ast
import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
CODE = sorted(path for folder in ("src", "modeling", "scripts") for path in (ROOT / folder).rglob("*.py"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "spaces_demo").rglob("*.md")])
OPENINGS = re.compile(r"(Of|As|What|The same|Not|Whatever)\b")
AVOIDED = re.compile(r"\b(pictures?|manners?|told|alike)\b", re.IGNORECASE)
# Their words are those of users and of expressions, or they name the words themselves.
ALLOWED = ("words.py", "language_lexicon.py", "as_published.py", "refshapes_checker.py", "CONTRIBUTING.md")


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_begin_with_a_verb_or_a_noun(path):
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kinds)]
    assert [each for node in nodes if OPENINGS.match(each := ast.get_docstring(node) or "")] == []


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_messages_end_with_a_full_stop(path):
    """Of errors whose message begins like a sentence (others are parts of one) and ends with words, not with a value."""
    raised = [
        node.exc for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Raise)
    ]
    messages = [call.args[0] for call in raised if isinstance(call, ast.Call) and call.args]
    parts = [message.values if isinstance(message, ast.JoinedStr) else [message] for message in messages]
    texts = [(getattr(part[0], "value", None), getattr(part[-1], "value", None)) for part in parts]
    sentences = [(first, last) for first, last in texts if isinstance(first, str) and re.match("`|[A-Z]", first)]
    assert [last for _, last in sentences if isinstance(last, str) and not last.endswith(".")] == []


@pytest.mark.parametrize("path", CODE + DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_one_word_stands_for_one_thing(path):
    if path.name not in ALLOWED:
        text = path.read_text(encoding="utf-8").replace("my-pictures", "")  # a folder of the examples
        assert [line for line in text.splitlines() if AVOIDED.search(line)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    files = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert [link for link in files if not (path.parent / link).exists()] == []
