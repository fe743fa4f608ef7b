"""Write the drawings of docs/internals.md: docs/data.svg and docs/stages.svg.

    python docs/make_diagrams.py

Plain SVG, a box or an arrow a line below. Each drawing brings its own background, for light and for
dark, so that it can be read whatever the page around it does. A test compares the files with this.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

DOCS = Path(__file__).parent

STYLE = """
  svg { --page: #ffffff; --ink: #1f2328; --soft: #59636e; --line: #818b98; --room: #f6f8fa;
        --box: #ffffff; --own: #0969da; --last: #9a6700; }
  @media (prefers-color-scheme: dark) {
    svg { --page: #0d1117; --ink: #f0f6fc; --soft: #9198a1; --line: #7d8590; --room: #151b23;
          --box: #21262d; --own: #4493f8; --last: #d29922; }
  }
  text { font: 13px -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif;
         fill: var(--ink); text-anchor: middle; }
  .small { font-size: 11px; fill: var(--soft); }
  .head { font-weight: 600; fill: var(--soft); }
  .number { font-size: 11px; font-weight: 600; fill: var(--page); }
  .page { fill: var(--page); }
  .room { fill: var(--room); stroke: var(--line); stroke-dasharray: 3 3; }
  .box { fill: var(--box); stroke: var(--line); }
  .own { stroke: var(--own); stroke-width: 1.6; }
  .arrow { fill: none; stroke: var(--line); stroke-width: 1.5; marker-end: url(#tip); }
  .last { stroke: var(--last); }
  .two { marker-start: url(#tip); }
  .tip { fill: var(--line); }
  .dot { fill: var(--own); }
"""


class Drawing:
    """An SVG under work. Coordinates are those of the middle of a thing, but for rooms."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
            f' width="{width}" height="{height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8"'
            ' markerHeight="8" markerUnits="userSpaceOnUse" orient="auto-start-reverse">'
            '<path class="tip" d="M0 0 8 4 0 8z"/></marker></defs>',
            f'<rect class="page" width="{width}" height="{height}" rx="8"/>',
        ]

    def text(self, x: float, y: float, words: str, kind: str = "") -> None:
        self._parts.append(f'<text class="{kind}" x="{x}" y="{y}">{escape(words)}</text>')

    def room(self, x: int, y: int, width: int, height: int, name: str) -> None:
        """A part of the package. x, y: its corner."""
        shape = f'<rect class="room" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>'
        self._parts.append(shape)
        self.text(x + width / 2, y + 20, name, "head")

    def box(self, x: int, y: int, width: int, name: str, *under: str, kind: str = "") -> None:
        height = 30 + 15 * len(under)
        top = y - height / 2
        self._parts.append(
            f'<rect class="box {kind}" x="{x - width / 2}" y="{top}" width="{width}"'
            f' height="{height}" rx="6"/>'
        )
        self.text(x, top + 20, name)
        for number, line in enumerate(under):
            self.text(x, top + 36 + 15 * number, line, "small")

    def arrow(self, path: str, kind: str = "") -> None:
        self._parts.append(f'<path class="arrow {kind}" d="{path}"/>')

    def label(self, x: float, y: float, words: str) -> None:
        self.text(x, y, words, "small")

    def number(self, x: int, y: int, number: int) -> None:
        """A step that the text explains."""
        self._parts.append(f'<circle class="dot" cx="{x}" cy="{y}" r="8"/>')
        self.text(x, y + 4, str(number), "number")

    def __str__(self) -> str:
        return "\n".join([*self._parts, "</svg>", ""])


def data() -> Drawing:
    """The way of the data: octets in at the top, replies out at the bottom."""
    it = Drawing(1010, 316, "From a read to a hook, and from its answer to one write")
    it.box(50, 158, 68, "client")
    it.room(104, 16, 136, 284, "_net/")
    it.room(292, 16, 176, 284, "_connection/")
    it.room(536, 16, 328, 284, "_parser, _smtp/: SMTPProtocol")
    it.room(884, 16, 112, 284, "your hooks")
    it.box(172, 84, 116, "transport", "epoll, or the loop's")
    it.box(380, 84, 152, "stage", "Talking, most of the time")
    it.box(610, 84, 124, "parser", "lines, bodies, ends")
    it.box(790, 84, 124, "handler", "by the command table")
    it.box(940, 158, 92, "on_rcpt_to", "and the others")
    it.box(380, 158, 152, "TLS pump", "_tls/, if there is TLS")
    it.box(790, 232, 124, "reply", "or a hook's error")
    it.box(610, 232, 124, "reply queue", "in order")
    it.box(380, 232, 152, "Output", "one write for each read")
    it.box(172, 232, 116, "transport", "a write, at once")
    it.text(700, 154, "the pump: asks the parser for events", "small")
    it.text(700, 170, "until none is left or a hook has to be waited for", "small")
    it.arrow("M50 142 V84 H112")
    it.arrow("M230 84 H302")
    it.arrow("M456 84 H546")
    it.arrow("M672 84 H726")
    it.arrow("M852 84 H940 V133")
    it.arrow("M940 181 V232 H854")
    it.arrow("M728 232 H674")
    it.arrow("M548 232 H458")
    it.arrow("M304 232 H232")
    it.arrow("M114 232 H50 V175")
    it.arrow("M380 107 V133", "two")
    it.arrow("M380 181 V207", "two")
    it.label(266, 76, "octets")
    it.label(502, 70, "octets")
    it.label(502, 100, "and the time")
    it.label(699, 76, "event")
    it.label(902, 76, "call")
    it.label(914, 250, "answer")
    it.label(502, 224, "octets")
    it.label(266, 224, "octets")
    for number, (x, y) in enumerate(
        [(114, 61), (304, 61), (548, 61), (728, 61), (894, 135), (548, 209)], start=1
    ):
        it.number(x, y, number)
    it.text(380, 284, "and one lazy timer", "small")
    it.text(700, 284, "also out: a deadline, the wish to close", "small")
    return it


def stages() -> Drawing:
    """The stages of a connection above, the states of its dialogue below."""
    it = Drawing(1010, 590, "The stages of a connection, and the states of its dialogue")
    it.room(16, 16, 978, 214, "Stages of a connection: _connection/stages.py")
    it.box(80, 106, 96, "accepted", "has its place")
    it.box(224, 106, 136, "ProxyHeaderWait", "proxy_timeout")
    it.box(388, 106, 144, "Handshake", "tls_handshake_timeout")
    it.box(550, 106, 124, "GreetingWait", "greet_delay, DNS")
    it.box(716, 106, 144, "Talking", "or SecureTalking", kind="own")
    it.box(914, 106, 124, "Lingering", "for LINGER, 5 s", kind="last")
    it.box(914, 190, 124, "Lost", "hooks may be running", kind="last")
    it.box(754, 190, 116, "ended", "all is released")
    it.arrow("M128 106 H154")
    it.arrow("M292 106 H314")
    it.arrow("M460 106 H486")
    it.arrow("M612 106 H642")
    it.arrow("M788 106 H850")
    it.arrow("M914 129 V165")
    it.arrow("M852 190 H814")
    it.arrow("M680 129 V154 H388 V131")
    it.arrow("M80 83 V58 H914 V81", "last")
    it.arrow("M770 129 V152 H866 V165", "last")
    it.label(534, 170, "STARTTLS, after its 220")
    it.label(220, 72, "refused, with 421")
    it.label(819, 98, "221, 421")
    it.label(942, 150, "FIN")
    it.label(818, 146, "client gone")
    it.text(250, 192, "The first three stages are skipped where they are not needed.", "small")
    it.text(250, 210, "Each ends in bounded time, or when the server closes.", "small")
    it.room(16, 246, 978, 328, "States of a dialogue, while it is talking: _smtp/states.py")
    it.box(86, 340, 108, "OPENING", "on_connect")
    it.box(244, 340, 120, "CONNECTED", "greeted by us")
    it.box(410, 340, 120, "GREETED", "by the client", kind="own")
    it.box(570, 340, 120, "MAIL_GIVEN", "on_mail_from: yes")
    it.box(730, 340, 120, "RCPT_GIVEN", "on_rcpt_to: yes")
    it.box(906, 340, 134, "IN_MAIL_DATA", "on_data is called")
    it.box(730, 436, 120, "IN_BDAT", "on_data is called")
    it.box(570, 436, 120, "BDAT_FAILED", "chunks are dropped")
    it.box(86, 436, 108, "CLOSING", "nothing more runs", kind="last")
    it.arrow("M140 340 H182")
    it.arrow("M304 340 H348")
    it.arrow("M470 340 H508")
    it.arrow("M630 340 H668")
    it.arrow("M790 340 H837")
    it.arrow("M730 363 V411")
    it.arrow("M670 436 H632")
    it.arrow("M906 317 V292 H410 V315")
    it.arrow("M510 436 H440 V365")
    it.arrow("M730 459 V482 H410 V365")
    it.arrow("M380 363 V386 H264 V365")
    it.arrow("M224 363 V436 H142", "last")
    it.label(161, 332, "220")
    it.label(326, 332, "EHLO")
    it.label(489, 332, "MAIL")
    it.label(649, 332, "RCPT")
    it.label(812, 332, "DATA")
    it.label(752, 392, "BDAT")
    it.label(651, 428, "error")
    it.label(660, 286, "end of the message, and its reply")
    it.label(474, 402, "LAST, RSET")
    it.label(570, 497, "the LAST chunk, and its reply")
    it.label(322, 402, "STARTTLS, XCLIENT")
    it.label(182, 428, "QUIT, 421")
    it.label(182, 454, "from any state")
    for begin, y, words in (
        (32, 526, "kept for the connection"),
        (350, 544, "kept from one greeting to the next"),
        (510, 562, "kept for one transaction: until its end, RSET or EHLO"),
    ):
        it.arrow(f"M{begin} {y} H972", "life")
        it.text((begin + 972) / 2, y - 5, words, "small")
    return it


def main() -> None:
    """Write both."""
    (DOCS / "data.svg").write_text(str(data()), encoding="utf-8")
    (DOCS / "stages.svg").write_text(str(stages()), encoding="utf-8")


if __name__ == "__main__":
    main()
