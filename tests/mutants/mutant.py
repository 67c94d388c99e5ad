"""Find the places of a module where one small change makes another program, a mutant."""

import ast
import bisect
import hashlib
import re
from dataclasses import dataclass

COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}
ARITHMETIC = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "%"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "&"),
}
BOOLEAN = {ast.And: ("and", "or"), ast.Or: ("or", "and")}
_TYPES = {"None", "int", "float", "str", "bool", "bytes", "Path", "Array", "Tensor"}
_MESSAGES = {"print", "warn", "note", "InputError", "exit"}
"""Functions whose arguments are text for the user."""


_COMMUTATIVE = {"min", "max", "minimum", "maximum"}


@dataclass(frozen=True)
class Mutant:
    """One change of one place in a file."""

    file: str
    line: int
    kind: str
    start: int
    """Place in the file's bytes."""
    before: str
    after: str
    digest: str
    """Hash of the file."""
    lines: tuple[int, ...]
    """Only a test that executes one of these lines can notice the change."""
    names: tuple[str, ...]
    """The functions and classes around the place, the innermost last. Or the constant that is set."""

    @property
    def key(self) -> str:
        """A name that no mutant of another version of the file has."""
        return f"{self.file}:{self.line} {self.kind}: {self.before} -> {self.after} ({self.digest}, {self.start})"

    def source(self, text: bytes) -> bytes:
        """Return the mutant of the file's text."""
        before = self.before.encode()
        assert text[self.start :].startswith(before)
        return text[: self.start] + self.after.encode() + text[self.start + len(before) :]


def mutants(file: str, text: bytes) -> tuple[list[Mutant], int]:
    """Return the mutants of a file, and the number of places where a change would only change a message."""
    finder = _Finder(file, text)
    finder.visit(finder.tree)
    return finder.found, finder.messages


class _Finder(ast.NodeVisitor):
    def __init__(self, file: str, text: bytes) -> None:
        self.file, self.text = file, text
        self.digest = hashlib.sha256(text).hexdigest()[:8]
        self.tree = ast.parse(self.text)
        self.starts = [0]
        for line in self.text.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.in_functions = {
            line
            for node in ast.walk(self.tree)
            if isinstance(node, ast.FunctionDef)
            for line in range(node.body[0].lineno, (node.end_lineno or 0) + 1)
        }
        self.found: list[Mutant] = []
        self.messages = 0
        self.in_message = False
        self.names: list[str] = []
        self.lines: tuple[int, ...] | None = None
        """The lines in whose place those of the mutated node do not stand: of defaults and of constants."""
        self.statement = 1

    def visit(self, node: ast.AST) -> None:
        """Visit a node, and what it holds, and remember the statement around it."""
        before = self.statement
        if isinstance(node, ast.stmt):
            self.statement = node.lineno
            self._delete(node)
        super().visit(node)
        self.statement = before

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Visit the defaults and the body, but no annotation, no decorator and no overload."""
        if any("overload" in ast.unparse(decorator) for decorator in node.decorator_list):
            return
        self.names.append(node.name)
        outer, self.lines = self.lines, tuple(range(node.body[0].lineno, (node.end_lineno or 0) + 1))
        for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
            self._constants(default, "default")
        self.lines = None
        self._body(node.body)
        self.lines = outer
        self.names.pop()

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """Visit the body."""
        self.visit(node.body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Visit the body."""
        self.names.append(node.name)
        self._body(node.body)
        self.names.pop()

    def visit_Module(self, node: ast.Module) -> None:
        """Visit the body."""
        self._body(node.body)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Visit the value as that of any other assignment."""
        if node.value is not None:
            self._assignment([node.target], node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Visit the value. Outside of functions, what names the constant can notice a change."""
        self._assignment(node.targets, node.value)

    def visit_If(self, node: ast.If) -> None:
        """Leave out what no program runs, and what only a script does."""
        test = ast.unparse(node.test)
        if "TYPE_CHECKING" not in test and "__name__" not in test:
            self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """Leave out the parameters of types."""
        if not (isinstance(node.value, ast.Name) and node.value.id in {"Literal", "Annotated", "Callable"}):
            self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Count what is only said."""
        self._message(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Count what is only said."""
        self._message(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        """Leave out what cannot happen."""

    def visit_Compare(self, node: ast.Compare) -> None:
        """Replace one comparison."""
        for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            self._operator("comparison", left, right, *COMPARISONS[type(op)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Replace one operator, except between types and after a text."""
        type_union = (
            isinstance(node.op, ast.BitOr) and {ast.unparse(node.left), ast.unparse(node.right)} & _TYPES
        )
        formatted = isinstance(node.left, ast.Constant | ast.JoinedStr) and isinstance(
            node.op, ast.Mod | ast.Add
        )
        if type(node.op) in ARITHMETIC and not type_union and not (formatted and _is_text(node.left)):
            self._operator("arithmetic", node.left, node.right, *ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Replace the operator."""
        if type(node.op) in ARITHMETIC:
            before, after = ARITHMETIC[type(node.op)]
            self._operator("arithmetic", node.target, node.value, f"{before}=", f"{after}=")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Replace one of the operators."""
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._operator("boolean", left, right, *BOOLEAN[type(node.op)])
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """Drop a `not` or a sign."""
        if isinstance(node.op, ast.Not | ast.USub):
            kind = "boolean" if isinstance(node.op, ast.Not) else "arithmetic"
            self._add(kind, self._start(node), self._end(node), f"({self._segment(node.operand)})", node)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Change a number, or turn a truth value."""
        self._constant(node, "constant")

    def visit_Return(self, node: ast.Return) -> None:
        """Return nothing."""
        if node.value is not None and not _is_none(node.value):
            self._add("return value", self._start(node.value), self._end(node.value), "None", node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Swap the first two arguments, if their order matters."""
        if _called(node) in _MESSAGES:
            self._message(node)
            return
        if len(node.args) >= 2 and not any(isinstance(arg, ast.Starred) for arg in node.args[:2]):
            first, second = node.args[:2]
            a, b = self._segment(first), self._segment(second)
            between = self.text[self._end(first) : self._start(second)].decode()
            if a != b and _called(node) not in _COMMUTATIVE:
                self._add("swapped arguments", self._start(first), self._end(second), b + between + a, node)
        self.generic_visit(node)

    def _body(self, body: list[ast.stmt]) -> None:
        """Visit statements, except texts that document."""
        for statement in body:
            if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                self.visit(statement)

    def _assignment(self, targets: list[ast.expr], value: ast.expr) -> None:
        outer, added = self.lines, 0
        name = ast.unparse(targets[0])
        if value.lineno not in self.in_functions:
            self.lines = self._naming(name)
            self.names.append(name)
            added = 1
        self.visit(value)
        for target in targets:
            self.visit(target)
        self.lines = outer
        del self.names[len(self.names) - added :]

    def _naming(self, name: str) -> tuple[int, ...]:
        """Return the lines of functions that name a constant, or all lines of functions if none does."""
        texts = self.text.decode().splitlines()
        naming = {line for line in self.in_functions if re.search(rf"\b{re.escape(name)}\b", texts[line - 1])}
        return tuple(sorted(naming or self.in_functions))

    def _delete(self, node: ast.stmt) -> None:
        """Delete a statement that is run for its effect."""
        effect = (
            isinstance(node, ast.AugAssign | ast.Raise | ast.Continue | ast.Break | ast.Delete)
            or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
            or (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute | ast.Subscript))
        )
        if isinstance(node, ast.Expr) and _called(node.value) in _MESSAGES:
            self.messages += 1
        elif effect:
            self._add("deleted statement", self._start(node), self._end(node), "pass", node)

    def _message(self, node: ast.AST) -> None:
        outer, self.in_message = self.in_message, True
        self.generic_visit(node)
        self.in_message = outer

    def _operator(self, kind: str, left: ast.expr, right: ast.expr, before: str, after: str) -> None:
        start = self._end(left)
        between = self.text[start : self._start(right)].decode()
        if between.count(before) == 1:
            at = start + len(between.split(before)[0].encode())
            self._add(kind, at, at + len(before.encode()), after, left, right)

    def _constants(self, node: ast.expr, kind: str) -> None:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Constant):
                self._constant(inner, kind)

    def _constant(self, node: ast.Constant, kind: str) -> None:
        value = node.value
        if isinstance(value, bool):
            after = str(not value)
        elif isinstance(value, int):
            after = str(value + 1)
        elif isinstance(value, float):
            after = repr(value * 2 or 1.0)
        else:
            return
        self._add(kind, self._start(node), self._end(node), after, node)

    def _add(self, kind: str, start: int, end: int, after: str, *nodes: ast.AST) -> None:
        if self.in_message:
            self.messages += 1
            return
        line = bisect.bisect(self.starts, start)
        own = {self.statement} | {
            line
            for node in nodes
            for line in range(getattr(node, "lineno", 1), getattr(node, "end_lineno", 0) + 1)
        }
        lines, names = self.lines or tuple(sorted(own)), tuple(self.names)
        before = self.text[start:end].decode()
        mutant = Mutant(self.file, line, kind, start, before, after, self.digest, lines, names)
        self.found.append(mutant)

    def _start(self, node: ast.AST) -> int:
        return self.starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]

    def _end(self, node: ast.AST) -> int:
        return self.starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def _segment(self, node: ast.AST) -> str:
        return self.text[self._start(node) : self._end(node)].decode()


def _called(node: ast.expr) -> str:
    """Return the last name of what a call calls."""
    function = node.func if isinstance(node, ast.Call) else None
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
