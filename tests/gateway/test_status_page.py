"""The status page in headless Chromium: what it shows, on which screens, and what it withstands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import CHROMIUM, REASON, Browser, Page
from status_kit import Story, serving

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.interop,
    pytest.mark.skipif(not CHROMIUM, reason=REASON),
]

SCREENS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"dark": True},
    "phone": {"width": 360},
    "dark phone": {"width": 360, "dark": True},
    "wide": {"width": 2560},
}

# The contrast of each shown text with what is painted under it, WCAG 2.1 §1.4.3; the worst first.
CONTRASTS = """
(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => channels(color).slice(0, 3).map((value) => value / 255)
    .map((value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if ((channels(color)[3] ?? 1) > 0.99) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.closest("noscript")) continue;
    const [one, other] = [light(getComputedStyle(element).color), light(ground(element))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    found.push([Math.round(ratio * 100) / 100, element.innerText.slice(0, 40)]);
  }
  return found.sort((one, other) => one[0] - other[0]);
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


def shown(page: Page) -> None:
    """The page shows figures, and rates of them."""
    page.wait_for("document.querySelectorAll('.tile p')[1].innerText !== '–'")


@pytest.mark.parametrize("screen", SCREENS)
def test_the_page_is_readable_on_every_screen(
    browser: Browser, screen: str, tmp_path: Path
) -> None:
    with serving(Story()) as server:
        page = browser.open(server.url, **SCREENS[screen])
        shown(page)
        page.picture(tmp_path / f"{screen}.png")
        assert page.value("document.documentElement.scrollWidth <= innerWidth")
        scrolled = "[...document.querySelectorAll('section')].filter((each) => each.scrollWidth >"
        assert page.value(f"{scrolled} each.clientWidth).map((each) => each.id)") == []
        contrasts = page.value(CONTRASTS)
        assert len(contrasts) > 60
        assert contrasts[0][0] >= 4.5, contrasts[:3]
        ground = page.value("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(18, 21, 26)") == ("dark" in screen)
        small = (
            "[...document.querySelectorAll('body *')].filter((each) => each.checkVisibility() &&"
        )
        small += " parseFloat(getComputedStyle(each).fontSize) < 12).length"
        assert page.value(small) == 0
        assert page.faults == []


def test_the_page_shows_the_figures_of_the_answer(browser: Browser) -> None:
    with serving(Story()) as server:
        page = browser.open(server.url)
        shown(page)
        assert page.text("#state") == "ready"
        assert page.text("#facts") == "0.1.0 · up for 25 h · restarts of workers: 1"
        tiles = page.value("[...document.querySelectorAll('.tile')].map((one) => one.innerText)")
        assert [tile.split("\n")[0] for tile in tiles] == [
            *("Open connections", "New connections", "Messages accepted", "Messages refused"),
            *("Recipients refused", "Received"),
        ]
        assert [tile.split("\n")[-1] for tile in tiles][1] == "25 / s"
        assert tiles[5].endswith("350 kB / s")
        assert "rcpt: 550" in page.text("#refused")
        assert "client refused at once: max_clients_per_host" in page.text("#refused")
        assert "rcpt: 250" not in page.text("#refused")
        assert "on_rcpt_to" in page.text("#times")
        assert "on_connect" not in page.text("#times")
        delivery = page.text("#delivery")
        for text in ("sink\nup", "on this disk", "17 messages, 1.3 MB", "52 kB of 8.6 GB"):
            assert text in delivery
        assert re.search(r"^2\t\d+\t2,5\d\d\t6\t61 min$", page.text("#workers"), re.MULTILINE)
        assert page.value("document.querySelectorAll('#refusals tbody tr').length") == 6
        assert "550 5.1.1 No such user here" in page.text("#refusals")
        assert page.faults == []


def test_percentiles_are_those_of_the_last_minute(browser: Browser) -> None:
    """1000 slow ones before, then fast ones only."""
    story = Story()

    def answer() -> dict[str, Any]:
        fast = 100 * story.asked
        found = story()
        buckets = {"0.001": fast, "0.002": fast, "1": fast + 1000, "+Inf": fast + 1000}
        found["all"]["hooks"]["seconds"] = {"on_data": {"count": 0, "sum": 0, "buckets": buckets}}
        return found

    with serving(answer) as server:
        page = browser.open(server.url)
        row = "document.querySelector('#times tbody tr')?.innerText"
        page.wait_for(f"{row} === 'on_data\\t501\\t900\\t990\\t1,000'")  # of the first answer: all
        page.wait_for(f"{row} === 'on_data\\t0.50\\t0.90\\t0.99\\t200'")


def test_the_page_is_updated_as_long_as_it_is_open(browser: Browser) -> None:
    story = Story()
    with serving(story) as server:
        page = browser.open(server.url)
        shown(page)
        before = page.text("#refused")
        page.wait_for(f"document.querySelector('#refused').innerText !== {json.dumps(before)}")
        points = "document.querySelector('.tile polyline').getAttribute('points').split(' ').length"
        page.wait_for(f"{points} >= 4")
        assert page.value(points) <= story.asked


def test_a_server_that_is_gone_is_told_and_one_that_is_back_is_shown(browser: Browser) -> None:
    story = Story()
    answers: dict[str, Any] = {"": story, "none": lambda: None, "bad": lambda: b"<html>"}
    state = ""

    with serving(lambda: answers[state]()) as server:
        page = browser.open(server.url)
        shown(page)
        for broken, reason in (("none", "no connection"), ("bad", "no figures in its answer")):
            state = broken
            page.wait_for("document.querySelector('#gone').innerText.includes('does not answer')")
            page.wait_for(f"document.querySelector('#gone').innerText.includes('{reason}')")
            assert "The figures below are of" in page.text("#gone")
            assert page.text("#state") == "no answer"
            assert "rcpt: 550" in page.text("#refused")
            state = ""
            page.wait_for("document.querySelector('#gone').hidden")
            page.wait_for("document.querySelector('#state').innerText === 'ready'")


def test_a_server_that_is_not_ready_says_why(browser: Browser) -> None:
    with serving(Story(ready=False, reason="the spool is full")) as server:
        page = browser.open(server.url)
        page.wait_for(
            "document.querySelector('#state').innerText === 'not ready: the spool is full'"
        )


def test_a_server_that_was_started_again_has_no_negative_rates(browser: Browser) -> None:
    story = Story()
    with serving(story) as server:
        page = browser.open(server.url)
        shown(page)
        story.changed["all"] = {
            "connections": {"total": 3, "now": 1, "refused": {}},
            "messages": {"accepted": 0, "refused": 0, "aborted": 0},
        }
        page.wait_for("document.querySelector('.tile p').innerText === '1'")
        page.wait_for("document.querySelectorAll('.tile p')[1].innerText === '0 / s'")
        shown_texts = page.value("document.body.innerText")
        assert "-" not in shown_texts.replace("newsletter-", "")
        assert page.faults == []


@pytest.mark.parametrize("answer", [{}, {"connections": None, "replies": {"rcpt": {}}}])
def test_what_an_answer_does_not_have_is_left_out(browser: Browser, answer: dict[str, Any]) -> None:
    with serving(lambda: {"time": 1_796_057_100, "all": answer}) as server:
        page = browser.open(server.url)
        page.wait_for("document.querySelector('.tile p').innerText === '0'")
        hidden = "[...document.querySelectorAll('main section')].filter((one) => one.hidden).length"
        assert page.value(hidden) == 5
        assert page.text("#state") == "ready"
        assert page.faults == []


# Strings of clients.

HOSTILE = {
    "markup": "<img src=x onerror='window.harmed = 1'><script>window.harmed = 1</script>",
    "an end of a script": "</script></td></table><script>window.harmed = 1</script>",
    "an override of the direction": "abc\u202egpj.exe\u2066\u200f",
    "controls": "\x00\x07\x1b[31mred\x7f\x85\u2028\u2029\ufeff\u00ad",
    "line ends": "a\r\nb\n\n\n\nc",
    "marks": "Z" + "\u0301\u0489" * 100 + "algo",
    "a lone surrogate": "\ud800x",
    "a private character": "\ue000\U000f0000\U0010ffff",
    "64 KiB": "x" * 65536,
    "64 KiB of spaces": "a" + " " * 65536 + "b",
    "wide letters": "\ufdfd" * 1000,
    "right to left": "\u05e9\u05dc\u05d5\u05dd@\u05d3\u05d5\u05d2\u05de\u05d4",
}


# Nothing of a text is painted outside of its cell, and no row takes the whole screen.
OUTSIDE = """
[...document.querySelectorAll("bdi")].filter((one) => {
  const [inner, outer] = [one, one.parentElement].map((each) => each.getBoundingClientRect());
  return inner.left < outer.left - 1 || inner.right > outer.right + 1
    || inner.bottom > outer.bottom + 1 || inner.height > 100;
}).map((one) => one.textContent)
"""
FIELDS = ("client", "from", "to", "stage", "reply")


@pytest.mark.parametrize("width", [1280, 360])
def test_strings_of_clients_are_text_and_stay_in_their_cells(
    browser: Browser, width: int, tmp_path: Path
) -> None:
    refusals = [{"time": 1_796_057_100, **dict.fromkeys(FIELDS, each)} for each in HOSTILE.values()]
    story = Story(refusals=refusals, reason=HOSTILE["markup"], ready=False)
    with serving(story) as server:
        page = browser.open(server.url, width=width)
        shown(page)
        page.picture(tmp_path / f"hostile {width}.png")
        cells = page.value("[...document.querySelectorAll('bdi')].map((one) => one.textContent)")
        assert len(cells) == len(FIELDS) * len(HOSTILE)
        for name, cell in zip(HOSTILE, cells[:: len(FIELDS)], strict=True):
            assert cell.isprintable(), name
            assert len(cell) < 1500, name
        assert page.value(OUTSIDE) == []
        # One element for each cell, and nothing that a text has made.
        inner = page.value("document.querySelectorAll('#refusals td *').length")
        assert inner == (len(FIELDS) + 1) * len(HOSTILE)
        assert page.value("document.querySelectorAll('img, iframe, object').length") == 0
        assert page.value("window.harmed") is None
        assert page.value("document.documentElement.scrollWidth <= innerWidth")
        assert page.faults == []


def test_legible_letters_of_every_script_are_left_alone(browser: Browser) -> None:
    text = "Grüße 你好 \u05e9\u05dc\u05d5\u05dd e\u0301 👋"
    refusals = [{"time": 0, "reply": text}]
    with serving(Story(refusals=refusals)) as server:
        page = browser.open(server.url)
        shown(page)
        assert page.value("document.querySelector('bdi').textContent") == text


# The policy.

ATTEMPTS = {
    "an inline script": "document.body.append(Object.assign(document.createElement('script'),"
    " {textContent: 'window.harmed = 1'}))",
    "a script of another host": "document.body.append(Object.assign("
    "document.createElement('script'), {src: 'http://192.0.2.1/x.js'}))",
    "markup": "document.body.innerHTML = '<b>x</b>'",
    "a handler": "document.body.append(Object.assign(document.createElement('p'), {id: 'p'})),"
    " document.querySelector('#p').setAttribute('onclick', 'window.harmed = 1'),"
    " document.querySelector('#p').click()",
    "an image of another host": "document.body.append(Object.assign("
    "document.createElement('img'), {src: 'http://192.0.2.1/x.png'}))",
    "a request to another host": "fetch('http://192.0.2.1/').catch(() => 0)",
    "a frame": "document.body.append(Object.assign("
    "document.createElement('iframe'), {src: 'http://192.0.2.1/'}))",
    "an inline style": "document.body.setAttribute('style', 'color: red')",
    "another base": "document.head.append(Object.assign("
    "document.createElement('base'), {href: 'http://192.0.2.1/'}))",
}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_the_policy_stops(browser: Browser, name: str) -> None:
    with serving(Story()) as server:
        page = browser.open(server.url)
        shown(page)
        assert page.faults == []
        page.value(f"(() => {{ try {{ {ATTEMPTS[name]} }} catch {{}} }})()")
        page.wait_for("window.violations.length > 0")
        assert page.value("window.harmed") is None
        assert page.faults


def test_the_page_asks_its_own_server_only(browser: Browser) -> None:
    with serving(Story()) as server:
        page = browser.open(server.url)
        shown(page)
        assert page.faults == []
        assert {each.removeprefix(server.url) for each in page.requests} == {
            *("", "status.css", "status.js", "stats.json"),
        }


# For everyone.


def test_less_motion_is_no_motion_where_that_is_asked_for(browser: Browser) -> None:
    gone = "document.querySelector('#gone').hidden = false, document.getAnimations().length"
    with serving(Story()) as server:
        for still in (True, False):
            page = browser.open(server.url, still=still)
            shown(page)
            assert page.value(gone) == (0 if still else 1)


def test_a_screen_reader_gets_the_parts_with_their_names(browser: Browser) -> None:
    with serving(Story()) as server:
        page = browser.open(server.url)
        shown(page)
        nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored")
    ]
    regions = {name for role, name in found if role == "region"}
    assert {"Refused, by reason", "Delivery", "Workers", "Last refusals"} <= regions
    roles = [role for role, _ in found]
    assert {"banner", "main", "contentinfo", "status", "heading"} <= set(roles)
    assert roles.count("table") == 4
    assert roles.count("columnheader") == 3 + 5 + 5 + 6
    assert "image" not in roles  # the lines repeat what their numbers say
