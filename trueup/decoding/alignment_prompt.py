"""An instruction before a prompt, whether the prompt is text or messages."""

from trueup.data.messages import Prompt


def with_instruction(prompt: Prompt, instruction: str | None) -> Prompt:
    """The prompt behind the instruction: a paragraph before text, else in the system turn."""
    if not instruction:
        return prompt
    if isinstance(prompt, str):
        return f"{instruction}\n\n{prompt}"
    if prompt and prompt[0]["role"] == "system":
        first = {**prompt[0], "content": f"{prompt[0]['content']}\n\n{instruction}"}
        return [first, *prompt[1:]]
    return [{"role": "system", "content": instruction}, *prompt]
