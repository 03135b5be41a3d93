"""What every section of the settings is made of: fields with a rule and a help text.

Knows: how a value is checked, and how a refusal is worded. Refuses to know: any particular key
(`schemas.settings.settings`).
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import attrs
import typed_settings as ts

from . import rules
from .rules import Problem, SettingsError

MIB = 1024 * 1024


def complaint(attribute: "attrs.Attribute[Any]", value: object) -> str | None:
    """What `attribute`'s rule has against `value`; quotes the value unless it is secret."""
    rule: rules.Rule | None = attribute.metadata.get("rule")
    reason = None if rule is None else rule(value)
    if reason is None or attribute.metadata["secret"]:
        return reason
    shown = repr(value)
    return f"{reason}, got {shown if len(shown) <= 80 else shown[:80] + '…'}"


def _validate(section: "Section", attribute: "attrs.Attribute[Any]", value: object) -> None:
    reason = complaint(attribute, value)
    if reason is not None:
        raise SettingsError([Problem(f"{section.section}.{attribute.name}", reason)])


def key(
    default: object,
    rule: rules.Rule,
    help: str,
    *,
    secret: bool = False,
    default_text: str = "",
) -> Any:
    """A field with its default (called for a fresh one if callable), rule and help text."""
    make: Any = ts.secret if secret else ts.option
    source = {"factory": default} if callable(default) else {"default": default}
    metadata = {"rule": rule, "secret": secret, "default_text": default_text}
    return make(**source, validator=_validate, help=help, metadata=metadata)


class Section:
    """What all sections share. `conflicts` yields (key, reason) for values that are sound each
    but not together."""

    section: ClassVar[str]

    def __attrs_post_init__(self) -> None:
        problems = [Problem(f"{self.section}.{key}", why) for key, why in self.conflicts()]
        if problems:
            raise SettingsError(problems)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from ()
