"""The pages are in plain English, without a word of tests/data/forbidden-words.txt, and no link is broken."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DONE = [
    "CHANGELOG.md",
    "README.md",
    "deploy/README.md",
    "deploy/director.toml.example",
    "deploy/dovecot/2.3/backend.conf",
    "deploy/dovecot/2.3/proxy.conf",
    "deploy/dovecot/2.4/backend.conf",
    "deploy/dovecot/2.4/director.lua",
    "deploy/dovecot/2.4/proxy.conf",
    "deploy/grafana/README.md",
    "deploy/lab/lab",
    "deploy/prometheus/rules.yml",
    "deploy/systemd/director.service",
    "deploy/systemd/own-user.conf",
    "docker-compose.yml",
    "docs/differences.md",
    "docs/dovecot.md",
    "docs/first-login-2.4.md",
    "docs/glossary.md",
    "docs/lookups.md",
    "docs/migrating.md",
    "docs/operating.md",
    "docs/security.md",
    "docs/state-redis.md",
    "docs/state-tools.md",
]
"""Files that follow the rules: each file is added when it has been rewritten, until all of them are here."""
PAGES = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *ROOT.glob("[de]*/*.md")))
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
CODE = re.compile(r"^```[\s\S]*?^```|(?<=\n)(?: {4,}\S.*\n)+|`(?:[^`\n]|\n(?!\n))*`", re.MULTILINE)
HEADING = re.compile(r"^#+ (.*)", re.MULTILINE)


def forbidden_words(listed: str) -> dict[str, str]:
    """What to write, by forbidden word."""
    lines = [line.partition(" = ") for line in listed.splitlines() if line and not line.startswith("#")]
    return {word: instead for words, _, instead in lines for word in words.split(", ")}


WORDS = forbidden_words((ROOT / "tests/data/forbidden-words.txt").read_text())


def blanked(text: str, pattern: re.Pattern[str]) -> str:
    """The text without what the pattern finds; its lines keep their numbers."""
    return pattern.sub(lambda found: re.sub(r"\S", " ", found[0]), text)


def findings(text: str) -> list[str]:
    """Each forbidden word with its line and what to write. Code and quoted output are exempt."""
    prose = blanked(text, CODE)
    without_headings = blanked(prose, HEADING)
    found = []
    for word, instead in WORDS.items():
        spaced = word.replace(" ", r"[\s#]+")  # the words may stand on two lines, also of a comment
        if word[0].isupper():
            matches = re.finditer(rf'(?<!\w)(?<!(?<!")")(?<!\[){spaced}\b', without_headings)
        else:
            matches = re.finditer(rf"(?<![\w/-]){spaced}(?![\w-])", prose, flags=re.IGNORECASE)
        found += [(text.count("\n", 0, match.start()) + 1, word, instead) for match in matches]
    return [f"{line}: {word!r}: write {instead}" for line, word, instead in sorted(found)]


@pytest.mark.parametrize("name", DONE)
def test_a_page_has_no_forbidden_word(name: str) -> None:
    found = [f"{name}:{finding}" for finding in findings((ROOT / name).read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("text", ["the store will mend\nitself", "the store is\nMended"])
def test_a_forbidden_word_is_reported_with_its_line_and_what_to_write(text: str) -> None:
    (found,) = findings("first\n" + text)
    number = 2 + text.partition("\nM")[1].count("\n")
    assert re.fullmatch(rf"{number}: 'mend(ed)?': write fix, repair", found)


def test_a_forbidden_phrase_is_found_on_two_lines() -> None:
    assert findings("gone for\ngood") == findings("gone for good") != []
    assert findings("# gone for\n# good") == findings("gone for good")


@pytest.mark.parametrize(
    "text", ["`mend`", "so:\n\n    mend it\n\nthen", "```\nmend\n```", "amended", "mend-all"]
)
def test_code_and_longer_words_are_exempt(text: str) -> None:
    assert findings(text) == []


def test_prose_around_code_is_not_exempt() -> None:
    assert len(findings("mend\n\n    code\n\nmend `code` mend\n\n```\ncode\n```\n\nmend")) == 4


def test_a_question_word_is_refused_at_the_beginning_of_a_sentence_only() -> None:
    assert findings("A table. What it says counts.") != []
    assert findings("It says what counts.") == []
    assert findings('## What counts\n\nSee "What counts" and [What counts](#what-counts).') == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = [re.sub(r"`|\[|\]\([^)]*\)", "", title) for title in HEADING.findall(page.read_text())]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(name: str) -> None:
    page = ROOT / name
    broken = []
    for target, anchor in LINK.findall(blanked(page.read_text(), CODE)):
        if "://" in target:
            continue
        to = page.parent / target if target else page
        if not to.exists() or (anchor and anchor not in anchors(to)):
            broken.append(f"{target}#{anchor}")
    assert broken == []


FILES = [
    path
    for folder in ("director", "state", "migrations", "deploy", "docs", "tests")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".md", ".yml", ".toml", ".example", ".conf", ".lua", ".service", ".socket"}
]
SECTION = re.compile(r"([\w.-]+\.md)[`)\]]*(?:\([^()\s]*\))?,[\s#]+(\"?)([A-Z][^\"]{,80})")
NUMBER = re.compile(r"^\d+\. ")


def titles(page: Path) -> list[str]:
    """The headings of a page, and the words with which a paragraph of it begins, before a colon."""
    text = page.read_text()
    found = HEADING.findall(text) + re.findall(r"^([A-Z][\w ]+):", text, flags=re.MULTILINE)
    return [NUMBER.sub("", title) for title in found]


def test_every_section_that_a_file_names_exists() -> None:
    pages = {page.name: titles(page) for page in (ROOT / "docs").glob("*.md")}
    named, missing = 0, []
    for path in FILES:
        for name, _, text in SECTION.findall(path.read_text(errors="replace")):
            if name in pages:
                named += 1
                section = " ".join(text.replace("#", " ").split())
                if not any(section.startswith(title) for title in pages[name]):
                    missing.append(f"{path.relative_to(ROOT)}: {name}, {section}")
    assert named > 10
    assert missing == []
