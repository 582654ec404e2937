"""matplotlib's SVG, made small, loses nothing that a browser needs."""

from stepscope.report.svg import _path, _style, compact

SOURCE = """<?xml version="1.0"?>
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="40pt" viewBox="0 0 40 30" xmlns="http://www.w3.org/2000/svg">
 <metadata>who and when</metadata>
 <defs><style type="text/css">*{stroke-linejoin: round}</style></defs>
 <g id="figure_1">
  <g id="patch_1"><path d="M 0 30 \nL 40 30 \nz\n" style="fill: none"/></g>
  <g id="line_1">
   <defs><path id="m1a" d="M 0 3.256 \nL 1 2 \nz\n" style="stroke: #000006"/></defs>
   <g clip-path="url(#p2b)"><use xlink:href="#m1a" x="4.123456" y="5" style="stroke: #000006"/></g>
  </g>
  <!-- 1 < 2 -->
  <text style="font-size: 12px; font-family: 'DejaVu Sans'; fill: #000001" x="3" y="-0.01" transform="rotate(-0 3 4)"
  >1 &lt; 2</text>
 </g>
 <defs><clipPath id="p2b"><rect x="0" y="0" width="40" height="30"/></clipPath></defs>
</svg>"""


def test_what_is_left_of_a_document():
    assert compact(SOURCE, "a", 'an "alt"') == (
        """<svg class="panel" viewBox="0 0 40 30" role="img" aria-label='an "alt"'>"""
        '<defs><path id="a-0" d="M0 3.3 1 2z" style="stroke:var(--sign)"/></defs>'
        '<g clip-path="url(#a-1)"><use href="#a-0" x="4.1" y="5" style="stroke:var(--sign)"/></g>'
        '<text style="fill:currentColor" x="3" y="0">1 &lt; 2</text>'
        '<defs><clipPath id="a-1"><rect x="0" y="0" width="40" height="30"/></clipPath></defs>'
        "</svg>"
    )


def test_a_line_of_no_length_is_a_dot():
    assert _path("M 1.5 2 \nL 1.5 2 \nM 3 4 \nL 3 4 \n") == "M1.5 2h0M3 4h0"


def test_points_after_a_move_are_lines_but_not_after_a_curve():
    assert _path("M 10.123456 20.06 \nL 30 40 \nL 50 60 \nz\n") == "M10.1 20.1 30 40 50 60z"
    assert _path("M 0 1 \nL 1 1 \nC 1 2 3 4 5 6 \nL 7 8 \nz") == "M0 1L1 1C1 2 3 4 5 6L7 8z"


def test_the_weight_of_type_survives_in_both_spellings_of_matplotlib():
    """matplotlib 3.8 writes the shorthand, later versions single properties."""
    family = "'DejaVu Sans', 'Arial', sans-serif"
    assert _style(f"font: bold 12px {family}; text-anchor: end; fill: #000002") == (
        "font-weight:bold;text-anchor:end;fill:var(--soft)"
    )
    assert _style(f"font: 12px {family}; fill: #000001") == "fill:currentColor"
    assert _style(f"font-weight: 700; font-size: 12px; font-family: {family}") == "font-weight:700"
