"""Chat template: a conversation becomes one sequence of ids, in which only the template makes control tokens.

Source: OpenAI 2025, arXiv:2508.10925, section 2.5 (harmony: roles and channels); for ChatML, Llama 2 and Llama 3 the templates that
were published with the checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from vocab.embeddings.post_processor import check_text

__all__ = ["apply_chat_template", "parse_chat", "parse_reply"]

CONTROL = {  # the control tokens of each template
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "llama2": ("<s>", "</s>"),
    "harmony": ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"),
}
ROLES = ("system", "developer", "user", "assistant", "tool")
LLAMA2_TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")

# A piece of the sequence: a control token's name or a text, and whether the model is trained to write it.
Part = tuple[str, str, bool]


def apply_chat_template(
    messages: Sequence[Mapping[str, str]],
    encode: Callable[[str], Sequence[int]],
    specials: Mapping[str, int],
    template: str = "chatml",
    *,
    add_generation_prompt: bool = True,
) -> tuple[list[int], list[int]]:
    """Ids of a conversation, and a mask that is 1 at what the model learns to write: its replies and their end tokens.

    Contents are encoded one by one as ordinary text, so no content can hold a control token. The ids are complete: no
    post-processor may add a second beginning.

    Args:
        messages: Dictionaries with ``role`` and ``content``; in ``"harmony"`` the assistant's may have a ``channel``, and
            without one are ``"final"``.
        encode: Ids of a text, without control tokens and without parsing any.
        specials: Id of each control token.
        template: ``"chatml"``, ``"llama3"``, ``"llama2"`` or ``"harmony"``.
        add_generation_prompt: Whether to append what stands before a reply, for the model to go on from there.

    Raises:
        ValueError: If a message cannot be in this template, a control token has no id, or ``encode`` makes one.

    Examples:
        >>> specials = {"<|im_start|>": 1000, "<|im_end|>": 1001}
        >>> encode = lambda text: [ord(c) for c in text]
        >>> chat = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
        >>> ids, mask = apply_chat_template(chat, encode, specials, add_generation_prompt=False)
        >>> [(i if i > 999 else chr(i)) for i, m in zip(ids, mask) if m]
        ['4', 1001]
    """
    _check(messages, specials, template)
    control = {id_: name for name, id_ in specials.items()}
    parts = _PARTS[template](messages)
    if add_generation_prompt:
        parts += _prompt(template)
    ids: list[int] = []
    mask: list[int] = []
    for kind, value, trained in parts:
        if kind == "control":
            new = [specials[value]]
        else:
            new = list(encode(value)) if value else []
            check_text("content", new, control)
        ids += new
        mask += [int(trained)] * len(new)
    return ids, mask


def parse_chat(
    ids: Sequence[int], decode: Callable[[Sequence[int]], str], specials: Mapping[str, int], template: str = "chatml"
) -> list[dict[str, str]]:
    """The messages of a sequence; a last one without an end token is taken as far as it goes.

    Args:
        ids: A conversation, as ``apply_chat_template`` writes it.
        decode: The text of ids that are no control tokens.
        specials: Id of each control token.
        template: As there.

    Raises:
        ValueError: If the template is unknown or a message has no role.
    """
    _check((), specials, template)
    return _parse_llama2(ids, decode, specials) if template == "llama2" else _scan(ids, decode, specials, template, {})


def parse_reply(
    ids: Sequence[int], decode: Callable[[Sequence[int]], str], specials: Mapping[str, int], template: str = "chatml"
) -> dict[str, str]:
    """What a model has written after the generation prompt: its last message with ``role``, ``channel`` and ``content``.

    Args:
        ids: The reply, with or without its end token. In harmony it may hold several messages, thoughts first.
        decode: As in ``parse_chat``.
        specials: As in ``parse_chat``.
        template: As in ``parse_chat``. Outside of harmony the channel is ``"final"``.

    Examples:
        >>> specials = {name: 1000 + i for i, name in enumerate(CONTROL["harmony"])}
        >>> parse_reply([1001, *b"final", 1002, *b"4", 1004], lambda ids: bytes(ids).decode(), specials, "harmony")
        {'role': 'assistant', 'channel': 'final', 'content': '4'}
    """
    _check((), specials, template)
    if template == "llama2":
        end = specials["</s>"]
        text = decode(list(ids[: ids.index(end)] if end in ids else ids))
        return {"role": "assistant", "channel": "final", "content": text.strip()}
    last = _scan(ids, decode, specials, template, _OPENED[template])[-1]
    return {"role": last["role"], "channel": last.get("channel", "final"), "content": last["content"]}


def _chatml(messages: Sequence[Mapping[str, str]]) -> list[Part]:
    parts: list[Part] = []
    for message in messages:
        own = message["role"] == "assistant"
        parts += [
            ("control", "<|im_start|>", False),
            ("text", message["role"] + "\n", False),
            ("text", message["content"], own),
            ("control", "<|im_end|>", own),
            ("text", "\n", False),
        ]
    return parts


def _llama3(messages: Sequence[Mapping[str, str]]) -> list[Part]:
    parts: list[Part] = [("control", "<|begin_of_text|>", False)]
    for message in messages:
        own = message["role"] == "assistant"
        parts += [
            ("control", "<|start_header_id|>", False),
            ("text", message["role"], False),
            ("control", "<|end_header_id|>", False),
            ("text", "\n\n", False),
            ("text", message["content"].strip(), own),
            ("control", "<|eot_id|>", own),
        ]
    return parts


def _harmony(messages: Sequence[Mapping[str, str]]) -> list[Part]:
    parts: list[Part] = []
    for i, message in enumerate(messages):
        own = message["role"] == "assistant"
        parts += [("control", "<|start|>", False), ("text", message["role"], False)]
        if own:  # the model chooses the channel, so it learns to write it
            parts += [("control", "<|channel|>", True), ("text", message.get("channel", "final"), True)]
        final = own and i == len(messages) - 1 and message.get("channel", "final") == "final"
        parts += [
            ("control", "<|message|>", own),
            ("text", message["content"], own),
            ("control", "<|return|>" if final else "<|end|>", own),
        ]
    return parts


def _llama2(messages: Sequence[Mapping[str, str]]) -> list[Part]:
    system, turns = "", list(messages)
    if turns and turns[0]["role"] == "system":  # there is no such role: it goes into the first turn of the user
        system = "<<SYS>>\n" + turns.pop(0)["content"].strip() + "\n<</SYS>>\n\n"
    parts: list[Part] = []
    for i, message in enumerate(turns):
        expected = ("user", "assistant")[i % 2]
        if message["role"] != expected:
            raise ValueError(f"messages has role {message['role']!r} where llama2 needs {expected!r}: user and assistant take turns")
        if expected == "user":
            content = (system if i == 0 else "") + message["content"].strip()
            parts += [("control", "<s>", False), ("text", "[INST] " + content.strip() + " [/INST]", False)]
        else:
            parts += [("text", " " + message["content"].strip() + " ", True), ("control", "</s>", True)]
    return parts


_PARTS = {"chatml": _chatml, "llama3": _llama3, "llama2": _llama2, "harmony": _harmony}


def _prompt(template: str) -> list[Part]:
    if template == "chatml":
        return [("control", "<|im_start|>", False), ("text", "assistant\n", False)]
    if template == "llama3":
        return [
            ("control", "<|start_header_id|>", False),
            ("text", "assistant", False),
            ("control", "<|end_header_id|>", False),
            ("text", "\n\n", False),
        ]
    return [("control", "<|start|>", False), ("text", "assistant", False)] if template == "harmony" else []


_OPENED = {  # what the generation prompt has written, by control token
    "chatml": {"<|im_start|>": "assistant\n"},
    "llama3": {"<|start_header_id|>": "assistant", "<|end_header_id|>": "\n\n"},
    "harmony": {"<|start|>": "assistant"},
}


def _scan(
    ids: Sequence[int], decode: Callable[[Sequence[int]], str], specials: Mapping[str, int], template: str, opened: Mapping[str, str]
) -> list[dict[str, str]]:
    """Messages that begin with one control token and end with another; ``opened`` is the beginning of the first."""
    control = {specials[name]: name for name in CONTROL[template]}
    start = next(iter(_OPENED[template]))
    messages: list[dict[str, str]] = []
    texts, waiting = dict(opened), []  # of the message that is open: the text after each control token; ids not yet decoded

    def close() -> None:
        if texts:
            texts[list(texts)[-1]] += decode(waiting) if waiting else ""
        waiting.clear()

    for id_ in ids:
        name = control.get(id_)
        if name is None:
            waiting.append(id_)
            continue
        close()
        if name == start or name in _ENDS:
            if texts:
                messages.append(_message(texts, template, start))
            texts = {}
        if name not in _ENDS and (texts or name == start):
            texts[name] = ""
    close()
    if texts:
        messages.append(_message(texts, template, start))
    return messages


_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<|return|>")


def _message(fields: Mapping[str, str], template: str, start: str) -> dict[str, str]:
    header = fields[start]
    if template == "chatml":
        role, _, content = header.partition("\n")
    elif template == "llama3":
        role, content = header, fields.get("<|end_header_id|>", "").removeprefix("\n\n")
    else:
        role, content = header, fields.get("<|message|>", "")
    if role not in ROLES:
        raise ValueError(f"ids have a message of role {role!r}; expected one of {', '.join(ROLES)}")
    message = {"role": role, "content": content}
    if "<|channel|>" in fields:
        message["channel"] = fields["<|channel|>"]
    return message


def _parse_llama2(ids: Sequence[int], decode: Callable[[Sequence[int]], str], specials: Mapping[str, int]) -> list[dict[str, str]]:
    turns: list[list[int]] = []
    for id_ in ids:
        if id_ == specials["<s>"]:
            turns.append([])
        elif id_ != specials["</s>"] and turns:
            turns[-1].append(id_)
    messages = []
    for turn in turns:
        user, _, reply = decode(turn).removeprefix("[INST] ").partition(" [/INST]")
        if found := re.match(r"<<SYS>>\n(.*)\n<</SYS>>\n\n", user, re.DOTALL):
            messages.append({"role": "system", "content": found[1]})
            user = user[found.end() :]
        messages.append({"role": "user", "content": user})
        if reply:
            messages.append({"role": "assistant", "content": reply.strip()})
    return messages


def _check(messages: Sequence[Mapping[str, str]], specials: Mapping[str, int], template: str) -> None:
    if template not in CONTROL:
        raise ValueError(f"template={template!r} is not one of {', '.join(map(repr, CONTROL))}")
    for name in CONTROL[template]:
        if name not in specials:
            raise ValueError(f"specials has no {name!r}, which template={template!r} needs")
    for i, message in enumerate(messages):
        if message.get("role") not in ROLES:
            raise ValueError(f"messages[{i}] has role {message.get('role')!r}; expected one of {', '.join(ROLES)}")
        if not isinstance(message.get("content"), str):
            raise ValueError(f"messages[{i}] has content of type {type(message.get('content')).__name__}; expected a string")
        # The tags of Llama 2 are ordinary text, so encoding cannot keep them out of a content.
        for tag in LLAMA2_TAGS if template == "llama2" else ():
            if tag in message["content"]:
                raise ValueError(f"messages[{i}] has {tag!r} in its content, which llama2 would read as its own tag")
