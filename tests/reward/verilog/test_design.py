"""A design as the simulator will read it."""

import pytest

from reward.verilog.design import parse_design
from reward.verilog.loops import has_loop

GATES = "module m(input a, input b, output y); wire w = a & b; assign y = ~w; endmodule"


def test_text_is_free_of_spelling():
    """Spacing, comments and the name after endmodule make no difference; a token does."""
    other = "module m ( input a,\n input b, output y ) ; // gates\n wire w=a&b; assign y=~w;\nendmodule : m\n"
    assert parse_design(GATES, "m").text == parse_design(other, "m").text
    assert parse_design(GATES, "m").text != parse_design(GATES.replace("&", "|"), "m").text


def test_render_renames_modules_and_nothing_else():
    """A module's name changes where it names the module, not where the same word names a wire or port."""
    source = (
        "module m(input n, output y); wire m; n #(.n(1)) n1(.n(n), .y(m)); assign y = m; endmodule "
        "module n #(parameter n = 0)(input n, output y); assign y = n; endmodule"
    )
    source = source.replace("#(parameter n = 0)", "").replace("#(.n(1)) ", "")
    assert parse_design(source, "m").render("q") == (
        "module q_0 ( input n , output y ) ; wire m ; q_1 n1 ( . n ( n ) , . y ( m ) ) ; assign y = m ; endmodule "
        "module q_1 ( input n , output y ) ; assign y = n ; endmodule"
    )


def test_render_is_one_line():
    """The compiler's line numbers must name designs."""
    assert "\n" not in parse_design(GATES.replace(";", ";\n"), "m").render("q")


def test_conditional_text_is_resolved():
    """What the simulator sees has no directives left to read differently."""
    design = parse_design(
        "`define V 1\nmodule m(output y);\n`ifdef __ICARUS__\nassign y = 0;\n`else\nassign y = `V;\n`endif\nendmodule",
        "m",
    )
    assert design.text == "module m ( output y ) ; assign y = 1 ; endmodule"


@pytest.mark.parametrize(
    ("body", "calm", "looped"),
    [
        ("assign y = ~(a & b) ^ c;", True, False),
        ("wire w = a; assign y = w;", True, False),
        ("assign y = ~(y & a);", True, True),
        ("wire p, q; assign p = ~(a & q); assign q = ~(b & p); assign y = p;", True, True),
        ("wire p; assign p = a, y = p;", True, False),
        ("wire p; assign p = y, y = p & a;", True, True),
        ("wire p = y; assign y = p;", False, False),
        ("reg q; always @* q = a; assign y = q;", False, False),
        ("assign y = {1000{a}};", False, False),
        ("assign y = a[1000];", False, False),
        ("wire [9:0][9:0] w; assign y = a;", False, False),
        ("assign #1 y = a;", False, False),
        ("not g(y, a);", False, False),
        ("assign y = a * b;", False, False),
    ],
)
def test_calm_and_looped(body, calm, looped):
    """Only gates are calm, and only a loop of assignments gets delays."""
    design = parse_design(f"module m(input a, b, c, output y); {body} endmodule", "m")
    assert (design.calm, design.looped) == (calm, looped)
    assert ("assign #1 " in design.text) == looped


def test_has_loop():
    """A chain has none, a ring has one, and a side branch of a ring does not hide it."""
    assert not has_loop({"y": {"p"}, "p": {"q", "a"}, "q": {"b"}})
    assert has_loop({"y": {"p"}, "p": {"q"}, "q": {"p", "a"}, "z": {"a"}})
