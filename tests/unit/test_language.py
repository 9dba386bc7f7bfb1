"""Pages and programs have no word of tests/data/forbidden-words.txt, and every reference leads somewhere."""

from __future__ import annotations

import io
import re
import tokenize
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
    "docs/internals.md",
    "docs/lookups.md",
    "docs/migrating.md",
    "docs/operating.md",
    "docs/ring.md",
    "docs/security.md",
    "docs/state-redis.md",
    "docs/state-tools.md",
    "docs/state.md",
    "docs/testing.md",
]
"""Files that follow the rules: each file is added when it has been rewritten, until all of them are here."""
PAGES = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *ROOT.glob("[de]*/*.md")))
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
CODE = re.compile(r"^```[\s\S]*?^```|(?<=\n)(?: {4,}\S.*\n)+|`(?:[^`\n]|\n(?!\n))*`", re.MULTILINE)
HEADING = re.compile(r"^#+ (.*)", re.MULTILINE)
PROGRAMS = ["deploy", "director", "docs", "migrations", "state", "tests"]
"""Folders of Python code that follow the rules."""
EXEMPT = {"data", "recordings", "transcripts"}
"""Folders of data, which other programs or earlier releases have written."""
KINDS = {".py", ".pyx", ".pxd", ".pyi", ".h"}
"""Endings of the names of programs: Python, Cython, C."""
SOURCES = sorted(
    str(path.relative_to(ROOT))
    for name in PROGRAMS
    for path in (ROOT / name).rglob("*.*")
    if path.suffix in KINDS
    and not EXEMPT.intersection(path.relative_to(ROOT).parts)
    and path != Path(__file__)  # it has examples of what is refused
)
C_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
CYTHON_ONLY = re.compile(r"(?<=except)\?")
"""The mark of a return value that may be an error: not a token of Python."""
QUOTED = re.compile(r"`[^`]*`")
QUOTES = re.compile(r"""^\w{0,2}("{3}|'{3}|"|')|("{3}|'{3}|"|')$""")
ACCOUNT = re.compile(r"^ *nobody *$")
"""A user of every Unix system."""
FROZEN = re.compile(
    r"\bfrozen(?==(?:True|False)\b)|(?<=field\(name=\")frozen(?=\"\))|(?<=\.)is_alive(?=\(\))"
)
"""An option of records that do not change, a key of a document that older releases write, a method of
threads; no state of a process."""


def forbidden_words(listed: str) -> dict[str, str]:
    """Return the words to write, by forbidden word."""
    lines = [line.partition(" = ") for line in listed.splitlines() if line and not line.startswith("#")]
    return {word: instead for words, _, instead in lines for word in words.split(", ")}


WORDS = forbidden_words((ROOT / "tests/data/forbidden-words.txt").read_text())


def blanked(text: str, pattern: re.Pattern[str]) -> str:
    """Return the text without the matches of the pattern. Its lines keep their numbers."""
    return pattern.sub(lambda found: re.sub(r"\S", " ", found[0]), text)


def prose_of_python(code: str) -> str:
    """Return comments, strings and names of a program, each in its line. Names are split at underscores."""
    lines = code.splitlines(keepends=True)
    begins = [0]
    for line in lines:
        begins.append(begins[-1] + len(line))
    prose, done = [], 0
    code = blanked(code, CYTHON_ONLY)
    for token in tokenize.generate_tokens(io.StringIO(blanked(code, FROZEN)).readline):
        text = token.string
        start, end = (begins[row - 1] + column for row, column in (token.start, token.end))
        if token.type == tokenize.STRING:
            text = blanked(blanked(blanked(text, QUOTES), QUOTED), ACCOUNT)
        elif token.type == tokenize.COMMENT:
            text = blanked(text, QUOTED)
        elif token.type == tokenize.NAME:
            text = text.replace("_", " ")
        elif tokenize.tok_name[token.type] != "FSTRING_MIDDLE":
            continue
        prose += [re.sub(r"\S", "|", code[done:start]), text]
        done = end
    return "".join(prose) + re.sub(r"\S", "|", code[done:])


def prose_of_c(code: str) -> str:
    """Comments and names of a program in C, each in its line."""
    comments = C_COMMENT.sub(lambda found: found[0].replace(" *", "  "), code)
    return blanked(comments.replace("_", " "), QUOTED)


def prose_of(path: Path) -> str:
    """Comments, strings and names of a program."""
    code = path.read_text()
    return prose_of_c(code) if path.suffix == ".h" else prose_of_python(code)


def findings(text: str) -> list[str]:
    """Return each forbidden word of a page with its line and the words to write. Code and quoted output are
    exempt."""
    prose = blanked(text, CODE)
    return refused(prose, blanked(prose, HEADING))


def refused(prose: str, sentences: str) -> list[str]:
    """Return each forbidden word of a prose. `sentences`: the prose without headings, which may begin with
    any word."""
    found = []
    for word, instead in WORDS.items():
        spaced = word.replace(" ", r"[\s#]+")  # the words may stand on two lines, also of a comment
        if word[0].isupper():
            matches = re.finditer(rf'(?<!\w)(?<!(?<!")")(?<!\[){spaced}\b', sentences)
        else:
            matches = re.finditer(rf"(?<![\w/-]){spaced}(?![\w-])", prose, flags=re.IGNORECASE)
        found += [(prose.count("\n", 0, match.start()) + 1, word, instead) for match in matches]
    return [f"{line}: {word!r}: write {instead}" for line, word, instead in sorted(found)]


@pytest.mark.parametrize("name", DONE)
def test_a_page_has_no_forbidden_word(name: str) -> None:
    found = [f"{name}:{finding}" for finding in findings((ROOT / name).read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", SOURCES)
def test_a_program_has_no_forbidden_word_in_its_texts_and_names(name: str) -> None:
    prose = prose_of(ROOT / name)
    found = [f"{name}:{finding}" for finding in refused(prose, prose)]
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


@pytest.mark.parametrize(
    "code",
    [
        "def look() -> int:\n    # gone for\n    # good",
        'def look() -> int:\n    """Text.\n\n    Gone for\n    good.\n    """',
        "look(f'{gone} for good')",
        "def test_gone_for_good() -> None: ...",
        '"""What it says."""',
        'say("What it says")',
        "class Who: ...",
        "frozen = 3",
    ],
)
def test_texts_and_names_of_a_program_are_searched(code: str) -> None:
    prose = prose_of_python(code)
    assert len(refused(prose, prose)) == 1


def test_comments_of_a_cython_program_are_searched() -> None:
    prose = prose_of_python(
        "cdef int key(slice_t *name) except? 0:  # gone for\n    # good\n    return <int>name.size"
    )
    assert len(refused(prose, prose)) == 1


@pytest.mark.parametrize("code", ["/* gone for\n * good */", "int frozen(void);"])
def test_comments_and_names_of_a_program_in_c_are_searched(code: str) -> None:
    prose = prose_of_c(code)
    assert len(refused(prose, prose)) == 1


@pytest.mark.parametrize(
    "code",
    [
        "# as `mend` says",
        "say('`mend` says')",
        "class A(Struct, frozen=True): ...",
        "thread.is_alive()",
        "getpwnam('nobody')",
        "users.expire",
    ],
)
def test_quoted_text_and_frozen_records_of_a_program_are_exempt(code: str) -> None:
    prose = prose_of_python(code)
    assert refused(prose, prose) == []


def test_a_question_word_is_refused_at_the_beginning_of_a_sentence_only() -> None:
    assert findings("A table. What it says counts.") != []
    assert findings("It says what counts.") == []
    assert findings('## What counts\n\nSee "What counts" and [What counts](#what-counts).') == []


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
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


ROW = re.compile(
    r"\b(rule|defect|regression)s?[\s#]+((?:[IR]-)?\d+(?:(?:-|,[\s#]+|[\s#]+and[\s#]+)(?:[IR]-)?\d+)*)(?![\w.])"
)
PAGE = re.compile(r"(?<![\w/.*{}-])([\w./-]*\w\.md)\b(?!\()")
SECTION_NUMBER = re.compile(r"\b[a-z]+(?:-[a-z]+)*,[\s#]+sections?[\s#]+[A-Z]?\d")


def titles(page: Path) -> list[str]:
    """Return the headings of a page, and the words with which a paragraph of it begins, before a colon."""
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


def unknown_rows(text: str, rows: set[str]) -> list[str]:
    """Return the rules, defects and regressions that a text names and `rows` does not have."""
    return [
        f"{kind} {number}"
        for kind, numbers in ROW.findall(text)
        for number in re.findall(r"(?:[IR]-)?\d+", numbers)
        if number not in rows
    ]


def test_every_rule_defect_and_regression_that_a_file_names_has_a_row_in_ring_md() -> None:
    rows = set(re.findall(r"^\| (\S+) \|", (ROOT / "docs/ring.md").read_text(), flags=re.MULTILINE))
    texts = {path: path.read_text(errors="replace") for path in FILES}
    assert sum(len(ROW.findall(text)) for text in texts.values()) > 60
    found = [
        f"{path.relative_to(ROOT)}: {row}" for path, text in texts.items() for row in unknown_rows(text, rows)
    ]
    assert found == []


@pytest.mark.parametrize(
    "text", ["rule 3", "rules 3, 4 and\n# 5", "rules 3-5", "defect I-1", "regression R-2"]
)
def test_a_rule_that_no_row_has_is_found(text: str) -> None:
    assert unknown_rows(text, {"3", "4", "5", "I-1", "R-2"}) == []
    assert unknown_rows(text, {"4"}) != []


def unknown_documents(path: Path) -> list[str]:
    """Return the documents that a file names and that are not in the repository."""
    text = path.read_text(errors="replace")
    homes = (ROOT, ROOT / "docs", path.parent)
    missing = [name for name in PAGE.findall(text) if not any((home / name).exists() for home in homes)]
    return missing + SECTION_NUMBER.findall(text)


def test_every_document_that_a_file_names_is_in_the_repository() -> None:
    files = [path for path in FILES if path != Path(__file__)]  # this one has examples of what is refused
    found = [f"{path.relative_to(ROOT)}: {name}" for path in files for name in unknown_documents(path)]
    assert found == []


@pytest.mark.parametrize(
    "text", ["see docs/nothing.md.", "see `nothing.md`", "(plan, section 3)", "(a-b,\n# sections 2)"]
)
def test_a_document_that_is_not_there_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "page.py").write_text("docs/ring.md, rule 3; ring.md\n" + text)
    assert len(unknown_documents(tmp_path / "page.py")) == 1
