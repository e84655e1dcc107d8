"""The reasoning of an answer, between tags before its message."""

from dataclasses import dataclass

from edgekiln.serve.tools.deltas import ContentDelta, Delta, ReasoningDelta

_SPACE = " \t\r\n"


@dataclass(frozen=True)
class ReasoningTags:
    """The texts before and after reasoning."""

    open: str
    close: str


_TAGS = (ReasoningTags("<think>", "</think>"), ReasoningTags("[THINK]", "[/THINK]"))


def reasoning_tags_of(chat_template: str) -> ReasoningTags | None:
    """The tags in a chat template; None where its model does not reason."""
    return next((tags for tags in _TAGS if tags.close in chat_template), None)


def begins_in_reasoning(tags: ReasoningTags, prompt: str) -> bool:
    """Whether answers to `prompt`, the text of a rendered template, begin within reasoning."""
    return prompt.rstrip(_SPACE).endswith(tags.open)


def reasoning_splitter_for(chat_template: str, prompt: str) -> "ReasoningSplitter | None":
    """A splitter for one answer; None where the model does not reason."""
    tags = reasoning_tags_of(chat_template)
    return None if tags is None else ReasoningSplitter(tags, begins_in_reasoning(tags, prompt))


class ReasoningSplitter:
    """Splits one answer into reasoning and the text after it. White space around the tags is dropped.

    Only tags at the beginning of the answer count: later ones are text.
    """

    def __init__(self, tags: ReasoningTags, inside: bool) -> None:
        """Begin within reasoning if `inside`."""
        self._tags = tags
        self._held = ""
        self._state = "inside" if inside else "before"
        self._begun = False  # the reasoning, or the text after it, has a character that is no white space

    def push(self, text: str) -> list[Delta]:
        """Add text of the answer; returns its reasoning and the text after it."""
        self._held += text
        out: list[Delta] = []
        if self._state == "before":
            start = self._held.lstrip(_SPACE)
            if start.startswith(self._tags.open):
                self._held, self._state = start.removeprefix(self._tags.open), "inside"
            elif not self._tags.open.startswith(start):
                self._state, self._begun = "after", True
        if self._state == "inside":
            self._inside(out)
        if self._state == "after":
            self._after(out)
        return out

    def finish(self) -> list[Delta]:
        """The rest, at the end of the answer."""
        rest, self._held = self._held, ""
        if self._state == "inside":
            rest = rest.rstrip(_SPACE)
            return [ReasoningDelta(rest)] if rest else []
        return [ContentDelta(rest)] if rest and self._state == "before" else []

    def _inside(self, out: list[Delta]) -> None:
        self._strip()
        reasoning, found, rest = self._held.partition(self._tags.close)
        if found:
            self._held, self._state, self._begun = rest, "after", False
            reasoning = reasoning.rstrip(_SPACE)
        else:
            kept = next(
                (n for n in range(len(self._tags.close) - 1, 0, -1) if reasoning.endswith(self._tags.close[:n])), 0
            )
            reasoning = reasoning[: len(reasoning) - kept].rstrip(_SPACE)
            self._held = self._held[len(reasoning) :]
        if reasoning:
            out.append(ReasoningDelta(reasoning))

    def _after(self, out: list[Delta]) -> None:
        self._strip()
        if self._held:
            out.append(ContentDelta(self._held))
            self._held = ""

    def _strip(self) -> None:
        """Drop white space at the beginning of the reasoning or of the text after it."""
        if not self._begun:
            self._held = self._held.lstrip(_SPACE)
            self._begun = bool(self._held)
