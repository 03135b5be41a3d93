"""The setting of the page at ``/``."""

from typing import ClassVar

from attrs import frozen

from . import rules
from .section import Section, key


@frozen(kw_only=True)
class PageSettings(Section):
    section: ClassVar[str] = "page"

    enabled: bool = key(
        True, rules.boolean, "Serve a page for people at `/`: conversations, and the live overview."
    )
