"""An instruction before a prompt, whether the prompt is text or messages."""

from trueup.data.messages import Prompt, with_system


def with_instruction(prompt: Prompt, instruction: str | None) -> Prompt:
    """The prompt behind the instruction: a paragraph before text, else in the system turn."""
    if not instruction:
        return prompt
    if isinstance(prompt, str):
        return f"{instruction}\n\n{prompt}"
    return with_system(prompt, instruction)
