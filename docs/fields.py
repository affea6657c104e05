"""Shapes that stand beside the fields of NamedTuples as comments, shown in the API reference."""

from typing import Any

import griffe


class FieldComments(griffe.Extension):
    """A field without a docstring gets the comment behind it."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Called for every attribute that is read from the sources."""
        owner = attr.parent
        named = isinstance(owner, griffe.Class) and "NamedTuple" in map(str, owner.bases)
        if attr.docstring or not named or attr.lineno is None:
            return
        line = attr.lines_collection[attr.filepath][attr.lineno - 1]
        _, mark, comment = line.partition("  # ")
        if mark and not comment.startswith(("type:", "noqa")):
            attr.docstring = griffe.Docstring(comment, parent=attr)
