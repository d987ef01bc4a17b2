"""XML as prose and as data; entities, depth and damage."""

from __future__ import annotations

import time
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.parse import Parsed, parse
from ingest.parse.markup import MAX_DEPTH, MAX_PATH_CHARS
from retrieval.errors import ParseError


def read(text: str, encoding: str = "utf-8") -> Parsed:
    return parse(Path("a.xml"), text.encode(encoding))


ARTICLE = """<?xml version="1.0" encoding="ISO-8859-1"?>
<!DOCTYPE article PUBLIC "-//NLM//DTD JATS" "http://nowhere.example/jats.dtd">
<article xmlns:xlink="http://www.w3.org/1999/xlink">
  <front><journal-id type="x">PLoS</journal-id>
  <title-group><article-title>On <i>E. coli</i></article-title></title-group>
  <contrib><surname>Gr&#252;n</surname><given>A. B.</given></contrib></front>
  <body>
    <sec><title>Methods</title><p>We used H<sub>2</sub>O
      and <b>salt</b>&nbsp;.</p>
      <list><list-item><p>first</p></list-item><list-item>second</list-item></list>
      <sec><title>Samples</title><p>Nine.</p>
        <table-wrap><caption><title>Table 1</title></caption><table><tr><th>name</th><th>count</th></tr>
        <tr><td>a <b>b</b></td><td>2</td></tr></table></table-wrap>
      </sec></sec>
    <sec><title>Results</title><preformat>x = 1
  y = 2</preformat></sec>
  </body>
</article>"""


def test_prose():
    parsed = read(ARTICLE)
    assert parsed.text == (
        "journal-id: PLoS\n\nOn E. coli\n\nsurname: Grün\ngiven: A. B.\n\nMethods\n\nWe used H2O and salt .\n\n"
        "- first\n- second\n\nSamples\n\nNine.\n\nTable 1\n\n| name | count |\n| a b | 2 |\n\nResults\n\nx = 1\n  y = 2"
    )
    assert parsed.title == "On E. coli"
    assert parsed.metadata == {"attributes_left_out": 1}
    found = [(span.kind, span.number, parsed.text[span.start : span.end].split("\n")[0]) for span in parsed.spans]
    assert found == [
        ("heading", 1, "On E. coli"),
        ("heading", 1, "Methods"),
        ("heading", 2, "Samples"),
        ("table", 0, "| name | count |"),
        ("heading", 1, "Results"),
        ("code", 0, "x = 1"),
    ]


def test_data():
    parsed = read(
        '<?xml version="1.0"?><shop><item id="7"><name>Tea</name><tags><t>a</t><t>b</t></tags></item>'
        '<item id="8"><name>two\nlines</name><sold/></item></shop>'
    )
    assert parsed.text == (
        "shop/item/@id: 7\nshop/item/name: Tea\nshop/item/tags/t: a\nshop/item/tags/t[2]: b\n\n"
        "shop/item[2]/@id: 8\nshop/item[2]/name:\ntwo\nlines\nshop/item[2]/sold"
    )
    assert parsed.metadata == {}


def test_the_declared_encoding_counts_once():
    text = '<?xml version="1.0" encoding="gb2312"?><a>中文文本在这里</a>'
    for encoding in ("gb2312", "utf-8", "utf-16"):
        assert read(text, encoding).text == "a: 中文文本在这里"


def test_external_entities_are_not_read(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("sesame")
    declared = f'<!DOCTYPE x [<!ENTITY e SYSTEM "{secret.as_uri()}"><!ENTITY % p SYSTEM "{secret.as_uri()}"> %p; ]>'
    parsed = read(f"<?xml version='1.0'?>{declared}<x>open &e; now</x>")
    assert parsed.text == "x: open &e; now"
    assert parsed.metadata == {"entities": 1}


def test_internal_entities_stay_names():
    parsed = read('<!DOCTYPE x [<!ENTITY v "1.2">]><x><p>v &v; &lt; <b>b</b></p></x>')
    assert parsed.text == "v &v; < b"


def test_entity_bombs_are_refused_or_stay_small():
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 30))
    with pytest.raises(ParseError, match="XML bomb"):
        read(f'<!DOCTYPE x [<!ENTITY l0 "ha">{laughs}]><x>&l29;</x>')
    quadratic = f'<!DOCTYPE x [<!ENTITY e "{"a" * 50_000}">]><x>{"&e;" * 20_000}</x>'
    assert len(read(quadratic).text) < 100_000
    in_attribute = f'<!DOCTYPE x [<!ENTITY e "{"a" * 50_000}">]><x y="{"&e;" * 20_000}">z</x>'
    assert "not_valid" in read(in_attribute).metadata


@pytest.mark.parametrize(
    "text", ["<a><b></a>", "<a>&nbsp;</a>", "<a/><b/>", "<a", "plain text", "<a>" * (MAX_DEPTH + 1)]
)
def test_what_is_not_well_formed_keeps_its_text_and_says_so(text):
    parsed = read(text)
    assert parsed.text == text
    assert parsed.metadata["not_valid"]


def test_depth_and_long_names_are_bounded():
    parsed = read("<abcdefghij>" * MAX_DEPTH + "x" + "</abcdefghij>" * MAX_DEPTH)
    assert parsed.text.startswith("…")
    assert len(parsed.text) <= MAX_PATH_CHARS + 20


TREES = st.recursive(
    st.text(alphabet="ab c文", max_size=6).map(escape),
    lambda inner: st.builds(
        "<{0}>{1}</{0}>".format,
        st.sampled_from(
            ["p", "title", "b", "sec", "table", "tr", "td", "list", "item", "x", "y", "code", "pre", "caption"]
        ),
        st.lists(inner, max_size=4).map("".join),
    ),
    max_leaves=30,
)


@settings(max_examples=300, deadline=None)
@given(TREES)
def test_no_letter_of_any_document_is_lost(tree):
    try:
        parsed = read(f"<?xml version='1.0'?><doc>{tree}<p>a<b>z</b></p></doc>")
    except ParseError:
        return
    # Names of elements add letters where values are shown by name; none of them has this one.
    assert parsed.text.count("文") == tree.count("文")
    last = 0
    for span in parsed.spans:
        assert 0 <= last <= span.start <= span.end <= len(parsed.text)
        last = span.start
        assert span.kind != "heading" or span.label in parsed.text[span.start : span.end]


@pytest.mark.parametrize(
    "text",
    [
        "<a>" + "<b>x</b>" * 200_000 + "</a>",
        "<a>t" + "<b>x</b>" * 200_000 + "</a>",
        "<a>t" + "<tr><td>x</td></tr>" * 100_000 + "</a>",
        "<a " + " ".join(f"k{n}='v'" for n in range(50_000)) + "/>",
        "<a>" + ("<b>" * 400 + "</b>" * 400) * 500 + "</a>",
        "<a>" + "&amp;" * 500_000 + "</a>",
    ],
)
def test_hostile_documents_take_linear_time(text):
    started = time.perf_counter()
    read(text)
    assert time.perf_counter() - started < 12  # measured 0.2 to 3 s
