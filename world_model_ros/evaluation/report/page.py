"""Pieces of HTML. Text goes through ``text``; whatever is HTML already is of the type ``Html``."""

import base64
import html
from collections.abc import Iterable
from dataclasses import dataclass

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1d2430; --muted: #667085; --line: #e3e6eb;
  --soft: #f5f6f8; --c0: #2f6fb3; --c1: #d07c28; --c2: #3d9263; --c3: #8a63b5; --c4: #b8465a; --c5: #7a8594;
  --good: #2f8f5b; --bad: #c0473f; --warn: #b9831f; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --ink: #e4e7ec; --muted: #98a2b3;
  --line: #2c323b; --soft: #1c2027; --c0: #6fa8e6; --c1: #e8a35c; --c2: #6fc495; --c3: #b795e0; --c4: #e5808f;
  --c5: #98a2b3; --good: #62c48e; --bad: #ec7f78; --warn: #e0b25a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 52px 0 8px; padding-top: 18px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 24px 0 6px; }
p { margin: 6px 0 12px; max-width: 84ch; }
a { color: var(--c0); }
nav { margin: 18px 0 0; font-size: 14px; display: flex; flex-wrap: wrap; gap: 2px 18px; }
nav a { text-decoration: none; }
.muted, figcaption, .note { color: var(--muted); font-size: 14px; }
.lead { font-size: 19px; line-height: 1.45; margin: 18px 0; max-width: 70ch; }
.verdict { border-left: 4px solid var(--muted); background: var(--soft); padding: 10px 16px; margin: 18px 0; }
.verdict.good { border-color: var(--good); } .verdict.bad { border-color: var(--bad); }
.missing { color: var(--muted); font-size: 14px; }
figure { margin: 14px 0 22px; } figcaption { margin-top: 6px; max-width: 100ch; }
svg.plot { display: block; width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14.5px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; color: var(--muted); font-size: 13px; }
th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
td.number, th.number { text-align: right; white-space: nowrap; }
tr.strong td { font-weight: 600; }
td.bar { width: 300px; min-width: 200px; padding-right: 22px; }
svg.interval { display: block; width: 100%; height: 20px; overflow: visible; }
.films { display: grid; grid-template-columns: repeat(auto-fill, minmax(380px, 1fr)); gap: 28px 32px; }
.films + figcaption { margin-top: 20px; }
.film { margin: 0; }
.film .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 6px; align-items: start; }
.film img { width: 100%; display: block; border-radius: 3px; }
.film .goal { position: relative; }
.film .goal span { position: absolute; left: 7px; bottom: 6px; padding: 0 7px; border-radius: 3px;
  font-size: 12px; color: #fff; background: rgba(20, 24, 30, 0.62); }
.reached, .failed { font-weight: 600; }
.reached { color: var(--good); }
.failed { color: var(--bad); }
.film figcaption { line-height: 1.4; font-size: 13.5px; }
.strip { display: grid; gap: 4px; align-items: center; margin: 10px 0 26px; font-size: 12px;
  color: var(--muted); }
.strip img { width: 100%; display: block; border-radius: 2px; } .strip span { text-align: center; }
.strip .row { text-align: left; line-height: 1.25; padding-right: 6px; }
.strip img.imagined { outline: 2px solid var(--c0); outline-offset: -1px; }
.strip img.event { outline: 2px solid var(--bad); outline-offset: -1px; }
code, pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { background: var(--soft); padding: 1px 4px; border-radius: 3px; }
pre { background: var(--soft); padding: 10px 14px; border-radius: 4px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
pre code { padding: 0; background: none; }
@media print { nav { display: none; } h2 { break-after: avoid; } figure { break-inside: avoid; } }
"""


class Html(str):
    """Text that is HTML already."""


@dataclass(frozen=True)
class Section:
    """A part of the page; ``missing`` is a command that would fill it, where ``body`` is None."""

    name: str
    title: str
    body: Html | None
    missing: str = ""


def text(value) -> Html:
    """Return anything as HTML: escaped, unless it is ``Html``."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(parts: Iterable, between: str = "\n") -> Html:
    """Return parts as one piece."""
    return Html(between.join(text(part) for part in parts))


def tag(name: str, *children, **attributes) -> Html:
    """Return an element; ``class_`` stands for class, an underscore in a name for a hyphen."""
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{words}>{join(children, '')}</{name}>")


def paragraph(*children, **attributes) -> Html:
    """Return a paragraph."""
    return tag("p", *children, **attributes)


def code(command: str) -> Html:
    """Return a command in a line."""
    return tag("code", command)


def table(head: list, rows: list[list], numbers: Iterable[int] = (), strong: Iterable[int] = ()) -> Html:
    """Return a table; ``numbers`` are the columns aligned to the right, ``strong`` the rows in bold."""
    numbers, strong = set(numbers), set(strong)

    def row(kind: str, cells: list) -> Html:
        classes = dict.fromkeys(numbers, "number") | {
            i: "bar" for i, cell in enumerate(cells) if isinstance(cell, Bar) and kind == "td"
        }
        return join((tag(kind, cell, class_=classes.get(i)) for i, cell in enumerate(cells)), "")

    body = (
        tag("tr", row("td", cells), class_="strong" if i in strong else None) for i, cells in enumerate(rows)
    )
    whole = tag("table", tag("thead", tag("tr", row("th", head))), tag("tbody", join(body)))
    return tag("div", whole, class_="scroll")


class Bar(Html):
    """A cell that holds a drawing of a proportion."""


def interval_bar(
    rate: float, interval=None, floors: dict[str, float] | None = None, good: bool = True
) -> Bar:
    """Return a drawing of a rate in 0..1: a bar, its interval as a whisker, every floor as a hollow mark."""
    width, middle = 300, 10
    parts = [
        f'<rect x="0" y="6" width="{width}" height="8" rx="2" fill="var(--soft)"/>',
        f'<rect x="0" y="6" width="{width * rate:.1f}" height="8" rx="2" '
        f'fill="var({"--c0" if good else "--c5"})" opacity="0.55"/>',
    ]
    if interval is not None:
        low, high = (width * float(v) for v in interval)
        parts.append(
            f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} 6V14M{high:.1f} 6V14" '
            'stroke="var(--ink)" stroke-width="1.5" fill="none"/>'
        )
    marks = [f"{100 * rate:.0f} %"]
    for name, floor in (floors or {}).items():
        parts.append(
            f'<path d="M{width * floor:.1f} 2l4 8l-4 8l-4 -8z" fill="var(--paper)" stroke="var(--c1)">'
            f"<title>{text(name)}: {100 * floor:.0f} %</title></path>"
        )
        marks.append(f"{name} {100 * floor:.0f} %")
    label = html.escape(", ".join(marks))
    return Bar(
        f'<svg class="interval" viewBox="-4 0 {width + 8} 20" preserveAspectRatio="xMinYMid meet" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg>'
    )


def figure(picture: Html, caption: str | Html) -> Html:
    """Return a picture with the sentence under it."""
    return tag("figure", picture, tag("figcaption", caption))


def image(
    data: bytes, alt: str, kind: str = "webp", class_: str | None = None, still: bytes | None = None
) -> Html:
    """Return an inline picture; ``still`` stands in for an animation where people ask for less motion."""
    class_word = f' class="{class_}"' if class_ else ""
    shown = Html(f'<img{class_word} alt="{html.escape(alt)}" src="{data_uri(data, kind)}">')
    if still is None:
        return shown
    source = f'<source media="(prefers-reduced-motion: reduce)" srcset="{data_uri(still, kind)}">'
    return Html(f"<picture>{source}{shown}</picture>")


def data_uri(data: bytes, kind: str) -> str:
    """Return bytes of a picture as a URI that needs no network."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def document(title: str, head: Html, sections: list[Section]) -> str:
    """Return the whole page."""
    links = tag("nav", *(tag("a", s.title, href=f"#{s.name}") for s in sections if s.body is not None))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<header>\n{head}\n{links}\n</header>\n{join(map(_section, sections))}\n</main>\n</body>\n</html>\n"
    )


def _section(section: Section) -> Html:
    body = section.body
    if body is None:
        body = paragraph("Nothing measured yet; this fills it: ", code(section.missing), class_="missing")
    return tag("section", tag("h2", section.title), "\n", body, id=section.name)
