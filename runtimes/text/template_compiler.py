"""Compile chat templates to Python in which loops, macros and operators call the environment, which counts them.

Nothing is computed while a template is compiled, so that a template cannot do work there.
"""

from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame, operators
from jinja2.ext import Extension
from jinja2.parser import Parser

# Nodes of a template that cost one step.
_NODES_PER_STEP = 32


class GenerationBlocks(Extension):
    """`{% generation %}…{% endgeneration %}`, which marks the assistant's tokens for training; no effect here."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse the block to a scope, so that variables set inside stay inside, as in transformers."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class BudgetedCode(CodeGenerator):
    """Writes Python in which loops, macros and operators go through the environment."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802
        """Count each round of a loop, also those that its condition skips."""
        node.body.insert(0, _spend(node.body))
        if node.test is not None:
            node.test = nodes.And(nodes.EnvironmentAttribute("spend(1)"), node.test)
        super().visit_For(node, frame)

    def macro_body(self, node: nodes.Macro | nodes.CallBlock, frame: Frame) -> Any:
        """Count each call of a macro."""
        node.body.insert(0, _spend(node.body))
        return super().macro_body(node, frame)

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:  # noqa: N802
        """Count the operands of a comparison."""
        self.write("(environment.read(")
        self.visit(node.expr, frame)
        self.write(")")
        for op in node.ops:
            self.visit(op, frame)
        self.write(")")

    def visit_Operand(self, node: nodes.Operand, frame: Frame) -> None:  # noqa: N802
        """Count an operand of a comparison."""
        self.write(f" {operators[node.op]} environment.read(")
        self.visit(node.expr, frame)
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        """Join texts in the environment."""
        self.write("environment.join_texts(context, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802
        """Count the keys of a dictionary, which Python hashes."""
        self.write("{")
        for item in node.items:
            self.write("environment.read(")
            self.visit(item.key, frame)
            self.write("): ")
            self.visit(item.value, frame)
            self.write(", ")
        self.write("}")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        """Take slices in the environment."""
        if not isinstance(node.arg, nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        self.write("environment.part(")
        self.visit(node.node, frame)
        for bound in (node.arg.start, node.arg.stop, node.arg.step):
            self.write(", ")
            if bound is None:
                self.write("None")
            else:
                self.visit(bound, frame)
        self.write(")")


def _spend(body: list[nodes.Node]) -> nodes.Node:
    count = sum(1 + sum(1 for _ in node.find_all(nodes.Node)) for node in body)
    spend = nodes.EnvironmentAttribute(f"spend({1 + count // _NODES_PER_STEP})")
    return nodes.ExprStmt(spend).set_lineno(body[0].lineno if body else 1)
